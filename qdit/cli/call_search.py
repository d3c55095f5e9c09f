"""Parts of `qdit search` for a diffusers transformer: it is measured on recorded calls in the place of images."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from qdit.core.errors import ConfigError

if TYPE_CHECKING:
    from qdit.search.call_fitness import CallSearchJob

SIZES = "36,24,16,8,4"
IMAGE_FLAGS = (
    *("metric", "reference_file", "extractor", "extractor_weights"),
    *("sampler", "steps", "cfg_scale", "vae", "dtype"),
)
"""Arguments of a search that say how images are sampled and judged."""


def parse_sizes(text: str) -> tuple[int, ...]:
    """Parse group sizes such as `36,24,16`."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ConfigError(f"--sizes {text!r}: expected whole numbers separated by commas, e.g. {SIZES}") from None


def make_call_job(
    weights: Path,
    calls: Path | None,
    *,
    bits: str,
    sizes: str,
    reference_size: int,
    images: int | None,
    chunk: int,
    seed: int,
    as_released: bool,
    latency: Path | None,
) -> "CallSearchJob":
    """Make the search job of a diffusers transformer. Without `images` as many calls as there are, at most 64."""
    from qdit.core.run import split_bits
    from qdit.methods.quantize import check_bits
    from qdit.sampling.keyword_file import load_keywords
    from qdit.search.call_fitness import CallOrder, CallSearchJob

    if calls is None:
        raise ConfigError(
            f"{weights}: a transformer of diffusers is measured on recorded calls; run `qdit calibrate` first and give"
            " --calibration trajectory=FILE"
        )
    weight_bits, activation_bits = split_bits(bits)
    check_bits(weight_bits, activation_bits)
    if images is None:
        count = len(load_keywords(calls))
        if not 1 <= chunk <= count:
            raise ConfigError(f"--chunk {chunk}: must be 1 to {count}, the number of recorded calls in {calls}")
        images = min(64, count) // chunk * chunk or chunk
    return CallSearchJob(
        weights=weights,
        calls=calls,
        sizes=parse_sizes(sizes),
        reference=reference_size,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        protocol=CallOrder(seed),
        images=images,
        chunk=chunk,
        constraint="latency" if latency else "mean_group" if as_released else "bitops",
        latency=latency,
        symmetric=as_released,
    )


def is_generic(weights: Path) -> bool:
    """Whether weights are a folder of a diffusers transformer that the suite does not read as its own DiT."""
    if not weights.is_dir():
        return False
    from qdit.models.generic.loading import is_transformer_folder
    from qdit.models.weights_files import CONFIG_FILE, PIPELINE_FILE, model_folder

    has_config = (weights / CONFIG_FILE).is_file() or (weights / PIPELINE_FILE).is_file()
    return has_config and is_transformer_folder(model_folder(weights))


def refuse_image_flags(context: typer.Context) -> None:
    """Raise ConfigError for flags about sampled images. A transformer of diffusers is measured on recorded calls."""
    for name in IMAGE_FLAGS:
        if str(getattr(context.get_parameter_source(name), "name", "DEFAULT")) == "COMMANDLINE":
            raise ConfigError(
                f"--{name.replace('_', '-')}: is about sampled images, and a transformer of diffusers is measured on"
                " the calls of --calibration; leave it out"
            )
