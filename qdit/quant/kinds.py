"""Registries of kinds: they map the kind of a weight, a quantizer or a transform in a checkpoint to its class.

The file of a method may register more kinds. A checkpoint names its kinds and its method. If a kind is unknown when the
checkpoint is loaded, the module of this method is imported: a file in `baselines/`, or a module that an installed
package registers. So a checkpoint cannot make the program import anything else.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from qdit.core.errors import CheckpointError, ConfigError, did_you_mean
from qdit.core.method_modules import contributed_modules, import_module, modules_of

T = TypeVar("T", bound=type)


class Kinds:
    """Registry of the kinds of weights, quantizers or transforms: name → class. `what` says which, for messages."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.classes: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator: register a class under a name. ConfigError if a different class has this name already."""

        def add(cls: T) -> T:
            other = self.classes.get(name)
            if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ConfigError(
                    f"{self.what} kind {name!r} of {cls.__module__}: {other.__module__} has this kind already; choose"
                    " another name"
                )
            cls.kind = name  # type: ignore[attr-defined]
            self.classes[name] = cls
            return cls

        return add

    def find(self, name: object) -> Any:
        """Return the class of a kind; for an unknown kind raise CheckpointError, which lists the known names."""
        if name not in self.classes:
            hint = did_you_mean(str(name), self.classes)
            raise CheckpointError(
                f"{self.what} kind {name!r}: allowed are {', '.join(self.classes)}{hint}; if a method defines it,"
                " install the method's file"
            )
        return self.classes[name]


def kinds_named(sites: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, object]]:
    """Return the pairs (`activation`, `weight` or `transform`; kind) that the sites of a checkpoint use."""
    for spec in sites.values():
        for part in ("activation", "weight"):
            if spec.get(part) is not None:
                yield part, spec[part].get("kind")
        for step in spec.get("transform") or ():
            yield "transform", step.get("kind")


def require_kinds(registries: Mapping[str, Kinds], sites: Mapping[str, Mapping[str, Any]], method: object) -> None:
    """Import the module of a checkpoint's method if a kind is unknown; CheckpointError if it stays unknown."""
    unknown = {(part, str(kind)) for part, kind in kinds_named(sites) if kind not in registries[part].classes}
    if not unknown:
        return
    part, kind = min(unknown)
    name = f"{registries[part].what} kind {kind!r} is not known"
    shipped, plugins = contributed_modules()
    origins = list(modules_of(str(method), [*shipped, *plugins]))
    if not origins:
        raise CheckpointError(
            f"{name}, and no file in baselines/ or installed package has the method {str(method)!r} that could define"
            " it; install the method's file"
        )
    for origin in origins:
        try:
            import_module(origin)
        except ConfigError as problem:
            raise CheckpointError(f"{name}, and the file of the method {str(method)!r} is broken: {problem}") from None
    for part, kind in sorted(unknown):
        registries[part].find(kind)
