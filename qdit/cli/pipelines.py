"""Commands of whole diffusers pipelines: images from prompts, with the pipeline's transformer replaced."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.options import (
    EXTRACTOR_WEIGHTS,
    Device,
    ExtractorWeights,
    RecordFailure,
    Seed,
    Threads,
    on_device,
    parse_json_object,
    use_threads,
)
from qdit.core.errors import ConfigError

app = typer.Typer(
    rich_markup_mode=None, help="Pipelines of diffusers such as FLUX and Wan (docs/pipelines.md): sample from prompts."
)


@app.command()
def sample(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of `qdit quantize`, of the pipeline's transformer.")],
    out: Annotated[Path, typer.Argument(help="Folder for the chunks of images.")],
    pipeline: Annotated[Path, typer.Option(help="Folder of the pipeline in diffusers' layout.")],
    prompts: Annotated[Path, typer.Option(help="Text file with one prompt a line; image i has prompt i.")],
    images: Annotated[int, typer.Option(min=1, help="Images of the whole run; of clips the kept frames.")] = 64,
    chunk: Annotated[
        int, typer.Option(min=1, help="Images in a call of the pipeline and a file. Another size gives other bits.")
    ] = 4,
    shard: Annotated[int, typer.Option(help="Number of the shard to compute, from 0.")] = 0,
    chunks_per_shard: Annotated[int, typer.Option(min=1, help="Number of chunks in a shard.")] = 1_000_000,
    steps: Annotated[int, typer.Option(help="Number of sampling steps.")] = 20,
    cfg_scale: Annotated[float, typer.Option(help="The pipeline's guidance_scale, 1 to 100.")] = 1.0,
    arguments: Annotated[str, typer.Option(help="Further arguments of the pipeline's call, as a JSON object.")] = "{}",
    frames: Annotated[
        int, typer.Option(min=0, help="Clips: evenly spaced frames that are kept of each clip; 0 for images.")
    ] = 0,
    mode: Annotated[
        str, typer.Option(help="simulate (floating point) or integer (quantized layers multiply packed integers).")
    ] = "simulate",
    extractor: Annotated[
        str | None, typer.Option(help="Also extract features with this network; default: no features.")
    ] = None,
    extractor_weights: ExtractorWeights = EXTRACTOR_WEIGHTS,
    record_failure: RecordFailure = False,
    seed: Seed = 0,
    dtype: Annotated[str, typer.Option(help="Precision of the pipeline: float32, float16 or bfloat16.")] = "float32",
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Sample images by a whole pipeline of diffusers.

    The transformer of the checkpoint takes the place of the pipeline's own. Noise of image i depends only on the seed
    and i, so checkpoints of all methods see the same noise. Nothing is downloaded. The files of samples hold the
    prompts, which `qdit judge` reads. In integer mode a layer whose quantizer has no integer kernel is an error.

    \b
    Example:
      qdit pipeline sample flux-w4a4 flux-w4a4/samples --pipeline weights/flux/FLUX.1-dev --prompts prompts.txt \\
        --images 5000 --steps 50 --cfg-scale 3.5 --arguments '{"height": 1024, "width": 1024}' \\
        --dtype bfloat16 --device cuda
    """
    use_threads(threads)
    if mode not in ("simulate", "integer"):
        raise ConfigError(f"--mode {mode!r}: allowed are simulate and integer")
    from qdit.metrics.spoken import samples_line
    from qdit.sampling.chunks import SIMULATE
    from qdit.sampling.integer import PIPELINE_INTEGER
    from qdit.sampling.pipeline_folder import read_prompts
    from qdit.sampling.pipeline_images import PipelineSampleJob, arguments_of, sample_pipeline
    from qdit.sampling.pipeline_protocol import PipelineImages

    protocol = PipelineImages(
        steps=steps,
        cfg_scale=cfg_scale,
        seed=seed,
        dtype=dtype,
        arguments=arguments_of(parse_json_object(arguments, "--arguments")),
        frames=frames,
    )
    with on_device(device) as name:
        job = PipelineSampleJob(
            pipeline,
            checkpoint,
            out,
            read_prompts(prompts),
            protocol,
            images,
            chunk,
            shard,
            chunks_per_shard,
            device=name,
            record_failure=record_failure,
            mode=SIMULATE if mode == "simulate" else PIPELINE_INTEGER,
        )
        sample_pipeline(job)
        if extractor is not None:
            from qdit.metrics.extraction import extract_file

            extract_file(out, shard, extractor, extractor_weights, device=name)
    typer.echo(samples_line(out) + (f"; features of {extractor}" if extractor else ""))
