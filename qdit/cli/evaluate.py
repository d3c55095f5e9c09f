"""Commands that score samples and write metrics.json.

Samples hold their protocol; a flag about it can only repeat it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qdit.cli.options import (
    EXTRACTOR_WEIGHTS,
    Device,
    Extractor,
    ExtractorWeights,
    Replicate,
    Stated,
    StatedCount,
    StatedNumber,
    StatedVae,
    Threads,
    on_device,
    parse_pairs,
    shipped,
    use_blas_threads,
    use_threads,
)
from qdit.cli.sampling import INSTRUMENTS, Suite, prompts_of
from qdit.core.errors import ConfigError

if TYPE_CHECKING:
    from qdit.metrics.job import EvaluateJob

ALEXNET = Path("weights/paper/alexnet-owt-7be5be79.pth")
ALEXNET_LINEAR = Path("weights/paper/lpips-v0.1/alex.pth")
Setting = Annotated[str, typer.Option(help="Name of the setting, for the record.")]
Model = Annotated[str, typer.Option(help="Name of the model, for the record.")]
Form = Annotated[str, typer.Option(help="Form of the weights, for the record.")]
Label = Annotated[str, typer.Option(help="Label of the method, for the record.")]
FpSamples = Annotated[Path | None, typer.Option(help="Samples of full precision with the same noise.")]
Resamples = Annotated[int, typer.Option(min=20, help="Resampled values of each metric behind its interval.")]
OF_IMAGES = {
    name: f"--{name.replace('_', '-')}"
    for name in (
        *("reference_file", "reference_name", "judge_reference"),
        *("extractor", "extractor_weights", "lpips", "judged"),
    )
}
"""Parameter → flag of `qdit evaluate` that only images have."""
OF_CLIPS = {"suite": "--suite", "clips_per_prompt": "--samples", "instruments": "--instruments"}
"""Parameter → flag of `qdit evaluate` that only clips have."""


def family_of_samples(samples: Path) -> str:
    """Name of the family that made the samples of a folder."""
    from qdit.metrics.samples import listed_shards

    origin = listed_shards(samples)[0].origin
    return str(origin.get("family", "dit")) if isinstance(origin, dict) else "dit"


def has_clips(samples: Path) -> bool:
    """Whether the samples of a folder are clips, made by this suite or imported."""
    from qdit.metrics.samples import listed_shards

    origin = listed_shards(samples)[0].origin
    if not isinstance(origin, dict) or origin.get("family") == "diffusers":
        return False
    return origin.get("family") == "stdit3" or origin.get("prompts") is not None


def decoder_of(vae: Path | None, family: str) -> str | None:
    """The name that a protocol gives to a VAE with these files; None without a VAE."""
    if vae is None:
        return None
    from qdit.models.vae_files import vae_sha256, video_vae_sha256

    kind, digest = ("OpenSoraVAE", video_vae_sha256) if family == "stdit3" else ("AutoencoderKL", vae_sha256)
    return f"{kind} sha256:{digest(vae)}"


def evaluate(
    context: typer.Context,
    samples: Annotated[Path, typer.Argument(help="Folder of chunks, of images with their features.")],
    out: Annotated[Path, typer.Argument(help="metrics.json to write.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint the samples came from; imported samples have none.")
    ] = None,
    fp_samples: FpSamples = None,
    reference_file: Annotated[Path | None, typer.Option(help="Images: statistics that `qdit reference` made.")] = None,
    extractor: Extractor = "digit-classifier",
    extractor_weights: ExtractorWeights = EXTRACTOR_WEIGHTS,
    reference_name: Annotated[str, typer.Option(help="Name of the reference, for the record.")] = "digits",
    lpips: Annotated[Path | None, typer.Option(help="Images: the file that `qdit perceptual` wrote.")] = None,
    judged: Annotated[
        list[str] | None, typer.Option(help="Images: judge=file that `qdit judge` wrote; repeat for each judge.")
    ] = None,
    judge_reference: Annotated[
        list[str] | None,
        typer.Option(help="Images: dino=file of real images that `qdit reference --extractor dinov2` wrote."),
    ] = None,
    suite: Suite = None,
    clips_per_prompt: Annotated[int, typer.Option("--samples", min=1, help="Clips: number for each prompt.")] = 3,
    instruments: Annotated[Path, typer.Option(callback=shipped, help="Clips: networks of mini-VBench.")] = INSTRUMENTS,
    setting: Setting = "by-hand",
    model: Model = "by-hand",
    form: Form = "natural",
    label: Label = "by-hand",
    replicate: Replicate = 0,
    bits: Annotated[str | None, typer.Option(help="Imported samples: bits that you claim for them, e.g. w4a8.")] = None,
    scope: Annotated[str | None, typer.Option(help="Imported samples: scope of the table that shows them.")] = None,
    resamples: Resamples = 200,
    images: StatedCount = None,
    sampler: Stated = None,
    labels: Stated = None,
    steps: StatedCount = None,
    cfg_scale: StatedNumber = None,
    shift: StatedNumber = None,
    seed: StatedCount = None,
    frames: StatedCount = None,
    height: StatedCount = None,
    width: StatedCount = None,
    fps: StatedCount = None,
    vae: StatedVae = None,
    dtype: Stated = None,
    threads: Threads = 1,
) -> None:
    """Score samples, of images or clips.

    The command reads from the samples how they were made. A flag about this must agree with them.
    Images get FID, sFID, IS, precision and recall. These use features that `qdit sample --extractor` or `qdit features`
    wrote. Clips get mini-VBench's sixteen dimensions and mFVD. With --fp-samples both also get the paired
    metrics: FD-FP, MSE-FP, MIND-FP, PSNR-FP and SSIM-FP, and images with --lpips also LPIPS-FP. With --judged images
    get CLIP score, ImageReward and FD-DINOv2.

    \b
    Examples:
      qdit evaluate q-dit-w4a8/samples metrics.json --checkpoint q-dit-w4a8 --reference-file reference.npz \\
        --fp-samples fp/samples
      qdit evaluate clips metrics.json --checkpoint stdit3-w4a8 --fp-samples fp/clips
      qdit evaluate imported metrics.json --reference-file reference.npz
    """
    use_blas_threads(threads)

    from qdit.metrics.job import EvaluateJob, RunName

    family = family_of_samples(samples)
    stated = {"sampler": sampler, "steps": steps, "cfg_scale": cfg_scale, "shift": shift, "seed": seed}
    stated |= {"labels": labels, "frames": frames, "height": height, "width": width, "fps": fps}
    stated |= {"decoder": decoder_of(vae, family), "dtype": dtype}
    name = RunName(setting, model, form, label, replicate)
    claimed, clips = claims(bits, scope, samples, family), has_clips(samples)
    refuse_flags_of_others(context, samples, clips=clips)
    job = EvaluateJob(samples, checkpoint, out, name, fp_samples, resamples, images, stated, claimed)
    if not clips:
        judges = parse_pairs(judged or [], "--judged"), parse_pairs(judge_reference or [], "--judge-reference")
        score_images(job, extractor, extractor_weights, reference_name, reference_file, lpips, judges)
    else:
        score_clips(job, suite, clips_per_prompt, instruments, threads)
    say_metrics(out)


def refuse_flags_of_others(context: typer.Context, samples: Path, *, clips: bool) -> None:
    """Raise ConfigError for a flag of images if the samples are clips, and the reverse. It would have no effect."""
    for name, flag in (OF_IMAGES if clips else OF_CLIPS).items():
        if str(getattr(context.get_parameter_source(name), "name", "DEFAULT")) == "COMMANDLINE":
            kind = "clips" if clips else "images"
            raise ConfigError(f"{flag}: {samples} holds {kind}, and {kind} have no such option; leave it out")


def claims(bits: str | None, scope: str | None, samples: Path, family: str) -> dict[str, Any]:
    """Bits and scope that the user claims for imported samples.

    ConfigError for samples of this suite, whose checkpoint holds bits and scope, and for a scope without bits.
    """
    from qdit.core.run import IMPORTED, split_bits

    if scope is not None:
        from qdit.methods.method import SCOPES

        if scope not in SCOPES:
            raise ConfigError(f"--scope {scope}: allowed are {', '.join(SCOPES)}")
        if bits is None:
            raise ConfigError(
                f"--scope {scope}: is for imported samples, together with --bits; add it, or leave it out"
            )
    if bits is None:
        return {}
    if family != IMPORTED:
        raise ConfigError(f"--bits {bits}: {samples} are no imported samples, their checkpoint says it; leave it out")
    weight_bits, activation_bits = split_bits(bits)
    return {"weight_bits": weight_bits, "activation_bits": activation_bits, "scope": scope or "common"}


def say_metrics(out: Path) -> None:
    """Print the main numbers of a metrics.json."""
    from qdit.metrics.spoken import metrics_lines

    for line in metrics_lines(out):
        typer.echo(line)


def score_images(
    job: "EvaluateJob",
    extractor: str,
    weights: Path,
    reference_name: str,
    reference_file: Path | None,
    lpips: Path | None = None,
    judges: "tuple[Mapping[str, Path], Mapping[str, Path]]" = ({}, {}),
) -> None:
    """Score images by their features, a reference and the judges' files, without loading torch."""
    from qdit.metrics.run import Evaluator, evaluate_run

    if reference_file is None:
        raise ConfigError("--reference-file: images need the statistics of real ones; make them with qdit reference")
    evaluate_run(job, Evaluator(extractor, weights, reference_name, reference_file, lpips, *judges))


def score_clips(job: "EvaluateJob", suite: Path | None, samples: int, instruments: Path, threads: int) -> None:
    """Score clips by the networks of mini-VBench (*instruments*)."""
    from qdit.metrics.clip_run import evaluate_clips
    from qdit.mini.vbench.run import MiniVBench

    use_threads(threads)
    evaluate_clips(job, MiniVBench(prompts_of(suite), samples, instruments))


def score_by_vbench(
    samples: Annotated[Path, typer.Argument(help="Folder of chunks that `qdit sample` made.")],
    out: Annotated[Path, typer.Argument(help="metrics.json to write.")],
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint the clips came from.")],
    results: Annotated[Path, typer.Option(help="All sixteen dimensions of the run, as qdit vbench gather wrote them.")],
    listing: Annotated[Path, typer.Option(help="The list that qdit vbench clips wrote.")],
    suite: Annotated[Path, typer.Option(help="full_info JSON of the prompts.")],
    clips_per_prompt: Annotated[int, typer.Option("--samples", min=1, max=5, help="Clips of each prompt.")] = 5,
    fp_samples: FpSamples = None,
    setting: Setting = "by-hand",
    model: Model = "by-hand",
    form: Form = "natural",
    label: Label = "by-hand",
    replicate: Replicate = 0,
    resamples: Resamples = 200,
    count: StatedCount = None,
    steps: StatedCount = None,
    cfg_scale: StatedNumber = None,
    shift: StatedNumber = None,
    seed: StatedCount = None,
    frames: StatedCount = None,
    height: StatedCount = None,
    width: StatedCount = None,
    fps: StatedCount = None,
    vae: StatedVae = None,
    dtype: Stated = None,
) -> None:
    """Make a run's metrics.json from VBench's results.

    All sixteen dimensions must be there. Each must have scored every clip of the suite, and exactly the clips of this
    run. With --fp-samples the command also computes MSE-FP. It reads from the clips how they were made.

    \b
    Example:
      qdit vbench score q-dit/samples metrics.json --checkpoint q-dit --results vbench.json --listing clips.json \\
        --suite VBench_full_info.json --fp-samples fp/samples
    """
    from qdit.metrics.clip_run import evaluate_clips
    from qdit.metrics.job import EvaluateJob, RunName
    from qdit.metrics.vbench.run import VBenchScores

    stated: dict[str, Any] = {"steps": steps, "cfg_scale": cfg_scale, "shift": shift, "seed": seed, "dtype": dtype}
    stated |= {"frames": frames, "height": height, "width": width, "fps": fps, "decoder": decoder_of(vae, "stdit3")}
    name = RunName(setting, model, form, label, replicate)
    job = EvaluateJob(samples, checkpoint, out, name, fp_samples, resamples, count, stated)
    evaluate_clips(job, VBenchScores(suite, clips_per_prompt, results, listing))
    say_metrics(out)


def perceptual(
    samples: Annotated[Path, typer.Argument(help="Folder of images.")],
    fp_samples: Annotated[Path, typer.Argument(help="Images of full precision with the same noise.")],
    out: Annotated[Path | None, typer.Option(help="File to write; default: lpips.npz in the folder of images.")] = None,
    network: Annotated[str, typer.Option(help="alex or vgg.")] = "alex",
    backbone: Annotated[Path, typer.Option(help="Weights of the network, torchvision's file.")] = ALEXNET,
    linear: Annotated[Path, typer.Option(help="The authors' linear weights, version 0.1.")] = ALEXNET_LINEAR,
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Compare images with those of full precision by LPIPS.

    LPIPS is a distance of the features of AlexNet or VGG16. `qdit fetch --profile paper` downloads the weights. The
    file has a value for each image; `qdit evaluate --lpips` reads it.

    \b
    Example:
      qdit perceptual q-dit-w4a8/samples fp/samples --device cuda
    """
    from qdit.metrics.perceptual_file import FILE
    from qdit.metrics.perceptual_run import LpipsWeights, score_run

    use_threads(threads)
    path = samples / FILE if out is None else out
    with on_device(device) as name:
        count = score_run(samples, fp_samples, path, LpipsWeights(network, backbone, linear), device=name)
    typer.echo(f"{path}: no images" if count is None else f"{path}: LPIPS ({network}) of {count} images")
