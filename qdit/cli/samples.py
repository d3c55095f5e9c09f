"""Commands that read and write images: reference, import-samples, export-samples."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.options import EXTRACTOR_WEIGHTS, Device, Extractor, ExtractorWeights, Threads, on_device, use_threads
from qdit.cli.sampling import Suite, clips_of_suite
from qdit.core.errors import ConfigError

BUILT_IN = ("digits", "digits-16", "fashion-mnist")
"""Data sets of the mini profile (`qdit.mini.data.data_sets`)."""

Images = Annotated[Path, typer.Argument(help="Folder of PNGs, or npz of uint8 images (ADM's arr_0; labels in arr_1).")]


def reference(
    out: Annotated[Path, typer.Argument(help="Reference file to write (.npz).")],
    data: Annotated[
        str,
        typer.Option(
            help="Folder of PNGs, npz of images or of statistics (mu, sigma); or digits, digits-16, which are built in;"
            " or fashion-mnist, whose files `qdit data fashion-mnist` gets."
        ),
    ] = "digits",
    extractor: Extractor = "digit-classifier",
    extractor_weights: ExtractorWeights = EXTRACTOR_WEIGHTS,
    images_only: Annotated[
        bool, typer.Option("--images-only", help="Compute from the images of an npz that has statistics too.")
    ] = False,
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Compute the statistics of real images.

    FID, sFID, precision and recall compare samples with these statistics. An npz file has at least 4 uint8 images (N,
    H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels. Ready statistics are taken unchanged. If they have only mu
    and sigma, there is no sFID. If they come without images, there is no precision and recall.

    \b
    Examples:
      qdit reference reference.npz
      qdit reference mine.npz --data my-images --extractor inception-adm --extractor-weights inception.pth
      qdit reference clothes.npz --data fashion-mnist --extractor fashion-classifier \\
        --extractor-weights weights/fashion-classifier.safetensors
    """
    use_threads(threads)
    if data in BUILT_IN:
        from qdit.mini.reference import make_mini_reference

        make_mini_reference(data, extractor, extractor_weights, out)
        typer.echo(f"{out}: statistics of the images of {data} by {extractor}")
        return
    from qdit.workflow.importing import make_reference_file

    with on_device(device) as name:
        statistics = make_reference_file(
            Path(data), out, extractor=extractor, weights=extractor_weights, device=name, images_only=images_only
        )
    images = 0 if statistics.pool_features is None else len(statistics.pool_features)
    lacks = ["sFID"] if statistics.spatial is None else []
    lacks += ["precision and recall"] if statistics.pool_features is None else []
    typer.echo(f"{out}: {images} images" + (f"; without {', '.join(lacks)}" if lacks else ""))


def import_samples(
    images: Images,
    out: Annotated[Path, typer.Argument(help="Folder for the chunks of images.")],
    chunk: Annotated[int, typer.Option(min=1, help="Images per file.")] = 64,
    count: Annotated[int | None, typer.Option("--images", min=1, help="Number of images that must be there.")] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="Samples of full precision: number and shape must be theirs, a stated protocol too."),
    ] = None,
    extractor: Annotated[
        str | None, typer.Option(help="Also extract features with this network; default: no features.")
    ] = None,
    extractor_weights: ExtractorWeights = EXTRACTOR_WEIGHTS,
    suite: Suite = None,
    clips_per_prompt: Annotated[
        int | None, typer.Option("--samples", min=1, help="Clips: number of MP4 files of each prompt; needs --like.")
    ] = None,
) -> None:
    """Import images or clips that another program made.

    `qdit features` and later steps read them like the images of `qdit sample`. Their protocol is "imported". The files
    may state the protocol by which they were made: a folder in protocol.json, an npz in its member protocol. Only then,
    and with --like, they are compared with full precision image by image. Images without labels have no class accuracy.
    With --samples the folder holds clips: <prompt>-<number>.mp4 for every prompt of the suite.

    \b
    Examples:
      qdit import-samples other-program.npz imported
      qdit import-samples my-images imported --like fp/samples --extractor digit-classifier
      qdit import-samples my-clips imported --samples 2 --chunk 21 --like fp/clips
    """
    if clips_per_prompt is not None:
        import_clips_of(images, out, suite, clips_per_prompt, chunk, like)
        return
    from qdit.metrics.imported import import_images

    number = import_images(images, out, chunk=chunk, count=count, like=like)
    if extractor is not None:
        from qdit.metrics.extraction import extract_file

        extract_file(out, 0, extractor, extractor_weights, device="cpu")
    typer.echo(f"{out}: {number} images")


def import_clips_of(folder: Path, out: Path, suite: Path | None, samples: int, chunk: int, like: Path | None) -> None:
    """Import the MP4 files of a folder as samples, and print what was made."""
    from qdit.metrics.imported_clips import import_clips

    if like is None:
        raise ConfigError("--samples: clips need --like, samples of full precision whose size and speed they have")
    clips = clips_of_suite(suite, samples, latents=False)
    typer.echo(f"{out}: {import_clips(folder, out, clips=clips, chunk=chunk, like=like)} clips")


def export_samples(
    samples: Annotated[Path, typer.Argument(help="Folder of chunks that `qdit sample` or `import-samples` made.")],
    out: Annotated[Path, typer.Argument(help="OUT.npz (ADM's batch: arr_0 uint8 NHWC, arr_1), or a folder of PNGs.")],
) -> None:
    """Write samples for other programs.

    \b
    Examples:
      qdit export-samples q-dit-w4a8/samples q-dit.npz
      qdit export-samples q-dit-w4a8/samples q-dit-png
    """
    from qdit.metrics.export import export_images

    count = export_images(samples, out)
    typer.echo(f"{out}: {count} images")


def show(
    samples: Annotated[Path, typer.Argument(help="Folder of chunks of images or clips.")],
    out: Annotated[Path, typer.Argument(help="PNG file to write.")] = Path("sheet.png"),
    beside: Annotated[
        Path | None, typer.Option(help="Samples of full precision with the same noise; the difference is shown too.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Number of samples; default 32, 8 pairs, or 4 clips.")
    ] = None,
) -> None:
    """Show samples as a picture.

    Images stand in a grid under their class. Of each clip all frames stand in a row under its prompt. With --beside
    full precision, this run and the difference stand below one another, and the mean squared error of all samples is
    printed.

    \b
    Examples:
      qdit show q-dit-w4a8/samples
      qdit show q-dit-w4a8/samples q-dit.png --beside fp/samples
    """
    from qdit.core.metrics import METRICS
    from qdit.report.pages.sample_sheet import show as write_sheet

    shown = write_sheet(samples, out, beside=beside, count=count)
    typer.echo(f"{out}: {shown.count} of {shown.total} {shown.kind}")
    if shown.error is not None:
        metric = METRICS["mse_fp"]
        typer.echo(f"  {metric.title} {metric.write(shown.error)}, mean over all {shown.total} {shown.kind}")
