"""The steps of the workflow as commands of `qdit`: calibrate, quantize, sample, features, reference, evaluate."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qdit.cli.options import Device, Dtype, Vae, on_device, shipped
from qdit.core.errors import ConfigError

if TYPE_CHECKING:
    from qdit.sampling.protocol import Protocol

EXTRACTOR_WEIGHTS = Path("weights/digit-classifier.safetensors")

Weights = Annotated[
    Path, typer.Argument(callback=shipped, help="Full-precision weights: .safetensors, official .pt, diffusers folder.")
]
Sampler = Annotated[str, typer.Option(help="ddim (η = 0) or ddpm (ancestral, learned variance).")]
Steps = Annotated[int, typer.Option(help="Sampling steps, 1 to 1000.")]
CfgScale = Annotated[float, typer.Option(help="Classifier-free guidance scale, 1 (no guidance) to 100.")]
Seed = Annotated[int, typer.Option(help="Root seed of all noise and labels.")]
Threads = Annotated[
    int, typer.Option(min=1, envvar=["QDIT_THREADS", "OMP_NUM_THREADS"], help="CPU threads of one process.")
]
Extractor = Annotated[str, typer.Option(help="Network whose features score the images.")]
ExtractorWeights = Annotated[Path, typer.Option(callback=shipped, help="Weights of the extractor.")]
REPEATED = "Only to repeat what the files say of their sampling."
Stated = Annotated[str | None, typer.Option(help=REPEATED)]
StatedNumber = Annotated[float | None, typer.Option(help=REPEATED)]
StatedCount = Annotated[int | None, typer.Option(help=REPEATED)]
StatedVae = Annotated[Path | None, typer.Option(callback=shipped, help=REPEATED)]
RecordFailure = Annotated[
    bool,
    typer.Option("--record-failure", help="Write down what the method fails at as its result; exit code 0."),
]


def check_threads(threads: int) -> None:
    """ConfigError for more threads than this machine has cores: torch ends in a segfault or a standstill."""
    if threads > (cores := os.cpu_count() or 1):
        raise ConfigError(f"--threads {threads}: this machine has {cores} cores; give 1 to {cores}")


def use_threads(threads: int) -> None:
    """Fix the number of CPU threads of torch."""
    check_threads(threads)
    import torch

    torch.set_num_threads(threads)


def use_blas_threads(threads: int) -> None:
    """Fix the number of CPU threads of numpy, which reads it once, when it is imported."""
    check_threads(threads)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)


def protocol(
    sampler: str, steps: int, cfg_scale: float, seed: int, dtype: str = "float32", vae: Path | None = None
) -> "Protocol":
    """Protocol object of the sampling flags."""
    from qdit.sampling.protocol import Protocol, decoder_name

    return Protocol(sampler, steps, cfg_scale, seed, dtype, decoder_name(vae))  # type: ignore[arg-type]


def parse_json_object(text: str, flag: str) -> dict[str, Any]:
    """The JSON object that a flag holds."""
    from qdit.core.files import parse_json

    try:
        value = parse_json(text)
    except ValueError as problem:
        raise ConfigError(f"{flag} {text!r}: not valid JSON ({problem}); example: '{{\"group_size\": 16}}'") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{flag} {text!r}: expected a JSON object; example: '{{\"group_size\": 16}}'")
    return value


def parse_pairs(pairs: list[str], flag: str) -> dict[str, Path]:
    """`kind=path` flags as a dictionary."""
    found = {}
    for pair in pairs:
        kind, separator, path = pair.partition("=")
        if not (separator and path):
            raise ConfigError(f"{flag} {pair!r}: expected kind=path, e.g. trajectory=trajectory.safetensors")
        found[kind] = Path(path)
    return found


def calibrate(
    weights: Weights,
    out: Annotated[Path, typer.Argument(help="Calibration file to write (.safetensors).")],
    kind: Annotated[
        str, typer.Option(help="trajectory, ndtc, ndtc-wide, uniform or per-step; see `qdit methods`.")
    ] = "trajectory",
    samples: Annotated[int, typer.Option(help="Number of noisy images; per-step shares them among steps.")] = 256,
    sampler: Sampler = "ddim",
    steps: Steps = 20,
    cfg_scale: CfgScale = 1.0,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Record calibration data.

    Noisy images, timesteps and labels along the full-precision model's own trajectories.

    \b
    Example:
      qdit calibrate weights/dit-digits-natural.safetensors trajectory.safetensors --steps 20
    """
    from qdit.sampling.calibration import CalibrateJob, calibrate_weights_file

    use_threads(threads)
    chosen = protocol(sampler, steps, cfg_scale, seed, dtype)
    with on_device(device) as place:
        calibrate_weights_file(CalibrateJob(weights, out, kind, chosen, samples, device=place))


def quantize(
    weights: Weights,
    out: Annotated[Path, typer.Argument(help="Checkpoint folder to write.")],
    method: Annotated[str, typer.Option(help="Method; `qdit methods` shows them.")],
    bits: Annotated[str, typer.Option(help="Weight and activation bits (2 to 8, or 16), e.g. w4a8.")] = "w4a8",
    scope: Annotated[
        str, typer.Option(help="common: four linears of a block; own: all that the paper does.")
    ] = "common",
    calibration: Annotated[list[str] | None, typer.Option(help="Calibration data as kind=path; repeatable.")] = None,
    options: Annotated[str, typer.Option(help="Options of the method as a JSON object.")] = "{}",
    allocation: Annotated[
        Path | None, typer.Option(callback=shipped, help="JSON file with a group size per layer (q-dit).")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="Checkpoint that the method corrects (ptqd: one of q-diffusion).")
    ] = None,
    record_failure: RecordFailure = False,
    sampler: Stated = None,
    steps: StatedCount = None,
    cfg_scale: StatedNumber = None,
    shift: StatedNumber = None,
    seed: StatedCount = None,
    frames: StatedCount = None,
    height: StatedCount = None,
    width: StatedCount = None,
    fps: StatedCount = None,
    dtype: Stated = None,
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Quantize weights into a checkpoint.

    The folder holds config.json and model.safetensors with packed integers; loading it needs no calibration data.
    With --record-failure (the workflow's way) a method that fails leaves a folder that says why, and the steps after
    it hand that on to the tables. Calibration data of other weights are refused; what is said of their sampling can
    only repeat what the files say.

    \b
    Example:
      qdit quantize weights/dit-digits-natural.safetensors q-dit-w4a8 --method q-dit --bits w4a8 \\
        --calibration trajectory=trajectory.safetensors --options '{"group_size": 16}'
    """
    from qdit.core.failure import recording
    from qdit.core.run import split_bits
    from qdit.methods.quantize import quantize_weights_file
    from qdit.quant.allocation import read_allocation
    from qdit.quant.folder import read_failure, write_failure
    from qdit.sampling.calibration_set import require_sampled_so

    use_threads(threads)
    chosen = parse_json_object(options, "--options")
    if allocation is not None:
        chosen["allocation"] = read_allocation(allocation)
    weight_bits, activation_bits = split_bits(bits)
    sets = parse_pairs(calibration or [], "--calibration")
    stated = {"sampler": sampler, "steps": steps, "cfg_scale": cfg_scale, "shift": shift, "seed": seed, "dtype": dtype}
    for path in sets.values():
        require_sampled_so(path, stated | {"frames": frames, "height": height, "width": width, "fps": fps})
    if base is not None and record_failure and (failure := read_failure(base)):
        write_failure(out, failure)
        return
    with (
        on_device(device) as place,
        recording("quantize", lambda failure: write_failure(out, failure), enabled=record_failure),
    ):
        quantize_weights_file(
            weights,
            out,
            method,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            scope=scope,  # type: ignore[arg-type]
            calibration=sets,
            options=chosen,
            base=base,
            device=place,
        )


def sample(
    checkpoint: Annotated[Path, typer.Argument(help="Folder that `qdit quantize` made.")],
    out: Annotated[Path, typer.Argument(help="Folder for the chunks of images.")],
    images: Annotated[int, typer.Option(help="Images of the whole run.")] = 64,
    chunk: Annotated[int, typer.Option(help="Images per batch and file; part of a run's identity.")] = 64,
    shard: Annotated[int, typer.Option(help="Which range of chunks to compute, from 0.")] = 0,
    chunks_per_shard: Annotated[int, typer.Option(help="Chunks in one shard.")] = 1_000_000,
    extractor: Annotated[
        str | None, typer.Option(help="Extract features right after, with this network; default: none are.")
    ] = None,
    extractor_weights: ExtractorWeights = EXTRACTOR_WEIGHTS,
    record_failure: RecordFailure = False,
    mode: Annotated[
        str, typer.Option(help="simulate: quantize-dequantize in floating point; integer: packed weights.")
    ] = "simulate",
    sampler: Sampler = "ddim",
    steps: Steps = 20,
    cfg_scale: CfgScale = 1.0,
    seed: Seed = 0,
    vae: Vae = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Sample images from a checkpoint.

    Chunks that are already there for the same checkpoint and protocol are kept. With --extractor the same process
    then does what `qdit features` does. In integer mode the first chunk is sampled simulated too, and the list of
    chunks says how far the latents differ; quantizers that have no integer kernel are an error.

    \b
    Examples:
      qdit sample q-dit-w4a8 q-dit-w4a8/samples --images 256 --cfg-scale 1.5 --extractor digit-classifier
      qdit sample q-dit-w4a8 q-dit-w4a8/integer --images 256 --mode integer
      qdit sample fp-xl fp-xl/samples --chunk 50 --vae sd-vae-ft-mse/diffusion_pytorch_model.safetensors \\
        --dtype float16 --device cuda
    """
    use_threads(threads)
    from qdit.sampling.run import SampleJob

    if mode == "simulate":
        from qdit.sampling.run import sample_checkpoint as sample_in_mode
    elif mode == "integer":
        from qdit.sampling.integer import sample_checkpoint as sample_in_mode
    else:
        raise ConfigError(f"--mode {mode!r}: allowed are simulate and integer")
    if mode == "integer" and (dtype, device) != ("float32", "cpu"):
        raise ConfigError(
            f"--mode integer with --dtype {dtype} and --device {device}: images are sampled in integers in float32 on"
            " the CPU only; `qdit bench` times the kernels of GPUs"
        )
    with on_device(device) as place:
        sample_in_mode(
            SampleJob(
                checkpoint,
                out,
                protocol(sampler, steps, cfg_scale, seed, dtype),
                images,
                chunk,
                shard,
                chunks_per_shard,
                vae=vae,
                device=place,
                record_failure=record_failure,
            )
        )
        if extractor is not None:
            from qdit.metrics.extraction import extract_file

            extract_file(out, shard, extractor, extractor_weights, device=place)


def features(
    samples: Annotated[Path, typer.Argument(help="Folder of chunks that `qdit sample` made.")],
    shard: Annotated[int | None, typer.Option(help="Shard whose images are meant; default: all in the folder.")] = None,
    extractor: Extractor = "digit-classifier",
    extractor_weights: ExtractorWeights = EXTRACTOR_WEIGHTS,
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Extract the features of samples.

    Writes features-NNN.npz beside each shard's list of chunks; `qdit evaluate` reads them. Features that are already
    there for the same chunks and extractor are kept.

    \b
    Example:
      qdit features q-dit-w4a8/samples --shard 0
    """
    from qdit.metrics.extraction import extract_file

    use_threads(threads)
    with on_device(device) as place:
        extract_file(samples, shard, extractor, extractor_weights, device=place)
