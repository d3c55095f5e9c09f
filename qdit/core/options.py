"""Options of methods and searches: frozen dataclasses. Their annotations define the allowed values.

A profile, `--options` of a command, and Python use the same check and the same messages. A value is never converted:
"16", 16.0 and true are not whole numbers. There are two exceptions: a list may stand for a tuple, and a whole number
for a floating-point number.
"""

import collections.abc
import dataclasses
import math
import reprlib
import types
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError

from qdit.core.errors import ConfigError, did_you_mean

Count = Annotated[int, Ge(1)]
"""A whole number of at least 1."""
CountOrNone = Annotated[int, Ge(0)]
"""A whole number of at least 0, which switches something off."""
Positive = Annotated[float, Gt(0)]
"""A finite number above 0."""
Fraction = Annotated[float, Gt(0), Le(1)]
"""A part of a whole that is not nothing."""
Probability = Annotated[float, Ge(0), Le(1)]
"""A number from 0 to 1."""
Matmul = Literal["float32", "tf32"]
"""Arithmetic of matrix products while rounding is learned: float32, or TensorFloat-32 on GPUs."""
Outside = Literal["network-order", "final", "none"]
"""Layers outside the blocks whose rounding is learned: all, in the order of the network; the final layer; none."""
GroupSize = Annotated[int, Ge(1), "that divides the layers' input width"]
"""Elements that share one scale; only the model tells whether the size divides."""

T = TypeVar("T")
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


@dataclasses.dataclass(frozen=True)
class CheckedOptions:
    """Base class of option dataclasses. Every value is checked against its annotation when an instance is made.

    A subclass that checks several values together writes its own `__post_init__`, which first calls this one.
    """

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, value in checked(type(self).__name__, type(self), values).items():
            object.__setattr__(self, name, value)


@dataclasses.dataclass(frozen=True)
class Problem:
    """An option value that is not allowed, as text, and the allowed values in words."""

    name: str
    value: str
    expected: str


def parse_options(owner: str, options: type[T], raw: Mapping[str, Any], *, position: str = "") -> T:
    """Make an instance of the options dataclass of `owner` (a method or a kind of search) from plain JSON.

    `position` says, for messages, where the options stand in a profile. ConfigError for unknown names and for values
    that the annotations or the class itself do not allow.
    """
    values = checked(owner, options, raw, position=position)
    try:
        return options(**values)
    except (TypeError, ValueError, ConfigError) as problem:
        raise ConfigError(f"{position or owner}: {problem}") from None


def checked(owner: str, options: type, raw: Mapping[str, Any], *, position: str = "") -> dict[str, Any]:
    """The values of `raw`, with lists turned into tuples; ConfigError for the first value that is not allowed."""
    refuse_unknown(owner, raw, [field.name for field in dataclasses.fields(options) if field.init], position=position)
    values = {name: as_tuple(value, field_types(options)[name]) for name, value in raw.items()}
    if problem := problem_of(options, values):
        prefix = f"{position}.{problem.name}: found" if position else f"{owner}: option {problem.name} is"
        raise ConfigError(f"{prefix} {problem.value}{problem.expected}")
    return values


def refuse_unknown(owner: str, raw: Mapping[str, Any], known: Sequence[str], *, position: str = "") -> None:
    """Raise ConfigError for the first name in `raw` that is not an option of `owner`."""
    for name in raw:
        if name not in known:
            allowed = f"allowed are {', '.join(known)}{did_you_mean(str(name), known)}" if known else "it has none"
            raise ConfigError(f"{position}{': ' if position else ''}{owner} has no option {name!r}; {allowed}")


def problem_of(options: type, values: Mapping[str, Any]) -> Problem | None:
    """The first value that its annotation does not allow, and why; None if all are allowed."""
    for name, value in values.items():
        try:
            adapter(options, name).validate_python(value)
        except ValidationError:
            shown = reprlib.repr(list(value) if isinstance(value, tuple) else value)
            return Problem(name, shown, expected(field_types(options)[name], value))
    return None


@cache
def field_types(options: type) -> dict[str, Any]:
    """Name of each field of an options dataclass → its annotation."""
    return get_type_hints(options, include_extras=True)


@cache
def adapter(options: type, name: str) -> TypeAdapter[Any]:
    """The object with which pydantic checks one field of an options dataclass."""
    return TypeAdapter(field_types(options)[name], config=STRICT)


def as_tuple(value: Any, annotation: Any) -> Any:
    """The value unchanged, but a list becomes a tuple if the annotation is a tuple."""
    return tuple(value) if isinstance(value, list) and get_origin(plain(annotation)[0]) is tuple else value


def plain(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Split an annotation into the type itself and its limits, such as `at least 1`."""
    if get_origin(annotation) is Annotated:
        kind, *limits = get_args(annotation)
        return kind, tuple(limits)
    return annotation, ()


def choices(annotation: Any) -> list[str] | None:
    """Names that a `Literal` annotation allows; None for other annotations."""
    kind, _ = plain(annotation)
    return [str(choice) for choice in get_args(kind)] if get_origin(kind) is Literal else None


def expected(annotation: Any, value: Any) -> str:
    """End of a message with the allowed values: `, expected a number above 0` or `; allowed are a, b`."""
    if names := choices(annotation):
        return f"; allowed are {', '.join(names)}{did_you_mean(str(value), names)}"
    return f", expected {words(annotation)}{spelling(value, words(annotation))}"


def spelling(value: Any, wanted: str) -> str:
    """Hint about YAML: how to write a number that YAML reads as text (1e-3), or a text that looks like a number."""
    if wanted == "a text" and isinstance(value, int | float):
        return "; put it in quotes"
    if not isinstance(value, str) or not wanted.startswith(("a whole number", "a number")):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if wanted.startswith("a whole number"):
        return f"; write {int(number)}" if number.is_integer() else ""
    return f"; write {Decimal(value):f}" if math.isfinite(number) else ""


NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


def words(annotation: Any) -> str:
    """Allowed values of an annotation in words."""
    kind, limits = plain(annotation)
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(words(choice) for choice in sorted(get_args(kind), key=lambda choice: choice is type(None)))
    bounds = " and ".join(bound(limit) for limit in limits if not isinstance(limit, str))
    name, *places = name_of(kind)
    notes = [limit for limit in limits if isinstance(limit, str)]
    return ", ".join([" ".join(text for text in [name, bounds, *notes] if text), *places])


def name_of(kind: Any) -> list[str]:
    """Name of a type in words. Limits such as `at least 1` are not part of it.

    For a list or a mapping a second text names the type of its entries."""
    if names := choices(kind):
        return [f"one of {', '.join(names)}"]
    inner = get_args(kind)
    if get_origin(kind) is tuple and inner:
        return ["a list", f"each value {words(inner[0])}"]
    if get_origin(kind) in (dict, collections.abc.Mapping):
        return ["a mapping", f"each value {words(inner[1])}"]
    return [NAMES.get(kind, str(getattr(kind, "__name__", kind)))]


def bound(limit: Any) -> str:
    """A limit of a number in words, to be put after the name of the type: ` of at least 1`."""
    match limit:
        case Ge(ge=least):
            return f"of at least {least}"
        case Gt(gt=least):
            return f"above {least}"
        case Le(le=most):
            return f"of at most {most}"
        case Lt(lt=most):
            return f"below {most}"
        case MinLen(min_length=least):
            return f"of length at least {least}"
        case MaxLen(max_length=most):
            return f"of length at most {most}"
    return str(limit)
