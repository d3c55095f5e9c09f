"""A line of progress: genomes measured, best fitness so far, time left."""

import math
from types import TracebackType
from typing import Self

from tqdm import tqdm

from qdit.search.space import Genome


class Progress:
    """A journal's `listen`; counts images up to an expected total (a race needs at most that many).

    `images` is the full budget: only what was measured on all of it can be best.
    """

    def __init__(self, total_images: int, *, images: int, show: bool = True) -> None:
        self.images, self.best = images, math.inf
        self._seen: dict[Genome, int] = {}
        self._bar = tqdm(total=total_images, desc="search", unit="image", mininterval=1, disable=not show)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.close()

    def __call__(self, genome: Genome, images: int, fitness: float) -> None:
        """One more reading."""
        if images == self.images:
            self.best = min(self.best, fitness)
        self._bar.update(images - self._seen.get(genome, 0))
        self._seen[genome] = images
        self._bar.set_postfix(best=f"{self.best:.4g}", refresh=False)
