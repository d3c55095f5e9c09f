"""The journal of a search: a file with one line of JSON for each genome, written as soon as the genome is measured.

A killed search starts again from the beginning. It finds measured genomes in the journal, so it makes the same choices
and computes only the missing genomes. An incomplete last line is dropped. A line has the digest of its content.
"""

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import parse_json, sha256_json
from qdit.search.evolution import Evaluation, Measure, Reading
from qdit.search.space import Genome, SearchSpace

Spread = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Like `map`: values in the order of the genomes, each as soon as it is there (a pool's `imap` computes several)."""

DIGEST = "sha256"
"""Where an entry has its digest."""

Listener = Callable[[Genome, int, float], None]
"""Is told (genome, images, fitness) of every entry, those already in the file first."""


def search_identity(
    method: str, space: SearchSpace, options: Mapping[str, Any], *, seed: int, fitness: Mapping[str, Any]
) -> dict[str, Any]:
    """Identity of a search, the first line of its journal: everything that decides which genomes are measured, and how.

    `options` are all options of the search. `fitness` is the identity of the fitness.
    """
    return {
        "method": method,
        "space": space.identity(),
        "options": dict(options),
        "seed": seed,
        "fitness": dict(fitness),
    }


class Journal:
    """Mapping (genome, number of images) → fitness, stored in a file. Without a path it is in memory only.

    `identity` holds all other inputs of the search: those that decide which genomes are measured, and those on which
    a fitness depends. Raises ConfigError if the file belongs to another search or if another process writes to it.
    Raises DataError if it is damaged before its last line.
    """

    def __init__(self, path: Path | None, identity: dict[str, Any], *, listen: Listener | None = None) -> None:
        self.path, self.listen = path, listen
        self._header = sha256_json(identity)
        self.entries: dict[tuple[Genome, int], float] = {}
        self._file = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
        try:
            _lock(self._file.fileno(), path)
            self._read(json.loads(json.dumps(identity)))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, so that another process can write to it."""
        if self._file is not None:
            self._file.close()

    def _read(self, identity: dict[str, Any]) -> None:
        """Read the existing lines, cut off an incomplete last line, and write the header if there is none."""
        assert self._file is not None and self.path is not None
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        header, *lines = whole.splitlines() or [b""]
        if header:
            _check_identity(self.path, _parsed(self.path, 1, header).get("identity"), identity)
        for number, line in enumerate(lines, start=2):
            entry = _parsed(self.path, number, line)
            if not is_of(entry, self._header):
                raise DataError(
                    f"{self.path}: line {number} is not an entry of this search, or was edited; delete that line and"
                    " search again"
                )
            self._take(tuple(entry["genome"]), entry)
        self._file.seek(len(whole))
        self._file.truncate()
        if not header:
            self._append({"identity": identity})

    def _take(self, genome: Genome, entry: Mapping[str, Any]) -> None:
        """Add the genome of one line to the mapping."""
        self._note(genome, entry["images"], math.inf if entry["fitness"] is None else entry["fitness"])

    def _note(self, genome: Genome, images: int, fitness: float) -> None:
        self.entries[genome, images] = fitness
        if self.listen is not None:
            self.listen(genome, images, fitness)

    def _add(self, entry: dict[str, Any]) -> None:
        """Write one entry with its digest."""
        self._append(entry | {DIGEST: entry_digest(entry, self._header)})

    def _append(self, value: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write((json.dumps(value, sort_keys=True, allow_nan=False) + "\n").encode())
            self._file.flush()
            os.fsync(self._file.fileno())

    def add(self, genome: Genome, images: int, fitness: float) -> None:
        """Store the fitness of a genome on this number of images. NaN becomes infinity.

        The file has null for infinity.
        """
        value = float(fitness) if math.isfinite(fitness) else math.inf
        self._add({"genome": list(genome), "images": images, "fitness": value if value < math.inf else None})
        self._note(genome, images, value)

    def losses(
        self, genomes: Sequence[Genome], images: int, fitness: Callable[[Genome], float], *, spread: Spread = map
    ) -> list[float]:
        """Fitness of each genome on `images` images. What the journal lacks is computed and written value by value."""
        missing = [genome for genome in dict.fromkeys(genomes) if (genome, images) not in self.entries]
        for genome, value in zip(missing, spread(fitness, missing), strict=True):
            self.add(genome, images, value)
        return [self.entries[genome, images] for genome in genomes]

    @property
    def images_sampled(self) -> int:
        """Number of images that the search would sample without interruption.

        For each genome only the largest number counts, because a measurement on more images uses the earlier images
        again.
        """
        longest: dict[Genome, int] = {}
        for genome, images in self.entries:
            longest[genome] = max(images, longest.get(genome, 0))
        return sum(longest.values())


def entry_digest(entry: Mapping[str, Any], header: str) -> str:
    """Digest of a journal entry and of the search's identity `header`.

    A line that was edited, or that belongs to another search, has another digest and is refused.
    """
    return sha256_json({"entry": dict(entry), "identity": header})


def is_of(entry: Mapping[str, Any], header: str) -> bool:
    """Whether a line of a journal is unedited and belongs to the search with the identity `header`."""
    plain = {name: value for name, value in entry.items() if name != DIGEST}
    try:
        return entry.get(DIGEST) == entry_digest(plain, header)
    except ValueError:  # a number that is not finite
        return False


def in_full(fitness: Callable[[Genome], float], *, images: int, journal: Journal, spread: Spread = map) -> Measure:
    """A function that measures all genomes of a generation on all `images`, and writes each fitness to the journal.

    Algorithm 1 and random search use it.
    """

    def measure(genomes: Sequence[Genome], before: Sequence[Evaluation]) -> list[Reading]:
        return [Reading(loss, images) for loss in journal.losses(genomes, images, fitness, spread=spread)]

    return measure


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigError(
            f"{path}: another search is writing to this journal; wait until it ends, or give another file"
        ) from None


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = parse_json(line.decode("utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise DataError(
            f"{path}: line {number} is not valid JSON; delete that line or the whole file, and search again"
        )
    return value


def _check_identity(path: Path, stored: Any, wanted: dict[str, Any]) -> None:
    if stored == wanted:
        return
    known = stored if isinstance(stored, dict) else {}
    different = sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key))
    raise ConfigError(
        f"{path}: this is the journal of another search (different: {', '.join(different)}); only the same search can"
        " continue it: delete the file or give another"
    )
