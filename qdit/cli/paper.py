"""Commands for a full reproduction: explain, export, fetch, check-file and imports."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.options import Device, Results, hexadecimal, on_device, parse_json_object, results_folder
from qdit.core.errors import ConfigError

MINI_RESULTS = Path("results/mini")
"""Results that `qdit explain` reads if neither results nor a profile are named."""


def explain(
    table: Annotated[str, typer.Argument(help="Table of the profile, e.g. table2.")],
    row: Annotated[
        list[str] | None, typer.Argument(help="Number of the row, or words such as q-dit w4a8; default: list the rows.")
    ] = None,
    results: Results = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile", "--config", help="Profile: name or file; default profile.json of RESULTS, or of results/mini."
        ),
    ] = None,
) -> None:
    """Show what led to a table row.

    The command lists the files behind the row: table, metrics, images, checkpoint, calibration data, allocation,
    weights. For each file it shows the hash, the options and the command that makes it again. The exit code is 1 if a
    file is missing or has changed.

    \b
    Examples:
      qdit explain table2
      qdit explain table2 q-dit w4a8 digits-cfg1.0-s20
    """
    from qdit.workflow.explain import explain_text, listing
    from qdit.workflow.profile import load_profile

    loaded = load_profile(*(profile or [str((results or MINI_RESULTS) / "profile.json")]))
    if not row:
        typer.echo(listing(loaded, table))
        return
    folder = results_folder(loaded, results)
    text, whole = explain_text(loaded, table, " ".join(row), folder)
    typer.echo(text)
    if not whole:
        raise typer.Exit(1)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder that `qdit quantize` wrote.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write, which diffusers can load.")],
) -> None:
    """Write a checkpoint for diffusers.

    After `import qdit.diffusers`, DiTTransformer2DModel.from_pretrained loads the folder. The model gives the same
    output bits (docs/diffusers.md).

    \b
    Example:
      qdit export q-dit-w4a8 q-dit-w4a8-diffusers
    """
    from qdit.diffusers import export_checkpoint

    for path in export_checkpoint(checkpoint, folder):
        typer.echo(path)


def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="Paths or names of files; default: all missing files.")
    ] = None,
    profile: Annotated[
        list[str],
        typer.Option(
            "--profile", "--config", help="Profile: a name (config/NAME.yaml) or a file. Repeat it for each overlay."
        ),
    ] = ["paper"],  # noqa: B006
    allow_unverified: Annotated[
        list[str] | None,
        typer.Option(help="File or folder to download without a whole sha256 in the profile. Repeat it for each."),
    ] = None,
    row: Annotated[
        str | None, typer.Option(help="Download only what this row and its full-precision partner need.")
    ] = None,
) -> None:
    """Download what a profile needs.

    The command downloads from the addresses in the profile, over https only. A stopped download continues. If the
    profile lacks the whole sha256 of a file, you must name the file with --allow-unverified. The command then prints
    the digest, and you can add it to the profile. Only this command, `qdit vbench
    install` and `qdit tools install` download. `qdit doctor` shows which files exist. SECURITY.md says what a profile
    can and cannot do.

    \b
    Examples:
      qdit fetch VBench_full_info.json --profile paper
      qdit fetch --profile paper --allow-unverified weights/paper/sd-vae-ft-mse
      qdit fetch --profile paper --row "table2 q-dit w4a8" --allow-unverified weights/paper
    """
    from qdit.core.files import sha256_file
    from qdit.workflow.fetch import choose, files_of, is_named, unverified
    from qdit.workflow.fetch import fetch as fetch_file
    from qdit.workflow.one_row import find_row, profile_of_row
    from qdit.workflow.profile import load_profile

    allowed, loaded = allow_unverified or [], load_profile(*profile)
    needed = profile_of_row(loaded, find_row(loaded, row)) if row is not None else loaded
    files = choose(files_of(needed), names or [])
    refused = [file for file in unverified(files) if not is_named(file, allowed)]
    for file in files:
        if file in refused:
            continue
        typer.echo(f"{file.path}: {file.about}")
        downloaded = fetch_file(file, allow_unverified=is_named(file, allowed))
        arrived = f"downloaded; sha256 {sha256_file(file.path)}" if downloaded else "there already"
        typer.echo(f"{file.path}: {arrived}")
    if refused:
        raise ConfigError(
            f"{len(refused)} of {len(files)} files are not downloaded, since the profile does not give their whole"
            f" sha256: {', '.join(str(file.path) for file in refused[:3])}{', …' if len(refused) > 3 else ''}; look at"
            " where they are from (qdit doctor --all), then name them or their folder with --allow-unverified"
        )


def check_file(
    path: Annotated[Path, typer.Argument(help="File that a profile needs.")],
    sha256: Annotated[
        str | None, typer.Option(callback=hexadecimal, help="Expected digest in hex, or its first 8 or more digits.")
    ] = None,
) -> None:
    """Check that a needed file exists.

    The command prints nothing if the file exists. The workflow runs it before long steps.

    \b
    Example:
      qdit check-file weights/dit-digits-natural.safetensors
    """
    from qdit.workflow.fetch import check_whole

    check_whole(path, sha256)


def import_weights(
    source: Annotated[Path, typer.Argument(help="Official .pt, safetensors, or a diffusers folder.")],
    out: Annotated[Path, typer.Argument(help="File to write (.safetensors).")],
    shape: Annotated[
        str,
        typer.Option(
            help="Expected shape as a JSON object. Other keys are those of DiT-XL/2 or of Open-Sora's STDiT3."
        ),
    ] = "{}",
    family: Annotated[str, typer.Option(help="dit for images, stdit3 for videos.")] = "dit",
    sha256: Annotated[
        str | None,
        typer.Option(callback=hexadecimal, help="Expected digest of the source in hex, or its first 8 or more digits."),
    ] = None,
) -> None:
    """Convert official weights once.

    The command checks the file and writes it in the suite's format. It runs no code of the file. Weights of another
    model than the expected one are an error. The tensors do not show all numbers; --shape gives the others: num_heads
    of a DiT; base_size, pixels_per_cell, fps and frame_positions of an STDiT3. The command prints the numbers that it
    had to assume.

    \b
    Examples:
      qdit import-weights DiT-XL-2-512x512.pt dit-xl-2-512.safetensors --shape '{"input_size": 64}'
      qdit import-weights OpenSora-STDiT-v3/model.safetensors stdit3.safetensors --family stdit3
    """
    from qdit.models.loading import assumption
    from qdit.workflow.importing import import_weights_file

    fields = parse_json_object(shape, "--shape")
    if assumed := import_weights_file(source, out, shape=fields, sha256=sha256, family=family):
        typer.echo(f"{out}: {assumption(assumed)}")


def import_reference(
    batch: Annotated[Path, typer.Argument(help="ADM's VIRTUAL_imagenet*.npz.")],
    out: Annotated[Path, typer.Argument(help="Reference file to write (.npz).")],
    extractor: Annotated[str, typer.Option(help="Network whose features score the images.")] = "inception-adm",
    extractor_weights: Annotated[Path, typer.Option(help="Weights of the extractor.")] = Path("inception.pth"),
    sha256: Annotated[
        str | None,
        typer.Option(callback=hexadecimal, help="Expected digest of the batch in hex, or its first 8 or more digits."),
    ] = None,
    resolution: Annotated[int | None, typer.Option(help="Side in pixels that its images must have.")] = None,
    device: Device = "cpu",
) -> None:
    """Take ADM's statistics of real images.

    The command copies mean and covariance unchanged. For precision and recall it also computes the features of the
    images in the batch. It reads these images one after the other. A file that `qdit reference` wrote with the same
    extractor is copied whole.

    \b
    Example:
      qdit import-reference VIRTUAL_imagenet256_labeled.npz imagenet-256.npz --extractor-weights inception.pth
    """
    from qdit.workflow.importing import import_reference_file

    with on_device(device) as name:
        import_reference_file(
            batch,
            out,
            extractor=extractor,
            weights=extractor_weights,
            sha256=sha256,
            resolution=resolution,
            device=name,
        )
