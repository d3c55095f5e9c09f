"""The language of claims: comparisons of table cells. Python's `ast` parses them, this module evaluates them.

    fid('q-dit', 'w4a8', s) < min(fid(m, 'w4a8', s) for m in baselines)

An expression may contain numbers, texts, names of sets and loop variables; + − * /; comparisons (also chains), and, or,
not; the functions of `cell_functions` (a cell of the claim's table); abs, round, min, max, all, any and count. Each of
min, max, all, any and count may have one generator as its only argument. The arguments of a metric are the keys of a
row of its table, in the order of `KEYS`.

We do not let Python execute the expressions, for two reasons. A verdict needs three truth values, the interval of every
difference and the text of every comparison, and Python gives none of these for `and`, `not`, chains and `all`. And data
must not be able to run code.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.metrics import claim_functions
from qdit.report.data.values import Quantity, Truth, Unknown, Value, combine, compare, count, every, some

KEYS = {
    "table1": ("group", "resolution"),
    "table2": ("method", "bits", "setting"),
    "table3": ("method", "dimension"),
    "table4": ("step",),
    "table5": ("method",),
    "table6": ("search",),
    "ptq4dit_table1": ("method", "bits", "steps"),
    "tq_dit": ("method", "bits"),
    "methods": ("method", "bits", "setting"),
}
"""Table → the keys that identify a row (in Table 3: a cell)."""

SCORE = "score"
"""Function that reads a dimension of VBench; its last key is the dimension."""

Key = str | int | float
Bound = Mapping[str, Key]
ARITHMETIC: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
SYMBOLS: dict[type[ast.AST], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
NUMBERS: dict[str, Callable[..., float]] = {"min": min, "max": max, "abs": abs}
TRUTHS: dict[str, Callable[[Sequence[Truth]], Truth]] = {"all": every, "any": some}


def cell_functions() -> dict[str, str]:
    """Return function name → printed title of the metric that the function reads, for all metrics and VBench."""
    return {name: metric.title for name, metric in claim_functions().items()} | {SCORE: "VBench"}


def functions() -> tuple[str, ...]:
    """Return the names of all functions that an expression may call."""
    return (*cell_functions(), *NUMBERS, *TRUTHS, "round", "count")


class Source(Protocol):
    """Anything that returns the number in a table cell: the printed tables, or the tables of a run."""

    def cell(self, table: str, metric: str, keys: tuple[Key, ...]) -> Value: ...


@dataclass
class Evaluation:
    """Evaluates the parsed expressions of claims about one table on one source of numbers.

    `read` collects the titles of all metrics in the evaluated expressions.
    """

    source: Source
    table: str
    sets: Mapping[str, Sequence[Key]]
    read: dict[str, None] = field(default_factory=dict)

    def truth(self, node: ast.expr, bound: Bound) -> Truth:
        """Evaluate a true-or-false expression; `bound` has the values of the loop variables."""
        if isinstance(node, ast.BoolOp):
            operands = [self.truth(operand, bound) for operand in node.values]
            return every(operands) if isinstance(node.op, ast.And) else some(operands)
        if isinstance(node, ast.UnaryOp):
            return self.truth(node.operand, bound).negated
        if isinstance(node, ast.Compare):
            sides = [(side, self.value(side, bound)) for side in (node.left, *node.comparators)]
            symbols = [SYMBOLS[type(op)] for op in node.ops]
            return every(
                [
                    compare(symbol, left[1], right[1], f"{say(*left, bound)} {symbol} {say(*right, bound)}")
                    for symbol, left, right in zip(symbols, sides[:-1], sides[1:], strict=True)
                ]
            )
        assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        return TRUTHS[node.func.id]([self.truth(operand, inner) for operand, inner in self.each(node, bound)])

    def value(self, node: ast.expr, bound: Bound) -> Value:
        """Evaluate an expression whose value is a number; `bound` has the values of the loop variables."""
        if isinstance(node, ast.Constant):
            return Quantity(float(node.value))  # type: ignore[arg-type]
        if isinstance(node, ast.BinOp):
            return combine(ARITHMETIC[type(node.op)], self.value(node.left, bound), self.value(node.right, bound))
        if isinstance(node, ast.UnaryOp):
            return combine(operator.neg, self.value(node.operand, bound))
        assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        name = node.func.id
        if name in (titles := cell_functions()):
            self.read[titles[name]] = None
            return self.source.cell(self.table, name, tuple(key_of(argument, bound) for argument in node.args))
        if name == "count":
            return count([self.truth(argument, inner) for argument, inner in self.each(node, bound)])
        if name == "round":
            number, digits = self.value(node.args[0], bound), node.args[1]
            assert isinstance(digits, ast.Constant)
            if isinstance(number, Quantity) and number.measured:
                return number  # a measured number is compared by its interval, not as it would be printed
            return combine(lambda value: round(value, int(digits.value)), number)  # type: ignore[arg-type]
        return combine(NUMBERS[name], *(self.value(argument, inner) for argument, inner in self.each(node, bound)))

    def each(self, node: ast.Call, bound: Bound) -> Iterator[tuple[ast.expr, Bound]]:
        """Yield each argument of a call as (expression, values of the loop variables).

        A generator yields its expression once for each combination of its loop variables.
        """
        if not isinstance(node.args[0], ast.GeneratorExp):
            yield from ((argument, bound) for argument in node.args)
            return
        bindings: list[Bound] = [bound]
        for loop in node.args[0].generators:
            assert isinstance(loop.target, ast.Name) and isinstance(loop.iter, ast.Name)
            bindings = [{**binding, loop.target.id: key} for binding in bindings for key in self.sets[loop.iter.id]]
        yield from ((node.args[0].elt, binding) for binding in bindings)


def key_of(node: ast.expr, bound: Bound) -> Key:
    """Return one key of a row, for example a method or bits: a constant, or the value of a loop variable."""
    if isinstance(node, ast.Name):
        return bound[node.id]
    assert isinstance(node, ast.Constant)
    return node.value  # type: ignore[return-value]


def say(node: ast.expr, value: Value, bound: Bound) -> str:
    """Write an expression as text: with the values of its loop variables, followed by the value of the expression."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    text = _filled_text(_source(node), tuple((name, key, type(key)) for name, key in bound.items()))
    if isinstance(value, Unknown):
        return f"{text} unknown"
    if isinstance(value, Quantity):
        return f"{text} = {value.value:.5g}"
    return f"{text} = {value.low}" + (f" to {value.high}" if value.high != value.low else "")


@lru_cache(maxsize=4096)
def _source(node: ast.expr) -> str:
    """Write an expression as Python; the report says each expression for many rows."""
    return ast.unparse(node)


@lru_cache(maxsize=16384)
def _filled_text(source: str, bound: tuple[tuple[str, Key, type], ...]) -> str:
    """Write an expression with the values of its loop variables and the titles of its metrics, without quotes."""
    tree = ast.parse(source, mode="eval").body
    text, titles = ast.unparse(_Filled({name: key for name, key, _ in bound}).visit(tree)), cell_functions()
    text = re.sub("|".join(rf"\b{name}\(" for name in titles), lambda match: f"{titles[match[0][:-1]]}(", text)
    return text.replace("'", "")


class _Filled(ast.NodeTransformer):
    """Loop variables replaced by their values."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(self.bound[node.id]) if node.id in self.bound else node


def parse(text: str, *, table: str, sets: Mapping[str, Sequence[Key]]) -> ast.expr:
    """Parse a true-or-false expression and return its checked syntax tree.

    ConfigError for everything that the language does not allow.
    """
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ConfigError(f"expression {text!r}: not well-formed; see docs/claims.md for the language") from None
    _Checker(text, table, sets).truth(node, frozenset())
    return node


@dataclass(frozen=True)
class _Checker:
    """Checks a tree before `Evaluation` reads it, and refuses everything that is not in the language."""

    text: str
    table: str
    sets: Mapping[str, Sequence[Key]]

    def truth(self, node: ast.expr, names: frozenset[str]) -> None:
        if isinstance(node, ast.BoolOp):
            for operand in node.values:
                self.truth(operand, names)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self.truth(node.operand, names)
        elif isinstance(node, ast.Compare) and all(type(op) in SYMBOLS for op in node.ops):
            for operand in (node.left, *node.comparators):
                self.value(operand, names)
        elif isinstance(node, ast.Call) and self.name_of(node) in TRUTHS:
            self.call(node, names, self.truth)
        else:
            self.refuse(node, "a comparison, and, or, not, all(...) or any(...)")

    def value(self, node: ast.expr, names: frozenset[str]) -> None:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            self.value(node.left, names)
            self.value(node.right, names)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            self.value(node.operand, names)
        elif isinstance(node, ast.Call):
            self.function(node, names)
        else:
            self.refuse(node, "a number, a cell, or arithmetic with + - * /")

    def function(self, node: ast.Call, names: frozenset[str]) -> None:
        name = self.name_of(node)
        if name in cell_functions():
            self.keys(node, names)
        elif name == "count":
            self.call(node, names, self.truth)
        elif name == "round":
            if len(node.args) != 2 or not (isinstance(node.args[1], ast.Constant) and type(node.args[1].value) is int):
                self.refuse(node, "round(number, digits)")
            self.value(node.args[0], names)
        elif name in NUMBERS:
            self.call(node, names, self.value)
        else:
            self.refuse(node, f"one of {', '.join(functions())}{did_you_mean(name, functions())}")

    def call(self, node: ast.Call, names: frozenset[str], inside: Callable[[ast.expr, frozenset[str]], None]) -> None:
        """Arguments of a call: one generator, or expressions."""
        if not node.args:
            self.refuse(node, "an argument")
        first = node.args[0]
        if not isinstance(first, ast.GeneratorExp):
            for argument in node.args:
                inside(argument, names)
            return
        for loop in first.generators:
            named = isinstance(loop.target, ast.Name) and isinstance(loop.iter, ast.Name)
            if len(node.args) > 1 or not named or loop.ifs or loop.is_async:
                self.refuse(node, "`... for name in set` and nothing else")
            assert isinstance(loop.target, ast.Name) and isinstance(loop.iter, ast.Name)
            if loop.iter.id not in self.sets:
                hint = did_you_mean(loop.iter.id, self.sets)
                self.refuse(loop.iter, f"one of the sets {', '.join(self.sets)}{hint}")
            names |= {loop.target.id}
        inside(first.elt, names)

    def keys(self, node: ast.Call, names: frozenset[str]) -> None:
        wanted = KEYS[self.table]
        if len(node.args) != len(wanted):
            self.refuse(node, f"{', '.join(wanted)} in {self.table}")
        for argument in node.args:
            constant = isinstance(argument, ast.Constant) and type(argument.value) in (str, int, float)
            if not constant and not (isinstance(argument, ast.Name) and argument.id in names):
                self.refuse(
                    argument, f"a text, a number or a loop variable ({', '.join(sorted(names)) or 'there is none'})"
                )

    def name_of(self, node: ast.Call) -> str:
        if not isinstance(node.func, ast.Name) or node.keywords or any(isinstance(p, ast.Starred) for p in node.args):
            self.refuse(node, "a function by its name, with plain arguments")
        assert isinstance(node.func, ast.Name)
        return node.func.id

    def refuse(self, node: ast.AST, allowed: str) -> None:
        raise ConfigError(f"expression {self.text!r}: found {ast.unparse(node)!r}, expected {allowed}")
