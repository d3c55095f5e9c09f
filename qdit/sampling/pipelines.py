"""Calibration data from a pipeline of diffusers. It is called with prompts; the inputs of its transformer are recorded.

Each prompt gives one trajectory, from its own noise. `qdit.sampling.calibration` says which steps a kind records. If
one call of the transformer computes both branches of guidance, the unconditional rows come first, as in all pipelines
of diffusers. If there are two calls at one timestep, the second one is the unconditional branch.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qdit.core.errors import ConfigError, Unsupported
from qdit.core.seeds import Purpose, generator
from qdit.models.generic.network import step_of
from qdit.quant.batches import Keywords, leaves, mapped, row_counts, rows_of
from qdit.sampling.calibration import ALL, AT_EVERY_STEP, CONDITIONAL, chosen_steps
from qdit.sampling.keyword_file import in_float32
from qdit.sampling.keyword_set import KeywordSet
from qdit.sampling.pipeline_protocol import PipelineProtocol

LEFT_OUT = ("return_dict",)
"""Arguments of a transformer that are no input of the network."""


class FirstCall(Exception):
    """Exception that stops the pipeline at the first call of its transformer, if only the arguments are needed."""


@dataclass(frozen=True)
class Call:
    """One recorded call of a transformer.

    It holds the arguments, the number of its timestep counted from the noisy end, and whether it is the second call at
    that timestep.
    """

    arguments: dict[str, Any]
    step: int
    is_second: bool


@dataclass(frozen=True)
class Released:
    """Placeholder for a text encoder or VAE whose weights were freed."""

    config: Any
    dtype: torch.dtype
    device: torch.device


class Memory:
    """A function like a pipeline's `encode_prompt` that keeps its results and computes each only once."""

    def __init__(self, encode: Callable[..., Any]) -> None:
        self.encode, self.answers = encode, {}  # type: ignore[var-annotated]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(leaf, Tensor) for leaf in leaves([args, kwargs])):
            return self.encode(*args, **kwargs)
        key = repr((args, sorted(kwargs.items())))
        if key not in self.answers:
            self.answers[key] = self.encode(*args, **kwargs)
        return self.answers[key]


def record_pipeline(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    steps: int,
    kind: str = "trajectory",
    seed: int = 0,
    arguments: Mapping[str, Any] | None = None,
    release: bool = False,
    weights_sha256: str | None = None,
) -> KeywordSet:
    """Call a pipeline once for each prompt and return the recorded inputs of its transformer as a calibration set.

    `arguments` are further arguments of the pipeline's call (height, guidance_scale, …). The text encoders run once for
    each prompt. With `release` their weights and those of the VAE are freed after that; the pipeline cannot be used
    again. Raises ConfigError without prompts, and Unsupported for a pipeline without prompts, for kinds that no
    pipeline can follow, and for arguments that differ in shape from prompt to prompt.
    """
    if not prompts:
        raise ConfigError("prompts: the list is empty; give one prompt a line")
    if kind == "ndtc-released":
        raise Unsupported("calibration kind ndtc-released: a pipeline shows no output of its last step; use ndtc")
    call = caller(pipeline, steps, arguments or {})
    with remembered_texts(pipeline) as can_release:
        names = sample_names(pipeline, call, prompts[0])
        if release:
            for prompt in prompts if can_release else ():
                first_arguments(pipeline, partial(call, [prompt], 0))
            release_encoders(pipeline, texts=can_release)
        recording = Recording(kind, len(prompts), seed, names)
        for index, prompt in enumerate(prompts):
            with recorded_calls(pipeline.transformer) as calls:
                call([prompt], int(generator(seed, Purpose.CALIBRATION_NOISE, index).integers(2**31)))
            recording.add(index, calls)
    protocol = PipelineProtocol(
        timesteps=recording.schedule[::-1],
        pipeline=type(pipeline).__name__,
        cfg_scale=guidance_of(pipeline, arguments or {}) if recording.is_guided else 1.0,
        seed=seed,
        dtype=str(pipeline.transformer.dtype).removeprefix("torch."),
    )
    return recording.result(protocol, weights_sha256)


def caller(pipeline: Any, steps: int, arguments: Mapping[str, Any]) -> Callable[[list[str], int], Any]:
    """Function (prompts, seed) that calls the pipeline. The result stays latents; the VAE does not run."""
    known = inspect.signature(type(pipeline).__call__).parameters
    if "prompt" not in known or "num_inference_steps" not in known:
        raise Unsupported(f"{type(pipeline).__name__}: its call takes no prompt and number of steps")
    if unknown := [name for name in arguments if name not in known]:
        raise ConfigError(f"{type(pipeline).__name__} has no argument {unknown[0]!r}; allowed are {', '.join(known)}")
    options = {"num_inference_steps": steps, **({"output_type": "latent"} if "output_type" in known else {})}

    def call(prompts: list[str], seed: int) -> Any:
        draw = {"generator": torch.Generator().manual_seed(seed)} if "generator" in known else {}
        with torch.no_grad():
            return pipeline(prompt=prompts, **{**options, **draw, **arguments})

    return call


@contextmanager
def remembered_texts(pipeline: Any) -> Iterator[bool]:
    """Context manager: inside it, the pipeline encodes each prompt only once.

    It yields whether the pipeline has a method `encode_prompt`.
    """
    encode = getattr(pipeline, "encode_prompt", None)
    if encode is None:
        yield False
        return
    vars(pipeline)["encode_prompt"] = Memory(encode)
    try:
        yield True
    finally:
        del vars(pipeline)["encode_prompt"]


@contextmanager
def recorded_calls(transformer: nn.Module, *, first: bool = False) -> Iterator[list[Call]]:
    """Context manager: yields a list that collects the calls of a transformer.

    With `first`, the first raises FirstCall.
    """
    calls: list[Call] = []
    names = tuple(inspect.signature(transformer.forward).parameters)
    last: list[float] = []

    def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        arguments = dict(zip(names, args, strict=False)) | dict(kwargs)
        inputs = {
            name: mapped(value, copied) if name in ("hidden_states", "timestep") else value
            for name, value in arguments.items()
            if name not in LEFT_OUT and value is not None and value != {}
        }
        timestep = step_of(inputs)
        if timestep is None:
            raise Unsupported(f"{type(transformer).__name__}: its calls have no single timestep for each sample")
        is_second = bool(last) and last[-1] == float(timestep[0])
        if not is_second:
            last.append(float(timestep[0]))
        calls.append(Call(inputs | {"timestep": timestep}, len(last) - 1, is_second))
        if first:
            raise FirstCall

    handle = transformer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def copied(value: Any) -> Any:
    """A copy of a tensor, because the pipeline may change it later; any other value unchanged."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def first_arguments(pipeline: Any, call: Callable[[], Any]) -> dict[str, Any]:
    """Arguments of the first call of the transformer. The pipeline is stopped at this call."""
    with recorded_calls(pipeline.transformer, first=True) as calls:
        try:
            call()
        except FirstCall:
            return calls[0].arguments
    raise Unsupported(f"{type(pipeline).__name__}: it never called its transformer")


def sample_names(pipeline: Any, call: Callable[[list[str], int], Any], prompt: str) -> set[str]:
    """Names of the arguments that have rows for each prompt.

    With two prompts they have twice as many rows as with one.
    """
    single, double = (first_arguments(pipeline, partial(call, [prompt] * n, 0)) for n in (1, 2))
    return {
        name
        for name, value in single.items()
        if has_rows(value) and [2 * count for count in row_counts(value)] == row_counts(double[name])
    } | {"timestep"}


def has_rows(value: Any) -> bool:
    """Whether an argument can have one row for each sample: a tensor with dimensions, or lists or mappings of them."""
    if isinstance(value, Mapping):
        return bool(value) and all(has_rows(inner) for inner in value.values())
    return isinstance(value, list) or (isinstance(value, Tensor) and value.dim() > 0)


def release_encoders(pipeline: Any, *, texts: bool) -> None:
    """Free the weights of all networks of a pipeline except its transformers. Text encoders stay unless `texts`."""
    for name, component in list(vars(pipeline).items()):
        is_kept = name.startswith("transformer") or (not texts and name.startswith(("text_encoder", "image_encoder")))
        if isinstance(component, nn.Module) and not is_kept:
            some = next(component.parameters(), torch.empty(0))
            vars(pipeline)[name] = Released(getattr(component, "config", None), some.dtype, some.device)


def guidance_of(pipeline: Any, arguments: Mapping[str, Any]) -> float:
    """Guidance scale of a pipeline's call. It is 1 if the transformer computes no unconditional branch."""
    known = inspect.signature(type(pipeline).__call__).parameters
    for name in ("true_cfg_scale", "guidance_scale"):
        if name in known:
            value = arguments.get(name, known[name].default)
            if isinstance(value, int | float) and value > 1:
                return float(value)
    return 1.0


class Recording:
    """Collects the samples of all trajectories while the pipeline runs."""

    def __init__(self, kind: str, count: int, seed: int, names: set[str]) -> None:
        self.kind, self.count, self.seed, self.names = kind, count, seed, names
        self.schedule: list[float] = []
        self.is_guided = False
        self.shared: dict[str, Any] = {}
        self.rows: list[tuple[int, bool, dict[str, Any]]] = []  # step from the noisy end, is unconditional, arguments
        self.steps: Any = None

    def add(self, index: int, calls: Sequence[Call]) -> None:
        """Keep those samples of one prompt's trajectory that the kind of calibration data records."""
        schedule = [float(call.arguments["timestep"][0]) for call in calls if not call.is_second]
        if self.steps is None:
            self.schedule = schedule
            self.steps = chosen_steps(self.kind, self.count, len(schedule), self.seed)
        if schedule != self.schedule:
            raise Unsupported("the timesteps differ from prompt to prompt; give all prompts one size")
        for call in calls:
            self.is_guided |= call.is_second or len(call.arguments["timestep"]) > 1
            if self.steps[index] in (ALL, len(schedule) - 1 - call.step):
                self.keep(call)

    def keep(self, call: Call) -> None:
        """Keep the samples of one call: first the conditional sample, then the unconditional one if the kind has it."""
        rows = len(call.arguments["timestep"])
        if rows > 2 or (rows == 2 and call.is_second):
            raise Unsupported(f"one prompt gives {rows} rows in a call; calibration knows two branches of guidance")
        shared = {name: value for name, value in call.arguments.items() if name not in self.names}
        self.shared = self.shared or shared
        if not same(self.shared, shared):
            raise Unsupported(f"arguments that all samples share ({', '.join(shared)}) change between calls")
        for row in reversed(range(rows)):
            is_unconditional = call.is_second or (rows == 2 and row == 0)
            if not (is_unconditional and self.kind in CONDITIONAL):
                samples = {
                    name: rows_of(value, torch.tensor([row]))
                    for name, value in call.arguments.items()
                    if name in self.names
                }
                self.rows.append((call.step, is_unconditional, mapped(samples, on_cpu)))

    def result(self, protocol: PipelineProtocol, weights_sha256: str | None) -> KeywordSet:
        """Make the calibration set. A set with every step begins with the noisiest step."""
        rows = sorted(self.rows, key=lambda row: row[0]) if self.kind in AT_EVERY_STEP else self.rows
        samples = {name: joined(name, [row[2][name] for row in rows]) for name in rows[0][2]}
        marks = torch.tensor([row[1] for row in rows])
        calls = Keywords(samples, mapped(self.shared, on_cpu))
        return KeywordSet.of(self.kind, calls, protocol, unconditional=marks, weights_sha256=weights_sha256)


def on_cpu(value: Any) -> Any:
    """A tensor on the CPU, converted to float32 if it has half precision; any other value unchanged."""
    return in_float32(value.detach().cpu()) if isinstance(value, Tensor) else value


def same(first: Any, second: Any) -> bool:
    """Whether two arguments, possibly nested, are equal."""
    pairs = list(zip(leaves(first), leaves(second), strict=False))
    return len(leaves(first)) == len(leaves(second)) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b for a, b in pairs
    )


def joined(name: str, values: Sequence[Any]) -> Any:
    """Join one argument of all samples into one; Unsupported if its shape differs from sample to sample."""
    if isinstance(values[0], Mapping):
        return {key: joined(f"{name}.{key}", [value[key] for value in values]) for key in values[0]}
    if isinstance(values[0], list):
        return [row for value in values for row in value]
    shapes = sorted({tuple(value.shape[1:]) for value in values})
    if len(shapes) > 1:
        raise Unsupported(
            f"argument {name} has shape {shapes[0]} for one prompt and {shapes[-1]} for another; give prompts of one"
            " length, or an argument of the pipeline that pads them"
        )
    return torch.cat(list(values))
