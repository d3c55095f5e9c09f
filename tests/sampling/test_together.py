"""Neighbouring chunks as one batch: the same bits in every file, also after a killed job; otherwise one at a time."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from qdit.core.files import load_arrays
from qdit.methods.quantize import quantize_model
from qdit.models.dit import DiT
from qdit.models.loading import load_dit
from qdit.quant.activation import DynamicActivation, StaticActivation
from qdit.quant.apply import insert_dynamic
from qdit.quant.sites import QuantizedOperand, prepare_inference, split_low_rank
from qdit.sampling.batch import Batches, chunks_together, computes_samples_alone
from qdit.sampling.chunks import Shard, chunk_path, make_chunks
from qdit.sampling.images import PIXELS, Labels
from qdit.sampling.protocol import Protocol

FULL = load_dit(Path("weights/dit-digits-natural.safetensors"))
PROTOCOL = Protocol(sampler="ddpm", steps=2, cfg_scale=1.5)


def dynamic() -> DiT:
    """RTN at W4A8 with groups of 16."""
    options = {"activation": "dynamic", "group_size": 16}
    empty = {"trajectory": None}
    return quantize_model(FULL, "rtn", weight_bits=4, activation_bits=8, calibration=empty, options=options).model


def static() -> DiT:
    """The same with one given range for all inputs of a layer."""
    model = dynamic()
    for module in model.modules():
        if isinstance(getattr(module, "activation", None), DynamicActivation):
            module.activation = StaticActivation(bits=8, scale=torch.tensor([0.03]), zero_point=torch.tensor([120]))
    return model


@pytest.mark.parametrize("make", [dynamic, static, lambda: deepcopy(FULL)])
def test_files_have_the_same_bits(make, tmp_path):
    model = prepare_inference(make())
    batches = Batches(model, PROTOCOL, Labels(10, PROTOCOL.seed), PIXELS)
    shard = Shard(90, 16, 0, 100)
    assert chunks_together(model, 16) == 4

    def chunks(folder: str, together: int) -> list[dict[str, np.ndarray]]:
        make_chunks(shard, tmp_path / folder, {}, ("images", "labels"), batches.columns, together=together)
        return [load_arrays(chunk_path(tmp_path / folder, number)) for number in shard.chunks]

    single, joined = chunks("single", 1), chunks("joined", 4)
    assert [len(chunk["images"]) for chunk in joined] == [16, 16, 16, 16, 16, 10]
    for pair in zip(single, joined, strict=True):
        assert all(np.array_equal(pair[0][name], pair[1][name]) for name in pair[0])


def test_a_killed_job_computes_the_same_batches_again(tmp_path):
    asked = []

    def make(samples: range, count: int) -> dict[str, np.ndarray]:
        asked.append((samples, count))
        return {"images": np.arange(samples.start, samples.start + count)}

    shard = Shard(11, 2, 0, 100)
    listed = make_chunks(shard, tmp_path, {}, ("images",), make, together=4)
    assert asked == [(range(8), 8), (range(8, 12), 3)]
    kept = chunk_path(tmp_path, 0).stat().st_mtime_ns
    for number in (2, 5):
        chunk_path(tmp_path, number).unlink()
    asked.clear()
    assert make_chunks(shard, tmp_path, {}, ("images",), make, together=4) == listed
    assert asked == [(range(8), 8), (range(8, 12), 3)]
    assert chunk_path(tmp_path, 0).stat().st_mtime_ns == kept
    assert load_arrays(chunk_path(tmp_path, 5))["images"].tolist() == [10]


def test_what_may_depend_on_the_batch_is_computed_chunk_by_chunk():
    assert chunks_together(FULL, 32) == 2 and chunks_together(FULL, 100) == 1
    model = deepcopy(FULL)
    sites = [site for site in model.sites() if site.role == "fc1"]
    insert_dynamic(model, sites, bits=8, group_sizes={site.name: 16 for site in sites})
    assert chunks_together(model, 32) == 2
    model.get_submodule(sites[0].name).activation = DynamicActivation(bits=8, group_size=16, sharing="tensor")
    assert chunks_together(model, 32) == 1
    model = deepcopy(FULL)
    split_low_rank(model, sites[0], 2)
    assert chunks_together(model, 32) == 1
    model = deepcopy(FULL)
    model.blocks[0].attn.q = QuantizedOperand(DynamicActivation(bits=8, group_size=None))
    assert chunks_together(model, 32) == 1 == chunks_together(object(), 32)

    class Own(StaticActivation):
        """A kind of a method's own file."""

    assert not computes_samples_alone(Own(bits=8, scale=torch.ones(1), zero_point=torch.zeros(1)))
