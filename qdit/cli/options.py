"""Options that several commands share, and functions that read their values."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from qdit.core.errors import ConfigError
from qdit.core.gpu_lease import leased
from qdit.core.processes import require_cores
from qdit.core.repository import shipped_path

EXTRACTOR_WEIGHTS = Path("weights/digit-classifier.safetensors")


def shipped(value: Path | None) -> Path | None:
    """Callback for arguments with weights or prompts: it takes the shipped file if the current folder has none."""
    return None if value is None else shipped_path(value)


def hexadecimal(value: str | None) -> str | None:
    """Callback for a sha256 or its first characters: capital letters become small. ConfigError for any other text."""
    if value is not None and re.fullmatch("[0-9a-fA-F]{8,64}", value) is None:
        raise ConfigError(
            f"--sha256 {value!r:.80}: expected a digest of 64 hexadecimal digits, or its first 8 or more, as sha256sum"
            " prints it"
        )
    return None if value is None else value.lower()


def named_file(value: Path | None) -> Path | None:
    """Callback for the path of a page with files beside it. ConfigError for a path without a file name, such as `.`."""
    if value is not None and value.name in ("", ".."):
        raise ConfigError(f"--out {value}: is a folder; add the name of the page, e.g. {value / 'page'}")
    return value


Weights = Annotated[
    Path, typer.Argument(callback=shipped, help="Full-precision weights: .safetensors, official .pt, diffusers folder.")
]
Sampler = Annotated[str, typer.Option(help="ddim (no added noise) or ddpm (ancestral, learned variance).")]
Steps = Annotated[int, typer.Option(help="Number of sampling steps, 1 to 1000.")]
CfgScale = Annotated[float, typer.Option(help="Classifier-free guidance scale, 1 (no guidance) to 100.")]
Replicate = Annotated[
    int, typer.Option(min=0, help="Number of the replicate. Each number gives the method other random draws.")
]
SameAs = Annotated[
    Path | None, typer.Option(help="Samples of replicate 0; they are copied if their checkpoint equals this one.")
]
Seed = Annotated[int, typer.Option(help="Root seed of all noise and labels.")]
Threads = Annotated[
    int, typer.Option(min=1, envvar=["QDIT_THREADS", "OMP_NUM_THREADS"], help="CPU threads of one process.")
]
Extractor = Annotated[str, typer.Option(help="Name of the network whose features score the images.")]
ExtractorWeights = Annotated[Path, typer.Option(callback=shipped, help="Weights of the extractor.")]
REPEATED = "Must be equal to the value that the files record."
Stated = Annotated[str | None, typer.Option(help=REPEATED)]
StatedNumber = Annotated[float | None, typer.Option(help=REPEATED)]
StatedCount = Annotated[int | None, typer.Option(help=REPEATED)]
StatedVae = Annotated[Path | None, typer.Option(callback=shipped, help=REPEATED)]
CudaGraph = Annotated[
    bool | None,
    typer.Option("--cuda-graph", help="Images, on a GPU: replay the denoising step as one graph; same bits."),
]
RecordFailure = Annotated[
    bool,
    typer.Option("--record-failure", help="If the method fails, write the reason as the result and exit with 0."),
]


def check_threads(threads: int) -> None:
    """Raise ConfigError for more threads than this machine has cores. With more, torch crashes or hangs."""
    require_cores("--threads", threads)


def use_threads(threads: int) -> None:
    """Set the number of CPU threads of torch."""
    check_threads(threads)
    import torch

    torch.set_num_threads(threads)


def use_blas_threads(threads: int) -> None:
    """Set the number of CPU threads of numpy. Call it before numpy is imported: numpy reads the number only then."""
    check_threads(threads)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)


Device = Annotated[
    str,
    typer.Option(
        envvar="QDIT_DEVICE",
        help="cpu, cuda (a GPU that no other command uses) or cuda:N. A GPU rounds differently from a CPU, so samples"
        " record which of the two made them.",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="Precision of the network's matrix products and of the VAE: float32, float16; clips bfloat16 too."
    ),
]
Vae = Annotated[
    Path | None,
    typer.Option(
        callback=shipped, help="Weights of the VAE that decodes latents; of images with config.json beside them."
    ),
]
Profile = Annotated[
    list[str],
    typer.Option(
        "--profile", "--config", help="Profile: a name (config/NAME.yaml) or a file. Repeat it for each overlay."
    ),
]
MINI = ["mini"]
"""The profile of a command that names none. No command changes the list."""
Results = Annotated[Path | None, typer.Option(help="Folder of the profile's results; default results/PROFILE.")]


def results_folder(profile: Mapping[str, Any], results: Path | None) -> Path:
    """Folder of a profile's results: the one that the user names, otherwise results/PROFILE."""
    return results or Path("results", profile["profile"])


@contextmanager
def on_device(device: str) -> Iterator[str]:
    """Context manager that reserves a device and yields its name: `cpu`, or `cuda:N`.

    No other command of the suite uses this GPU at the same time.
    """

    def count() -> int:
        import torch

        return torch.cuda.device_count()

    with leased(device, count=count) as name:
        yield name


def parse_json_object(text: str, flag: str) -> dict[str, Any]:
    """Parse a flag's value as a JSON object; ConfigError names the flag."""
    from qdit.core.files import parse_json

    try:
        value = parse_json(text)
    except ValueError as problem:
        raise ConfigError(f"{flag} {text!r}: not valid JSON ({problem}); example: '{{\"group_size\": 16}}'") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{flag} {text!r}: expected a JSON object; example: '{{\"group_size\": 16}}'")
    return value


def parse_pairs(pairs: list[str], flag: str) -> dict[str, Path]:
    """Parse the values `kind=path` of a repeated flag into a dictionary from kinds to paths."""
    paths = {}
    for pair in pairs:
        kind, separator, path = pair.partition("=")
        if not (separator and path):
            raise ConfigError(f"{flag} {pair!r}: expected kind=path, e.g. trajectory=trajectory.safetensors")
        paths[kind] = Path(path)
    return paths
