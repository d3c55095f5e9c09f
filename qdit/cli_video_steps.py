"""The workflow's steps for the mini video model as commands of `qdit video`: calibrate, sample, score.

`qdit quantize` is the same for images and videos.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qdit.cli_steps import RecordFailure, Seed, Threads, use_threads

if TYPE_CHECKING:
    from qdit.metrics.video.suites import Prompt
    from qdit.sampling.rectified_flow import FlowProtocol

INSTRUMENTS = Path("weights/mini-vbench.safetensors")
CALIBRATION_PROMPTS, CALIBRATION_SEED = 256, 31
"""Prompts that calibration takes in turn, drawn like those of training; no suite has this seed."""

Steps = Annotated[int, typer.Option(help="Sampling steps, 1 to 1000.")]
CfgScale = Annotated[float, typer.Option(help="Classifier-free guidance scale; 1 is without guidance.")]
Shift = Annotated[float, typer.Option(help="Shift of the timesteps towards noise; 1 spaces them evenly.")]
Suite = Annotated[Path | None, typer.Option(help="full_info JSON of the prompts; default mini-VBench's own.")]
Samples = Annotated[int, typer.Option(min=1, help="Clips of each prompt.")]


def flow(steps: int, cfg_scale: float, shift: float, seed: int) -> "FlowProtocol":
    """Protocol of the sampling flags, for clips of the moving digits' size."""
    from qdit.data.moving_digits import FPS, FRAMES, SIZE
    from qdit.sampling.rectified_flow import FlowProtocol

    clip = {"frames": FRAMES, "height": SIZE, "width": SIZE, "fps": FPS}
    return FlowProtocol(**clip, steps=steps, cfg_scale=cfg_scale, shift=shift, seed=seed)


def prompts_of(suite: Path | None) -> "list[Prompt]":
    """The prompts of a suite, mini-VBench's own without one."""
    from qdit.metrics.video.suites import all_prompts, read_full_info

    return all_prompts() if suite is None else read_full_info(suite)


def calibrate(
    weights: Annotated[Path, typer.Argument(help="Full-precision weights of a mini video model.")],
    out: Annotated[Path, typer.Argument(help="Calibration file to write (.safetensors).")],
    kind: Annotated[str, typer.Option(help="As of qdit calibrate, e.g. trajectory.")] = "trajectory",
    samples: Annotated[int, typer.Option(help="Number of noisy clips; per-step shares them among steps.")] = 64,
    steps: Steps = 15,
    cfg_scale: CfgScale = 2.5,
    shift: Shift = 2.5,
    seed: Seed = 0,
    threads: Threads = 1,
) -> None:
    """Record calibration data of a video model.

    Noisy clips, timesteps and texts along the full-precision model's own trajectories, for prompts that no suite has.

    \b
    Example:
      qdit video calibrate weights/stdit3-moving-digits-natural.safetensors trajectory.safetensors
    """
    from qdit.calibration import calibrate_weights_file
    from qdit.data.moving_digits import draw_scenario
    from qdit.data.moving_digits_prompts import encode

    use_threads(threads)
    text = encode(tuple(draw_scenario(CALIBRATION_SEED, index) for index in range(CALIBRATION_PROMPTS)))
    protocol = flow(steps, cfg_scale, shift, seed)
    calibrate_weights_file(weights, out, kind, protocol, samples=samples, text=text)


def sample(
    checkpoint: Annotated[Path, typer.Argument(help="Folder that `qdit quantize` made of a video model.")],
    out: Annotated[Path, typer.Argument(help="Folder for the chunks of clips.")],
    suite: Suite = None,
    samples: Samples = 3,
    chunk: Annotated[int, typer.Option(help="Clips per batch and file; part of a run's identity.")] = 21,
    shard: Annotated[int, typer.Option(help="Which range of chunks to compute, from 0.")] = 0,
    chunks_per_shard: Annotated[int, typer.Option(min=1, help="Chunks in one shard.")] = 1_000_000,
    steps: Steps = 15,
    cfg_scale: CfgScale = 2.5,
    shift: Shift = 2.5,
    seed: Seed = 0,
    record_failure: RecordFailure = False,
    threads: Threads = 1,
) -> None:
    """Sample the clips of a suite with a quantized video model.

    Chunks that are already there for the same checkpoint, prompts and protocol are kept.

    \b
    Example:
      qdit video sample q-dit-w4a8 q-dit-w4a8/samples
    """
    from qdit.metrics.video.run import asked_by
    from qdit.sampling.video_run import sample_video_checkpoint

    use_threads(threads)
    sample_video_checkpoint(
        checkpoint,
        out,
        flow(steps, cfg_scale, shift, seed),
        asked_by(prompts_of(suite), samples),
        chunk=chunk,
        shard=shard,
        chunks_per_shard=chunks_per_shard,
        record_failure=record_failure,
    )


def score(
    clips: Annotated[Path, typer.Argument(help="Folder of chunks that `qdit video sample` made.")],
    out: Annotated[Path, typer.Argument(help="metrics.json to write.")],
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint the clips came from.")],
    fp_samples: Annotated[Path | None, typer.Option(help="Clips of full precision with the same noise.")] = None,
    suite: Suite = None,
    samples: Samples = 3,
    instruments: Annotated[Path, typer.Option(help="Networks of mini-VBench.")] = INSTRUMENTS,
    setting: Annotated[str, typer.Option(help="Name of the setting, for the record.")] = "by-hand",
    model: Annotated[str, typer.Option(help="Name of the model, for the record.")] = "by-hand",
    form: Annotated[str, typer.Option(help="Form of the weights, for the record.")] = "natural",
    label: Annotated[str, typer.Option(help="Label of the method, for the record.")] = "by-hand",
    resamples: Annotated[int, typer.Option(min=20, help="Resampled values of each metric behind its interval.")] = 200,
    steps: Steps = 15,
    cfg_scale: CfgScale = 2.5,
    shift: Shift = 2.5,
    seed: Seed = 0,
    threads: Threads = 1,
) -> None:
    """Score the clips of a run: mini-VBench (moving digits).

    Sixteen dimensions and mFVD; with --fp-samples also FD-FP, and MSE-FP, clip by clip.

    \b
    Example:
      qdit video score q-dit-w4a8/samples metrics.json --checkpoint q-dit-w4a8 --fp-samples fp/samples
    """
    from qdit.metrics.run import RunName
    from qdit.metrics.video.run import evaluate_video_run

    use_threads(threads)
    evaluate_video_run(
        clips,
        checkpoint,
        out,
        name=RunName(setting=setting, model=model, form=form, label=label),
        protocol=flow(steps, cfg_scale, shift, seed),
        prompts=prompts_of(suite),
        clips_per_prompt=samples,
        instruments=instruments,
        fp_samples=fp_samples,
        resamples=resamples,
    )
