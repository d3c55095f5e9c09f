"""Commands of VBench and FVD: VBench's environment, clip files, scores of one dimension or of all, FVD."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.evaluate import score_by_vbench
from qdit.cli.options import Device, hexadecimal

app = typer.Typer(rich_markup_mode=None, help="VBench of a video run, in its own environment; FVD (docs/vbench.md).")

Clips = Annotated[Path, typer.Argument(help="Folder of <prompt>-<number>.mp4.")]
Suite = Annotated[Path, typer.Option(help="Prompts in VBench's full_info schema; the environment holds VBench's own.")]
ClipsPerPrompt = Annotated[int, typer.Option(min=1, max=5, help="Clips of each prompt.")]
VBenchPython = Annotated[Path, typer.Option(help="Python of VBench's environment.")]
Dimension = Annotated[str, typer.Argument(help="One of VBench's sixteen, e.g. temporal_flickering.")]
Frames = Annotated[int | None, typer.Option(min=2, help="Frames that every clip must have; default: as the first.")]


@app.command()
def install(folder: Annotated[Path, typer.Argument(help="Folder of the environment to make.")]) -> None:
    """Make VBench's own environment.

    The command downloads the packages of rules/envs/vbench-lock.txt from PyPI: 3.3 GB, which take 6.1 GB of disk. The
    folder then has bin/python and VBench_full_info.json with the 946 prompts.

    \b
    Example:
      qdit vbench install results/paper/envs/vbench
    """
    from qdit.workflow.vbench_env import install as make

    typer.echo(f"{folder}: {'installed' if make(folder) else 'already installed'}")


@app.command()
def clips(
    samples: Annotated[Path, typer.Argument(help="Folder of the sample chunks of a video run.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the MP4 files to write.")],
    count: Annotated[int, typer.Option(min=1, help="Clips of the run.")],
    fps: Annotated[float, typer.Option(min=1, help="Frames a second.")] = 8,
    enlarge: Annotated[int, typer.Option(min=1, help="Side of a pixel in the file, in pixels.")] = 1,
    lossless: Annotated[bool, typer.Option(help="Every pixel as it was (RGB); not every player shows it.")] = True,
    listing: Annotated[Path | None, typer.Option(help="JSON to write: the clips with their sha256.")] = None,
) -> None:
    """Write the clips of a run with VBench's file names.

    \b
    Example:
      qdit vbench clips q-dit-w4a8/samples q-dit-w4a8/mp4 --count 189 --enlarge 8
    """
    from qdit.core.files import write_json
    from qdit.metrics.vbench.clips import write_clips

    entries = write_clips(samples, folder, clips=count, fps=fps, enlarge=enlarge, lossless=lossless)
    if listing:
        write_json(listing, entries)
    typer.echo(f"{folder}: {count} clips")


@app.command()
def ready(
    dimension: Dimension, out: Annotated[Path, typer.Argument(help="JSON to write.")], python: VBenchPython
) -> None:
    """Check that VBench's environment has the packages of a dimension.

    The workflow runs this check before it samples the first clip. The command does not check weights.

    \b
    Example:
      qdit vbench ready scene ready.json --python results/paper/envs/vbench/bin/python
    """
    from qdit.metrics.vbench.results import run_driver

    run_driver(python, ["--ready", dimension, str(out)])


@app.command()
def run(
    clips: Clips,
    dimension: Dimension,
    out: Annotated[Path, typer.Argument(help="JSON to write.")],
    suite: Suite,
    python: VBenchPython,
    weights: Annotated[Path | None, typer.Option(help="Folder of VBench's weights; nothing is downloaded.")] = None,
    sha256: Annotated[
        list[str] | None, typer.Option(help="FILE=DIGEST that a weight must have. Repeat it for more.")
    ] = None,
    listing: Annotated[Path | None, typer.Option(help="The list that qdit vbench clips wrote.")] = None,
    samples: ClipsPerPrompt = 5,
    frames: Frames = None,
    device: Device = "cpu",
) -> None:
    """Score clips in one dimension of VBench.

    Every clip of the dimension must exist, be complete, and have as many frames as the others. With --listing, the
    clips must be the files that the list names. If sampling failed, the result is the recorded failure.

    \b
    Example:
      qdit vbench run mp4 scene scene.json --python V/bin/python --suite V/VBench_full_info.json --weights W
    """
    from qdit.metrics.vbench.clips import check_clips
    from qdit.metrics.vbench.results import known_dimension, run_driver

    known_dimension(dimension)
    arguments = [str(clips), str(suite), dimension, str(out), "--samples", str(samples)]
    arguments += ["--weights", str(weights)] if weights else []
    arguments += [word for pair in sha256 or [] for word in ("--sha256", pair)]
    if listing is None:
        check_clips(clips, suite, [dimension], samples=samples, frames=frames)
    else:  # which has the sha256 of every clip
        arguments += ["--listing", str(listing)]
    run_driver(python, arguments, device=device)


@app.command()
def check(
    clips: Clips,
    suite: Suite,
    dimension: Annotated[list[str] | None, typer.Option(help="Dimension. Repeat it; default: all.")] = None,
    samples: ClipsPerPrompt = 5,
    frames: Frames = None,
) -> None:
    """Check that a folder holds every clip that VBench needs.

    The files must be complete, with the same size and number of frames, because VBench itself does not check this. The
    command prints the checked dimensions, the dimensions without a prompt in the suite, and the clips that no prompt
    needs. A named dimension without a prompt is an error.

    \b
    Example:
      qdit vbench check mp4 --suite results/paper/envs/vbench/VBench_full_info.json --frames 51
    """
    from qdit.core.errors import DataError
    from qdit.core.metrics import DIMENSIONS
    from qdit.metrics.vbench.clips import check_clips, coverage
    from qdit.metrics.vbench.results import known_dimension

    dimension_names = [known_dimension(name) for name in dimension or DIMENSIONS]
    covered = coverage(clips, suite, dimension_names, samples=samples)
    if dimension and covered.without_prompts:
        lacking = ", ".join(covered.without_prompts)
        raise DataError(f"{suite}: has no prompt for {lacking}; give the suite of these dimensions")
    count, length = check_clips(clips, suite, list(covered.clips) or dimension_names, samples=samples, frames=frames)
    typer.echo(f"{clips}: {count} clips of {length} frames")
    typer.echo(f"looked at: {', '.join(f'{name} ({number})' for name, number in covered.clips.items())}")
    if covered.without_prompts:
        typer.echo(f"not looked at, no prompt in {suite.name}: {', '.join(covered.without_prompts)}")
    if covered.unexpected:
        typer.echo(
            f"not looked at, no prompt asks for: {len(covered.unexpected)} clips, first {covered.unexpected[0]!r}"
        )


@app.command()
def gather(
    out: Annotated[Path, typer.Argument(help="JSON to write.")],
    results: Annotated[list[Path], typer.Argument(help="JSON of each dimension.")],
) -> None:
    """Join the scores of a run's dimensions in one JSON file.

    The file has the scores and VBench's normalised scores. If all sixteen dimensions exist, it also has the three
    totals.

    \b
    Example:
      qdit vbench gather vbench.json vbench/*.json
    """
    from qdit.core.files import write_json
    from qdit.metrics.vbench.results import gather as gathered

    write_json(out, gathered(results))


app.command("score")(score_by_vbench)


@app.command()
def fvd(
    clips: Clips,
    reference: Annotated[Path, typer.Argument(help="Folder of the clips to compare with.")],
    out: Annotated[Path, typer.Argument(help="JSON to write.")],
    i3d: Annotated[Path, typer.Option(help="I3D as TorchScript: a program, opened in a process of its own.")],
    sha256: Annotated[str, typer.Option(help="Its whole sha256.")],
    frames: Frames = None,
) -> None:
    """Measure FVD between two folders of clips.

    FVD is the Fréchet distance of I3D's 400 features before the softmax. It is finite even for fewer clips than
    features.

    \b
    Example:
      qdit vbench fvd q-dit/mp4 fp/mp4 fvd.json --i3d weights/paper/i3d_torchscript.pt --sha256 DIGEST
    """
    from qdit.core.files import write_json
    from qdit.metrics.vbench.clips import clips_in
    from qdit.metrics.vbench.i3d import I3d
    from qdit.metrics.vbench.i3d import fvd as distance

    sha256 = hexadecimal(sha256) or ""
    extractor = I3d(i3d, sha256)
    scored, other = clips_in(clips, frames=frames), clips_in(reference, frames=frames)
    value = distance(extractor, scored, other)
    write_json(out, {"metric": "fvd", "fvd": value, "clips": [len(scored), len(other)], "i3d_sha256": sha256})
