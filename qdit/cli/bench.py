"""`qdit bench`: measure kernels, sampling, memory, ranges and latency.

Each command prints a table and writes a record.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from qdit.cli.options import MINI, Profile, Results, named_file, results_folder
from qdit.core.errors import ConfigError

bench_app = typer.Typer(rich_markup_mode=None, help="Measure kernels, sampling and memory beside their goals.")

STUDIES = Path("results/studies")
Quick = Annotated[bool, typer.Option("--quick", help="Run tiny sizes, which check the benchmark and measure nothing.")]
Repeats = Annotated[int, typer.Option(min=2, help="Measurements of each candidate.")]


def finish(content: dict[str, Any], out: Path) -> None:
    """Print the text of a benchmark's record, and write the record to `out`."""
    from qdit.bench.page import text_of
    from qdit.bench.record import write_record

    typer.echo(text_of(content), nl=False)
    write_record(out, content)
    typer.echo(f"\n{out}")


@bench_app.command()
def kernels(
    out: Annotated[Path, typer.Argument(help="Record to write.")] = STUDIES / "bench-kernels.json",
    repeats: Repeats = 15,
    quick: Quick = False,
) -> None:
    """Time our linear layer with group quantization beside other libraries.

    The command measures the four linears of DiT-XL/2 with one thread, in CPU time. All candidates run alternately.
    OpenVINO and ONNX Runtime are measured if they are installed (pip install 'qdit[bench]').

    \b
    Example:
      qdit bench kernels
    """
    from dataclasses import replace

    from qdit.bench.kernels import QUICK, Size, measure

    command = f"qdit bench kernels {out}" + (" --quick" if quick else f" --repeats {repeats}")
    finish(measure(QUICK if quick else replace(Size(), repeats=repeats), command), out)


@bench_app.command()
def sampling(
    out: Annotated[Path, typer.Argument(help="Record to write.")] = STUDIES / "bench-sampling.json",
    repeats: Repeats = 9,
    quick: Quick = False,
) -> None:
    """Time sampling in every mode.

    The modes are full precision, simulation as the papers do it, our faster simulation, and integers. The models have
    random weights: the mini model, a DiT of width 192, and one block of DiT-XL/2.

    \b
    Example:
      qdit bench sampling
    """
    from qdit.bench.sampling import QUICK, SUBJECTS, measure

    command = f"qdit bench sampling {out}" + (" --quick" if quick else f" --repeats {repeats}")
    subjects, count = (QUICK, 2) if quick else (SUBJECTS, repeats)
    finish(measure(command, subjects=subjects, repeats=count), out)


@bench_app.command()
def memory(
    out: Annotated[Path, typer.Argument(help="Record to write.")] = STUDIES / "bench-memory.json",
    quick: Quick = False,
) -> None:
    """Measure bytes of weights and peak memory.

    Two blocks of DiT-XL/2 run in each mode. Each mode has its own process.

    \b
    Example:
      qdit bench memory
    """
    from qdit.bench.memory import GROUP_SIZE, MODEL, measure
    from qdit.bench.sampling import TINY

    command = f"qdit bench memory {out}" + (" --quick" if quick else "")
    config, group_size = (TINY, 16) if quick else (MODEL, GROUP_SIZE)
    finish(measure(command, config=config, group_size=group_size), out)


@bench_app.command()
def ranges(
    out: Annotated[Path, typer.Argument(help="Record to write.")] = STUDIES / "bench-ranges.json",
    repeats: Repeats = 9,
    quick: Quick = False,
) -> None:
    """Compare dynamic with static ranges of activations.

    The command measures time and memory of W4A8 linears. Their input ranges are static, per token, or per token and
    group. Batch sizes and numbers of tokens vary.

    \b
    Example:
      qdit bench ranges
    """
    from qdit.bench.ranges import measure

    command = f"qdit bench ranges {out}" + (" --quick" if quick else f" --repeats {repeats}")
    small: dict[str, Any] = {"shapes": ((96, 48),), "places": ((1, 4), (2, 4)), "group_size": 32, "repeats": 2}
    finish(measure(command, **(small if quick else {"repeats": repeats})), out)


@bench_app.command()
def rounding(
    out: Annotated[Path, typer.Argument(help="Record to write.")] = STUDIES / "bench-rounding.json",
    repeats: Repeats = 9,
    quick: Quick = False,
) -> None:
    """Time one iteration of learned rounding.

    The command measures a block of the mini model. It compares the time with that of torch's own operations, and
    with the time of the matrix products alone.

    \b
    Example:
      qdit bench rounding
    """
    from qdit.bench.rounding import measure
    from qdit.bench.sampling import TINY

    command = f"qdit bench rounding {out}" + (" --quick" if quick else f" --repeats {repeats}")
    small: dict[str, Any] = {"config": TINY, "iterations": 2, "repeats": 2}
    finish(measure(command, **(small if quick else {"repeats": repeats})), out)


@bench_app.command()
def latency(
    out: Annotated[Path, typer.Argument(help="Latency model to write (JSON).")],
    width: Annotated[int, typer.Option(min=4, help="Width of the model.")] = 1152,
    groups: Annotated[str, typer.Option(help="Group sizes, separated by commas.")] = "32,64,96,128,192,288",
    rows: Annotated[int, typer.Option(min=1, help="Tokens of one call: batch times tokens of an image.")] = 256,
    weight_bits: Annotated[int, typer.Option(min=2, max=8, help="2 to 8.")] = 4,
    activation_bits: Annotated[int, typer.Option(min=2, max=8, help="2 to 8.")] = 8,
    repeats: Repeats = 15,
) -> None:
    """Measure a latency model.

    A latency model has the time of each linear of a block for each group size on this machine. A search can use it as
    its budget (`qdit search --latency`).

    \b
    Example:
      qdit bench latency latency.json --width 144 --groups 4,8,16,24,36 --rows 512
    """
    from qdit.bench.latency import measure

    try:
        sizes = tuple(int(size) for size in groups.split(","))
    except ValueError:
        raise ConfigError(f"--groups {groups!r}: expected whole numbers separated by commas, e.g. 32,64,128") from None
    command = f"qdit bench latency {out} --width {width} --groups {groups} --rows {rows}"
    command += f" --weight-bits {weight_bits} --activation-bits {activation_bits} --repeats {repeats}"
    content = measure(
        command,
        width=width,
        groups=sizes,
        rows=rows,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        repeats=repeats,
    )
    finish(content, out)


@bench_app.command("gpu")
def on_gpu(
    sections: Annotated[list[str] | None, typer.Argument(help="Sections to run; default: all.")] = None,
    out: Annotated[Path | None, typer.Option(help="Record to write; default: results/gpu/CARD.json.")] = None,
    device: Annotated[str, typer.Option(help="cuda, cuda:N or cpu.")] = "cuda",
    quick: Quick = False,
) -> None:
    """Test and time everything on a GPU, in one call.

    The sections are reached, selftest, correct, models, sampling, methods, pipeline, rounding, decoding, inputs and
    speed. If a section fails, the others still run. All sections take about six minutes on an H100. `make gpu-check`
    packs what a machine without a package index needs.

    \b
    Examples:
      qdit bench gpu
      qdit bench gpu correct speed
      qdit bench gpu --device cpu --quick
    """
    from qdit.bench.gpu import measure, record_path
    from qdit.core.gpu_lease import check_device

    check_device(device)
    words = [*(sections or []), "--device", device, *(["--quick"] if quick else [])]
    command = " ".join(["qdit bench gpu", *words])
    content = measure(command, device=device, quick=quick, sections=sections or (), say=typer.echo)
    finish(content, out or record_path(content))


@bench_app.command("gpu-code")
def gpu_code(
    out: Annotated[Path, typer.Argument(help="Record to write.")] = STUDIES / "bench-gpu-code.json",
    size: Annotated[list[int] | None, typer.Option(min=4, help="Size; default: 32, 64, 96, 128, 192, 288.")] = None,
) -> None:
    """Count the instructions of the kernels for GPUs. No GPU is needed.

    Triton compiles the grouped linear for a Hopper GPU. The command counts the instructions of its loop over groups and
    the cycles of the tensor cores, and prints the largest speed that they allow beside the goals of `qdit bench gpu`.

    \b
    Example:
      qdit bench gpu-code
    """
    from qdit.bench.gpu_bounds import measure

    sizes = tuple(size) if size else (32, 64, 96, 128, 192, 288)
    words = [f"--size {number}" for number in size or ()]
    finish(measure(" ".join(["qdit bench gpu-code", str(out), *words]), sizes), out)


@bench_app.command("full-size")
def full_size(
    out: Annotated[Path, typer.Argument(help="Record to write or to add to.")] = STUDIES / "full-size.json",
    folder: Annotated[
        Path | None, typer.Option(help="Working folder to keep (15 GB); default: a temporary folder.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Measure only this part again. Repeat it for each.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each part.")] = 1,
    quick: Quick = False,
) -> None:
    """Run every step at DiT-XL/2's real shapes.

    The weights are random. The parts are import, calibration, every method on two blocks, RTN and GPTQ on all blocks,
    one step at 256 and at 512 pixels, and decoding. Each part is its own process. All parts take hours and up to 15 GB
    of disk.

    \b
    Example:
      qdit bench full-size
      qdit bench full-size --folder /tmp/full-size --only vae
    """
    import tempfile

    from qdit.bench.full_size import measure
    from qdit.bench.page import text_of

    flags = f" --threads {threads}" + (" --quick" if quick else "")
    command = f"qdit bench full-size {out}{flags}"
    with tempfile.TemporaryDirectory(prefix="qdit-full-size-") as temporary:
        content = measure(
            command,
            folder or Path(temporary),
            out,
            only=only or (),
            scale="quick" if quick else "full",
            threads=threads,
            say=typer.echo,
        )
    typer.echo(text_of(content), nl=False)
    typer.echo(f"\n{out}")


@bench_app.command()
def floor(
    profile: Profile = MINI,
    results: Results = None,
    cores: Annotated[int, typer.Option(min=1, help="Cores of the run.")] = 2,
) -> None:
    """Compare the time of a run with the time that its floating-point operations need.

    The command measures the float32 speed of one core now, so the machine should be idle. The times of the run's
    finished jobs are in the results folder.

    \b
    Example:
      qdit bench floor --results results/mini --cores 2
    """
    from qdit.workflow.floor import float32_rate, floor_text
    from qdit.workflow.profile import load_profile

    loaded = load_profile(*profile)
    folder = results_folder(loaded, results)
    typer.echo(floor_text(loaded, folder, float32_rate(), cores), nl=False)


@bench_app.command()
def show(
    record: Annotated[Path, typer.Argument(help="Record that a benchmark wrote.")],
    out: Annotated[
        Path | None,
        typer.Option(
            callback=named_file,
            help="Path without suffix: write OUT.md (of the kernels OUT.svg too) instead of printing.",
        ),
    ] = None,
    into: Annotated[Path | None, typer.Option(help="Page into which to put the table, between its marks.")] = None,
) -> None:
    """Show a record of a benchmark.

    \b
    Example:
      qdit bench show results/studies/bench-kernels.json --out bench-kernels
      qdit bench show results/studies/full-size.json --into docs/cost.md
    """
    from qdit.bench.page import text_of, write_into, write_page
    from qdit.bench.record import read_record

    content = read_record(record)
    if into is not None:
        write_into(content, into)
        typer.echo(into)
        return
    if out is None:
        typer.echo(text_of(content), nl=False)
        return
    for path in write_page(content, out):
        typer.echo(path)


@bench_app.command()
def evaluating(
    images: Annotated[int, typer.Option(min=4, help="Rows of the synthetic features.")] = 2000,
    features: Annotated[int, typer.Option(min=2, help="Columns of the synthetic features.")] = 256,
    resamples: Annotated[int, typer.Option(min=2, help="Resamples by each method.")] = 5,
) -> None:
    """Time two ways to compute the Fréchet distances of resamples.

    The two ways are exact matrix roots and an approximation (docs/protocol.md). The command prints the CPU seconds of
    one thread, and the ratio of the standard deviations of both. It writes no record.

    \b
    Example:
      qdit bench evaluating --images 10000 --features 2048 --resamples 2
    """
    from qdit.bench.evaluating import lines

    for line in lines(images, features, resamples):
        typer.echo(line)
