"""Stores of rows: the same values on the device and in pinned memory of the host, and no waiting for a GPU."""

from copy import deepcopy

import pytest
import torch

from qdit.models.config import DiTConfig, STDiT3Config
from qdit.models.roles import CORE_ROLES, select
from qdit.quant import store
from qdit.quant.apply import calibrate_static_threshold, collect_inputs, round_weights
from qdit.quant.fisher import sensitivities
from qdit.quant.passes import rows_per_pass
from qdit.quant.ranges import minmax
from qdit.quant.reconstruction import block_units, reconstruct
from qdit.quant.sites import activation_of
from qdit.quant.store import GrowingStore, Rows, RowStore, capture_rows, passes, pieces
from qdit.quant.unit_learning import Reconstruction
from tests.captured import capture
from tests.pretended_gpu import WAITS, pretended_gpu
from tests.small_models import TINY, inputs, random_dit

VALUES = torch.arange(7 * 3 * 2.0).view(7, 3, 2)


@pytest.fixture
def on_host(monkeypatch):
    """Stores of a device lie on the host, in chunks of two rows."""
    monkeypatch.setattr(store, "DEVICE_BYTES", 0)
    monkeypatch.setattr(store, "CHUNK_BYTES", 2 * VALUES[0].nbytes)


def filled(values, parts):
    """A store with the values, written in parts."""
    kept, start = RowStore(len(values), values[:1]), 0
    for part in values.split(parts):
        kept.write(start, part)
        start += len(part)
    return kept


@pytest.mark.parametrize("parts", [[7], [3, 4], [1, 5, 1]])
def test_rows_are_those_that_were_written(on_host, parts):
    indices = torch.tensor([6, 0, 3, 3])
    here = filled(VALUES, parts)
    assert not here.on_host and len(here.chunks) == 1
    assert torch.equal(here[Rows.of(indices, torch.device("cpu"))], VALUES[indices])
    with pretended_gpu() as gpu:
        there = filled(VALUES.to(gpu), parts)
        assert there.on_host and [len(chunk) for chunk in there.chunks] == [2, 2, 2, 1]
        assert all(type(chunk) is torch.Tensor for chunk in there.chunks)
        rows = Rows.of(indices, gpu)
        WAITS.clear()
        read, whole = there[rows], there.whole()
        assert not WAITS
        assert read.device == whole.device == gpu
        assert torch.equal(read.cpu(), VALUES[indices]) and torch.equal(whole.cpu(), VALUES)


def test_passes_and_pieces_hold_every_sample_once():
    parts = list(passes(7, 3, torch.device("cpu")))
    assert [start for start, _ in parts] == [0, 3, 6]
    assert torch.cat([rows.on_cpu for _, rows in parts]).tolist() == list(range(7))
    number = torch.tensor(8.0)
    cut = list(pieces([(VALUES, VALUES[:, 0], number), (VALUES[:2], VALUES[:2, 0], number)], 3))
    assert [len(first) for first, *_ in cut] == [3, 3, 1, 2]
    assert torch.equal(torch.cat([first for first, *_ in cut]), torch.cat([VALUES, VALUES[:2]]))
    assert all(last is number for *_, last in cut)


@pytest.mark.parametrize("output", [False, True])
def test_captured_rows_are_those_of_capture(output):
    model, batch = random_dit(), inputs(count=6)
    arguments, result = capture(model, "blocks.1", [batch])
    rows = Rows.of(torch.arange(6), torch.device("cpu"))
    stores = capture_rows(model, "blocks.1", pieces([batch], 4), 6, output=output)
    expected = (result, *arguments[1:]) if output else arguments
    for kept, tensor in zip(stores, expected, strict=True):
        torch.testing.assert_close(kept[rows], tensor, rtol=1e-5, atol=1e-6)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def learned(device):
    """State of a model whose blocks were reconstructed on a device, log, and number of waits."""
    model = random_dit()
    sites = select(model.sites(), roles=CORE_ROLES)
    round_weights(model, sites, bits=3, rule=minmax)
    batch = tuple(tensor.to(device) for tensor in inputs(count=24))
    model, reference = deepcopy(model).to(device), random_dit().to(device)
    WAITS.clear()
    config = Reconstruction(iterations=6, batch=4, rounding_rate=1e-2)
    log = reconstruct(model, reference, block_units(sites), lambda: [batch], config, learn="rounding")
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}, log, len(WAITS)


def test_learned_rounding_has_the_same_bits_with_stores_on_the_host(monkeypatch):
    with pretended_gpu() as gpu:
        expected, log, waits = learned(gpu)
        monkeypatch.setattr(store, "DEVICE_BYTES", 1000)
        monkeypatch.setattr(store, "CHUNK_BYTES", 2**14)
        state, again, waits_again = learned(gpu)
    assert log == again and all(torch.equal(tensor, state[name]) for name, tensor in expected.items())
    assert waits == waits_again, "rows are copied from pinned memory, in the order of the device's queue"


def test_passes_are_bounded_by_tokens_and_heads():
    def rows(config, *size):
        return rows_per_pass(config, torch.empty(1, 4, *size, device="meta"))

    assert rows(DiTConfig(), 32, 32) == 120 and rows(DiTConfig(), 64, 64) == 12
    assert rows(STDiT3Config(), 15, 30, 53) == 1
    assert rows_per_pass(TINY, inputs()[0]) == 256, "a small network computes all samples at once"


def test_pieces_give_the_values_of_whole_batches(monkeypatch):
    """Inputs and gradients of sites, when three samples are computed at once."""
    model, batch = random_dit(), inputs(count=8)
    sites = select(model.sites(), roles=(*CORE_ROLES, "p"))
    whole = dict(collect_inputs(model, sites, [batch]))
    gradients = {kind: sensitivities(model, sites, [batch], fisher=kind) for kind in ("gauss-newton", "kl")}
    monkeypatch.setattr("qdit.quant.apply.rows_of_pass", lambda *_: 3)
    monkeypatch.setattr("qdit.quant.fisher.rows_with_gradients", lambda *_: 3)
    for site, x in collect_inputs(model, sites, [batch]):
        torch.testing.assert_close(x, whole[site], rtol=1e-4, atol=1e-5)
    cut = sensitivities(model, sites, [batch], fisher="gauss-newton")
    for name, expected in gradients["gauss-newton"].items():
        torch.testing.assert_close(cut[name].x, expected.x, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(cut[name].gradient, expected.gradient, rtol=1e-3, atol=1e-4)
    zeros = sensitivities(model, sites, [batch], fisher="kl")
    assert all(zeros[name].gradient.abs().max() < 1e-5 for name in zeros)


def test_a_range_of_a_batch_is_the_same_if_the_batch_comes_in_pieces(monkeypatch):
    """PTQ4DM averages ranges over batches of 256 samples, which one pass at 512×512 cannot hold."""
    scales = []
    for size in (256, 3):
        monkeypatch.setattr("qdit.quant.apply.rows_of_pass", lambda *_, size=size: size)
        model = random_dit()
        sites = [*select(model.sites(), roles=CORE_ROLES), *select(model.sites(), roles=("p", "v"))]
        calibrate_static_threshold(model, sites, [inputs(count=8), inputs(count=8, seed=2)], bits=8)
        scales.append([activation_of(model, site).scale for site in sites])
    for one, other in zip(*scales, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=1e-7)  # a candidate's step is one percent


@pytest.mark.parametrize("expected", [7, 3, 100])
def test_a_store_grows_with_calls_that_nobody_expected(expected):
    kept = GrowingStore(expected)
    for part in VALUES.split([2, 4, 1]):
        kept.append(part)
    assert torch.equal(kept.whole(), VALUES)
    assert len(kept.stores) == -(-7 // expected)
    if expected == 7:
        assert kept.whole().data_ptr() == kept.stores[0].chunks[0].data_ptr()  # no copy
