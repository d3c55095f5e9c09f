"""Read classes from source text: values of attributes, fields of dataclasses, base classes in other files."""

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError
from qdit.core.modules import module_file, parse_source, shown


@dataclass(frozen=True)
class Option:
    """An option of a method: its type as text, its default, and its description (the string below the field).

    `known` is False if the default is not a literal. Then `default` is its source text.
    """

    type: str
    default: Any
    about: str = ""
    known: bool = True


class SourceFile:
    """The source of a module: classes, constants and imports at its top level."""

    def __init__(self, module: str, path: Path) -> None:
        tree = parse_source(path)
        self.module, self.path, self.where = module, path, shown(path)
        package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        self.classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        self.constants = assigned(tree.body)
        self.imported: dict[str, tuple[str, str | None]] = {}
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                parents = package[: len(package) - node.level + 1] if node.level else []
                origin = ".".join([*parents, *([node.module] if node.module else [])])
                self.imported |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                self.imported |= {alias.asname or alias.name: (alias.name, None) for alias in node.names}

    def resolve(self, expression: ast.expr) -> "ClassSource | None":
        """Find the class that an expression names, in this file or in the file from which it is imported.

        None if the class cannot be found.
        """
        if isinstance(expression, ast.Subscript):  # Generic[T]
            return self.resolve(expression.value)
        if isinstance(expression, ast.Name):
            if expression.id in self.classes:
                return ClassSource(self, self.classes[expression.id])
            module, name = self.imported.get(expression.id, (None, None))
        elif isinstance(expression, ast.Attribute):
            module, name = self.module_of(expression.value), expression.attr
        else:
            return None
        return imported_class(module, name) if module and name else None

    def constant(self, name: str) -> ast.expr | None:
        """Find the value of a top-level name, in this file or in the file from which it is imported.

        None if the name cannot be found.
        """
        if name in self.constants:
            return self.constants[name]
        module, original = self.imported.get(name, (None, None))
        path = module_file(module) if module and original else None
        if path is None or module is None or original is None or module == self.module:
            return None
        return SourceFile(module, path).constants.get(original)

    def module_of(self, expression: ast.expr) -> str | None:
        """Find the module that an expression names: `a.b` after `import a.b`, or an imported name. None if unknown."""
        text = ast.unparse(expression)
        module, name = self.imported.get(text, (None, None))
        return f"{module}.{name}" if module and name else module


def imported_class(module: str, name: str) -> "ClassSource | None":
    """Read a class of another module without importing the module. None if there is no such class."""
    path = module_file(module)
    if path is None:
        return None
    source = SourceFile(module, path)
    if name in source.classes:
        return ClassSource(source, source.classes[name])
    again = source.imported.get(name)
    return imported_class(*again) if again and again[1] and again != (module, name) else None  # type: ignore[arg-type]


@dataclass(frozen=True)
class ClassSource:
    """A class, read from its source text and never executed."""

    source: SourceFile
    node: ast.ClassDef

    @cached_property
    def values(self) -> dict[str, ast.expr]:
        """Class attribute → the expression of its value."""
        return assigned(self.node.body)

    @property
    def where(self) -> str:
        """File and line of the class."""
        return f"{self.source.where} line {self.node.lineno}"

    @property
    def methods(self) -> set[str]:
        """Names of the functions in the class body."""
        return {line.name for line in self.node.body if isinstance(line, ast.FunctionDef)}

    @property
    def docstring(self) -> str:
        """The docstring without indents; empty if there is none."""
        return ast.get_docstring(self.node) or ""

    @property
    def fields(self) -> dict[str, Option]:
        """Field of a dataclass → its type, its default, and the string below it."""
        options = {}
        below = [*self.node.body[1:], None]
        for line, following in zip(self.node.body, below, strict=True):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                alias = self.source.constant(line.annotation.id) if isinstance(line.annotation, ast.Name) else None
                kind = ast.unparse(alias or line.annotation)
                if kind.partition("[")[0].rpartition(".")[2] == "ClassVar":
                    continue
                value, known = self.constant(line.value)
                options[line.target.id] = Option(kind, value, text_of(following), known)
        return options

    def ancestors(self) -> list["ClassSource"]:
        """Return the class and its base classes, in the order in which attributes are looked up.

        A base class whose file is not known is left out.
        """
        chain, waiting = [self], list(self.node.bases)
        sources = [self.source] * len(waiting)
        while waiting:
            base, source = waiting.pop(0), sources.pop(0)
            written = source.resolve(base)
            if written is not None and written.identity not in [known.identity for known in chain]:
                chain.append(written)
                waiting, sources = [*written.node.bases, *waiting], [written.source] * len(written.node.bases) + sources
        return chain

    @property
    def identity(self) -> tuple[str, str]:
        """(name of the module, name of the class)."""
        return self.source.module, self.node.name

    def line_of(self, name: str) -> str:
        """Write the file and line of a class attribute."""
        return f"{self.source.where} line {self.values[name].lineno}"

    def literal(self, name: str) -> Any:
        """Return the value of a class attribute. ConfigError if it is not a literal."""
        try:
            return ast.literal_eval(self.values[name])
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise ConfigError(
                f"{self.line_of(name)}: {name} = {ast.unparse(self.values[name])}: expected a literal, since it is"
                " read without importing the file; write the value itself"
            ) from None

    def constant(self, expression: ast.expr | None) -> tuple[Any, bool]:
        """Return the value of a default and True; or its source text and False, if the value is not known.

        The default can be a literal or the name of a constant in the file.
        """
        if isinstance(expression, ast.Name):
            expression = self.source.constant(expression.id) or expression
        if expression is None:
            return "(required)", False
        try:
            return ast.literal_eval(expression), True
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return ast.unparse(expression), False


def assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    """Return name → expression for the assignments in a class or module body. `a: int = 1` counts as an assignment."""
    values: dict[str, ast.expr] = {}
    for line in body:
        if isinstance(line, ast.Assign):
            values |= {target.id: line.value for target in line.targets if isinstance(target, ast.Name)}
        elif isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
            values[line.target.id] = line.value
    return values


def text_of(line: ast.stmt | None) -> str:
    """Return the string if a statement is nothing but a string; else an empty text."""
    if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str):
        return " ".join(line.value.value.split())
    return ""
