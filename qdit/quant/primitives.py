"""Functions that compute golden arrays: a pattern of an array's name maps to the function that reproduces the array.

The golden arrays (tests/golden) are outputs of the original programs for random inputs. A name is `file/name` with
fields in braces, for example `qdit_fakequant/w_b{bits}_g{group}_sym{sym}_{range}`. The function gets the input arrays
of the file and the fields. W is a weight, X activations, S softmax outputs, G GELU outputs, and H a GPTQ Hessian. The
function returns the arrays to compare, by name. Every function here has the released form of its method, with its
errors. The methods themselves may use corrected forms.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from qdit.core.affine import fake_quantize
from qdit.core.errors import ConfigError, DataError
from qdit.quant import nonlinear, ranges, rounding, salience
from qdit.quant.gptq import HessianAccumulator, solve

Arrays = Mapping[str, np.ndarray]
Primitive = Callable[..., dict[str, np.ndarray]]
"""(arrays, **fields) → {name of an array: values}."""

POSITIVE_GROUP = 32
POSITIVE_BITS = 4
ADAROUND_BITS = 4
RUNNING_BITS = 8
RUNNING_BATCH = 2
"""What the golden keys without such fields were made with."""


def reproduce(file: str, key: str, arrays: Arrays) -> dict[str, np.ndarray]:
    """Compute the array `key` of the golden file `file` (a name without .npz), and the other outputs of its function.

    Their inputs are the arrays of the file. Raises ConfigError if no function computes such an array.
    """
    for pattern, primitive in PRIMITIVES.items():
        if match := pattern_expression(pattern).fullmatch(f"{file}/{key}"):
            return primitive(arrays, **match.groupdict())
    raise ConfigError(f"no primitive makes {file}/{key}: the keys are {', '.join(PRIMITIVES)}")


def pattern_expression(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a name pattern: `{range}` matches a word, every other field an integer."""
    parts = re.split(r"\{(\w+)\}", pattern)
    fields = [f"(?P<{name}>{'[a-z]+' if name == 'range' else '-?[0-9]+'})" for name in parts[1::2]]
    return re.compile("".join(re.escape(text) + field for text, field in zip(parts[::2], [*fields, ""], strict=True)))


def _input(arrays: Arrays, name: str) -> Tensor:
    if name not in arrays:
        raise DataError(f"the input array {name} is missing; found: {', '.join(arrays)}")
    return torch.from_numpy(np.array(arrays[name], dtype=np.float32))


def _named(**tensors: Tensor) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _rows(x: Tensor, sharing: str) -> Tensor:
    """`tensor` → (1, n); `channel` (first axis) → (out, n); `last` (last axis) → (width, n)."""
    if sharing == "last":
        return x.reshape(-1, x.shape[-1]).t().contiguous()
    return x.reshape(1 if sharing == "tensor" else len(x), -1)


def _affine(
    arrays: Arrays, name: str, key: str, *, bits: int, rule: ranges.Ranges, sharing: str
) -> dict[str, np.ndarray]:
    """x̂, step and zero point of one input array under one rule."""
    x = _input(arrays, name)
    rows = _rows(x, sharing)
    scale, zero_point = rule(rows, bits)
    values = fake_quantize(rows, scale, zero_point, bits)
    shape = {"tensor": (), "channel": (-1, *[1] * (x.ndim - 1)), "last": (*[1] * (x.ndim - 1), -1)}[sharing]
    return _named(
        **{
            key: (values.t() if sharing == "last" else values).reshape(x.shape),
            f"{key}_delta": scale.reshape(shape),
            f"{key}_zp": zero_point.reshape(shape),
        }
    )


def _qdit(
    arrays: Arrays, name: str, key: str, *, bits: int, group: int, sym: int, search: bool
) -> dict[str, np.ndarray]:
    """Q-DiT: rows are groups of the last axis (0: all of it); the range is not extended to zero."""
    x = _input(arrays, name)
    rows = x.reshape(-1, group or x.shape[-1])
    rule = ranges.minmax_search if search else ranges.minmax
    scale, zero_point = rule(rows, bits, symmetric=bool(sym), include_zero=False)
    return _named(**{key: fake_quantize(rows, scale, zero_point, bits, symmetric=bool(sym)).reshape(x.shape)})


def qdit_weight(
    arrays: Arrays, *, bits: int | str, group: int | str, sym: int | str, range: str
) -> dict[str, np.ndarray]:
    """Quantize W as Q-DiT's program does: min-max (range `max`), or the range with the smallest error (range `mse`)."""
    key = f"w_b{bits}_g{group}_sym{sym}_{range}"
    if range not in ("max", "mse"):
        raise ConfigError(f"{key}: range {range!r}; allowed are max and mse")
    return _qdit(arrays, "W", key, bits=int(bits), group=int(group), sym=int(sym), search=range == "mse")


def qdit_activation(arrays: Arrays, *, bits: int | str, group: int | str, sym: int | str) -> dict[str, np.ndarray]:
    """Quantize X as Q-DiT's program does: min-max for each token and group."""
    key = f"a_b{bits}_g{group}_sym{sym}"
    return _qdit(arrays, "X", key, bits=int(bits), group=int(group), sym=int(sym), search=False)


def qdit_positive(arrays: Arrays) -> dict[str, np.ndarray]:
    """Quantize positive values as Q-DiT's program does, by min-max. They all become one value there."""
    return _qdit(arrays, "pos_only_in", "pos_only_out", bits=POSITIVE_BITS, group=POSITIVE_GROUP, sym=0, search=False)


def gptq_hessian(arrays: Arrays) -> dict[str, np.ndarray]:
    """Compute GPTQ's H of X (samples, tokens, width), adding one sample at a time. X without tokens is one sample."""
    x = _input(arrays, "X")
    accumulator = HessianAccumulator(x.shape[-1])
    for sample in x.reshape(-1, *x.shape[-2:]):
        accumulator.add(sample[None])
    return _named(H=accumulator.hessian)


def gptq_weight(
    arrays: Arrays, *, program: str, bits: int | str, group: int | str, act: int | str = 0, static: int | str = 0
) -> dict[str, np.ndarray]:
    """Quantize W by GPTQ with float32 scales. The Hessian is that of the file, or is computed from X."""
    order = f"_act{act}_static{static}" if program == "ist" else ""
    hessian = _input(arrays if "H" in arrays else gptq_hessian(arrays), "H")
    solution = solve(
        _input(arrays, "W"),
        hessian,
        bits=int(bits),
        group_size=int(group) if int(group) > 0 else None,
        act_order=bool(int(act)),
        static_groups=bool(int(static)),
    )
    return _named(**{f"{program}_b{bits}_g{group}{order}": solution.dequantize()})


def ptq4dm(arrays: Arrays, *, operand: str, bits: int | str) -> dict[str, np.ndarray]:
    """Quantize by PTQ4DM's threshold search. The range of an activation is averaged once, with itself."""
    if operand == "w":
        return _affine(arrays, "W", f"w_b{bits}", bits=int(bits), rule=ranges.threshold_search, sharing="channel")

    def averaged(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        low, high = ranges.threshold_range(rows, bits)
        return ranges.threshold_parameters(ranges.ema(low, low, 0.9), ranges.ema(high, high, 0.9), bits)

    return _affine(arrays, "X", f"a_b{bits}", bits=int(bits), rule=averaged, sharing="tensor")


def percentile(arrays: Arrays, *, name: str, prefix: str, sharing: str, bits: int | str) -> dict[str, np.ndarray]:
    """Quantize by the percentile search of RepQ-ViT and PTQ4DiT (S2)."""
    key = f"{prefix}_b{bits}"
    return _affine(arrays, name, key, bits=int(bits), rule=ranges.percentile_search, sharing=sharing)


def repq_log(arrays: Arrays, *, bits: int | str) -> dict[str, np.ndarray]:
    """Quantize S by the log √2 quantizer of RepQ-ViT."""
    x = _input(arrays, "S")
    scale = nonlinear.log_sqrt2_search(x, int(bits))
    values = nonlinear.log_sqrt2(x, scale, int(bits))
    return _named(**{f"logsqrt2_b{bits}": values, f"logsqrt2_b{bits}_delta": scale})


def adaround(arrays: Arrays) -> dict[str, np.ndarray]:
    """Round W as AdaRound does before its first iteration. Ranges come from a percentile search per output channel."""
    weight = _input(arrays, "W")
    scale, zero_point = ranges.percentile_search(_rows(weight, "channel"), ADAROUND_BITS)
    shape = (-1, *[1] * (weight.ndim - 1))
    scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    alpha = rounding.initial_alpha(weight, scale)
    soft, hard = (
        rounding.round_weight(weight, alpha, scale, zero_point, ADAROUND_BITS, hard=hard) for hard in (False, True)
    )
    return _named(ada_alpha0=alpha, ada_soft=soft, ada_hard=hard)


def qdiffusion_weight(arrays: Arrays, *, bits: int | str, range: str) -> dict[str, np.ndarray]:
    """Quantize W as Q-Diffusion does, per output channel: shrink search (`mse`) or min-max (`max`)."""
    return _affine(arrays, "W", f"w_b{bits}_{range}", bits=int(bits), rule=_qdiffusion_rule(range), sharing="channel")


def qdiffusion_activation(arrays: Arrays, *, bits: int | str, range: str) -> dict[str, np.ndarray]:
    """Quantize X as Q-Diffusion does, per tensor: shrink search (`mse`), min-max (`max`, `symmax` if symmetric)."""
    key = f"a_b{bits}_{range}"
    if range == "symmax":
        x = _input(arrays, "X")
        scale, zero_point = ranges.minmax(x.reshape(1, -1), int(bits), symmetric=True)
        return _named(**{key: fake_quantize(x, scale[0, 0], zero_point[0, 0], int(bits), symmetric=True)})
    result = _affine(arrays, "X", key, bits=int(bits), rule=_qdiffusion_rule(range), sharing="tensor")
    if range == "max":
        result[f"{key}_zp"] = result[f"{key}_zp"].astype(np.int64)
    return result


def _qdiffusion_rule(name: str) -> ranges.Ranges:
    rules: dict[str, ranges.Ranges] = {"mse": ranges.shrink_search, "max": ranges.raw_minmax}
    if name not in rules:
        raise ConfigError(f"Q-Diffusion has no range {name!r}: allowed are mse, max and, for activations, symmax")
    return rules[name]


def tfmq_weight(arrays: Arrays, *, bits: int | str) -> dict[str, np.ndarray]:
    """Quantize W as TFMQ-DM does: shrink search per output channel."""
    return _affine(arrays, "W", f"w_b{bits}", bits=int(bits), rule=ranges.shrink_search, sharing="channel")


def tfmq_activation(arrays: Arrays, *, bits: int | str, range: str) -> dict[str, np.ndarray]:
    """Quantize X as TFMQ-DM does, per tensor: shrink search (`mse`) or min-max extended to zero (`minmax`)."""

    def minmax(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        return ranges.running_parameters(*ranges.extremes(rows), bits)

    rules: dict[str, ranges.Ranges] = {"mse": ranges.shrink_search, "minmax": minmax}
    if range not in rules:
        raise ConfigError(f"TFMQ-DM has no range {range!r}: allowed are mse and minmax")
    return _affine(arrays, "X", f"a_b{bits}_{range}", bits=int(bits), rule=rules[range], sharing="tensor")


def tfmq_running(arrays: Arrays) -> dict[str, np.ndarray]:
    """Compute TFMQ-DM's moving average (factor 0.95) of the ranges of batches of X, extended to zero."""
    first, *rest = _input(arrays, "X").split(RUNNING_BATCH)
    edges = torch.stack(first.aminmax()).double()
    for batch in rest:
        edges = ranges.ema(edges, torch.stack(batch.aminmax()).double(), 0.95)
    scale, zero_point = ranges.running_parameters(edges[0], edges[1], RUNNING_BITS)
    return _named(running_delta=scale, running_zp=zero_point)


def twin_softmax(arrays: Arrays, *, bits: int | str, k: int | str) -> dict[str, np.ndarray]:
    """Quantize S by TQ-DiT's two-region quantizer with the split at 2^−k, in the released form (`sum`)."""
    values = nonlinear.twin_softmax(_input(arrays, "S"), 2.0 ** -int(k), int(bits), mode="sum")
    return _named(**{f"sos_b{bits}_k{k}": values})


def twin_gelu(arrays: Arrays, *, bits: int | str) -> dict[str, np.ndarray]:
    """Quantize G by TQ-DiT's two-region quantizer. The positive step is the start value of its search."""
    x = _input(arrays, "G")
    scale = nonlinear.signed_scale(x, int(bits)).reshape(1, 1)
    negative = nonlinear.twin_gelu_negative_scale(int(bits))
    values = nonlinear.twin_gelu(x, scale.reshape(()), int(bits), negative_scale=negative)
    return {
        **_named(**{f"gelu_b{bits}": values, f"gelu_b{bits}_pos": scale}),
        f"gelu_b{bits}_neg": np.array(negative),
    }


def ptq4dit_balance(arrays: Arrays) -> dict[str, np.ndarray]:
    """Compute PTQ4DiT's CSB with SSC: the factor of fc1's input, and the weight that the factor is folded into.

    Each sample of X is one timestep.
    """
    weight = _input(arrays, "W")
    of_weight = salience.weight_salience(weight)
    of_activation = salience.temporal_salience(salience.activation_salience(_input(arrays, "X")), of_weight)
    factors = salience.balance_factors(of_activation, of_weight)
    return _named(scale_fc1=factors, W_after=weight * factors)


def _family(pattern: str, primitive: Primitive, *suffixes: str) -> dict[str, Primitive]:
    """A pattern and those of the arrays made with it."""
    return {pattern + suffix: primitive for suffix in ("", *suffixes)}


def _percentile(name: str, prefix: str, sharing: str) -> Primitive:
    return partial(percentile, name=name, prefix=prefix, sharing=sharing)


PRIMITIVES: dict[str, Primitive] = {
    "qdit_fakequant/w_b{bits}_g{group}_sym{sym}_{range}": qdit_weight,
    "qdit_fakequant/a_b{bits}_g{group}_sym{sym}": qdit_activation,
    "qdit_fakequant/pos_only_out": qdit_positive,
    "gptq/H": gptq_hessian,
    "gptq/qdit_b{bits}_g{group}": partial(gptq_weight, program="qdit"),
    "gptq/ist_b{bits}_g{group}_act{act}_static{static}": partial(gptq_weight, program="ist"),
    **_family("ptq4dm/w_b{bits}", partial(ptq4dm, operand="w"), "_delta", "_zp"),
    **_family("ptq4dm/a_b{bits}", partial(ptq4dm, operand="a"), "_delta", "_zp"),
    **_family("repq/act_chan_b{bits}", _percentile("X", "act_chan", "last"), "_delta", "_zp"),
    **_family("repq/logsqrt2_b{bits}", repq_log, "_delta"),
    **_family("ptq4dit_quantizer/w_b{bits}", _percentile("W", "w", "channel"), "_delta", "_zp"),
    **_family("ptq4dit_quantizer/a_b{bits}", _percentile("X", "a", "tensor"), "_delta", "_zp"),
    **_family("ptq4dit_quantizer/softmax_b{bits}", _percentile("S", "softmax", "tensor"), "_delta", "_zp"),
    "ptq4dit_quantizer/ada_alpha0": adaround,
    "ptq4dit_quantizer/ada_soft": adaround,
    "ptq4dit_quantizer/ada_hard": adaround,
    "ptq4dit_csb_ssc/scale_fc1": ptq4dit_balance,
    "ptq4dit_csb_ssc/W_after": ptq4dit_balance,
    "qdiffusion/w_b{bits}_{range}": qdiffusion_weight,
    **_family("qdiffusion/a_b{bits}_{range}", qdiffusion_activation, "_delta", "_zp"),
    "tfmq/w_b{bits}": tfmq_weight,
    "tfmq/a_b{bits}_{range}_delta": tfmq_activation,
    "tfmq/a_b{bits}_{range}_zp": tfmq_activation,
    "tfmq/running_delta": tfmq_running,
    "tfmq/running_zp": tfmq_running,
    "twin/sos_b{bits}_k{k}": twin_softmax,
    **_family("twin/gelu_b{bits}", twin_gelu, "_pos", "_neg"),
}
"""Key pattern → primitive. Fields are given as integers or as their digits."""
