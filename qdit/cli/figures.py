"""Commands of the figures: `analyze` computes the arrays that figures show, `figures` draws the pictures."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.options import (
    MINI,
    CfgScale,
    Device,
    Dtype,
    Profile,
    Results,
    Sampler,
    Seed,
    Steps,
    Threads,
    Weights,
    on_device,
    parse_pairs,
    results_folder,
    use_threads,
)
from qdit.cli.sampling import protocol

Samples = Annotated[int, typer.Option(min=2, help="Images to follow, those with which every run begins.")]
Out = Annotated[Path, typer.Argument(help="Arrays to write (.npz).")]

analyze_app = typer.Typer(rich_markup_mode=None, help="Compute what the figures show.")


@analyze_app.command("activations")
def activations(
    weights: Weights,
    out: Out,
    samples: Samples = 16,
    sampler: Sampler = "ddim",
    steps: Steps = 20,
    cfg_scale: CfgScale = 1.0,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Analyze weights and activations.

    The command samples a few images with the full-precision model. It records values by channel, by timestep, by block
    and by image.

    \b
    Example:
      qdit analyze activations weights/dit-digits-natural.safetensors activations.npz --steps 20
    """
    from qdit.metrics.analysis.activations import analyze_weights_file

    use_threads(threads)
    sampling_protocol = protocol(sampler, steps, cfg_scale, seed, dtype)
    with on_device(device) as name:
        analyze_weights_file(weights, out, sampling_protocol, samples=samples, device=name)


@analyze_app.command("errors")
def errors(
    full: Annotated[Path, typer.Argument(help="Checkpoint folder of full precision.")],
    out: Out,
    checkpoint: Annotated[list[str] | None, typer.Option(help="Method to compare, LABEL=FOLDER; repeatable.")] = None,
    samples: Samples = 16,
    sampler: Sampler = "ddim",
    steps: Steps = 20,
    cfg_scale: CfgScale = 1.0,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Compare quantized models step by step.

    The command measures three errors against full precision: of the predicted noise at each timestep, of the
    trajectory, and of each layer's output. If a method failed and its folder has no checkpoint, the file lists the
    method without values.

    \b
    Example:
      qdit analyze errors fp errors.npz --checkpoint rtn=rtn-w4a8 --checkpoint q-dit=q-dit-w4a8
    """
    from qdit.metrics.analysis.errors import compare_folders

    use_threads(threads)
    checkpoints = parse_pairs(checkpoint or [], "--checkpoint")
    sampling_protocol = protocol(sampler, steps, cfg_scale, seed, dtype)
    with on_device(device) as name:
        compare_folders(full, checkpoints, out, sampling_protocol, samples=samples, device=name)


def figures(
    profile: Profile = MINI,
    results: Results = None,
    only: Annotated[list[str] | None, typer.Option(help="Draw this figure only; repeatable.")] = None,
) -> None:
    """Draw the figures of a profile.

    The command writes SVG and PNG files to RESULTS/figures. figures.json lists them with title and caption. If the data
    of a figure are missing, the picture names them.

    \b
    Examples:
      qdit figures
      qdit figures --results results/mini --only group-sizes
    """
    from qdit.report.data.presence import require_results
    from qdit.report.figures.build import build_figures
    from qdit.workflow.profile import load_profile

    loaded = load_profile(*profile)
    folder = results_folder(loaded, results)
    require_results(folder)
    for path in build_figures(loaded, folder, only=only):
        typer.echo(path)
