"""The files of a VAE and their digest.

The module does not import torch, because the evaluation needs only the digest.
"""

from collections.abc import Iterator
from pathlib import Path

from qdit.core.errors import CheckpointError
from qdit.core.files import sha256_file, sha256_json
from qdit.models.manifest import check_file


def config_path(weights: Path) -> Path:
    """Path of the configuration of a VAE, in the folder of its weights."""
    return weights.with_name("config.json")


def vae_sha256(weights: Path) -> str:
    """Digest of weights and configuration of a VAE together. CheckpointError if a file is missing."""
    for path in (weights, config_path(weights)):
        check_file(path)
    return sha256_json({"weights": sha256_file(weights), "config": sha256_file(config_path(weights))})


def video_vae_files(path: Path) -> Iterator[Path]:
    """List the files of a video VAE: its file of weights, or the files of a published folder."""
    if not path.is_dir():
        check_file(path)
        yield path
        return
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{path}: holds no .safetensors; give the VAE's file of weights, or its whole folder")
    yield from files


def video_vae_sha256(path: Path) -> str:
    """Digest of the weights file of a video VAE, or of the one file in its folder. CheckpointError if it is missing.

    This digest identifies the VAE: the file holds the configuration, or the configuration is Open-Sora's.
    """
    digests = [sha256_file(file) for file in video_vae_files(path)]
    return digests[0] if len(digests) == 1 else sha256_json(digests)
