"""The video VAE: official names, causal convolutions against loops, the documented chunks, sizes and loading."""

import json
from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from qdit.core.errors import CheckpointError, DataError
from qdit.core.files import save_tensors
from qdit.models.roles import replace
from qdit.models.vae_files import video_vae_sha256
from qdit.models.video_vae import SCALE, SHIFT, VideoVAE, VideoVAEConfig, load_video_vae, save_video_vae
from qdit.models.video_vae_temporal import CausalConv3d, TemporalConfig, TemporalVAE

TINY = VideoVAEConfig(
    spatial_widths=(4, 8, 8, 8),
    spatial_layers=1,
    spatial_groups=2,
    temporal=TemporalConfig(filters=4, res_blocks=1, groups=2),
    chunk_frames=5,
)


def randomized(model: nn.Module) -> nn.Module:
    """Weights, biases and norms random, so that no part is silent; the means of the latents stay."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=draw))
            else:
                spread = 0.2 if name.endswith("bias") else parameter[0].numel() ** -0.5
                parameter.copy_(spread * torch.randn(parameter.shape, generator=draw))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    model = randomized(VideoVAE(TINY))
    assert isinstance(model, VideoVAE)
    return model


@pytest.fixture
def temporal() -> TemporalVAE:
    model = randomized(TemporalVAE(TINY.temporal))
    assert isinstance(model, TemporalVAE)
    return model


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def levels(side: str, widths: list[tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of four residual blocks per level of the 3-D VAE."""
    result: dict[str, tuple[int, ...]] = {}
    for level, (before, width) in enumerate(widths):
        for block in range(4):
            inputs = before if block == 0 else width
            name = f"{side}.block_res_blocks.{level}.{block}"
            result |= {f"{name}.norm1.{part}": (inputs,) for part in ("weight", "bias")}
            result |= {f"{name}.norm2.{part}": (width,) for part in ("weight", "bias")}
            result[f"{name}.conv1.conv.weight"] = (width, inputs, 3, 3, 3)
            result[f"{name}.conv2.conv.weight"] = (width, width, 3, 3, 3)
            if inputs != width:
                result[f"{name}.conv3.conv.weight"] = (width, inputs, 1, 1, 1)
    for block in range(4):
        name = f"{side}.res_blocks.{block}"
        result |= {f"{name}.norm{i}.{part}": (512,) for i in (1, 2) for part in ("weight", "bias")}
        result |= {f"{name}.conv{i}.conv.weight": (512, 512, 3, 3, 3) for i in (1, 2)}
    return result


def test_full_size_has_the_official_names_and_shapes() -> None:
    with torch.device("meta"):
        model = VideoVAE(VideoVAEConfig())
    biased = {
        "encoder.conv_blocks.1": (256, 256, 3, 3, 3),
        "encoder.conv_blocks.2": (256, 256, 3, 3, 3),
        "encoder.conv2": (8, 512, 1, 1, 1),
        "quant_conv": (8, 8, 1, 1, 1),
        "post_quant_conv": (4, 4, 1, 1, 1),
        "decoder.conv1": (512, 4, 3, 3, 3),
        "decoder.conv_blocks.1": (512, 256, 3, 3, 3),
        "decoder.conv_blocks.2": (1024, 512, 3, 3, 3),
        "decoder.conv_out": (4, 128, 3, 3, 3),
    }
    expected: dict[str, tuple[int, ...]] = {"encoder.conv_in.conv.weight": (128, 4, 3, 3, 3)}
    for name, shape in biased.items():
        expected |= {f"{name}.conv.weight": shape, f"{name}.conv.bias": shape[:1]}
    expected |= {f"encoder.norm1.{part}": (512,) for part in ("weight", "bias")}
    expected |= {f"decoder.norm1.{part}": (128,) for part in ("weight", "bias")}
    expected |= levels("encoder", [(128, 128), (128, 256), (256, 256), (256, 512)])
    expected |= levels("decoder", [(256, 128), (256, 256), (512, 256), (512, 512)])
    state = model.state_dict()
    prefix = "temporal_vae."
    result = {n.removeprefix(prefix): tuple(t.shape) for n, t in state.items() if n.startswith(prefix)}
    assert result == expected
    assert tuple(state["shift"].shape) == tuple(state["scale"].shape) == (1, 4, 1, 1, 1)
    spatial = [name for name in state if name.startswith("spatial_vae.module.")]
    assert len(spatial) + len(result) + 2 == len(state)
    assert sum(state[name].numel() for name in spatial) == 83_653_863  # the 2-D VAE of SDXL
    assert "spatial_vae.module.encoder.mid_block.attentions.0.to_q.weight" in state


@pytest.mark.parametrize(("kernel", "stride", "frames"), [(3, 1, 5), (3, 2, 6), (1, 1, 3)])
def test_causal_convolution_equals_loops(kernel: int, stride: int, frames: int) -> None:
    layer = randomized(CausalConv3d(2, 3, kernel, stride=stride))
    x = noise(1, 2, frames, 3, 4)
    result = layer(x)[0].double().numpy()
    weight, bias = (t.double().numpy() for t in (layer.conv.weight, layer.conv.bias))
    assert result.shape == (3, -(-frames // stride), 3, 4)
    for at in np.ndindex(*result.shape):
        total = bias[at[0]]
        for channel, t, i, j in np.ndindex(2, kernel, kernel, kernel):
            # The last tap of the kernel sees the newest frame that an output may know.
            place = (at[1] * stride + stride - 1 + t - (kernel - 1), at[2] + i - kernel // 2, at[3] + j - kernel // 2)
            if all(0 <= where < size for where, size in zip(place, (frames, 3, 4), strict=True)):
                total += weight[at[0], channel, t, i, j] * float(x[(0, channel, *place)])
        assert result[at] == pytest.approx(total, abs=1e-5)


def without_norms(model: nn.Module) -> nn.Module:
    """Norms average over all frames, in the original too; causal is what is left."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.GroupNorm):
            replace(model, name, nn.Identity())
    return model


def test_later_frames_do_not_change_earlier_ones(temporal: TemporalVAE) -> None:
    without_norms(temporal)
    x, other = noise(1, 4, 12, 2, 2), noise(1, 4, 12, 2, 2)
    other[:, :, 8:] += 1
    one, two = temporal.encode(x)[0], temporal.encode(other)[0]
    assert torch.equal(one[:, :, :2], two[:, :, :2]) and (one - two)[:, :, 2].abs().max() > 1e-3
    z, changed_z = noise(1, 4, 3, 2, 2), noise(1, 4, 3, 2, 2)
    changed_z[:, :, 2:] += 1
    one, two = temporal.decode(z, 12), temporal.decode(changed_z, 12)
    assert torch.equal(one[:, :, :8], two[:, :, :8]) and (one - two)[:, :, 8].abs().max() > 1e-3


def test_zeros_are_put_before_the_frames_and_taken_away_again(temporal: TemporalVAE) -> None:
    x = noise(2, 4, 5, 2, 2)
    whole = torch.cat([torch.zeros(2, 4, 3, 2, 2), x], dim=2)
    mean, log_variance = temporal.encode(x)
    assert mean.shape == log_variance.shape == (2, 4, 2, 2, 2)
    torch.testing.assert_close(mean, temporal.encode(whole)[0], rtol=0, atol=0)
    torch.testing.assert_close(temporal.decode(mean, 5), temporal.decode(mean, 8)[:, :, 3:], rtol=0, atol=0)


def test_decoder_turns_pairs_of_channels_into_frames(temporal: TemporalVAE) -> None:
    """The layer before the second level, looked at from outside: channel 2c + s becomes frame 2t + s of channel c."""
    seen: dict[str, torch.Tensor] = {}
    handles = [
        temporal.decoder.conv_blocks[2].register_forward_hook(lambda _m, _x, y: seen.update(before=y)),
        temporal.decoder.block_res_blocks[2][0].register_forward_pre_hook(lambda _m, x: seen.update(after=x[0])),
    ]
    temporal.decode(noise(1, 4, 3, 2, 2), 12)
    for handle in handles:
        handle.remove()
    before, after = seen["before"], seen["after"]
    assert before.shape == (1, 32, 3, 2, 2) and after.shape == (1, 16, 6, 2, 2)
    for channel, frame in np.ndindex(16, 6):
        assert torch.equal(after[0, channel, frame], before[0, 2 * channel + frame % 2, frame // 2])


def test_a_clip_is_encoded_and_decoded_in_the_documented_chunks(vae: VideoVAE) -> None:
    pixels = noise(2, 3, 12, 16, 24)
    frames = [0.18215 * vae.spatial_vae.module.encode(pixels[:, :, t]).latent_dist.mean for t in range(12)]
    flat = torch.stack(frames, dim=2)
    parts = [vae.temporal_vae.encode(flat[:, :, start : start + 5])[0] for start in (0, 5, 10)]
    assert [part.shape[2] for part in parts] == [2, 2, 1]
    shift, scale = (torch.tensor(values).view(1, 4, 1, 1, 1) for values in (SHIFT, SCALE))
    latents = vae.encode(pixels)
    torch.testing.assert_close(latents, (torch.cat(parts, dim=2) - shift) / scale, rtol=1e-4, atol=1e-5)
    raw = latents * scale + shift
    decoded = [vae.temporal_vae.decode(raw[:, :, a:b], n) for a, b, n in ((0, 2, 5), (2, 4, 5), (4, 5, 2))]
    flat = torch.cat(decoded, dim=2)
    expected = torch.stack([vae.spatial_vae.module.decode(flat[:, :, t] / 0.18215).sample for t in range(12)], dim=2)
    result = vae.decode(latents, 12)
    assert result.shape == pixels.shape
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_chunks_do_not_see_each_other(vae: VideoVAE) -> None:
    pixels = noise(1, 3, 10, 8, 8)
    other = pixels.clone()
    other[:, :, 5:] += 1
    one, two = vae.encode(pixels), vae.encode(other)
    torch.testing.assert_close(one[:, :, :2], two[:, :, :2], rtol=1e-5, atol=1e-6)
    assert (one - two)[:, :, 2:].abs().max() > 1e-3


def test_frames_at_once_do_not_matter(vae: VideoVAE) -> None:
    other = VideoVAE(changed(TINY, micro_batch=7)).eval()
    other.load_state_dict(vae.state_dict())
    pixels = noise(1, 3, 6, 8, 8)
    torch.testing.assert_close(other.encode(pixels), vae.encode(pixels), rtol=1e-4, atol=1e-5)


def test_a_generator_draws_from_the_posteriors(vae: VideoVAE) -> None:
    pixels = noise(1, 3, 5, 8, 8)
    mean = vae.encode(pixels)
    one, two, again = (vae.encode(pixels, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 1))
    assert torch.equal(one, again)
    assert 1e-3 < (one - mean).abs().mean() and (one - two).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("clip", "latents", "pixels"),
    [
        ((51, 240, 426), (15, 30, 53), (51, 240, 424)),
        ((51, 144, 256), (15, 18, 32), (51, 144, 256)),
        ((1, 512, 512), (1, 64, 64), (1, 512, 512)),
        ((18, 64, 64), (6, 8, 8), (18, 64, 64)),
    ],
)
def test_sizes(clip: tuple[int, int, int], latents: tuple[int, int, int], pixels: tuple[int, int, int]) -> None:
    config = VideoVAEConfig()
    assert config.latent_size(*clip) == latents
    assert config.pixel_size(clip[0], latents) == pixels


def test_latents_of_another_length_are_refused(vae: VideoVAE) -> None:
    with pytest.raises(DataError, match="latents have 3 frames, a clip of 5 frames has 2"):
        vae.decode(noise(1, 4, 3, 2, 2), 5)


def test_loading(tmp_path: Path, vae: VideoVAE, one_line_error: Callable) -> None:
    state = vae.state_dict()
    save_tensors(tmp_path / "hub" / "model.safetensors", state)
    (tmp_path / "hub" / "config.json").write_text(json.dumps({"model_type": "VideoAutoencoderPipeline"}))
    pixels = noise(1, 3, 5, 8, 8)
    for path in (tmp_path / "hub", tmp_path / "hub" / "model.safetensors"):
        assert torch.equal(load_video_vae(path, TINY).encode(pixels), vae.encode(pixels))
    bare = {name: tensor for name, tensor in state.items() if name not in ("shift", "scale")}
    save_tensors(tmp_path / "bare.safetensors", bare)
    assert torch.equal(load_video_vae(tmp_path / "bare.safetensors", TINY).scale, vae.scale)
    for change in ("temporal_vae.decoder.conv_out.conv.bias", "spatial_vae.module.quant_conv.weight"):
        save_tensors(tmp_path / "bad.safetensors", {n: t for n, t in state.items() if n != change})
        one_line_error(CheckpointError, lambda: load_video_vae(tmp_path / "bad.safetensors", TINY), change)
    one_line_error(CheckpointError, lambda: load_video_vae(tmp_path / "hub"), "conv_in", "(128, 4, 3, 3, 3)")


def test_a_file_of_ours_holds_its_configuration(tmp_path: Path, vae: VideoVAE, one_line_error: Callable) -> None:
    path = tmp_path / "vae.safetensors"
    save_video_vae(path, vae)
    result = load_video_vae(path)
    assert result.config == TINY
    pixels = noise(1, 3, 5, 8, 8)
    assert torch.equal(result.encode(pixels), vae.encode(pixels))
    for values in ({"temporal": {"widths": 3}}, {"temporal": 3}, {}, 7):
        save_tensors(path, vae.state_dict(), {"video_vae": values})
        one_line_error(CheckpointError, lambda: load_video_vae(path), str(path), "not that of a video VAE")


def test_a_digest_is_of_the_weights_wherever_they_lie(tmp_path: Path, vae: VideoVAE, one_line_error: Callable) -> None:
    file, folder = tmp_path / "vae.safetensors", tmp_path / "hub"
    save_tensors(file, vae.state_dict())
    save_tensors(folder / "model.safetensors", vae.state_dict())
    assert video_vae_sha256(file) == video_vae_sha256(folder) == video_vae_sha256(folder / "model.safetensors")
    save_tensors(folder / "more.safetensors", {"x": torch.zeros(1)})
    assert video_vae_sha256(file) != video_vae_sha256(folder)
    (tmp_path / "empty").mkdir()
    one_line_error(CheckpointError, lambda: video_vae_sha256(tmp_path / "empty"), "holds no .safetensors")
    one_line_error(CheckpointError, lambda: video_vae_sha256(tmp_path / "none"), "no such file")
