"""From x_0 to uint8: through the VAE in small batches, with the original's rounding; float16; keys and lists."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qdit.core import disk
from qdit.core.errors import CheckpointError, ConfigError, DataError
from qdit.core.files import load_arrays
from qdit.core.pixels import to_uint8
from qdit.methods.quantize import quantize_model
from qdit.models.image_vae import load_image_vae
from qdit.models.network import Network
from qdit.quant.checkpoint import save_checkpoint
from qdit.quant.sites import prepare_inference
from qdit.sampling.batch import sample_images
from qdit.sampling.images import BATCH, PIXELS, Decoder, load_decoder
from qdit.sampling.precision import CPU, round_linears
from qdit.sampling.protocol import Protocol, decoder_name
from qdit.sampling.run import SampleJob, origin_of, sample_checkpoint
from tests.small_latent_models import LATENT, autoencoder, write_vae
from tests.small_models import calibration_set, random_dit

PROTOCOL = Protocol("ddim", 3, 1.5, 0)
ALL = {"samples": 6, "chunk": 4, "shard": 0, "chunks_per_shard": 9}


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    return write_vae(tmp_path / "vae")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A quantized DiT of latents."""
    quantized = quantize_model(
        random_dit(LATENT), "q-dit", weight_bits=4, activation_bits=8, calibration=DATA, options=NEAREST
    )
    save_checkpoint(tmp_path / "checkpoint", quantized, {})
    return tmp_path / "checkpoint"


DATA = {"trajectory": calibration_set("trajectory", config=LATENT)}
NEAREST = {"group_size": 16, "rounding": "nearest"}


def test_images_are_decoded_a_few_at_a_time_and_truncated(vae: Path) -> None:
    decoder = load_decoder(vae, LATENT, dtype="float32", device=CPU)
    latents = torch.randn(2 * BATCH + 1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    sizes: list[int] = []
    assert decoder.vae is not None
    decoder.vae.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    found = decoder(latents)
    assert sizes == [BATCH, BATCH, 1]
    assert found.dtype == torch.uint8 and found.shape == (9, 3, 16, 16)
    with torch.no_grad():
        exact = autoencoder().decode(latents[:BATCH] / 0.18215).sample
    assert np.array_equal(found[:BATCH].numpy(), np.clip(np.trunc(127.5 * exact.double().numpy() + 128), 0, 255))
    assert decoder.sample_bytes((4, 8, 8)) == found[0].numel()
    assert PIXELS.sample_bytes((4, 8, 8)) == 4 * 8 * 8


def test_without_a_vae_x0_are_pixels() -> None:
    x0 = torch.linspace(-1.2, 1.2, 4 * 8 * 8).reshape(1, 4, 8, 8)
    assert load_decoder(None, LATENT, dtype="float32", device=CPU) is PIXELS
    assert torch.equal(PIXELS(x0), to_uint8(x0))


def test_a_vae_of_other_latents_is_refused(tmp_path: Path) -> None:
    other = write_vae(tmp_path, autoencoder(channels=8))
    with pytest.raises(ConfigError, match="decodes latents of 8 channels, the model makes 4"):
        load_decoder(other, LATENT, dtype="float32", device=CPU)


def test_images_that_overflow_are_an_error_not_a_picture(vae: Path) -> None:
    decoder = Decoder(load_image_vae(vae).half(), "float16", CPU)
    with pytest.raises(DataError, match=r"decoded images hold NaN or infinity.*take --dtype float32"):
        decoder(torch.full((1, 4, 8, 8), 1e4))


def test_chunks_hold_decoded_images_and_say_so(checkpoint: Path, vae: Path, tmp_path: Path) -> None:
    listing = json.loads(sample_checkpoint(SampleJob(checkpoint, tmp_path / "s", PROTOCOL, vae=vae, **ALL)).read_text())
    protocol = listing["origin"]["protocol"]
    assert protocol["decoder"] == decoder_name(vae) and protocol["decoder"].startswith("AutoencoderKL sha256:")
    assert protocol["dtype"] == "float32"
    chunks = [load_arrays(tmp_path / "s" / f"0000{n}.npz") for n in range(2)]
    assert [chunk["images"].shape for chunk in chunks] == [(4, 3, 16, 16), (2, 3, 16, 16)]
    plain = json.loads(sample_checkpoint(SampleJob(checkpoint, tmp_path / "p", PROTOCOL, **ALL)).read_text())
    assert plain["origin"]["protocol"]["decoder"] == "none" and plain["key"] != listing["key"]
    latents = load_arrays(tmp_path / "p" / "00000.npz")
    assert latents["images"].shape == (4, 4, 8, 8) and np.array_equal(latents["labels"], chunks[0]["labels"])


def test_keys_know_precision_and_decoder_and_not_which_gpu(checkpoint: Path, vae: Path, tmp_path: Path) -> None:
    other = write_vae(tmp_path / "other", sample_size=64)
    plain = SampleJob(checkpoint, tmp_path / "s", PROTOCOL, 6, 4)
    half = replace(plain, protocol=Protocol("ddim", 3, 1.5, 0, "float16"))
    jobs = [plain, half, *(replace(plain, vae=path) for path in (vae, other))]
    assert len({origin_of(job).key for job in jobs}) == 4
    gpus = {origin_of(replace(plain, device=f"cuda:{n}")).key for n in (0, 7)}
    assert len(gpus) == 1
    assert PROTOCOL.to_dict() == {"sampler": "ddim", "steps": 3, "cfg_scale": 1.5, "seed": 0}
    with pytest.raises(ConfigError, match="dtype 'half': allowed are float32, float16"):
        Protocol("ddim", 3, 1.5, 0, "half")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["fp", "q-dit"])
def test_half_precision_is_near_float32_and_not_it(method: str) -> None:
    """Of full precision and of quantized layers whose quantizers see the inputs of half-precision products."""

    def made() -> Network:
        model = random_dit(LATENT)
        if method == "fp":
            return model
        return quantize_model(model, "q-dit", weight_bits=8, activation_bits=8, calibration=DATA, options=NEAREST).model

    exact = sample_images(prepare_inference(made()), PROTOCOL, range(2))[0]
    half = Protocol("ddim", 3, 1.5, 0, "float16")
    found = sample_images(prepare_inference(round_linears(made(), "float16")), half, range(2))[0]
    assert found.dtype == torch.float32
    error = (found - exact).square().mean() / exact.square().mean()
    assert 0 < error < 1e-3


def test_a_full_disk_is_one_line_before_anything_is_sampled(
    checkpoint: Path, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: SimpleNamespace(free=disk.SPARE + 6 * 3 * 16 * 16 - 1))
    with pytest.raises(DataError, match=r"are free, the images of a shard need .* make room"):
        sample_checkpoint(SampleJob(checkpoint, tmp_path / "s", PROTOCOL, vae=vae, **ALL))
    assert not (tmp_path / "s").exists()
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: SimpleNamespace(free=disk.SPARE + 6 * 3 * 16 * 16))
    sample_checkpoint(SampleJob(checkpoint, tmp_path / "s", PROTOCOL, vae=vae, **ALL))


def test_a_missing_vae_is_one_line_before_anything_is_sampled(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors: no such file"):
        sample_checkpoint(SampleJob(checkpoint, tmp_path / "s", PROTOCOL, vae=tmp_path / "nothing.safetensors", **ALL))
    assert not (tmp_path / "s").exists()
