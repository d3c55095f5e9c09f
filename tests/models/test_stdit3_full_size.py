"""Full-size STDiT3 with random weights on a CPU: one denoising step at 51×144×256, and a W4 copy saved and loaded."""

import resource
import time
from pathlib import Path

import pytest
import torch

from qdit.models.roles import CORE_ROLES, select
from qdit.models.stdit3 import STDIT3_XL_2, STDiT3
from qdit.models.video_vae import VideoVAEConfig
from qdit.quant.apply import round_weights
from qdit.quant.checkpoint import Quantized, load_video_checkpoint, save_checkpoint
from qdit.quant.size import size_actual_mb
from qdit.sampling.batch import sample_clips
from qdit.sampling.flow_protocol import FlowProtocol

CLIP = (51, 144, 256)
LIMIT = 24 * 2**30


def peak() -> int:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.slow
def test_one_step_and_a_quantized_copy_fit_into_24_gib(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    started = time.perf_counter()

    def report(what: str) -> None:
        seconds = time.perf_counter() - started
        print(f"{what}: {seconds:.0f} s since the start, peak {peak() / 2**30:.1f} GiB", flush=True)

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = STDiT3(STDIT3_XL_2).eval().requires_grad_(False)
        model.y_embedder.y_embedding.normal_(std=4096**-0.5, generator=draw)
        for name, parameter in model.named_parameters():
            if name.endswith("scale_shift_table"):
                parameter.normal_(std=1152**-0.5, generator=draw)
    report("model made")
    text = torch.randn(1, 300, 4096, generator=draw)
    mask = torch.arange(300)[None] < 25
    protocol = FlowProtocol(*CLIP, steps=1, cfg_scale=1.0)
    clip = sample_clips(model, protocol, text, mask, [0])
    assert (
        clip.shape == (1, 4, *VideoVAEConfig().latent_size(*CLIP)) == (1, 4, 15, 18, 32) and torch.isfinite(clip).all()
    )
    report("one denoising step, one branch")

    sites = select(model.sites(), roles=CORE_ROLES)
    assert len(sites) == 392
    weights = sum(model.get_submodule(site.name).weight.numel() for site in sites)
    round_weights(model, sites, bits=4, group_sizes={site.name: 128 for site in sites})
    report("weights rounded")
    save_checkpoint(tmp_path, Quantized(model), {})
    # 4 bits a weight, 4 bytes a group; the rest stays float32, since random values do not fit float16.
    rest = 4 * (sum(p.numel() for p in model.parameters()) + model.y_embedder.y_embedding.numel())
    rest += 4 * sum(model.get_submodule(site.name).bias.numel() for site in sites)
    expected = (weights / 2 + 4 * weights / 128 + rest) / 1e6
    assert size_actual_mb(tmp_path) == pytest.approx(expected, rel=0.01)
    report(f"saved, {size_actual_mb(tmp_path):.0f} MB")
    before = model.spatial_blocks[0].attn.qkv.weight.clone()
    del model
    loaded = load_video_checkpoint(tmp_path).model
    assert torch.equal(loaded.spatial_blocks[0].attn.qkv.weight, before)
    assert loaded.config == STDIT3_XL_2
    report("loaded")
    assert peak() < LIMIT
