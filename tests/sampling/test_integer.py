"""Sampling in integer mode: its own key and backend, the difference to simulation, and reasons on record."""

from pathlib import Path

import pytest
import torch

from qdit.core.affine import Granularity
from qdit.core.errors import Unsupported
from qdit.core.files import read_json
from qdit.metrics.run import latent_difference
from qdit.metrics.samples import listed_shards, read_shard
from qdit.models.roles import CORE_ROLES, linear_of, select
from qdit.quant.activation import DynamicActivation
from qdit.quant.checkpoint import Quantized, load_checkpoint, save_checkpoint
from qdit.quant.ranges import minmax
from qdit.quant.sites import quantize_site
from qdit.quant.weight import quantize_weight
from qdit.sampling import integer, run
from qdit.sampling.protocol import Protocol

PROTOCOL = Protocol("ddim", 2, 1.0, 0)
SIZES = {"samples": 5, "chunk": 2, "shard": 0, "chunks_per_shard": 2}


def checkpoint(dit, folder: Path, **options) -> Path:
    for site in select(dit.sites(), roles=CORE_ROLES):
        weight = quantize_weight(
            linear_of(dit, site).weight, bits=4, granularity=Granularity("group", 12), ranges=minmax
        )
        quantize_site(dit, site, weight=weight, activation=DynamicActivation(bits=8, group_size=12, **options))
    save_checkpoint(folder, Quantized(dit), {})
    return folder


def test_integer_images_are_near_to_simulated_ones_of_the_same_noise(dit, tmp_path):
    folder = checkpoint(dit, tmp_path / "checkpoint")
    simulated = run.sample_checkpoint(run.SampleJob(folder, tmp_path / "simulated", PROTOCOL, **SIZES))
    made = integer.sample_checkpoint(run.SampleJob(folder, tmp_path / "integer", PROTOCOL, **SIZES))
    one, other = read_shard(simulated), read_shard(made)
    assert (one.mode, other.mode) == ("simulate", "integer")
    assert one.key != other.key and one.difference is None
    assert other.backend == integer.integer_backend() != one.backend
    assert other.difference is not None and other.difference["images"] == 2
    assert 0 <= other.difference["mean"] <= other.difference["largest"] < 0.05


def test_the_difference_of_a_run_is_that_of_its_shards(dit, tmp_path):
    folder = checkpoint(dit, tmp_path / "checkpoint")
    for shard in (0, 1):
        integer.sample_checkpoint(run.SampleJob(folder, tmp_path / "integer", PROTOCOL, **{**SIZES, "shard": shard}))
    shards = listed_shards(tmp_path / "integer", images=5)
    assert [shard.difference["images"] for shard in shards] == [2, 1]
    found = latent_difference(shards)
    assert found["images"] == 3
    assert found["largest"] == max(shard.difference["largest"] for shard in shards)
    means = [shard.difference["mean"] for shard in shards]
    assert found["mean"] == pytest.approx((2 * means[0] + means[1]) / 3)


def test_threads_change_no_bit_of_a_model(dit, tmp_path):
    folder = checkpoint(dit, tmp_path / "checkpoint")
    outputs, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        model = integer.prepare_integer(load_checkpoint(folder).model)
        torch.set_num_threads(1)
        with torch.inference_mode():
            x = torch.linspace(-1, 1, 32).reshape(2, 1, 4, 4)
            outputs.append(model(x, torch.tensor([5, 500]), torch.tensor([1, 2])))
    torch.set_num_threads(before)
    assert torch.equal(*outputs)


def test_a_method_that_does_not_fit_says_so_or_is_recorded(dit, tmp_path):
    folder = checkpoint(dit, tmp_path / "checkpoint", include_zero=False)
    with pytest.raises(Unsupported, match=r"blocks\.0\.attn\.qkv: input ranges that leave zero out"):
        integer.sample_checkpoint(run.SampleJob(folder, tmp_path / "integer", PROTOCOL, **SIZES))
    job = run.SampleJob(folder, tmp_path / "recorded", PROTOCOL, record_failure=True, **SIZES)
    path = integer.sample_checkpoint(job)
    listing = read_json(path)
    assert listing["mode"] == "integer" and listing["chunks"] == [] and "difference" not in listing
    assert listing["failure"]["kind"] == "unsupported"
