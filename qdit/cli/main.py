"""The command line `qdit`: each step of the workflow as a command, so that everything can also be run by hand.

Every command parses, calls one function and prints; heavy modules are imported only by the command that needs them.
"""

import os
import resource
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from qdit import __version__
from qdit.cli import bench as cli_bench
from qdit.cli import evaluate as cli_evaluate
from qdit.cli import figures as cli_figures
from qdit.cli import images as cli_steps
from qdit.cli import kernels as cli_kernels
from qdit.cli import methods as cli_methods
from qdit.cli import paper as cli_paper
from qdit.cli import report as cli_report
from qdit.cli import run as cli_run
from qdit.cli import samples as cli_samples
from qdit.cli import search as cli_search
from qdit.cli import vbench as cli_vbench
from qdit.cli import video as cli_video
from qdit.cli import votes as cli_ab
from qdit.cli.images import Seed, Threads, use_threads
from qdit.cli.options import shipped
from qdit.core.errors import QditError
from qdit.core.repository import shipped_path

HELP = """Post-training quantization of diffusion transformers: a benchmark and reproducibility suite.

The way of the data: weights → calibrate → (search) → quantize → sample → features → evaluate → table → claims.
`snakemake --cores all` runs all of it; each command below runs one step, and its help shows an example.

\b
Exit codes:
  0  all is well
  1  something that was asked about is missing (doctor), or the program itself failed (traceback)
  2  bad input; one line on stderr says what was found, what is allowed and what to do
"""

app = typer.Typer(
    name="qdit",
    help=HELP,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train_app = typer.Typer(rich_markup_mode=None, help="Train the small models (opt-in).")

DEBUG, BENCHMARK = "QDIT_DEBUG", "QDIT_BENCHMARK"

Profile = Annotated[
    list[str],
    typer.Option("--profile", "--config", help="Profile: a name (config/NAME.yaml) or a file; again for overlays."),
]


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    benchmark: Annotated[Path | None, typer.Option(help="Write time and peak memory to this JSON.")] = None,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Options of all commands; without a command the help is shown."""
    if debug:
        os.environ[DEBUG] = "1"
    if benchmark:
        os.environ[BENCHMARK] = str(benchmark)
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


SAMPLING = (cli_steps.calibrate, cli_steps.quantize, cli_steps.sample)
SCORING = (cli_steps.features, cli_samples.reference, cli_evaluate.evaluate)
EXCHANGE = (cli_samples.import_samples, cli_samples.export_samples)
REPORTING = (cli_report.claims, cli_report.leaderboard, cli_report.report, cli_report.compare, cli_paper.explain)
PAPER = (cli_paper.fetch, cli_paper.import_weights, cli_paper.import_reference, cli_paper.check_file, cli_paper.export)
for step in (
    cli_run.run,
    *SAMPLING,
    *SCORING,
    *EXCHANGE,
    *REPORTING,
    cli_methods.methods,
    cli_ab.ab,
    cli_ab.votes,
    *PAPER,
    cli_search.search,
    cli_search.search_study,
):
    app.command()(step)


@app.command()
def table(
    name: Annotated[str, typer.Argument(help="Table of the profile, e.g. table2.")],
    profile: Profile = ["mini"],  # noqa: B006
    results: Annotated[Path | None, typer.Option(help="Folder of the profile's results.")] = None,
    out: Annotated[Path | None, typer.Option(help="Output without suffix; default RESULTS/tables/NAME.")] = None,
) -> None:
    """Render a table in four formats.

    CSV, Markdown, LaTeX and HTML, beside the published values; missing runs say why.

    \b
    Example:
      qdit table table2
    """
    from qdit.report.data.presence import require_results
    from qdit.report.pages.build import build_table
    from qdit.workflow.profile import load_profile

    loaded = load_profile(*profile)
    folder = results or Path("results", loaded["profile"])
    require_results(folder)
    for path in build_table(loaded, name, folder, out or folder / "tables" / name):
        typer.echo(path)


@app.command()
def check_rows(
    tables: Annotated[
        list[str] | None, typer.Argument(help="Tables of the profile; default: all default ones.")
    ] = None,
    profile: Profile = ["mini"],  # noqa: B006
    results: Annotated[Path | None, typer.Option(help="Folder of the profile's results.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON to write if no row failed: those that are unsupported.")
    ] = None,
) -> None:
    """List the rows whose method failed.

    With the reason and the log of each; exit code 1 if one failed for another reason than that its method says it
    cannot. The workflow ends with it.

    \b
    Example:
      qdit check-rows table2
    """
    from qdit.core.files import write_json
    from qdit.workflow.profile import default_tables, load_profile
    from qdit.workflow.rows import failed_rows, summary

    loaded = load_profile(*profile)
    rows = failed_rows(loaded, results or Path("results", loaded["profile"]), tables or default_tables(loaded))
    for line in summary(rows):
        typer.echo(line)
    if not all(row.is_allowed for row in rows):
        raise typer.Exit(1)
    if out is not None:
        write_json(out, {"unsupported": {row.path: row.failure.reason for row in rows}})


@app.command()
def times(
    profile: Profile = ["mini"],  # noqa: B006
    results: Annotated[Path, typer.Option(help="Folder results/<profile> of a finished run.")] = Path("results/mini"),
) -> None:
    """Show how long tables and methods took.

    Seconds of the jobs of a finished workflow, as Snakemake measured them (one thread each); a run that several
    tables show is counted in each.

    \b
    Example:
      qdit times --results results/mini
    """
    from qdit.report.data.times import times_text
    from qdit.workflow.profile import load_profile

    typer.echo(times_text(load_profile(*profile), results), nl=False)


@app.command()
def validate(
    profile: Annotated[list[str], typer.Argument(help="Profile, by name or file, then its overlays.")] = ["mini"],  # noqa: B006
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of profiles, for editors.")] = False,
) -> None:
    """Check a profile.

    Unknown keys, names, methods and options, bits, counts; nothing is run. Overlays lie over the mini profile, as
    `snakemake --configfile` lays them.

    \b
    Example:
      qdit validate my-overlay.yaml
    """
    from qdit.workflow.profile import all_runs, broken_lines, load_profile
    from qdit.workflow.profile_models import json_schema

    if schema:
        typer.echo(json_schema(), nl=False)
        return
    loaded = load_profile(*profile)
    typer.echo(f"{' + '.join(profile)}: valid; {len(loaded['tables'])} tables, {len(all_runs(loaded))} runs")
    for line in broken_lines(loaded):
        typer.echo(line)


@app.command()
def ls(profile: Profile = ["mini"]) -> None:  # noqa: B006
    """List methods, settings and runs.

    \b
    Example:
      qdit ls
    """
    from qdit.workflow.profile import listing, load_profile

    typer.echo(listing(load_profile(*profile)))


@app.command()
def doctor(
    profile: Profile = ["mini"],  # noqa: B006
    tflops: Annotated[
        float | None, typer.Option(min=1e-6, help="Speed of one GPU, in 10^12 operations a second, for the estimate.")
    ] = None,
    gpus: Annotated[list[int] | None, typer.Option(min=1, help="GPUs to estimate for; default 1, 8, 64, 512.")] = None,
    figure: Annotated[Path | None, typer.Option(help="SVG to write: wall time on more and more GPUs.")] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of the profile's results.")] = None,
    details: Annotated[
        bool, typer.Option("--all", help="Every file with size, source, licence and sha256, also those that are fine.")
    ] = False,
) -> None:
    """Check that what a profile needs is there.

    Files, packages, devices, disk: the first line says whether all is there, then a line for each group of them; exit
    code 1 if something is missing or damaged. For a profile of files from elsewhere, or with --tflops, also what it
    costs: GPU-hours, wall time, disk, memory. The speed is given, or measured by the finished jobs of its results.

    \b
    Examples:
      qdit doctor
      qdit doctor --profile paper --tflops 100 --gpus 8
    """
    from qdit.workflow.cost import GPUS, cost_text, speed_of
    from qdit.workflow.cost_figure import draw
    from qdit.workflow.doctor import examine, needs_gpu, surroundings
    from qdit.workflow.doctor_text import doctor_text
    from qdit.workflow.profile import load_profile

    loaded = load_profile(*profile)
    folder = results or Path("results", loaded["profile"])
    findings = examine(loaded, folder)
    typer.echo(doctor_text(loaded, findings, details=details))
    for name, value in surroundings(gpu_needed=needs_gpu(loaded)).items():
        typer.echo(f"{name}: {value}")
    if tflops or figure or "files" in loaded:
        speed = speed_of(loaded, folder, tflops)
        typer.echo(cost_text(loaded, speed, gpus or GPUS))
        if figure:
            draw(loaded, speed, figure)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@train_app.command("dit")
def train_dit(
    out: Annotated[Path, typer.Argument(help="Folder of the training run; goes on from its checkpoint, if any.")],
    model: Annotated[str, typer.Option(help="dit-digits (8×8) or dit-digits-16 (upsampled to 16×16).")] = "dit-digits",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Threads = 1,
) -> None:
    """Train a mini DiT on the digits.

    About 25 minutes on one core; can be stopped and started again.

    \b
    Example:
      qdit train dit results/mini/training/dit-digits-16 --model dit-digits-16
    """
    from qdit.mini.training.dit import train_mini_dit

    use_threads(threads)
    typer.echo(train_mini_dit(model, out, device=device))


@train_app.command("classifier")
def train_classifier(
    out: Annotated[Path, typer.Argument(help="Folder for the trained classifier.")],
    size: Annotated[int, typer.Option(help="Side of its images: 8, or 16 for upsampled digits.")] = 8,
    seed: Seed = 0,
) -> None:
    """Train a digit classifier.

    Its features score the images; takes about 15 seconds at 8×8, a minute at 16×16.

    \b
    Example:
      qdit train classifier results/mini/training/digit-classifier
    """
    from qdit.mini.digit_classifier import DigitClassifierConfig
    from qdit.mini.training.classifier import train_classifier as train

    typer.echo(train(out, seed=seed, config=DigitClassifierConfig(size=size)))


@train_app.command("quality")
def train_quality(
    out: Annotated[Path, typer.Argument(help="JSON to write.")],
    model: Annotated[str, typer.Option(help="dit-digits or dit-digits-16.")] = "dit-digits",
    weights: Annotated[
        Path | None, typer.Option(callback=shipped, help="Weights to measure; default the model's shipped ones.")
    ] = None,
    extractor: Annotated[
        Path | None, typer.Option(callback=shipped, help="Weights of its digit classifier; default shipped.")
    ] = None,
    pictures: Annotated[Path, typer.Option(help="Folder of its two pictures.")] = Path("docs/images"),
    threads: Threads = 1,
) -> None:
    """Measure how good a mini DiT is.

    FID against halves of the digits, classes, DDPM against DDIM, guidance, memorising; about 5 minutes. Pictures:
    the distances to training digits (SVG), and held-out digits above samples (PNG).

    \b
    Examples:
      qdit train quality results/studies/dit-digits-quality.json
      qdit train quality results/studies/dit-digits-16-quality.json --model dit-digits-16
    """
    from qdit.mini.training.quality import measure_files, subject_of

    use_threads(threads)
    subject = subject_of(model)
    command = f"qdit train quality {out}" + ("" if model == "dit-digits" else f" --model {model}")
    measure_files(
        model,
        weights or shipped_path(Path("weights", f"{model}-natural.safetensors")),
        extractor or shipped_path(Path("weights", f"{subject.extractor}.safetensors")),
        out,
        pictures=pictures,
        command=command,
    )


train_app.command("video")(cli_video.train_video)
train_app.command("instruments")(cli_video.train_instruments)
train_app.command("video-quality")(cli_video.train_video_quality)
app.add_typer(train_app, name="train")
app.add_typer(cli_methods.new_app, name="new")
app.add_typer(cli_video.app, name="video")
app.add_typer(cli_vbench.app, name="vbench")
app.add_typer(cli_kernels.kernels_app, name="kernels")
app.add_typer(cli_bench.bench_app, name="bench")
app.add_typer(cli_figures.analyze_app, name="analyze")
app.command()(cli_figures.figures)


@app.command()
def ship(
    checkpoint: Annotated[Path, typer.Argument(help="Training checkpoint of the mini DiT.")],
    weights: Annotated[Path, typer.Option(help="Folder of the shipped weights.")] = Path("weights"),
    name: Annotated[str, typer.Option(help="Name of the model.")] = "dit-digits",
    salient: Annotated[bool, typer.Option(help="Make the salient form too.")] = True,
) -> None:
    """Make the shipped weights of a training.

    Natural and salient form in half precision, and the manifest of all files beside them.

    \b
    Examples:
      qdit ship results/mini/training/dit-digits/checkpoint.safetensors
      qdit ship results/mini/training/dit-digits-16/checkpoint.safetensors --name dit-digits-16 --no-salient
    """
    from qdit.mini.training.salient import SalientConfig
    from qdit.mini.training.shipping import ship_dit

    ship_dit(checkpoint, weights, name=name, salient=SalientConfig() if salient else None)


def one_line(problem: Exception) -> str:
    """What was wrong, as the user should read it."""
    if isinstance(problem, typer.TyperException):
        command = getattr(getattr(problem, "ctx", None), "command_path", "qdit")
        return f"{problem.format_message()} (see {command} --help)"
    if isinstance(problem, OSError) and problem.filename is not None:
        return f"{problem.filename}: {problem.strerror}"
    return str(problem)


def write_benchmark(path: Path, seconds: float) -> None:
    """Wall and processor time in seconds and peak memory in MiB of this process; never part of a result."""
    from qdit.core.files import write_json

    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = {"seconds": seconds, "processor_seconds": used.ru_utime + used.ru_stime}
    write_json(path, {name: round(value, 2) for name, value in spent.items()} | {"peak_mib": used.ru_maxrss // 1024})


def main() -> None:
    """Entry point: bad input becomes one line on stderr and exit code 2."""
    start = time.monotonic()
    try:
        status = app(standalone_mode=False, prog_name="qdit")
        if benchmark := os.environ.pop(BENCHMARK, None):
            write_benchmark(Path(benchmark), time.monotonic() - start)
    except typer.Abort:
        sys.exit("qdit: interrupted")
    except (QditError, OSError, typer.TyperException) as problem:
        if os.environ.get(DEBUG):
            raise
        print(f"qdit: error: {' '.join(one_line(problem).split())}", file=sys.stderr)
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)
