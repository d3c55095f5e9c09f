"""Commands of the mini video model: text embeddings, prompts, clips, mini-VBench, training, quality, shipping."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli import steps
from qdit.cli import video_search as cli_video_search
from qdit.cli.evaluate import evaluate as evaluate_samples
from qdit.cli.options import MINI, Device, Profile, Results, Threads, on_device, results_folder, shipped, use_threads
from qdit.cli.sampling import INSTRUMENTS, ClipsPerPrompt, Suite, prompts_of

MODEL = "stdit3-moving-digits"

Instruments = Annotated[Path, typer.Option(callback=shipped, help="Networks of mini-VBench.")]

app = typer.Typer(rich_markup_mode=None, help="Clips of moving digits and their scores: mini-VBench (moving digits).")
# Names of before one command served images and clips.
app.command("calibrate", hidden=True)(steps.calibrate)
app.command("sample", hidden=True)(steps.sample)
app.command("score", hidden=True)(evaluate_samples)
app.command("search")(cli_video_search.search)


@app.command()
def embed(
    suite: Annotated[Path, typer.Argument(help="full_info JSON of the prompts, as VBench has it.")],
    out: Annotated[Path, typer.Argument(help="Embeddings to write (.safetensors).")],
    encoder: Annotated[Path, typer.Option(help="Folder of T5 in safetensors, with its tokenizer.")],
    dtype: Annotated[str, typer.Option(help="Precision of the encoder: bfloat16 (Open-Sora's own) or float32.")] = (
        "bfloat16"
    ),
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Compute the text embeddings of the prompts of a prompt suite.

    Each prompt goes through T5 once, so sampling needs no text encoder. A stopped command continues from the parts
    beside OUT.

    \b
    Example:
      qdit video embed VBench_full_info.json text.safetensors --encoder pixart_sigma_sdxlvae_T5_diffusers
    """
    from qdit.core.devices import torch_device
    from qdit.metrics.vbench.prompts import suite_prompts
    from qdit.models.text_encoder import embed_suite

    use_threads(threads)
    prompts = suite_prompts(suite)
    with on_device(device) as name:
        embed_suite(prompts, encoder, out, device=str(torch_device(name)), dtype=dtype)


@app.command()
def suite(
    out: Annotated[Path, typer.Argument(help="JSON to write, in VBench's full_info schema.")],
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of each of the eleven suites.")] = 6,
) -> None:
    """Write the prompts of mini-VBench.

    \b
    Example:
      qdit video suite prompts.json
    """
    from qdit.core.files import write_json
    from qdit.mini.vbench.suites import all_prompts, full_info

    write_json(out, full_info(all_prompts(prompts)))


@app.command()
def clips(
    out: Annotated[Path, typer.Argument(help="npz of clips to write, or a folder for MP4 files of VBench's names.")],
    weights: Annotated[
        Path | None, typer.Option(callback=shipped, help="Model that makes them; default: real clips, held out.")
    ] = None,
    suite: Suite = None,
    samples: ClipsPerPrompt = 3,
    threads: Threads = 1,
) -> None:
    """Make the clips of a suite.

    The clips are real clips of held-out digits, or with --weights clips of a full-precision model.

    \b
    Examples:
      qdit video clips real.npz
      qdit video clips fp.npz --weights results/mini/training/stdit3-moving-digits/checkpoint.safetensors
    """
    from qdit.mini.training.video_quality import generated_clips
    from qdit.mini.vbench.evaluate import reference_clips

    use_threads(threads)
    prompts = prompts_of(suite)
    clips = reference_clips(prompts, samples=samples) if weights is None else generated_clips(weights, prompts, samples)
    clips.save(out)


@app.command()
def evaluate(
    clips: Annotated[Path, typer.Argument(help="npz or folder of MP4 files, as qdit video clips writes them.")],
    out: Annotated[Path, typer.Option(help="JSON to write.")],
    suite: Suite = None,
    samples: ClipsPerPrompt = 3,
    instruments: Instruments = INSTRUMENTS,
    threads: Threads = 1,
) -> None:
    """Score clips in sixteen dimensions.

    Every clip of the prompts must exist. The totals are scaled: pixel noise scores 0, real clips score 1.

    \b
    Example:
      qdit video evaluate real.npz --out real.json
    """
    from qdit.core.files import write_json
    from qdit.mini.vbench.evaluate import load_clips, report
    from qdit.mini.vbench.observation import load_observer

    use_threads(threads)
    scores = report(load_observer(instruments), load_clips(clips), prompts_of(suite), samples=samples)
    write_json(out, scores)
    typer.echo(scores["protocol"])
    for dimension, score in scores["scores"].items():
        typer.echo(f"{dimension:24} {score:.4f}")


@app.command()
def mp4(
    table: Annotated[str, typer.Argument(help="A table of clips, e.g. table3.")],
    out: Annotated[Path, typer.Argument(help="Folder of the MP4 files.")],
    profile: Profile = MINI,
    results: Results = None,
) -> None:
    """Write the clips that a table shows as MP4 files.

    \b
    Example:
      qdit video mp4 table3 results/mini/tables/table3-clips
    """
    from qdit.report.data.presence import require_results
    from qdit.report.pages.clip_files import write_clip_files
    from qdit.workflow.profile import load_profile

    loaded = load_profile(*profile)
    folder = results_folder(loaded, results)
    require_results(folder)
    for path in write_clip_files(loaded, table, folder, out):
        typer.echo(path)


@app.command()
def accuracy(instruments: Instruments = INSTRUMENTS, threads: Threads = 1) -> None:
    """Measure the instruments on clips of held-out digits.

    \b
    Example:
      qdit video accuracy
    """
    from qdit.mini.training.video_instruments import HELD_OUT, held_out_accuracy, held_out_clips
    from qdit.mini.vbench.observation import load_observer

    use_threads(threads)
    for name, value in held_out_accuracy(load_observer(instruments).network, held_out_clips(HELD_OUT)).items():
        typer.echo(f"{name:20} {value:.4f}")


@app.command()
def degradations(instruments: Instruments = INSTRUMENTS, threads: Threads = 1) -> None:
    """Show how the sixteen scores react to noise, blur, flicker, shuffling, freezing and wrong prompts.

    \b
    Example:
      qdit video degradations
    """
    from qdit.mini.vbench.damage_study import damage_markdown, damage_table
    from qdit.mini.vbench.observation import load_observer

    use_threads(threads)
    typer.echo(damage_markdown(damage_table(load_observer(instruments))))


@app.command()
def picture(
    out: Annotated[Path, typer.Argument(help="GIF to write.")],
) -> None:
    """Animate twelve real clips of held-out digits, and print their prompts.

    \b
    Example:
      qdit video picture docs/images/moving-digits-real.gif
    """
    from qdit.mini.training.video_quality import show_real

    for prompt in show_real(out):
        typer.echo(prompt)


@app.command()
def ship(
    checkpoint: Annotated[Path, typer.Argument(help="Training checkpoint of the mini video model.")],
    weights: Annotated[Path, typer.Option(help="Folder of the shipped weights.")] = Path("weights"),
    name: Annotated[str, typer.Option(help="Name of the model.")] = MODEL,
) -> None:
    """Make the shipped weights of a video training: natural form, salient form, and the manifest of the folder.

    \b
    Example:
      qdit video ship results/mini/training/stdit3-moving-digits/checkpoint.safetensors
    """
    from qdit.mini.training.video_shipping import ship_video

    for path in ship_video(checkpoint, weights, name=name):
        typer.echo(path)


def train_video(
    out: Annotated[Path, typer.Argument(help="Folder of the training run. A checkpoint in it is continued.")],
    model: Annotated[str, typer.Option(help="Name of the model.")] = MODEL,
    until: Annotated[int | None, typer.Option(min=1, help="Stop at this iteration; default: the end.")] = None,
    start: Annotated[
        Path | None,
        typer.Option(callback=shipped, help="Weights to begin with; repeat it to continue."),
    ] = None,
    two_objects: Annotated[float, typer.Option(min=0, max=1, help="Fraction of clips with two digits.")] = 0.5,
    places: Annotated[bool, typer.Option(help="The words of two digits also say where these stand.")] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Threads = 1,
) -> None:
    """Train a mini STDiT3 on moving digits.

    The training takes hours on one core. A stopped training continues with the same bits.

    \b
    Examples:
      qdit train video results/mini/training/stdit3-moving-digits
      qdit train video results/mini/training/placed --places --start weights/stdit3-moving-digits-natural.safetensors
    """
    from qdit.mini.training.video import VideoTrainingConfig, train_mini_video

    use_threads(threads)
    config = VideoTrainingConfig(two_objects=two_objects, places=places)
    with on_device(device) as name_of_device:
        typer.echo(train_mini_video(model, out, config=config, until=until, device=name_of_device, start=start))


def train_instruments(
    out: Annotated[Path, typer.Argument(help="Folder for the trained networks.")],
) -> None:
    """Train the instruments of mini-VBench.

    The training takes minutes on one core. The file holds the accuracy of the networks on held-out digits.

    \b
    Example:
      qdit train instruments results/mini/training/mini-vbench
    """
    from qdit.mini.training.video_instruments import train_instruments as train

    typer.echo(train(out))


def train_video_quality(
    out: Annotated[Path, typer.Argument(help="JSON to write.")],
    weights: Annotated[Path, typer.Option(callback=shipped, help="Weights or training checkpoint to measure.")] = Path(
        "weights", f"{MODEL}-natural.safetensors"
    ),
    instruments: Instruments = INSTRUMENTS,
    picture: Annotated[Path | None, typer.Option(help="GIF of twelve of its clips to write.")] = None,
    threads: Threads = 1,
) -> None:
    """Measure how good a mini video model is.

    The command samples 200 clips. It prints four scores as fractions of those of real clips, with the required minimum.
    The file also has all sixteen scores and mFVD.

    \b
    Example:
      qdit train video-quality results/studies/stdit3-moving-digits-quality.json
    """
    from qdit.mini.training.video_quality import BARS, measure_video_files

    use_threads(threads)
    command = f"qdit train video-quality {out}"
    fractions = measure_video_files(weights, instruments, out, picture=picture, command=command)
    for name, bar in BARS.items():
        typer.echo(f"{name:16} {fractions[name]:.3f} of real clips, bar {bar}")


def train_video_room(
    out: Annotated[Path, typer.Argument(help="JSON to write.")],
    weights: Annotated[Path, typer.Option(callback=shipped, help="Weights or training checkpoint to measure.")] = Path(
        "weights", f"{MODEL}-natural.safetensors"
    ),
    instruments: Instruments = INSTRUMENTS,
    threads: Threads = 1,
) -> None:
    """Measure whether damage can lower the scores of a mini video model.

    The command samples the clips of a row of Table 3 in full precision and with RTN at W4A4. A score has room if the
    95 % interval of the paired difference excludes 0. It takes two minutes of one core.

    \b
    Example:
      qdit train video-room results/studies/stdit3-moving-digits-room.json
    """
    from qdit.mini.training.video_room import LEAST, REQUIRED, study_room

    use_threads(threads)
    by_dimension = study_room(weights, instruments, out, command=f"qdit train video-room {out}")
    for name, room in by_dimension.items():
        ends = f"[{room.low:+.4f}, {room.high:+.4f}] {'room' if room.is_there else ''}"
        typer.echo(
            f"{name:24} real {room.real:.4f}, full {room.full:.4f}, RTN W4A4 {room.damaged:.4f}, {ends}".rstrip()
        )
    with_room = sum(room.is_there for room in by_dimension.values())
    typer.echo(f"{with_room} of {len(by_dimension)} have room, at least {REQUIRED} are required")
    for name, least in LEAST.items():
        typer.echo(f"{name} of full precision: {by_dimension[name].full:.3f}, at least {least} is required")
