"""The workflow's steps for video models as commands of `qdit video`: embed, calibrate, sample, score.

`qdit quantize` is the same for images and videos. The mini model makes pixels and reads words; with --text-embeddings
and --vae the same commands are for models of latents, such as Open-Sora's.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qdit.cli.images import RecordFailure, Seed, Threads, use_threads
from qdit.cli.options import Device, on_device, shipped
from qdit.core.errors import ConfigError

if TYPE_CHECKING:
    from qdit.mini.vbench.suites import Prompt
    from qdit.sampling.flow_protocol import FlowProtocol

INSTRUMENTS = Path("weights/mini-vbench.safetensors")
CALIBRATION_PROMPTS, CALIBRATION_SEED = 256, 31
"""Prompts that calibration takes in turn, drawn like those of training; no suite has this seed."""

Steps = Annotated[int, typer.Option(help="Sampling steps, 1 to 1000.")]
CfgScale = Annotated[float, typer.Option(help="Classifier-free guidance scale; 1 is without guidance.")]
Shift = Annotated[float, typer.Option(help="Shift of the timesteps towards noise; 1 spaces them evenly.")]
Suite = Annotated[
    Path | None, typer.Option(callback=shipped, help="full_info JSON of the prompts; default mini-VBench's own.")
]
Samples = Annotated[int, typer.Option(min=1, help="Clips of each prompt.")]

TextEmbeddings = Annotated[
    Path | None, typer.Option(help="For a model of latents: tokens of its prompts, which `qdit video embed` wrote.")
]
VideoVae = Annotated[
    Path | None, typer.Option(help="For a model of latents: weights of Open-Sora's VAE, a file or its folder.")
]
VideoDtype = Annotated[
    str, typer.Option(help="Precision of matrix products and VAE: float32, float16 or bfloat16 (Open-Sora's own).")
]
Frames = Annotated[int | None, typer.Option(help="Frames of a clip; default 8, with --text-embeddings 51.")]
Height = Annotated[int | None, typer.Option(help="Height in pixels; default 16, with --text-embeddings 240.")]
Width = Annotated[int | None, typer.Option(help="Width in pixels; default 16, with --text-embeddings 426.")]
Fps = Annotated[int | None, typer.Option(help="Frames per second; default 8, with --text-embeddings 24.")]
ClipSteps = Annotated[
    int | None, typer.Option("--steps", help="Sampling steps, 1 to 1000; default 15, with --text-embeddings 30.")
]
ClipCfgScale = Annotated[
    float | None, typer.Option("--cfg-scale", help="Guidance scale; default 2.5, with --text-embeddings 7.")
]
ClipShift = Annotated[
    float | None,
    typer.Option("--shift", help="Shift of the timesteps; default 2.5, with --text-embeddings by the clip's size."),
]


def flow(steps: int, cfg_scale: float, shift: float, seed: int) -> "FlowProtocol":
    """Protocol of the sampling flags, for clips of the moving digits' size."""
    from qdit.mini.data.moving_digits import FPS, FRAMES, SIZE
    from qdit.sampling.flow_protocol import FlowProtocol

    return FlowProtocol(
        frames=FRAMES,
        height=SIZE,
        width=SIZE,
        fps=FPS,
        steps=steps,
        cfg_scale=cfg_scale,
        shift=shift,
        seed=seed,
    )


def clip_flow(*, latents: bool, **given: Any) -> "FlowProtocol":
    """Protocol of the flags that are given; others are those of the mini world, or of Open-Sora 1.2 for latents."""
    from dataclasses import replace

    from qdit.sampling.flow_protocol import FlowProtocol

    usual = FlowProtocol() if latents else flow(15, 2.5, 2.5, 0)
    return replace(usual, **{name: value for name, value in given.items() if value is not None})


def prompts_of(suite: Path | None) -> "list[Prompt]":
    """The prompts of a suite, mini-VBench's own without one."""
    from qdit.mini.vbench.suites import all_prompts, read_full_info

    return all_prompts() if suite is None else read_full_info(suite)


def clips_asked_for(suite: Path | None, samples: int, *, latents: bool) -> list[tuple[str, int]]:
    """(prompt, number) of every clip of a run; ConfigError for a model of latents without a suite."""
    from qdit.metrics.vbench.prompts import asked_for, suite_prompts
    from qdit.mini.vbench.run import asked_by

    if not latents:
        return asked_by(prompts_of(suite), samples)
    if suite is None:
        raise ConfigError("--text-embeddings without --suite: name the full_info JSON whose prompts were embedded")
    return asked_for(suite_prompts(suite), samples)


def embed(
    suite: Annotated[Path, typer.Argument(help="full_info JSON of the prompts, as VBench has it.")],
    out: Annotated[Path, typer.Argument(help="Embeddings to write (.safetensors).")],
    encoder: Annotated[Path, typer.Option(help="Folder of T5 in safetensors, with its tokenizer.")],
    dtype: Annotated[str, typer.Option(help="Precision of the encoder: bfloat16 (Open-Sora's own) or float32.")] = (
        "bfloat16"
    ),
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Compute the text embeddings of a suite.

    Each prompt goes through T5 once, so that sampling needs no text encoder. An embedding that was stopped goes on from
    the parts beside OUT.

    \b
    Example:
      qdit video embed VBench_full_info.json text.safetensors --encoder pixart_sigma_sdxlvae_T5_diffusers
    """
    from qdit.metrics.vbench.prompts import suite_prompts
    from qdit.models.text_encoder import embed_suite
    from qdit.sampling.precision import torch_device

    use_threads(threads)
    prompts = suite_prompts(suite)
    with on_device(device) as place:
        embed_suite(prompts, encoder, out, device=str(torch_device(place)), dtype=dtype)


def calibrate(
    weights: Annotated[Path, typer.Argument(callback=shipped, help="Full-precision weights of a video model.")],
    out: Annotated[Path, typer.Argument(help="Calibration file to write (.safetensors).")],
    kind: Annotated[str, typer.Option(help="As of qdit calibrate, e.g. trajectory.")] = "trajectory",
    samples: Annotated[int, typer.Option(help="Number of noisy clips; per-step shares them among steps.")] = 64,
    text_embeddings: TextEmbeddings = None,
    frames: Frames = None,
    height: Height = None,
    width: Width = None,
    fps: Fps = None,
    steps: ClipSteps = None,
    cfg_scale: ClipCfgScale = None,
    shift: ClipShift = None,
    seed: Seed = 0,
    dtype: VideoDtype = "float32",
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Record calibration data of a video model.

    Noisy clips, timesteps and texts along the full-precision model's own trajectories: for prompts that no suite has,
    or for those of a file of text embeddings, spread over it.

    \b
    Examples:
      qdit video calibrate weights/stdit3-moving-digits-natural.safetensors trajectory.safetensors
      qdit video calibrate stdit3.safetensors trajectory.safetensors --text-embeddings text.safetensors \\
        --dtype bfloat16 --device cuda
    """
    from qdit.mini.data.moving_digits import draw_scenario
    from qdit.mini.data.moving_digits_prompts import encode
    from qdit.sampling.calibration import CalibrateJob, calibrate_weights_file

    use_threads(threads)
    protocol = clip_flow(
        latents=text_embeddings is not None,
        frames=frames,
        height=height,
        width=width,
        fps=fps,
        steps=steps,
        cfg_scale=cfg_scale,
        shift=shift,
        seed=seed,
        dtype=dtype,
    )
    text = encode(tuple(draw_scenario(CALIBRATION_SEED, index) for index in range(CALIBRATION_PROMPTS)))
    with on_device(device) as place:
        calibrate_weights_file(CalibrateJob(weights, out, kind, protocol, samples, text, text_embeddings, place))


def sample(
    checkpoint: Annotated[Path, typer.Argument(help="Folder that `qdit quantize` made of a video model.")],
    out: Annotated[Path, typer.Argument(help="Folder for the chunks of clips.")],
    suite: Suite = None,
    samples: Samples = 3,
    chunk: Annotated[int, typer.Option(help="Clips per batch and file; part of a run's identity.")] = 21,
    shard: Annotated[int, typer.Option(help="Which range of chunks to compute, from 0.")] = 0,
    chunks_per_shard: Annotated[int, typer.Option(min=1, help="Chunks in one shard.")] = 1_000_000,
    text_embeddings: TextEmbeddings = None,
    vae: VideoVae = None,
    frames: Frames = None,
    height: Height = None,
    width: Width = None,
    fps: Fps = None,
    steps: ClipSteps = None,
    cfg_scale: ClipCfgScale = None,
    shift: ClipShift = None,
    seed: Seed = 0,
    dtype: VideoDtype = "float32",
    record_failure: RecordFailure = False,
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Sample the clips of a suite with a quantized video model.

    Chunks that are already there for the same checkpoint, prompts, texts and protocol are kept.

    \b
    Examples:
      qdit video sample q-dit-w4a8 q-dit-w4a8/samples
      qdit video sample q-dit-w4a8 q-dit-w4a8/samples --suite VBench_full_info.json --samples 5 --chunk 5 \\
        --text-embeddings text.safetensors --vae OpenSora-VAE-v1.2 --dtype bfloat16 --device cuda
    """
    from qdit.sampling.run import SampleJob, sample_checkpoint

    use_threads(threads)
    latents = text_embeddings is not None
    protocol = clip_flow(
        latents=latents,
        frames=frames,
        height=height,
        width=width,
        fps=fps,
        steps=steps,
        cfg_scale=cfg_scale,
        shift=shift,
        seed=seed,
        dtype=dtype,
    )
    asked = clips_asked_for(suite, samples, latents=latents)
    with on_device(device) as place:
        sample_checkpoint(
            SampleJob(
                checkpoint,
                out,
                protocol,
                chunk=chunk,
                shard=shard,
                chunks_per_shard=chunks_per_shard,
                prompts=asked,
                embeddings=text_embeddings,
                vae=vae,
                device=place,
                record_failure=record_failure,
            )
        )
