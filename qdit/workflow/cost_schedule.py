"""Schedule jobs on a number of GPUs: the longest chain of jobs, and the wall time."""

import heapq
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Job:
    """A job that computes with the network: its rule, its seconds on one GPU, and the jobs that it waits for."""

    name: str
    rule: str
    seconds: float
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Makespan:
    """The wall time of all jobs on a number of GPUs, and the share of the GPUs' time that is used (`efficiency`)."""

    gpus: int
    seconds: float
    efficiency: float


def critical_paths(jobs: Iterable[Job]) -> dict[str, float]:
    """Return job → seconds from its start to the end of the last job that waits for it, directly or through other jobs.

    The times assume that there are as many GPUs as jobs, so that no job waits for a GPU.
    """
    known = {job.name: job for job in jobs}
    waiting: dict[str, list[str]] = defaultdict(list)
    for job in known.values():
        for need in job.needs:
            waiting[need].append(job.name)

    @cache
    def path(name: str) -> float:
        return known[name].seconds + max(map(path, waiting[name]), default=0.0)

    return {name: path(name) for name in known}


def makespan(jobs: Iterable[Job], gpus: int) -> Makespan:
    """Return the wall time if each free GPU takes, of the ready jobs, the one with the longest chain of jobs behind it.

    A job uses one GPU.
    """
    known = {job.name: job for job in jobs}
    if not known or gpus < 1:
        return Makespan(gpus, 0.0, 1.0)
    paths, open_needs = critical_paths(known.values()), {name: len(job.needs) for name, job in known.items()}
    waiting: dict[str, list[str]] = defaultdict(list)
    for job in known.values():
        for need in job.needs:
            waiting[need].append(job.name)
    ready = [(-paths[name], name) for name, count in open_needs.items() if count == 0]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < gpus:
            _, name = heapq.heappop(ready)
            heapq.heappush(running, (now + known[name].seconds, name))
        now, done = heapq.heappop(running)
        for name in waiting[done]:
            open_needs[name] -= 1
            if open_needs[name] == 0:
                heapq.heappush(ready, (-paths[name], name))
    total = sum(job.seconds for job in known.values())
    return Makespan(gpus, now, total / (gpus * now) if now else 1.0)


def without_searches(jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs that are not searches and do not wait for a search, directly or through other jobs."""
    known = {job.name: job for job in jobs}

    @cache
    def searched(name: str) -> bool:
        return known[name].rule == "search" or any(map(searched, known[name].needs))

    return [job for name, job in known.items() if not searched(name)]
