"""Reading of the flags of sampling commands: the model's family, the protocol and the prompts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qdit.cli.options import shipped
from qdit.core.errors import ConfigError

if TYPE_CHECKING:
    from qdit.mini.vbench.suites import Prompt
    from qdit.sampling.flow_protocol import FlowProtocol
    from qdit.sampling.protocol import Protocol, Sampled
    from qdit.sampling.run import SampleJob

INSTRUMENTS = Path("weights/mini-vbench.safetensors")
MODELS = {"dit": "an image model (DiT)", "stdit3": "a video model (STDiT3)"}
"""Name of a family, as files say it → what its models are called."""
SAMPLES = {"dit": "images", "stdit3": "clips"}
CALIBRATION_PROMPTS, CALIBRATION_SEED = 256, 31

Suite = Annotated[
    Path | None,
    typer.Option(callback=shipped, help="Clips: prompts, a full_info JSON; default: those of mini-VBench."),
]
ClipsPerPrompt = Annotated[int, typer.Option("--samples", min=1, help="Number of clips of each prompt.")]
Shift = Annotated[float, typer.Option(help="Shift of the timesteps towards noise; 1 spaces them evenly.")]

TextEmbeddings = Annotated[
    Path | None, typer.Option(help="Latent clips: text embeddings of the prompts, a file of `qdit video embed`.")
]
AnySampler = Annotated[
    str | None, typer.Option("--sampler", help="Images: ddim (no added noise) or ddpm (ancestral); default ddim.")
]
AnySteps = Annotated[
    int | None,
    typer.Option("--steps", help="Number of sampling steps, 1 to 1000. Default: images 20, clips 15, latent clips 30."),
]
AnyCfgScale = Annotated[
    float | None,
    typer.Option("--cfg-scale", help="Guidance scale, 1 (none) to 100. Default: images 1, clips 2.5, latent clips 7."),
]
Labels = Annotated[
    str | None,
    typer.Option("--labels", help="Images: classes random (the default) or balanced (each equally often)."),
]
AnyShift = Annotated[
    float | None,
    typer.Option("--shift", help="Clips: shift of timesteps towards noise. Default 2.5; latent clips: by size."),
]
Frames = Annotated[int | None, typer.Option(help="Clips: number of frames. Default 8; latent clips: 51.")]
Height = Annotated[int | None, typer.Option(help="Clips: height in pixels. Default 16; latent clips: 240.")]
Width = Annotated[int | None, typer.Option(help="Clips: width in pixels. Default 16; latent clips: 426.")]
Fps = Annotated[int | None, typer.Option(help="Clips: frames per second. Default 8; latent clips: 24.")]


@dataclass(frozen=True)
class Flags:
    """Flags of a command that samples; None means that a flag is not set.

    `common`, `images` and `clips` hold fields of a protocol: those of both families, only of images, and only of clips.
    `for_images` and `for_clips` hold flags of one family that are no protocol fields.
    """

    owner: Path
    common: Mapping[str, Any]
    images: Mapping[str, Any]
    clips: Mapping[str, Any]
    for_images: Mapping[str, Any] = field(default_factory=dict)
    for_clips: Mapping[str, Any] = field(default_factory=dict)

    def family(self, named: str | None) -> str:
        """The model's family, given its name from the file or None if the file could not be read.

        Without a name it is the family that fits the flags. ConfigError names the first flag that the family does not
        have.
        """
        clips = {**self.clips, **self.for_clips}
        if named is None:
            return "stdit3" if any(value is not None for value in clips.values()) else "dit"
        foreign = clips if named == "dit" else {**self.images, **self.for_images}
        for name, value in foreign.items():
            if value is not None:
                raise ConfigError(
                    f"--{name.replace('_', '-')}: {self.owner} holds {MODELS[named]}, which makes {SAMPLES[named]} and"
                    " has no such option; leave it out"
                )
        return named

    def protocol(self, family: str, *, latents: bool) -> "Sampled":
        """Make the family's protocol with the values of these flags. Fields without a flag get their usual value."""
        if family == "stdit3":
            return clip_protocol(latents=latents, **self.common, **self.clips)
        return image_protocol(**self.common, **self.images)


def image_protocol(**values: Any) -> "Protocol":
    """Make a protocol of images. A value None becomes the usual one: 20 steps of DDIM without guidance."""
    from qdit.sampling.protocol import Protocol

    usual: dict[str, Any] = {"sampler": "ddim", "steps": 20, "cfg_scale": 1.0}
    return Protocol(**usual | {name: value for name, value in values.items() if value is not None})


def clip_protocol(*, latents: bool, **values: Any) -> "FlowProtocol":
    """Make a protocol of clips.

    A value None becomes the usual one: that of the moving digits for models of pixels, that of Open-Sora 1.2 for models
    of latents.
    """
    from dataclasses import replace

    from qdit.sampling.flow_protocol import FlowProtocol

    usual = FlowProtocol() if latents else flow(15, 2.5, 2.5, 0)
    return replace(usual, **{name: value for name, value in values.items() if value is not None})


def flow(steps: int, cfg_scale: float, shift: float, seed: int) -> "FlowProtocol":
    """Make a protocol of clips that have the size of the moving digits."""
    from qdit.mini.data.moving_digits import FPS, FRAMES, SIZE
    from qdit.sampling.flow_protocol import FlowProtocol

    size: dict[str, Any] = {"frames": FRAMES, "height": SIZE, "width": SIZE, "fps": FPS}
    return FlowProtocol(**size, steps=steps, cfg_scale=cfg_scale, shift=shift, seed=seed)


def protocol(
    sampler: str, steps: int, cfg_scale: float, seed: int, dtype: str = "float32", vae: Path | None = None
) -> "Protocol":
    """Make a protocol of images from values that are all given."""
    from qdit.sampling.protocol import Protocol, decoder_name

    return Protocol(sampler, steps, cfg_scale, seed, dtype, decoder_name(vae))  # type: ignore[arg-type]


def family_of_checkpoint(folder: Path) -> str | None:
    """Family of a quantized checkpoint's model: `dit`, `stdit3` or `diffusers`.

    None if the folder does not say it; then a later step reports the error.
    """
    from qdit.core.errors import QditError
    from qdit.quant.folder import read_config

    try:
        family = read_config(folder)["model"]["family"]
    except (QditError, OSError, KeyError, TypeError):
        return None
    return family if family in MODELS else None


def family_of_weights(path: Path) -> str | None:
    """Family of full-precision weights. None if the file is unreadable; then a later step reports the error.

    For safetensors only the header is read.
    """
    from safetensors import SafetensorError, safe_open

    from qdit.core.errors import QditError
    from qdit.core.files import METADATA_KEY, parse_json
    from qdit.models.loading import FAMILY_KEY, read_file
    from qdit.models.stdit3_state import is_official_folder, is_stdit3_state
    from qdit.models.weights_files import model_folder

    try:
        if path.is_dir():
            return "stdit3" if is_official_folder(model_folder(path)) else "dit"
        if path.suffix != ".safetensors":
            return "stdit3" if is_stdit3_state(read_file(path)[0]) else "dit"
        with safe_open(path, framework="np") as data:
            header, names = parse_json((data.metadata() or {}).get(METADATA_KEY, "null")), list(data.keys())
    except (QditError, SafetensorError, OSError, ValueError):
        return None
    if isinstance(header, dict) and header.get(FAMILY_KEY) in MODELS:
        return str(header[FAMILY_KEY])
    return "stdit3" if is_stdit3_state(dict.fromkeys(names)) else "dit"


def sampler_of_mode(mode: str) -> "Callable[[SampleJob], object]":
    """The function that samples in a mode; ConfigError for an unknown mode."""
    if mode == "simulate":
        from qdit.sampling.run import sample_checkpoint
    elif mode == "integer":
        from qdit.sampling.integer import sample_checkpoint
    else:
        raise ConfigError(f"--mode {mode!r}: allowed are simulate and integer")
    return sample_checkpoint


def on_gpu_only(cuda_graph: bool | None, device: str) -> bool:
    """Whether --cuda-graph is set; ConfigError if the device is not a GPU."""
    if cuda_graph and not device.startswith("cuda"):
        raise ConfigError(
            f"--cuda-graph with --device {device}: only GPUs have graphs; give --device cuda or leave it out"
        )
    return bool(cuda_graph)


def prompts_of(suite: Path | None) -> "list[Prompt]":
    """The prompts of a suite file; without a file the prompts of mini-VBench."""
    from qdit.mini.vbench.suites import all_prompts, read_full_info

    return all_prompts() if suite is None else read_full_info(suite)


def clips_of_suite(suite: Path | None, count: int, *, latents: bool) -> list[tuple[str, int]]:
    """List of (prompt, number) for every clip of a run, with `count` clips of each prompt.

    ConfigError for a model of latents without a suite.
    """
    from qdit.metrics.vbench.prompts import clips_of_texts, suite_prompts
    from qdit.mini.vbench.run import clips_of_prompts

    if not latents:
        return clips_of_prompts(prompts_of(suite), count)
    if suite is None:
        raise ConfigError("--text-embeddings without --suite: name the full_info JSON whose prompts were embedded")
    return clips_of_texts(suite_prompts(suite), count)


def training_texts() -> Any:
    """Prompts for calibration.

    They are drawn by the same rule as the training prompts, with a seed that no suite has.
    """
    from qdit.mini.data.moving_digits import draw_scenario
    from qdit.mini.data.moving_digits_prompts import encode

    return encode(tuple(draw_scenario(CALIBRATION_SEED, index) for index in range(CALIBRATION_PROMPTS)))


def is_pipeline(weights: Path, prompts: Path | None) -> bool:
    """Whether `qdit calibrate` must call a pipeline, because `weights` is a pipeline folder.

    ConfigError for a pipeline without prompts, and for prompts without a pipeline.
    """
    from qdit.sampling.pipeline_folder import is_pipeline_folder

    is_folder = is_pipeline_folder(weights)
    if is_folder and prompts is None:
        raise ConfigError(f"{weights}: is the folder of a pipeline; give --prompts, a text file with one prompt a line")
    if prompts is not None and not is_folder:
        raise ConfigError(
            f"--prompts: {weights} is not a pipeline folder of diffusers with a transformer such as FLUX; leave it out"
        )
    return is_folder


def calibrate_pipeline(
    flags: Flags,
    out: Path,
    kind: str,
    prompts: Path | None,
    samples: int | None,
    arguments: str,
    device: str,
) -> str:
    """Record calibration data from the pipeline that the flags name. Return the line that says what was made.

    ConfigError for a flag that no pipeline has.
    """
    from qdit.cli.options import parse_json_object
    from qdit.sampling.pipeline_folder import PipelineJob, calibrate_pipeline_folder, read_prompts

    assert prompts is not None
    common = dict(flags.common)
    steps, seed, dtype = (common.pop(name) for name in ("steps", "seed", "dtype"))
    others = {**common, **flags.images, **flags.clips, **flags.for_images, **flags.for_clips}
    if stated := [name for name, value in others.items() if value is not None]:
        raise ConfigError(
            f"--{stated[0].replace('_', '-')}: a pipeline is called with --prompts and --steps; put all else into"
            ' --arguments, for example \'{"height": 512, "guidance_scale": 3.5}\''
        )
    texts, call = read_prompts(prompts), parse_json_object(arguments, "--arguments")
    if samples is not None and samples > len(texts):
        raise ConfigError(f"--samples {samples}: {prompts} has {len(texts)}; each prompt gives a trajectory, add some")
    texts = texts if samples is None else texts[:samples]
    calibrate_pipeline_folder(
        PipelineJob(flags.owner, out, kind, texts, 20 if steps is None else steps, seed, dtype, call, device)
    )
    return f"{out}: calls of the transformer for {len(texts)} prompts, kind {kind}, {out.stat().st_size / 1e6:.3g} MB"
