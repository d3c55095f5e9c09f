"""Several processes that compute the fitness of genomes. Genomes are independent of each other.

Each worker has its own fitness. It keeps the features of the genomes that it has measured. If the search asks for a
genome again, the same worker measures it. All workers use the same number of threads (`SearchJob.worker`: one). So the
number of workers changes no bit. Workers end when this process ends, for any reason.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from threading import Lock
from typing import Any, Protocol, Self

from qdit.core.errors import QditError
from qdit.core.processes import require_cores


class Prefixes(Protocol):
    """Interface of the fitness in a worker process: that of `ImageFitness`, `Noises` or another object.

    `genome` is what the object measures: a genome, or a pair of a noise seed and a genome.
    """

    def on_prefix(self, genome: Any, images: int) -> float: ...

    def features(self, genome: Any, chunk: int) -> Any: ...

    def forget(self) -> None: ...


class Workers:
    """`count` worker processes that compute a fitness. `make` is sent to each and returns its fitness.

    So `make` must be picklable. A `Workers` object has the functions of a fitness. Together with `spread`, give
    `on_prefix` to a race, or `on_prefix` with a fixed number of images to `in_full`.
    """

    def __init__(self, make: Callable[[], Prefixes], count: int) -> None:
        require_cores("workers", count)
        context = _context()
        self._ends: list[Connection] = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            context.Process(target=_work, args=(theirs, make), daemon=True).start()
            theirs.close()
            self._ends.append(ours)
        self._turns = [Lock() for _ in range(count)]
        self._choice, self._waiting = Lock(), [0] * count
        self._owners: dict[Any, int] = {}
        self._threads = ThreadPoolExecutor(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes."""
        self._threads.shutdown(cancel_futures=True)
        for end in self._ends:
            end.close()

    def spread(self, function: Callable[[Any], Any], genomes: Sequence[Any]) -> Iterable[Any]:
        """Like `map`, but the calls run in several threads, one for each worker process."""
        values: Iterator[Any] = self._threads.map(function, genomes)
        return values

    def on_prefix(self, genome: Any, images: int) -> float:
        """Fitness of a genome on its first `images` images, computed by a worker."""
        return float(self._by_owner("on_prefix", genome, images))

    def features(self, genome: Any, chunk: int) -> Any:
        """Features of a genome's images in one chunk, computed by a worker; None if an image is not finite."""
        return self._by_owner("features", genome, chunk)

    def _by_owner(self, verb: str, genome: Any, number: int) -> Any:
        with self._choice:
            worker = self._owners.setdefault(genome, self._waiting.index(min(self._waiting)))
            self._waiting[worker] += 1
        try:
            return self._ask(worker, (verb, genome, number))
        finally:
            with self._choice:
                self._waiting[worker] -= 1

    def forget(self) -> None:
        """Delete the stored features in all workers."""
        for worker in range(len(self._ends)):
            self._ask(worker, None)
        self._owners.clear()

    def _ask(self, worker: int, request: tuple[str, Any, int] | None) -> Any:
        with self._turns[worker]:
            try:
                self._ends[worker].send(request)
                reply = self._ends[worker].recv()
            except (EOFError, OSError):
                raise QditError(
                    "a worker of the search has ended (killed, or out of memory?); run the same command again, perhaps"
                    " with fewer workers"
                ) from None
        if isinstance(reply, BaseException):
            raise reply
        return reply


def _context() -> ForkServerContext | SpawnContext:
    """How worker processes start: as forks of a server that has imported torch, or as new processes that import it."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    return context


def _work(end: Connection, make: Callable[[], Prefixes]) -> None:
    """Loop of a worker: answer requests (verb, genome, number) until the other end closes.

    None deletes stored features.
    """
    fitness: Prefixes | None = None
    while True:
        try:
            request = end.recv()
        except EOFError:
            return
        reply: object = None
        try:
            if fitness is None:
                fitness = make()
            if request is None:
                fitness.forget()
            else:
                verb, *what = request
                reply = getattr(fitness, verb)(*what)
        except Exception as problem:  # whatever it is, the waiting process must hear of it
            reply = problem
        try:
            end.send(reply)
        except OSError:
            return
