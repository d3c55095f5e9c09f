"""The command of the outlier study."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.options import Threads, shipped, use_threads

STUDY, PAGE = Path("results/studies/outliers-dit-fashion.json"), Path("docs/outliers.md")
FIGURE = Path("docs/images/outliers.svg")


def outliers(
    snapshots: Annotated[Path, typer.Argument(help="Folder of a training's snapshots, or one snapshot.")],
    out: Annotated[Path, typer.Option(help="JSON to write; snapshots that it has are not measured again.")] = STUDY,
    page: Annotated[Path, typer.Option(help="Page to write.")] = PAGE,
    figure: Annotated[Path, typer.Option(help="Figure to write, in the folder images beside the page.")] = FIGURE,
    model: Annotated[str, typer.Option(help="Model of the training: dit-fashion, dit-digits, ….")] = "dit-fashion",
    extractor: Annotated[
        Path | None, typer.Option(callback=shipped, help="Weights of its classifier; default shipped.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="rtn, q-dit or ptq4dit (a minute a row); repeat it.")] = None,
    images: Annotated[int, typer.Option(min=4, help="Images of each row.")] = 128,
    steps: Annotated[int, typer.Option(help="DDIM steps.")] = 20,
    at: Annotated[list[int] | None, typer.Option(help="Only the snapshot at this iteration; repeat it.")] = None,
    threads: Threads = 1,
) -> None:
    """Study how a DiT becomes hard to quantize in its training.

    For each snapshot the study records kurtosis and channel spread of weights and inputs by role, and the damage of
    methods at W4A8 and W4A4. One snapshot takes a minute of one core. A stopped study continues.

    \b
    Examples:
      qdit bench outliers results/mini/training/dit-fashion/snapshots
      qdit bench outliers results/mini/training/dit-fashion/snapshots --at 256 --at 4096 --images 64
    """
    from qdit.core.files import write_json
    from qdit.core.repository import shipped_path
    from qdit.metrics.extractors import load_extractor
    from qdit.mini.outliers import Plan, snapshot_files, study_snapshots
    from qdit.mini.outliers_page import write_page
    from qdit.mini.training.quality import subject_of

    use_threads(threads)
    name = subject_of(model).extractor
    plan = Plan(methods=tuple(method or Plan.methods), images=images, steps=steps)
    weights = extractor or shipped_path(Path("weights", f"{name}.safetensors"))
    study = study_snapshots(snapshot_files(snapshots, at or ()), plan, load_extractor(name, weights), out, name=model)
    study["command"] = " ".join(["qdit bench outliers", str(snapshots), f"--images {images} --steps {steps}"])
    write_json(out, study)
    write_page(study, page, figure)
    typer.echo(f"{out}: {len(study['snapshots'])} snapshots; {page}")
