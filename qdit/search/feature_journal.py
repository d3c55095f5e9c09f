"""The journal of a search by linear response. It stores the features of each chunk as soon as they are computed."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qdit.search.journal import Journal, Listener, Spread
from qdit.search.space import Genome

Sampled = tuple[Genome, int]
"""A genome and the number of a chunk."""

EXACT: Genome = ()
"""Stands for the full-precision model, whose images are nobody's."""

Features = Callable[[Sampled], np.ndarray | None]
"""Features (images, d) float32 of a genome on a chunk, None if an image is not finite."""


class FeatureJournal(Journal):
    """A journal that stores the features of each (genome, chunk). Otherwise it works as `Journal` does.

    The file holds only features. `entries` holds the fitness that a search computes from them. Before `fit` is called
    for a genome, its fitness is infinite.
    """

    def __init__(self, path: Path | None, identity: dict[str, Any], *, listen: Listener | None = None) -> None:
        self.features: dict[Sampled, np.ndarray | None] = {}
        super().__init__(path, identity, listen=listen)

    def _take(self, genome: Genome, entry: Mapping[str, Any]) -> None:
        features = None
        if entry["features"] is not None:
            features = np.frombuffer(base64.b64decode(entry["features"], validate=True), "<f4").reshape(entry["shape"])
        self._keep(genome, entry["chunk"], features, entry["images"])

    def _keep(self, genome: Genome, chunk: int, values: np.ndarray | None, images: int) -> None:
        self.features[genome, chunk] = values
        if genome != EXACT:
            self._note(genome, images * sum(kept == genome for kept, _ in self.features), math.inf)

    def sample(
        self, wanted: Sequence[Sampled], features: Features, *, images: int, spread: Spread = map
    ) -> list[np.ndarray | None]:
        """Features of each wanted (genome, chunk); a chunk has `images` images.

        Features that the journal lacks are computed by `features` and written as soon as they are there.
        """
        missing = [pair for pair in dict.fromkeys(wanted) if pair not in self.features]
        for (genome, chunk), computed in zip(missing, spread(features, missing), strict=True):
            values = None if computed is None else np.ascontiguousarray(computed, "<f4")
            entry = {"genome": list(genome), "chunk": chunk, "images": images, "features": None}
            if values is not None:
                entry |= {"shape": list(values.shape), "features": base64.b64encode(values.tobytes()).decode()}
            self._add(entry)
            self._keep(genome, chunk, values, images)
        return [self.features[pair] for pair in wanted]

    def fit(self, genome: Genome, images: int, fitness: float) -> None:
        """Note the fitness of a genome, computed from its stored features on all images."""
        self.entries[genome, images] = fitness
        if self.listen is not None:
            self.listen(genome, images, fitness)
