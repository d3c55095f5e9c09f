"""Commands that train the small models and write the shipped weights."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli import video
from qdit.cli.options import Seed, Threads, on_device, shipped, use_threads
from qdit.core.repository import shipped_path

app = typer.Typer(rich_markup_mode=None, help="Train the small models. Opt-in: their weights are shipped.")


@app.command("dit")
def train_dit(
    out: Annotated[Path, typer.Argument(help="Folder of the training run. A checkpoint in it is continued.")],
    model: Annotated[
        str, typer.Option(help="dit-digits (8×8), dit-digits-16 (upsampled to 16×16) or dit-fashion (28×28).")
    ] = "dit-digits",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Threads = 1,
) -> None:
    """Train a mini DiT on digits or on clothes.

    The training takes about 25 minutes on one core, dit-fashion four hours. A stopped training continues. dit-fashion
    learns from the photographs that `qdit data fashion-mnist` gets. dit-digits and dit-fashion also write snapshots of
    their weights, for `qdit bench outliers`.

    \b
    Examples:
      qdit train dit results/mini/training/dit-digits-16 --model dit-digits-16
      qdit train dit results/mini/training/dit-fashion --model dit-fashion
    """
    from qdit.mini.training.dit import train_mini_dit

    use_threads(threads)
    with on_device(device) as name:
        typer.echo(train_mini_dit(model, out, device=name))


@app.command("classifier")
def train_classifier(
    out: Annotated[Path, typer.Argument(help="Folder for the trained classifier.")],
    data: Annotated[
        str, typer.Option(help="Its images: digits (8×8), digits-16 (16×16) or fashion-mnist (28×28).")
    ] = "digits",
    seed: Seed = 0,
) -> None:
    """Train a small classifier.

    Its features score the images. The training takes about 15 seconds for digits, a minute for digits-16 and 20 minutes
    for fashion-mnist. The photographs of fashion-mnist come from `qdit data fashion-mnist`.

    \b
    Examples:
      qdit train classifier results/mini/training/digit-classifier
      qdit train classifier results/mini/training/fashion-classifier --data fashion-mnist
    """
    from qdit.mini.training.classifier import shipped_config
    from qdit.mini.training.classifier import train_classifier as train

    typer.echo(train(out, seed=seed, config=shipped_config(data)))


@app.command("quality")
def train_quality(
    out: Annotated[Path, typer.Argument(help="JSON to write.")],
    model: Annotated[str, typer.Option(help="dit-digits, dit-digits-16 or dit-fashion.")] = "dit-digits",
    weights: Annotated[
        Path | None, typer.Option(callback=shipped, help="Weights to measure; default the model's shipped ones.")
    ] = None,
    extractor: Annotated[
        Path | None, typer.Option(callback=shipped, help="Weights of its classifier; default shipped.")
    ] = None,
    pictures: Annotated[Path, typer.Option(help="Folder of its two pictures.")] = Path("docs/images"),
    threads: Threads = 1,
) -> None:
    """Measure how good a mini DiT is.

    The command measures FID against halves of the real images, class accuracy, DDPM against DDIM (digits only),
    guidance, and memorising. It takes about 5 minutes. Its pictures show the distances to training images (SVG), and
    held-out images above samples (PNG). For dit-fashion it needs the photographs (`qdit data fashion-mnist`).

    \b
    Examples:
      qdit train quality results/studies/dit-digits-quality.json
      qdit train quality results/studies/dit-fashion-quality.json --model dit-fashion
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


app.command("video")(video.train_video)
app.command("instruments")(video.train_instruments)
app.command("video-quality")(video.train_video_quality)
app.command("video-room")(video.train_video_room)


def ship(
    checkpoint: Annotated[Path, typer.Argument(help="Training checkpoint of the mini DiT, or one of its snapshots.")],
    weights: Annotated[Path, typer.Option(help="Folder of the shipped weights.")] = Path("weights"),
    name: Annotated[str, typer.Option(help="Name of the model.")] = "dit-digits",
    salient: Annotated[bool, typer.Option(help="Make the salient form too.")] = True,
) -> None:
    """Make the shipped weights of a training.

    The command writes the natural and the salient form in half precision, and the manifest of all files in the folder.

    \b
    Examples:
      qdit ship results/mini/training/dit-digits/checkpoint.safetensors
      qdit ship results/mini/training/dit-digits-16/checkpoint.safetensors --name dit-digits-16 --no-salient
      qdit ship results/mini/training/dit-fashion/snapshots/006000.safetensors --name dit-fashion --no-salient
    """
    from qdit.mini.training.salient import SalientConfig
    from qdit.mini.training.shipping import ship_dit

    ship_dit(checkpoint, weights, name=name, salient=SalientConfig() if salient else None)
