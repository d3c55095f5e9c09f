"""Nothing mixes places: calibration, every method and sampling on a device that refuses tensors of the CPU."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qdit.methods.quantize import quantize_model
from qdit.methods.registry import registry
from qdit.mini.data.digits import load
from qdit.mini.outliers import of_weights, snapshot_files
from qdit.mini.training.dit import Trainer, TrainingConfig
from qdit.mini.training.shipping import averaged_model
from qdit.models.network import require_dit
from qdit.quant.checkpoint import load_checkpoint, save_checkpoint
from qdit.quant.integer import IntegerLinear, prepare_integer
from qdit.quant.sites import prepare_inference
from qdit.sampling import graphs
from qdit.sampling.batch import Batches, sample_batch, sample_images
from qdit.sampling.calibration import collect
from qdit.sampling.clips import ClipDecoder, Prompted
from qdit.sampling.flow_protocol import FlowProtocol
from qdit.sampling.images import Labels
from qdit.sampling.protocol import Protocol
from tests.pretended_gpu import OnGpu, pretended_gpu, recorded
from tests.small_latent_video import LATENT_VIDEO, random_vae
from tests.small_models import TINY, calibration_set, random_dit
from tests.small_video_models import random_stdit3, video_inputs

PROTOCOL = Protocol("ddpm", 4, 1.5, 0)
CHEAP: Mapping[str, Mapping[str, Any]] = {
    "tfmq-dm": {"iterations": 3, "batch": 4},
    "ptq4dit": {"iterations": 3, "batch": 4},
    "q-diffusion": {"iterations": 3, "batch": 4},
    "ptqd": {"iterations": 3, "batch": 4},
    "tq-dit": {"rounds": 1, "per_group": 2},
    "q-dit": {"group_size": 16},
    "g4w+p4a": {"group_size": 16},
    "mxfp4": {"block_size": 16},
    "svdquant": {"group_size": 16, "rank": 4},
}
BITS: Mapping[str, tuple[int, int]] = {"fp": (16, 16), "nvfp4": (4, 8), "mxfp4": (4, 8)}
"""Weights and activations of methods that have no 8 bits; of all others (8, 8)."""


def test_the_pretended_device_computes_and_refuses_tensors_of_the_cpu() -> None:
    with pretended_gpu() as gpu:
        there = torch.arange(6.0).to(gpu)
        assert isinstance(there, OnGpu) and float((there * 2).sum()) == 30
        assert torch.equal((there + torch.tensor(1.0)).cpu(), torch.arange(6.0) + 1)
        assert torch.equal(there[torch.tensor([2, 1])].cpu(), torch.tensor([2.0, 1.0]))
        with pytest.raises(RuntimeError, match="on the same device"):
            there + torch.ones(6)
        with pytest.raises(RuntimeError, match="on the same device"):
            torch.ones(6).add_(there)
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()


@pytest.mark.parametrize("kind", ["trajectory", "per-step"])
def test_calibration_data_do_not_depend_on_the_place(kind: str) -> None:
    here = collect(random_dit(), kind, PROTOCOL, samples=8)
    with pretended_gpu() as gpu:
        there = collect(random_dit().to(gpu), kind, PROTOCOL, samples=8)
    torch.testing.assert_close(there.x, here.x, rtol=1e-3, atol=1e-2)  # of images that reach hundreds
    assert type(there.x) is torch.Tensor
    assert torch.equal(there.timestep, here.timestep) and torch.equal(there.label, here.label)


def test_clips_of_a_model_of_latents_are_made_and_decoded_there() -> None:
    flow = FlowProtocol(frames=6, height=16, width=24, fps=8, steps=2, cfg_scale=3.0, shift=1.5)
    text, mask = video_inputs(LATENT_VIDEO, count=2)[2:]

    def made(device: torch.device) -> Tensor:
        model = prepare_inference(random_stdit3(LATENT_VIDEO).to(device))
        decoder = ClipDecoder(random_vae().to(device), 6, device=device)
        prompted = Prompted([("a", 0), ("b", 0)], lambda _: (text, mask))
        return torch.from_numpy(Batches(model, flow, prompted, decoder).columns(range(2), 2)["frames"])

    here = made(torch.device("cpu"))
    with pretended_gpu() as gpu:
        there = made(gpu)
    assert type(there) is torch.Tensor and there.shape == (2, 3, 6, 16, 24)
    assert (there.int() - here.int()).abs().max() <= 1


def test_calibration_data_of_clips_do_not_depend_on_the_place() -> None:
    flow = FlowProtocol(frames=6, height=16, width=24, fps=8, steps=2, cfg_scale=3.0, shift=1.5)
    text = video_inputs(LATENT_VIDEO, count=2)[2:]
    here = collect(random_stdit3(LATENT_VIDEO), "ndtc", flow, samples=3, text=text)
    with pretended_gpu() as gpu:
        there = collect(random_stdit3(LATENT_VIDEO).to(gpu), "ndtc", flow, samples=3, text=text)
    torch.testing.assert_close(there.x, here.x, rtol=1e-3, atol=1e-3)
    assert type(there.x) is torch.Tensor
    assert all(torch.equal(*pair) for pair in zip(there.conditions, here.conditions, strict=True))


def cases() -> Iterator[Any]:
    """Every method in both scopes; in the fast tests two that have most of the kinds of quantizers."""
    for method in sorted(registry()):
        for scope in ("common", "own"):
            fast = (method, scope) in (("q-dit", "own"), ("repq-vit", "own"))
            yield pytest.param(method, scope, marks=() if fast else pytest.mark.slow, id=f"{method}-{scope}")


@pytest.mark.parametrize(("method", "scope"), cases())
def test_methods_and_sampling_stay_where_the_model_is(
    method: str, scope: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Quantized there, saved, loaded and sampled there: the images are those of a model quantized here."""
    data = {kind: calibration_set(kind, samples=4, protocol=PROTOCOL) for kind in registry()[method].calibration}
    weight_bits, activation_bits = BITS.get(method, (8, 8))
    options = {
        "scope": scope,
        "options": CHEAP.get(method, {}),
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
    }
    here = quantize_model(random_dit(), method, calibration=data, **options)
    with pretended_gpu() as gpu:
        moved = {kind: part.to(gpu) for kind, part in data.items()}
        there = quantize_model(random_dit().to(gpu), method, calibration=moved, **options)
        assert {tensor.device for tensor in there.model.state_dict().values()} == {gpu}
        save_checkpoint(tmp_path / "there", there, {})
    save_checkpoint(tmp_path / "here", here, {})
    loaded = load_checkpoint(tmp_path / "there")
    expected, _ = sample_images(require_dit(here.model, where=method), PROTOCOL, range(2), correction=here.correction)
    with pretended_gpu() as gpu:
        model = prepare_inference(loaded.model.to(gpu))
        found, _ = sample_images(model, PROTOCOL, range(2), correction=loaded.correction)
        monkeypatch.setattr(graphs, "recorded", recorded)
        conditions = Labels(loaded.model.config.num_classes, PROTOCOL.seed).tensors(range(2))
        options = {"correction": loaded.correction, "graphed": True}
        replayed = sample_batch(model, PROTOCOL, conditions, range(2), **options)
    assert torch.equal(replayed, found) and not caplog.records, "as one graph it has the same bits at every step"
    # Sums have another order there, so a code at the border of two may differ: few pixels move.
    assert torch.isfinite(found).all()
    assert ((found - expected).abs() > 0.05 + 0.05 * expected.abs()).float().mean() < 0.05


FITS = ("q-dit", "rtn", "repq-vit", "g4w+p4a", "ptq4dm", "svdquant")
"""Methods whose sites in scope `common` have integer kernels; the fast test takes dynamic and static ranges."""


@pytest.mark.parametrize("method", [*FITS[:2], *(pytest.param(name, marks=pytest.mark.slow) for name in FITS[2:])])
def test_integers_are_sampled_where_the_model_is(method: str) -> None:
    """In integer mode: made ready there, sampled there, and near to the images of the CPU."""
    data = {kind: calibration_set(kind, samples=4, protocol=PROTOCOL) for kind in registry()[method].calibration}
    options = {"options": CHEAP.get(method, {}), "weight_bits": 4 if method == "svdquant" else 8, "activation_bits": 8}
    quantized = quantize_model(random_dit(), method, calibration=data, scope="common", **options)
    here, there = deepcopy(quantized.model), quantized.model
    expected, _ = sample_images(prepare_integer(require_dit(here, where=method)), PROTOCOL, range(2))
    with pretended_gpu() as gpu:
        model = prepare_integer(require_dit(there.to(gpu), where=method))
        assert any(isinstance(layer, IntegerLinear) for layer in model.modules())
        found, _ = sample_images(model, PROTOCOL, range(2))
    assert torch.isfinite(found).all()
    assert ((found - expected).abs() > 0.05 + 0.05 * expected.abs()).float().mean() < 0.05


ADAM = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "eps": 1e-8, "amsgrad": False, "maximize": False}


def test_the_fused_step_of_adam_refuses_counters_of_the_cpu() -> None:
    """What torch.optim makes by default; on CUDA learned rounding failed with it."""
    with pretended_gpu() as gpu:
        weight, gradient, mean, square = (torch.ones(3).to(gpu) for _ in range(4))
        lists = [[weight], [gradient], [mean], [square], []]
        with pytest.raises(RuntimeError, match=r"on the same device.*_fused_adam_"):
            torch._fused_adam_(*lists, [torch.tensor(0.0)], **ADAM)
        torch._fused_adam_(*lists, [torch.tensor(0.0).to(gpu)], **ADAM)
        assert float(weight.cpu()[0]) != 1


def operations(there: Tensor, number: Tensor) -> dict[str, Any]:
    """Operations of a tensor of the device with a single number of the CPU."""
    return {
        "dot": lambda: torch.dot(there, number.reshape(())),
        "stack": lambda: torch.stack([there[0], number]),
        "cat": lambda: torch.cat([there, number[None]]),
        "clamp": lambda: there.clamp(min=number),
        "addcmul": lambda: torch.addcmul(there, there, number),
        "lerp": lambda: torch.lerp(there, there, number),
        "foreach": lambda: torch._foreach_add([there[0]], [number]),
        "searchsorted": lambda: torch.searchsorted(there, number),
        "hardtanh_backward": lambda: torch.ops.aten.hardtanh_backward(there, number, 0.0, 1.0),
        "in place": lambda: number.add_(there[0]),
        "indices there": lambda: torch.arange(9)[there.long()],
    }


@pytest.mark.parametrize("name", list(operations(torch.ones(3), torch.tensor(1.0))))
def test_single_numbers_of_the_cpu_are_refused_where_cuda_refuses_them(name: str) -> None:
    with pretended_gpu() as gpu, pytest.raises(RuntimeError, match="on the same device"):
        operations(torch.ones(3).to(gpu), torch.tensor(1.0))[name]()


def test_single_numbers_of_the_cpu_are_taken_where_cuda_takes_them() -> None:
    with pretended_gpu() as gpu:
        there, number = torch.arange(3.0).to(gpu), torch.tensor(2.0)
        assert (there * number).cpu().tolist() == [0, 2, 4] and (number - there).cpu().tolist() == [2, 1, 0]
        assert torch.maximum(there, number).cpu().tolist() == [2, 2, 2]
        assert torch.where(there > 0, number, torch.tensor(7.0)).cpu().tolist() == [7, 2, 2]
        assert there.masked_fill(there > 1, number).cpu().tolist() == [0, 1, 2]
        assert there.copy_(torch.ones(3)).cpu().tolist() == [1, 1, 1]
        there[torch.tensor([0])] = number
        assert there.cpu().tolist() == [2, 1, 1]


def test_a_mini_model_is_trained_there_and_its_snapshots_are_studied(tmp_path: Path) -> None:
    """`qdit train dit --device cuda`: losses, snapshots and a continued training as on the CPU, then their outliers."""
    config = TrainingConfig(
        iterations=8, stop_at=5, batch_size=8, warmup=2, checkpoint_every=2, snapshot_every=3, bfloat16=True
    )
    data = load("train")
    here = Trainer(TINY, config, tmp_path / "here")
    here.run(data)
    with pretended_gpu() as gpu:
        Trainer(TINY, config, tmp_path / "there", str(gpu)).run(data, until=3)
        there = Trainer(TINY, config, tmp_path / "there", str(gpu))
        assert there.iteration == 3
        assert {tensor.device for tensor in (*there.parameters.values(), *there.average.values())} == {gpu}
        there.run(data)
    for name, mean in here.average.items():
        torch.testing.assert_close(there.average[name].cpu(), mean, rtol=1e-2, atol=1e-2)
    assert [path.stem for path in snapshot_files(tmp_path / "there" / "snapshots")] == [
        *("000001", "000002", "000003", "000004")
    ]
    studied = [of_weights(averaged_model(path)[0]) for path in snapshot_files(tmp_path / "there" / "snapshots")]
    assert [sorted(roles) for roles in studied] == [["attn_out", "fc1", "fc2", "qkv"]] * 4
    assert studied[0] != studied[-1]
