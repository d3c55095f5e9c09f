"""The command of the outlier study: how a DiT becomes hard to quantize during its training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from qdit.cli.options import Threads, shipped, use_threads


def outliers(
    snapshots: Annotated[Path, typer.Argument(help="Folder of a training's snapshots, or one snapshot.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="JSON to write; snapshots that it has are not measured again."
            " Default: results/studies/outliers-MODEL.json."
        ),
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Page to write. Default: docs/outliers-MODEL.md.")] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            help="Figure to write, in the folder images beside the page. Default: docs/images/outliers-MODEL.svg."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Model of the training: dit-fashion, dit-digits, ….")] = "dit-fashion",
    extractor: Annotated[
        Path | None, typer.Option(callback=shipped, help="Weights of its classifier; default shipped.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="rtn, q-dit or ptq4dit; repeat it. Default: rtn and q-dit.")
    ] = None,
    images: Annotated[int, typer.Option(min=4, help="Images of each row.")] = 128,
    steps: Annotated[int, typer.Option(help="DDIM steps.")] = 20,
    at: Annotated[list[int] | None, typer.Option(help="Only the snapshot at this iteration; repeat it.")] = None,
    threads: Threads = 1,
) -> None:
    """Study how a DiT becomes hard to quantize in its training.

    For each snapshot the study records kurtosis and channel spread of weights and inputs by role, and the damage of
    methods at W4A8 and W4A4. With RTN and Q-DiT, one snapshot of dit-fashion takes a minute of one core. A row of
    PTQ4DiT takes another minute. A stopped study continues.

    \b
    Examples:
      qdit bench outliers results/mini/training/dit-fashion/snapshots
      qdit bench outliers results/mini/training/dit-fashion/snapshots --at 256 --at 4096 --images 64
      qdit bench outliers results/mini/training/dit-digits/snapshots --model dit-digits --method rtn --method ptq4dit
    """
    from qdit.core.files import write_json
    from qdit.core.repository import shipped_path
    from qdit.metrics.extractors import load_extractor
    from qdit.mini.outliers import Plan, snapshot_files, study_snapshots
    from qdit.mini.outliers_page import write_page
    from qdit.mini.training.quality import subject_of

    use_threads(threads)
    subject = subject_of(model)
    plan = Plan(methods=tuple(method or Plan.methods), images=images, steps=steps)
    weights = extractor or shipped_path(Path("weights", f"{subject.extractor}.safetensors"))
    files, scorer = snapshot_files(snapshots, at or ()), load_extractor(subject.extractor, weights)
    out = out or Path(f"results/studies/outliers-{model}.json")
    study = study_snapshots(files, plan, scorer, out, name=model)
    study |= {"noun": subject.noun, "command": command_of(study, snapshots)}
    write_json(out, study)
    page = page or Path(f"docs/outliers-{model}.md")
    write_page(study, page, figure or Path(f"docs/images/outliers-{model}.svg"))
    typer.echo(f"{out}: {len(study['snapshots'])} snapshots; {page}")


def command_of(study: Mapping[str, Any], snapshots: Path) -> str:
    """The command that makes the whole study, with the snapshots of earlier calls."""
    plan = study["plan"]
    options = [f"--model {study['model']}", *(f"--method {name}" for name in plan["methods"])]
    options += [f"--images {plan['images']}", f"--steps {plan['steps']}"]
    options += [f"--at {entry['iteration']}" for entry in study["snapshots"]]
    return " ".join(["qdit bench outliers", str(snapshots), *options])
