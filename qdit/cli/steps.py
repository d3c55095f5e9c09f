"""The steps from weights to samples, for images and for clips: calibrate, quantize, sample, features."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.options import (
    EXTRACTOR_WEIGHTS,
    CudaGraph,
    Device,
    Dtype,
    Extractor,
    ExtractorWeights,
    RecordFailure,
    Replicate,
    SameAs,
    Seed,
    Stated,
    StatedCount,
    StatedNumber,
    Threads,
    Vae,
    Weights,
    on_device,
    parse_json_object,
    parse_pairs,
    shipped,
    use_threads,
)
from qdit.cli.sampling import (
    AnyCfgScale,
    AnySampler,
    AnyShift,
    AnySteps,
    Flags,
    Fps,
    Frames,
    Height,
    Labels,
    Suite,
    TextEmbeddings,
    Width,
    calibrate_pipeline,
    clips_of_suite,
    family_of_checkpoint,
    family_of_weights,
    is_pipeline,
    on_gpu_only,
    sampler_of_mode,
    training_texts,
)
from qdit.core.errors import ConfigError


def calibrate(
    weights: Weights,
    out: Annotated[Path, typer.Argument(help="Calibration file to write (.safetensors).")],
    kind: Annotated[
        str,
        typer.Option(help="trajectory, ndtc, ndtc-wide, ndtc-released, uniform, per-step or regression."),
    ] = "trajectory",
    samples: Annotated[
        int | None,
        typer.Option(help="Number of noisy images or clips; per-step divides it by the steps. Default 256, clips 64."),
    ] = None,
    sampler: AnySampler = None,
    steps: AnySteps = None,
    cfg_scale: AnyCfgScale = None,
    shift: AnyShift = None,
    text_embeddings: TextEmbeddings = None,
    frames: Frames = None,
    height: Height = None,
    width: Width = None,
    fps: Fps = None,
    prompts: Annotated[Path | None, typer.Option(help="Pipeline folder: text file with one prompt a line.")] = None,
    arguments: Annotated[
        str, typer.Option(help="Pipeline folder: further arguments of the pipeline's call, as a JSON object.")
    ] = "{}",
    seed: Seed = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Record calibration data.

    The full-precision model samples images or clips. The command records noisy samples on the way, with their timesteps
    and their labels or texts. The weights decide whether the model makes images or clips. A pipeline folder of
    diffusers (FLUX, Wan, …) is called with each prompt of a file, and the inputs of its transformer are recorded.

    \b
    Examples:
      qdit calibrate weights/dit-digits-natural.safetensors trajectory.safetensors --steps 20
      qdit calibrate stdit3.safetensors trajectory.safetensors --text-embeddings text.safetensors --device cuda
      qdit calibrate FLUX.1-dev trajectory.safetensors --prompts prompts.txt --steps 28 --dtype bfloat16 --device cuda
    """
    from qdit.sampling.calibration import CalibrateJob, calibrate_weights_file

    use_threads(threads)
    flags = Flags(
        weights,
        {"steps": steps, "cfg_scale": cfg_scale, "seed": seed, "dtype": dtype},
        {"sampler": sampler},
        {"shift": shift, "frames": frames, "height": height, "width": width, "fps": fps},
        for_clips={"text_embeddings": text_embeddings},
    )
    if is_pipeline(weights, prompts):
        with on_device(device) as name:
            typer.echo(calibrate_pipeline(flags, out, kind, prompts, samples, arguments, name))
        return
    family = flags.family(family_of_weights(weights))
    sampling_protocol = flags.protocol(family, latents=text_embeddings is not None)
    texts = training_texts() if family == "stdit3" else None
    count = samples if samples is not None else 64 if family == "stdit3" else 256
    with on_device(device) as name:
        calibrate_weights_file(CalibrateJob(weights, out, kind, sampling_protocol, count, texts, text_embeddings, name))  # type: ignore[arg-type]
    from qdit.metrics.spoken import calibration_line

    typer.echo(calibration_line(out))


def quantize(
    weights: Weights,
    out: Annotated[Path, typer.Argument(help="Checkpoint folder to write.")],
    method: Annotated[str, typer.Option(help="Name of the method; `qdit methods` lists them.")],
    bits: Annotated[str, typer.Option(help="Weight and activation bits (2 to 8, or 16), e.g. w4a8.")] = "w4a8",
    scope: Annotated[
        str,
        typer.Option(
            help="common: the four linears of a block that all methods quantize; own: those of the method's paper."
        ),
    ] = "common",
    calibration: Annotated[
        list[str] | None, typer.Option(help="Calibration data as kind=path. Repeat it for each kind.")
    ] = None,
    options: Annotated[str, typer.Option(help="Options of the method as a JSON object.")] = "{}",
    allocation: Annotated[
        Path | None, typer.Option(callback=shipped, help="JSON file with a group size per layer (q-dit).")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="Checkpoint that the method corrects (ptqd: one of q-diffusion).")
    ] = None,
    replicate: Replicate = 0,
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

    The checkpoint is a folder with config.json and model.safetensors, which has packed integers. Loading it needs no
    calibration data. Calibration data of other weights are refused. With --record-failure, a method that fails leaves a
    folder with the reason, and tables show this reason. The workflow uses this flag.

    \b
    Example:
      qdit quantize weights/dit-digits-natural.safetensors q-dit-w4a8 --method q-dit --bits w4a8 \\
        --calibration trajectory=trajectory.safetensors --options '{"group_size": 16}'
    """
    from qdit.core.failure import recording
    from qdit.core.run import split_bits
    from qdit.core.streams import replicate_draws
    from qdit.methods.quantize import quantize_weights_file
    from qdit.quant.allocation import read_allocation
    from qdit.quant.folder import read_failure, write_failure
    from qdit.sampling.calibration_set import require_sampled_so

    use_threads(threads)
    option_values = parse_json_object(options, "--options")
    if allocation is not None:
        option_values["allocation"] = read_allocation(allocation)
    weight_bits, activation_bits = split_bits(bits)
    sets = parse_pairs(calibration or [], "--calibration")
    stated = {"sampler": sampler, "steps": steps, "cfg_scale": cfg_scale, "shift": shift, "seed": seed, "dtype": dtype}
    for path in sets.values():
        require_sampled_so(path, stated | {"frames": frames, "height": height, "width": width, "fps": fps})
    if base is not None and record_failure and (failure := read_failure(base)):
        write_failure(out, failure)
        return
    with (
        on_device(device) as name,
        replicate_draws(replicate),
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
            options=option_values,
            base=base,
            device=name,
        )
    from qdit.metrics.spoken import checkpoint_line

    typer.echo(checkpoint_line(out))


def sample(
    checkpoint: Annotated[Path, typer.Argument(help="Folder that `qdit quantize` wrote.")],
    out: Annotated[Path, typer.Argument(help="Folder for the chunks of images or clips.")],
    images: Annotated[int | None, typer.Option(help="Images: number of images of the whole run; default 64.")] = None,
    suite: Suite = None,
    clips_per_prompt: Annotated[
        int | None, typer.Option("--samples", min=1, help="Clips: number of clips of each prompt; default 3.")
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option(help="Samples in a batch and a file. Another size gives other bits. Default 64, clips 21."),
    ] = None,
    shard: Annotated[int, typer.Option(help="Number of the shard to compute, from 0.")] = 0,
    chunks_per_shard: Annotated[int, typer.Option(min=1, help="Number of chunks in a shard.")] = 1_000_000,
    extractor: Annotated[
        str | None, typer.Option(help="Images: also extract features with this network; default: no features.")
    ] = None,
    extractor_weights: ExtractorWeights = EXTRACTOR_WEIGHTS,
    same_as: SameAs = None,
    record_failure: RecordFailure = False,
    mode: Annotated[
        str | None,
        typer.Option(help="Images: simulate (floating point, the default) or integer (packed integers)."),
    ] = None,
    labels: Labels = None,
    text_embeddings: TextEmbeddings = None,
    sampler: AnySampler = None,
    steps: AnySteps = None,
    cfg_scale: AnyCfgScale = None,
    shift: AnyShift = None,
    frames: Frames = None,
    height: Height = None,
    width: Width = None,
    fps: Fps = None,
    seed: Seed = 0,
    vae: Vae = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    cuda_graph: CudaGraph = None,
    threads: Threads = 1,
) -> None:
    """Sample images or clips from a checkpoint.

    The checkpoint decides whether its model makes images or clips. Existing chunks of the same checkpoint, prompts and
    protocol are kept. With --extractor the command also extracts features, as `qdit features` does. In integer mode it
    samples the first chunk also in simulate mode, and records the difference of the latents in the list of chunks. A
    quantizer without an integer kernel is an error. On a GPU integer mode works with each --dtype, on the CPU with
    float32. With --cuda-graph a GPU gets each denoising step as one call; the samples keep their bits. This helps small
    models and small chunks, for which the GPU waits for Python.

    \b
    Examples:
      qdit sample q-dit-w4a8 q-dit-w4a8/samples --images 256 --cfg-scale 1.5 --extractor digit-classifier
      qdit sample q-dit-w4a8 q-dit-w4a8/integer --images 256 --mode integer
      qdit sample fp-xl fp-xl/samples --chunk 50 --vae sd-vae-ft-mse/diffusion_pytorch_model.safetensors \\
        --dtype float16 --device cuda
      qdit sample clips-w4a8 clips-w4a8/samples --suite VBench_full_info.json --samples 5 --chunk 5 \\
        --text-embeddings text.safetensors --vae OpenSora-VAE-v1.2 --dtype bfloat16 --device cuda
    """
    use_threads(threads)
    from qdit.sampling.run import SampleJob

    flags = Flags(
        checkpoint,
        {"steps": steps, "cfg_scale": cfg_scale, "seed": seed, "dtype": dtype},
        {"sampler": sampler, "labels": labels},
        {"shift": shift, "frames": frames, "height": height, "width": width, "fps": fps},
        for_images={"images": images, "extractor": extractor, "mode": mode, "cuda_graph": cuda_graph},
        for_clips={"suite": suite, "samples": clips_per_prompt, "text_embeddings": text_embeddings},
    )
    family, latents = flags.family(family_of_checkpoint(checkpoint)), text_embeddings is not None
    if mode == "integer" and dtype != "float32" and device == "cpu":
        raise ConfigError(
            f"--mode integer with --dtype {dtype} and --device cpu: images are sampled in integers in float32 on the"
            " CPU; leave out --dtype, or give --device cuda"
        )
    sample_in_mode = sampler_of_mode(mode or "simulate")
    is_clips = family == "stdit3"
    with on_device(device) as name:
        sample_in_mode(
            SampleJob(
                checkpoint,
                out,
                flags.protocol(family, latents=latents),
                0 if is_clips else 64 if images is None else images,
                chunk if chunk is not None else 21 if is_clips else 64,
                shard,
                chunks_per_shard,
                prompts=clips_of_suite(suite, clips_per_prompt or 3, latents=latents) if is_clips else None,
                embeddings=text_embeddings,
                vae=vae,
                device=name,
                record_failure=record_failure,
                same_as=same_as,
                graphed=on_gpu_only(cuda_graph, name),
            )
        )
        if extractor is not None:
            from qdit.metrics.extraction import extract_file

            extract_file(out, shard, extractor, extractor_weights, device=name)
    from qdit.metrics.spoken import samples_line

    typer.echo(samples_line(out) + (f"; features of {extractor}" if extractor else ""))


def features(
    samples: Annotated[Path, typer.Argument(help="Folder of chunks that `qdit sample` made.")],
    shard: Annotated[int | None, typer.Option(help="Number of the shard; default: all shards of the folder.")] = None,
    extractor: Extractor = "digit-classifier",
    extractor_weights: ExtractorWeights = EXTRACTOR_WEIGHTS,
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Extract the features of samples.

    The command writes features-NNN.npz beside the list of chunks of each shard. `qdit evaluate` reads these files.
    Existing features of the same chunks and extractor are kept.

    \b
    Example:
      qdit features q-dit-w4a8/samples --shard 0
    """
    from qdit.metrics.extraction import extract_file

    use_threads(threads)
    with on_device(device) as name:
        extract_file(samples, shard, extractor, extractor_weights, device=name)
    shards = "all shards" if shard is None else f"shard {shard}"
    typer.echo(f"{samples}: features of {extractor} for {shards}")
