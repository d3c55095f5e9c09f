"""Limit of the number of threads and processes. With more threads than cores a machine stalls and torch crashes."""

import os

from qdit.core.errors import ConfigError


def require_cores(name: str, count: int) -> None:
    """Raise ConfigError unless `count` threads or processes are at least 1 and at most the number of cores.

    Two are always allowed. `name` says in the message what is counted.
    """
    most = max(os.cpu_count() or 1, 2)
    if not 1 <= count <= most:
        raise ConfigError(f"{name} {count}: this machine runs 1 to {most} at a time; give a number in this range")
