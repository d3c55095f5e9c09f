"""What every part of `qdit bench full-size` must have found, whatever the scale."""

from typing import Any

from qdit.bench.full_size_parts import Scale
from qdit.quant.size import dit_shape

VAE_PARAMETERS = 83_653_863
"""Of stabilityai/sd-vae-ft-mse."""


def faults(part: str, facts: dict[str, Any], scale: Scale) -> list[str]:
    """What is wrong with a part's facts; empty if nothing is."""
    shape = dit_shape(scale.dit)
    cells = scale.dit.input_size
    wanted: dict[str, Any] = {}
    if part == "weights":
        wanted = {"parameters": shape.parameters + shape.positions}
    elif part == "import-diffusers":
        wanted = {"same_tensors": True}
    elif part == "calibrate":
        wanted = {"latents": scale.samples, "finite": True}
    elif part in ("rtn", "q-dit"):
        wanted = {"layers": 4 * scale.dit.depth}
    elif part.startswith("step"):
        side = scale.larger_input if part == "step-512" else cells
        wanted = {"shape": [1, scale.dit.in_channels, side, side], "finite": True}
    elif part == "vae":
        side = 8 * scale.decoded_side
        wanted = {"shape": [1, 3, side, side], "dtype": "uint8"}
    elif part == "diffusers" or part.startswith("two-blocks"):
        wanted = {"same_bits": True, "finite": True}
    found = [f"{name} is {facts.get(name)!r}, not {value!r}" for name, value in wanted.items() if facts[name] != value]
    return found + uneven(facts) + still(facts)


def uneven(facts: dict[str, Any]) -> list[str]:
    """A checkpoint must weigh what its shapes say, to 1 % (of a tiny one the header counts)."""
    if "predicted_mb" not in facts:
        return []
    off = abs(facts["actual_mb"] - facts["predicted_mb"])
    return [f"{off} MB off"] if off > max(0.01 * facts["predicted_mb"], 0.01) else []


def still(facts: dict[str, Any]) -> list[str]:
    """A denoising step must change the latent, and a decoded image have more than a few values."""
    return [
        f"{name} is {facts[name]}"
        for name, least in (("moved", 1e-4), ("levels", 20))
        if name in facts and facts[name] < least
    ]
