"""The command line `qdit`. Each step of the workflow is a command, so everything can also be run by hand.

Every command parses its arguments, calls one function and prints. A command imports heavy modules only if it needs
them.
"""

import codecs
import io
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from qdit import __version__
from qdit.cli import (
    bench,
    block,
    coverage,
    data,
    evaluate,
    figures,
    judge,
    kernels,
    methods,
    models,
    outliers,
    paper,
    pipelines,
    power,
    profile,
    report,
    samples,
    search,
    steps,
    tools,
    train,
    vbench,
    video,
    votes,
)
from qdit.cli import run as workflow
from qdit.cli.guard import guard
from qdit.core.errors import ConfigError, QditError

HELP = """Post-training quantization of diffusion transformers: a benchmark and reproducibility suite.

Data goes this way: weights → calibrate → (search) → quantize → sample → features → evaluate → table → claims.
`qdit run` makes all of it. Each command below does one step, and its help shows an example.

\b
Exit codes:
  0  success
  1  doctor, explain or check-rows found a problem, the memory is too small, or the program failed (traceback)
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
DEBUG, BENCHMARK = "QDIT_DEBUG", "QDIT_BENCHMARK"


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    benchmark: Annotated[Path | None, typer.Option(help="Write time and peak memory to this JSON.")] = None,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Read the options of all commands. Without a command, the help is shown."""
    if debug:
        os.environ[DEBUG] = "1"
    if benchmark:
        os.environ[BENCHMARK] = str(benchmark)
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


COMMANDS = (
    workflow.run,
    *(steps.calibrate, steps.quantize, steps.sample, steps.features),
    *(
        samples.reference,
        evaluate.evaluate,
        evaluate.perceptual,
        judge.judge,
        samples.import_samples,
        samples.export_samples,
        samples.show,
    ),
    *(
        profile.table,
        report.claims,
        report.leaderboard,
        report.report,
        report.compare,
        report.docs_mini,
        figures.figures,
    ),
    *(paper.explain, profile.check_rows, profile.times, profile.validate, profile.ls, profile.doctor),
    *(methods.methods, models.models, search.search, search.search_study, votes.ab, votes.votes),
    *(paper.fetch, paper.import_weights, paper.import_reference, paper.check_file, paper.export, train.ship),
)
GROUPS = {
    "new": methods.new_app,
    "data": data.app,
    "train": train.app,
    "video": video.app,
    "vbench": vbench.app,
    "tools": tools.app,
    "pipeline": pipelines.app,
    "kernels": kernels.kernels_app,
    "bench": bench.bench_app,
    "analyze": figures.analyze_app,
}
for command in COMMANDS:
    app.command()(command)
bench.bench_app.command()(block.block)
bench.bench_app.command()(power.power)
bench.bench_app.command()(coverage.coverage)
bench.bench_app.command()(outliers.outliers)
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


def one_line(problem: Exception) -> str:
    """The message of an error in one line, for the user."""
    if isinstance(problem, typer.TyperException):
        command = getattr(getattr(problem, "ctx", None), "command_path", "qdit")
        return f"{problem.format_message()} (see {command} --help)"
    if isinstance(problem, OSError) and problem.filename is not None:
        return f"{problem.filename}: {problem.strerror}"
    return str(problem)


def lacks_memory(problem: Exception) -> bool:
    """Return whether an error means that the memory of the machine or of its GPU is too small."""
    words = "can't allocate memory|out of memory"  # of torch, whose class of errors says less
    return isinstance(problem, MemoryError) or re.search(words, str(problem)) is not None


def write_benchmark(path: Path, seconds: float) -> None:
    """Write the wall time and processor time (seconds) and the peak memory (MiB) of this process to a JSON file.

    They do not belong to any result.
    """
    from qdit.core.files import write_json

    used = resource.getrusage(resource.RUSAGE_SELF)
    times = {"seconds": seconds, "processor_seconds": used.ru_utime + used.ru_stime}
    write_json(path, {name: round(value, 2) for name, value in times.items()} | {"peak_mib": used.ru_maxrss // 1024})


def require_words(words: Sequence[str]) -> None:
    """Raise ConfigError for an empty argument of the command line.

    An empty argument comes from a shell variable that is not set. It would be read as the current folder, a default or
    every row.
    """
    for before, word in zip(["qdit", *words], words, strict=False):
        flag, equals, value = word.partition("=")
        if not word.strip() or (flag.startswith("--") and equals and not value.strip()):
            where = flag if word.strip() else before
            raise ConfigError(
                f"the argument after {where!r:.80} is empty, perhaps a shell variable that is not set; give a value or"
                " leave it out"
            )


@cache
def whole_command() -> Callable[..., Any]:
    """Build the whole command line as one object, in a tenth of a second.

    The command server builds it once for all jobs. Every command checks its outputs and numbers before it starts.
    """
    command = typer.main.get_command(app)
    guard(command)
    return command


def print_every_character() -> None:
    """Let standard output replace characters that its encoding lacks. By default Python would stop with a traceback.

    Without this, a terminal that is not UTF-8 gets no `×`, and a file name in another encoding ends the command.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and codecs.lookup(sys.stdout.encoding).name != "utf-8":
        sys.stdout.reconfigure(errors="backslashreplace")


def main() -> None:
    """Run the command line. Bad input gives one line on stderr and exit code 2."""
    start = time.monotonic()
    print_every_character()
    try:
        require_words(sys.argv[1:])
        status = whole_command()(standalone_mode=False, prog_name="qdit")
        if benchmark := os.environ.pop(BENCHMARK, None):
            write_benchmark(Path(benchmark), time.monotonic() - start)
    except typer.Abort:
        sys.exit("qdit: interrupted")
    except (QditError, OSError, typer.TyperException) as problem:
        if os.environ.get(DEBUG):
            raise
        print(f"qdit: error: {' '.join(one_line(problem).split())}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as problem:
        if os.environ.get(DEBUG) or not lacks_memory(problem):
            raise
        about = " ".join(str(problem).split())[:200] or "no memory is left"
        print(f"qdit: error: too little memory ({about}); take smaller numbers or another machine", file=sys.stderr)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)
