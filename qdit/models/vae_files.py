"""The files of a VAE and their digest, without torch: evaluating names a decoder and never loads it."""

from pathlib import Path

from qdit.artifacts import sha256_file, sha256_json
from qdit.models.manifest import check_file


def config_path(weights: Path) -> Path:
    """Configuration of a VAE, beside its weights."""
    return weights.with_name("config.json")


def vae_sha256(weights: Path) -> str:
    """Digest of everything that a VAE is, its weights and its configuration; CheckpointError if a file is missing."""
    for path in (weights, config_path(weights)):
        check_file(path)
    return sha256_json({"weights": sha256_file(weights), "config": sha256_file(config_path(weights))})
