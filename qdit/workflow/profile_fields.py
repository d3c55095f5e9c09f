"""Check the values of a profile. Values are never converted. Each wrong value gives one line."""

import math
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.options import spelling

T = TypeVar("T")
OWN = "profile"
"""Type of the errors that say everything themselves."""


def refused(message: str) -> PydanticCustomError:
    """Make an error for pydantic whose message is exactly this text."""
    return PydanticCustomError(OWN, "{text}", {"text": message})


def matching(pattern: str, description: str) -> AfterValidator:
    """Make a type annotation for text that matches `pattern` as a whole; `description` completes the error message."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise refused(f"found {reprlib.repr(text)}, expected {description}")
        return text

    return AfterValidator(check)


def as_written(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Check a value and return it unchanged, so that 1 does not become 1.0."""
    check(value)
    return value


def without_repetition(values: tuple[T, ...]) -> tuple[T, ...]:
    """Refuse a list in which a value occurs twice."""
    for position, value in enumerate(values):
        if value in values[:position]:
            raise refused(f"found {reprlib.repr(value)} twice, expected a list without repetition (non-unique)")
    return values


def as_tuple(value: Any) -> Any:
    """Convert a list to a tuple. Other values stay unchanged; a later check refuses them."""
    return tuple(value) if isinstance(value, list) else value


def plain_mapping(values: dict[str, Any]) -> dict[str, Any]:
    """Refuse values that JSON does not have: dates, bytes, sets and keys that are no texts, as YAML reads them.

    Numbers must be finite. Profiles, commands and records hold such a mapping as JSON.
    """
    for where, value in inner_values(values):
        if isinstance(value, Mapping) and (odd := [key for key in value if not isinstance(key, str)]):
            raise refused(f"{where}: found the key {odd[0]!r}, expected a text; put it in quotes")
        if isinstance(value, float) and not math.isfinite(value):
            raise refused(f"{where}: found {value}, expected a number")
        if not isinstance(value, str | int | float | list | tuple | Mapping | None):
            hint = "; put it in quotes" if isinstance(value, date) else ""
            raise refused(
                f"{where}: found {reprlib.repr(value)}, expected a text, a number, true, false, null, a list or a"
                f" mapping{hint}"
            )
    return values


def inner_values(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (position, value) of a value and of all values inside it; the position begins with a dot or a bracket."""
    yield where, value
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from inner_values(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from inner_values(inner, f"{where}[{index}]")


Name = Annotated[
    str,
    matching(
        r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,99}",
        "a name of at most 100 letters, digits and . + _ - (it becomes part of paths)",
    ),
]
Bits = Annotated[
    str,
    matching("w([2-8]|16)a([2-8]|16)", "weight bits 2 to 8 or 16 and activation bits 2 to 8 or 16, e.g. w4a8"),
]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Number = Annotated[float, WrapValidator(as_written)]
Plain = Annotated[dict[str, Any], AfterValidator(plain_mapping)]
"""A mapping whose keys another part of the program knows. All its values can be written as JSON."""
Unique = Annotated[tuple[T, ...], AfterValidator(without_repetition), BeforeValidator(as_tuple)]
Several = Annotated[tuple[T, ...], Field(min_length=1), BeforeValidator(as_tuple)]


class Part(BaseModel):
    """A mapping in a profile with exactly these keys, one for each field.

    It can be read as an object (`part.steps`) and as a mapping of the keys in the file (`part["steps"]`).
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_by_name=False, validate_by_alias=True
    )

    @classmethod
    def names(cls) -> dict[str, str]:
        """Return key in the file → name of the field; a field has another name if the key is no Python name."""
        return {field.alias or name: name for name, field in cls.model_fields.items()}

    @model_validator(mode="before")
    @classmethod
    def has_its_keys(cls, content: Any) -> Any:
        """Refuse a mapping with unknown or missing keys, with one line in plain words."""
        if not isinstance(content, Mapping):
            return content
        known = cls.names()
        for key in content:
            if key not in known:
                hint = did_you_mean(str(key), known)
                raise refused(f": unknown key {key!r}; allowed are {', '.join(known)}{hint}")
        missing = [key for key, name in known.items() if cls.model_fields[name].is_required() and key not in content]
        if missing:
            raise refused(f": missing {', '.join(missing)}; add {'it' if len(missing) == 1 else 'them'}")
        for key in content:
            if content[key] is None and cls.model_fields[known[key]].default is None:
                raise refused(f".{key}: found None; give a value, or leave the key out")
        return content

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise KeyError(key)
        return getattr(self, self.names()[key])

    def __contains__(self, key: object) -> bool:
        return any(name in self.model_fields_set for alias, name in self.names().items() if alias == key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key; `default` if the profile does not have the key."""
        return self[key] if key in self else default  # noqa: SIM401

    def keys(self) -> Iterator[str]:
        """Yield the keys that the profile gives."""
        return (key for key in self.names() if key in self)


Keyed = Mapping[str, Any] | Part
"""What is read by names: a plain mapping, or a part."""

TYPE_WORDS = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
}
LIMIT_WORDS = {
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "greater_than": "more than {gt}",
    "string_too_short": "a text of at least {min_length} characters",
}


def check(model: type[T], content: Any) -> T:
    """Make a pydantic model from plain YAML or JSON. ConfigError for the first value that is not allowed."""
    try:
        return model.model_validate(content)  # type: ignore[attr-defined]
    except ValidationError as problem:
        raise ConfigError(describe(problem.errors(include_url=False)[0])) from None


def dotted(path: Sequence[Any]) -> str:
    """Write the position of a value in the profile: `tables.table2.blocks[0].bits`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".") or "profile"


def describe(problem: ErrorDetails) -> str:
    """Write one line about a value that is not allowed: its position, the value, and what is allowed."""
    path, kind, limits = list(problem["loc"]), problem["type"], problem.get("ctx", {})
    if path and path[-1] == "[key]":
        path = path[:-2]
    where, value = dotted(path), problem["input"]
    begin = f"{where}: found {reprlib.repr(value)}"
    if kind == OWN:
        return f"{where}: {limits['text']}" if limits["text"][0] not in ".:[" else f"{where}{limits['text']}"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", limits["expected"])
        return f"{begin}; allowed are {', '.join(allowed)}{did_you_mean(str(value), allowed)}"
    if kind in TYPE_WORDS:
        return f"{begin}, expected {TYPE_WORDS[kind]}{spelling(value, TYPE_WORDS[kind])}"
    if kind in LIMIT_WORDS:
        return f"{begin}, expected {LIMIT_WORDS[kind].format(**limits)}"
    if kind == "too_short":
        holds = "a mapping with at least {} entries" if isinstance(value, Mapping) else "a list of length at least {}"
        return f"{begin}, expected {holds.format(limits['min_length'])}"
    return f"{begin}: {problem['msg']}"
