"""Options of methods and searches: frozen dataclasses; their annotations define the allowed values.

Whoever makes options (a profile, `--options` of a command, Python) meets the same check and the same words. A value is
never converted: "16", 16.0 and true are no whole numbers. A list stands for a tuple, and a whole number for a fraction.
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
GroupSize = Annotated[int, Ge(1), "that divides the layers' input width"]
"""Elements that share one scale; only the model tells whether the size divides."""

T = TypeVar("T")
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


@dataclasses.dataclass(frozen=True)
class CheckedOptions:
    """Base of option dataclasses: every value is checked by its annotation when the options are made.

    A subclass that compares several of its values does so in its own `__post_init__`, after this one.
    """

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, value in checked(type(self).__name__, type(self), values).items():
            object.__setattr__(self, name, value)


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with one option: its value as text, and in words what is allowed."""

    name: str
    value: str
    expected: str


def parse_options(owner: str, options: type[T], raw: Mapping[str, Any], *, place: str = "") -> T:
    """The options dataclass of `owner` (a method or a kind of search) from plain JSON.

    `place` is where they stand in a profile. ConfigError for names that it does not have, values that its annotations
    do not allow, and what the class itself refuses.
    """
    values = checked(owner, options, raw, place=place)
    try:
        return options(**values)
    except (TypeError, ValueError, ConfigError) as problem:
        raise ConfigError(f"{place or owner}: {problem}") from None


def checked(owner: str, options: type, raw: Mapping[str, Any], *, place: str = "") -> dict[str, Any]:
    """The given values, lists as tuples where the annotation says so; ConfigError for the first that is not allowed."""
    refuse_unknown(owner, raw, [field.name for field in dataclasses.fields(options) if field.init], place=place)
    values = {name: as_tuple(value, field_types(options)[name]) for name, value in raw.items()}
    if problem := problem_of(options, values):
        prefix = f"{place}.{problem.name}: found" if place else f"{owner}: option {problem.name} is"
        raise ConfigError(f"{prefix} {problem.value}{problem.expected}")
    return values


def refuse_unknown(owner: str, raw: Mapping[str, Any], known: Sequence[str], *, place: str = "") -> None:
    """ConfigError for the first name that is no option."""
    for name in raw:
        if name not in known:
            allowed = f"allowed are {', '.join(known)}{did_you_mean(str(name), known)}" if known else "it has none"
            raise ConfigError(f"{place}{': ' if place else ''}{owner} has no option {name!r}; {allowed}")


def problem_of(options: type, values: Mapping[str, Any]) -> Problem | None:
    """The first value that its annotation does not allow."""
    for name, value in values.items():
        try:
            adapter(options, name).validate_python(value)
        except ValidationError:
            shown = reprlib.repr(list(value) if isinstance(value, tuple) else value)
            return Problem(name, shown, expected(field_types(options)[name], value))
    return None


@cache
def field_types(options: type) -> dict[str, Any]:
    """Field → its annotation."""
    return get_type_hints(options, include_extras=True)


@cache
def adapter(options: type, name: str) -> TypeAdapter[Any]:
    """The check of a field."""
    return TypeAdapter(field_types(options)[name], config=STRICT)


def as_tuple(value: Any, annotation: Any) -> Any:
    """A list as a tuple, if the annotation wants one."""
    return tuple(value) if isinstance(value, list) and get_origin(plain(annotation)[0]) is tuple else value


def plain(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without its limits, and these."""
    if get_origin(annotation) is Annotated:
        kind, *limits = get_args(annotation)
        return kind, tuple(limits)
    return annotation, ()


def choices(annotation: Any) -> list[str] | None:
    """The names that an annotation allows, if it is a choice."""
    kind, _ = plain(annotation)
    return [str(choice) for choice in get_args(kind)] if get_origin(kind) is Literal else None


def expected(annotation: Any, value: Any) -> str:
    """What an annotation allows, as the end of a message: `, expected a number above 0` or `; allowed are a, b`."""
    if names := choices(annotation):
        return f"; allowed are {', '.join(names)}{did_you_mean(str(value), names)}"
    return f", expected {words(annotation)}{spelling(value, words(annotation))}"


def spelling(value: Any, wanted: str) -> str:
    """How YAML wants a text that looks like a number (it takes 1e-3 for a text), and a number that is to be a text."""
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
    """What an annotation allows, in words."""
    kind, limits = plain(annotation)
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(words(choice) for choice in sorted(get_args(kind), key=lambda choice: choice is type(None)))
    bounds = " and ".join(bound(limit) for limit in limits if not isinstance(limit, str))
    name, *places = name_of(kind)
    notes = [limit for limit in limits if isinstance(limit, str)]
    return ", ".join([" ".join(text for text in [name, bounds, *notes] if text), *places])


def name_of(kind: Any) -> list[str]:
    """A type in words, without limits; of a list or a mapping then what it holds."""
    if names := choices(kind):
        return [f"one of {', '.join(names)}"]
    inner = get_args(kind)
    if get_origin(kind) is tuple and inner:
        return ["a list", f"each value {words(inner[0])}"]
    if get_origin(kind) in (dict, collections.abc.Mapping):
        return ["a mapping", f"each value {words(inner[1])}"]
    return [NAMES.get(kind, str(getattr(kind, "__name__", kind)))]


def bound(limit: Any) -> str:
    """A limit in words, after the name of a type."""
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
