"""Describe the sites of a checkpoint as text, from its `config.json`. Neither torch nor a method is imported."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from qdit.core.files import one_line
from qdit.core.run import FULL_PRECISION_BITS

IN_KERNEL = {"divide", "shift", "hadamard"}
"""Kinds of input transforms that the integer kernels compute (`qdit.quant.integer.step_of`)."""


def sites_text(sites: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Describe the sites in lines. Sites with equal quantizers share a line, which says how many they are.

    The line of the most sites comes first.
    """
    counts = Counter(" | ".join(site_parts(spec)) for spec in sites.values())
    return [f"{count} site{'s' if count > 1 else ''}: {one_line(text, 400)}" for text, count in counts.most_common()]


def site_parts(spec: Mapping[str, Any]) -> Iterator[str]:
    """Describe one site in the order of the computation: transform, input, weight, branch, and bytes beside codes."""
    if spec["kind"] == "modulate":
        yield "a factor and an offset folded into a LayerNorm"
        return
    if spec.get("transform"):
        yield "input transform " + " → ".join(kind_text(step) for step in spec["transform"])
    yield "input " + (kind_text(spec["activation"]) if spec.get("activation") else "in full precision")
    if spec["kind"] == "operand":
        return
    yield "weight " + weight_text(spec)
    if spec.get("low_rank"):
        yield f"low-rank branch {settings(spec['low_rank'])}, 16-bit factors"
    if spec.get("extra_bytes"):
        yield "bytes beside the codes: " + ", ".join(f"{part} {count}" for part, count in spec["extra_bytes"].items())


def integer_text(sites: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say how integer mode computes the sites: one line for each different answer, the most frequent first."""
    counts = Counter(integer_kernel(spec) for spec in sites.values())
    return [
        f"integer mode, {count} site{'s' if count > 1 else ''}: {one_line(text, 400)}"
        for text, count in counts.most_common()
    ]


def integer_kernel(spec: Mapping[str, Any]) -> str:
    """Return the name of the program that computes a site in integer mode, or the reason why none can."""
    if spec["kind"] == "modulate":
        return "floating point"
    if spec["kind"] == "operand":
        return "Unsupported (an operand of attention)"
    activation = spec.get("activation")
    if activation is None:
        return "floating point (the input is in full precision)"
    if (reason := _no_kernel(spec, activation)) is not None:
        return f"Unsupported ({reason})"
    steps = [step["kind"] for step in spec.get("transform") or ()]
    inside = ["transform"] if steps and set(steps) <= IN_KERNEL else []
    inside += ["low-rank branch"] if spec.get("low_rank") else []
    text = "grouped_linear" + (f" with {' and '.join(inside)} inside" if inside else "")
    before = [step for step in steps if step not in IN_KERNEL]
    return f"{text}; the transform before it in torch (no kernel for {', '.join(before)})" if before else text


def _no_kernel(spec: Mapping[str, Any], activation: Mapping[str, Any]) -> str | None:
    """Why a weight or an input quantizer does not fit the integer kernels; None if it does."""
    if spec.get("weight"):
        return f"weight kind {spec['weight'].get('kind')}"
    if spec["weight_bits"] == FULL_PRECISION_BITS:
        return "the weight is in full precision"
    match activation:
        case {"kind": "dynamic", "sharing": "token", "include_zero": zero, "symmetric": symmetric} if zero or symmetric:
            return None
        case {"kind": "static", "per": "group"}:
            return None
    return f"input quantizer {kind_text(activation)}"


def weight_text(spec: Mapping[str, Any]) -> str:
    """Describe the weight of a linear or convolution."""
    if spec.get("weight"):
        return f"{kind_text(spec['weight'])}, {spec['weight_bits']} bits"
    if spec["weight_bits"] == FULL_PRECISION_BITS:
        return "in full precision"
    outputs, width = spec["shape"]
    rows, groups = spec["groups"]
    shared = f"group of {width // groups} inputs" if groups > 1 else "output channel" if rows == outputs else "tensor"
    return f"{spec['weight_bits']}-bit codes, a scale and a zero point per {shared}"


def kind_text(spec: Mapping[str, Any]) -> str:
    """Describe a kind and its settings, such as `dynamic (bits 8, group_size 16)`, also for kinds of methods."""
    rest = settings({name: value for name, value in spec.items() if name != "kind"})
    return f"{spec.get('kind')} ({rest})" if rest else str(spec.get("kind"))


def settings(values: Mapping[str, Any]) -> str:
    """Write names and values as text, without those that are None."""
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
