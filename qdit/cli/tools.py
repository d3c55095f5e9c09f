"""Commands of other people's tools (torchao, optimum-quanto, SDNQ): their environment, quantizing, sampling, speed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qdit.cli.options import (
    EXTRACTOR_WEIGHTS,
    ExtractorWeights,
    RecordFailure,
    Seed,
    Stated,
    StatedCount,
    StatedNumber,
    Threads,
    Weights,
    use_threads,
)
from qdit.cli.sampling import AnyCfgScale, AnySampler, AnySteps, Labels, image_protocol

if TYPE_CHECKING:
    from qdit.sampling.protocol import Protocol
    from qdit.sampling.run import SampleJob

app = typer.Typer(
    rich_markup_mode=None,
    help="Compare other quantization libraries, such as torchao, with our methods (docs/compare.md).",
)
PYTHON = Path("results/mini/envs/tools/bin/python")

Python = Annotated[Path, typer.Option(help="Python of the environment that `qdit tools install` made.")]
Folder = Annotated[Path, typer.Argument(help="Folder that `qdit tools quantize` wrote.")]
Chunk = Annotated[int, typer.Option(min=1, help="Images in a batch and a file. Another size gives other bits.")]


@app.command()
def install(folder: Annotated[Path, typer.Argument(help="Folder of the environment to make.")]) -> None:
    """Make the environment of the tools.

    The command takes the packages of rules/envs/tools-lock.txt from PyPI, each checked against its hash: about 3 GB.
    The environment of the suite stays as it is.

    \b
    Example:
      qdit tools install results/mini/envs/tools
    """
    from qdit.workflow.tool_env import install as make
    from qdit.workflow.tool_env import installed_text

    new = make(folder)
    typer.echo(f"{folder}: {'installed' if new else 'is there already'}; {installed_text(folder)}")


@app.command(name="list")
def list_tools() -> None:
    """List the tools, with licence, address, and what each does at which bits.

    \b
    Example:
      qdit tools list
    """
    from qdit.workflow.tool_env import listing

    typer.echo(listing())


@app.command()
def quantize(
    weights: Weights,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    tool: Annotated[str, typer.Option(help="Name of the tool; `qdit tools list` lists them.")],
    bits: Annotated[str, typer.Option(help="Weight and activation bits, e.g. w4a16.")] = "w4a16",
    python: Python = PYTHON,
    calibration: Annotated[
        Path | None, typer.Option(help="Calibration data of kind trajectory, for tools that measure ranges.")
    ] = None,
    record_failure: RecordFailure = False,
    sampler: Stated = None,
    steps: StatedCount = None,
    cfg_scale: StatedNumber = None,
    seed: StatedCount = None,
    dtype: Stated = None,
    threads: Threads = 1,
) -> None:
    """Quantize weights of a DiT with a tool.

    The tool gets the weights as a diffusers transformer, and quantizes the four linears of every block. The folder
    holds this transformer, and the tensors of the quantized one. It is an error if the tool does not quantize one of
    these layers.

    \b
    Example:
      qdit tools quantize weights/dit-digits-natural.safetensors torchao-w4a16 --tool torchao --bits w4a16
    """
    use_threads(threads)
    from qdit.core.failure import recording
    from qdit.quant.folder import write_failure
    from qdit.sampling.calibration_set import require_sampled_so
    from qdit.sampling.tools.quantizing import ToolJob, quantize_by_tool

    if calibration is not None:
        stated = {"sampler": sampler, "steps": steps, "cfg_scale": cfg_scale, "seed": seed, "dtype": dtype}
        require_sampled_so(calibration, stated)
    job = ToolJob(tool, python, bits, calibration, threads)
    with recording("quantize", lambda failure: write_failure(out, failure), enabled=record_failure):
        facts = quantize_by_tool(weights, out, job)["tool"]
        typer.echo(f"{out}: {facts['printed']} {bits}, {facts['layers']} linears; {facts['does']}")


@app.command()
def sample(
    folder: Folder,
    out: Annotated[Path, typer.Argument(help="Folder for the chunks of images.")],
    images: Annotated[int, typer.Option(min=1, help="Number of images of the whole run.")] = 64,
    chunk: Chunk = 64,
    shard: Annotated[int, typer.Option(help="Number of the shard to compute, from 0.")] = 0,
    chunks_per_shard: Annotated[int, typer.Option(min=1, help="Number of chunks in a shard.")] = 1_000_000,
    python: Python = PYTHON,
    extractor: Annotated[
        str | None, typer.Option(help="Also extract features with this network; default: no features.")
    ] = None,
    extractor_weights: ExtractorWeights = EXTRACTOR_WEIGHTS,
    record_failure: RecordFailure = False,
    sampler: AnySampler = None,
    steps: AnySteps = None,
    cfg_scale: AnyCfgScale = None,
    labels: Labels = None,
    seed: Seed = 0,
    threads: Threads = 1,
) -> None:
    """Sample images with a tool's quantized transformer.

    Noise, labels and chunks are those of `qdit sample`. So the images can be compared with full precision image by
    image. The transformer runs in the tool's own process.

    \b
    Example:
      qdit tools sample torchao-w4a16 torchao-w4a16/samples --images 256 --extractor digit-classifier
    """
    use_threads(threads)
    from qdit.sampling.tools.sampling import ToolSampleJob, sample_tool

    protocol = image_protocol(sampler=sampler, steps=steps, cfg_scale=cfg_scale, labels=labels, seed=seed)
    job = sample_job(folder, out, protocol, images=images, chunk=chunk)
    job = replaced(job, shard=shard, chunks_per_shard=chunks_per_shard, record_failure=record_failure)
    sample_tool(ToolSampleJob(job, python, threads))
    if extractor is not None:
        from qdit.metrics.extraction import extract_file

        extract_file(out, shard, extractor, extractor_weights, device="cpu")
    from qdit.metrics.spoken import samples_line

    typer.echo(samples_line(out) + (f"; features of {extractor}" if extractor else ""))


@app.command()
def speed(
    folder: Annotated[Path, typer.Argument(help="Folder of `qdit quantize` or of `qdit tools quantize`.")],
    out: Annotated[Path, typer.Argument(help="speed.json to write.")],
    full_precision: Annotated[
        Path | None, typer.Option(help="Checkpoint of full precision; also print how many times faster the network is.")
    ] = None,
    chunk: Chunk = 64,
    python: Python = PYTHON,
    sampler: AnySampler = None,
    steps: AnySteps = None,
    cfg_scale: AnyCfgScale = None,
    labels: Labels = None,
    seed: Seed = 0,
    threads: Threads = 1,
) -> None:
    """Measure how fast a quantized network samples, and its bytes in memory.

    Checkpoints of this suite are measured in simulated and in integer mode, tools in their own process. The time is the
    CPU time of the network alone. With --full-precision both networks sample in turn in one run. So the ratio compares
    them on the same processor, which speed.json names.

    \b
    Examples:
      qdit tools speed q-dit-w4a8 speed.json --chunk 32
      qdit tools speed torchao-w4a16 speed.json --full-precision fp --chunk 32
    """
    use_threads(threads)
    from qdit.bench.speed import OVER, SpeedJob, measure_speed

    protocol = image_protocol(sampler=sampler, steps=steps, cfg_scale=cfg_scale, labels=labels, seed=seed)
    job = sample_job(folder, out.parent, protocol, images=chunk, chunk=chunk)
    content = measure_speed(SpeedJob(job, out, full_precision, python, threads))
    for mode, facts in content["modes"].items():
        said = f"{facts['images_per_second']:.3g} images/s" if "why" not in facts else facts["why"]
        ratio = f", {facts[OVER]:.2f} × full precision on {content['machine']['processor']}" if OVER in facts else ""
        typer.echo(f"{out}: {mode}: {said}{ratio}")


def sample_job(folder: Path, out: Path, protocol: "Protocol", *, images: int, chunk: int) -> "SampleJob":
    """Make the job that samples images, from the values of flags."""
    from qdit.sampling.run import SampleJob

    return SampleJob(folder, out, protocol, images, chunk)


def replaced(job: "SampleJob", **values: object) -> "SampleJob":
    """A copy of the job with these fields changed."""
    from dataclasses import replace

    return replace(job, **values)  # type: ignore[arg-type]
