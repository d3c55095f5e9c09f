"""Find the Pareto front of rows: the points that no other point beats in both damage and speed."""

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (speed, damage) that no other point beats, from the slowest to the fastest.

    A point is beaten if another point is at least as fast, does at most as much damage, and is better in speed or
    damage. Of equal points the first one stays.
    """
    order = sorted(range(len(points)), key=lambda n: (-points[n][0], points[n][1], n))
    front: list[int] = []
    for n in order:
        if not front or points[n][1] < points[front[-1]][1]:
            front.append(n)
    return front[::-1]
