"""Shards as ranges of chunks, whose parts are exactly the whole; the modes that a key knows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdit.core.errors import ConfigError
from qdit.sampling.chunks import SIMULATE, Shard
from qdit.sampling.precision import CPU


@given(count=st.integers(1, 60), chunk=st.integers(1, 9), per_shard=st.integers(1, 7))
def test_shards_are_a_partition_of_the_run(count: int, chunk: int, per_shard: int) -> None:
    whole = Shard(count, chunk, 0, 10_000)
    chunks = list(whole.chunks)
    assert whole.size == count and len(chunks) == -(-count // chunk)
    found, sizes, number = [], 0, 0
    while found != chunks:
        part = Shard(count, chunk, number, per_shard)
        found += part.chunks
        sizes += part.size
        number += 1
    assert sizes == count
    with pytest.raises(ConfigError, match=f"have shards 0 to {number - 1}"):
        Shard(count, chunk, number, per_shard)


def test_all_gpus_are_one_kind() -> None:
    ends = {str(SIMULATE.on(torch.device(f"cuda:{number}"))) for number in range(3)}
    assert len(ends) == 1 and SIMULATE.on(CPU)["backend"] == SIMULATE.backend() not in ends.pop()
