"""A line of progress of a search: genomes measured, best fitness so far, time left."""

import math
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from qdit.search.space import Genome


class Progress:
    """Function that a journal calls after each measurement; it prints a line of progress of the search.

    It compares the images so far with the expected number; a race may need fewer. `images` is the full number of images
    of a genome. Only a genome that was measured on all of them can be the best.
    """

    def __init__(self, total_images: int, *, images: int, show: bool = True) -> None:
        self.images, self.best = images, math.inf
        self._seen: dict[Genome, int] = {}
        pause = 1 if sys.stderr.isatty() else 10  # lines of a log are seldom enough to be read
        self._bar = tqdm(total=total_images, desc="search", unit="image", mininterval=pause, disable=not show)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.close()

    def begin(self) -> None:
        """Start to measure time.

        Entries that the journal had already do not count for the estimate of the time left.
        """
        self._bar.initial = self._bar.n
        self._bar.start_t = self._bar.last_print_t = time.time()

    def __call__(self, genome: Genome, images: int, fitness: float) -> None:
        """One more reading."""
        if images == self.images:
            self.best = min(self.best, fitness)
        before = self._seen.get(genome, 0)
        self._bar.update(max(images - before, 0))
        self._seen[genome] = max(images, before)
        self._bar.set_postfix(best=f"{self.best:.4g}", refresh=False)
