"""The papers' claims, read from a YAML file, and the verdict on each claim: by printed numbers and by measured ones.

`results/published/claims.yaml` has one entry for each claim. A claim that can be checked has an expression about one
table (`qdit.report.claims.language`). It is evaluated on the printed numbers and on the numbers of each existing run.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.run import Run
from qdit.report.claims.damage import at_bits, damaged, not_at_damage
from qdit.report.claims.language import KEYS, Evaluation, Key, parse
from qdit.report.claims.sources import Measured, Printed
from qdit.report.claims.telling import what_would_tell
from qdit.report.data.p_values import LEVEL, benjamini_hochberg
from qdit.report.data.values import Evidence
from qdit.workflow.profile_files import parsed

NUMERIC, ORDINAL, HISTORICAL, BY_CONSTRUCTION = "numeric", "ordinal", "historical", "by construction"
KINDS = {
    NUMERIC: "a number of the paper; a miniature cannot reproduce it",
    ORDINAL: "which of two is better; on a run the interval of the difference decides",
    HISTORICAL: "quoted only, not checked",
    BY_CONSTRUCTION: "the salient form was chosen with its cells, so the result was certain",
}
HOLDS, FAILS, OPEN, NOT_CHECKED = "holds", "does not hold", "cannot be told", "not checked"
CONSTRUCTED = "by construction"
WORDS = {True: HOLDS, False: FAILS, None: OPEN}
FILE = "claims.yaml"

REQUIRED = ("id", "words", "source", "place", "kind")
OPTIONAL = ("table", "expression", "miniature", "form", "reading", "remark")


@dataclass(frozen=True)
class Claim:
    """One claim of a paper: its literal `words`, their `place` in the paper, how we read them, and how we check them.

    `expression` is evaluated on the numbers. For a miniature profile `miniature` is evaluated instead, if it is not
    empty; it uses the paired metrics.
    """

    id: str
    words: str
    source: str
    place: str
    kind: str
    table: str = ""
    expression: str = ""
    miniature: str = ""
    form: str = "natural"
    reading: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Contradiction:
    """Two statements of papers that contradict each other; `differences` are entry numbers in docs/differences.md."""

    id: str
    between: str
    first: str
    second: str
    resolution: str = ""
    differences: tuple[int, ...] = ()


@dataclass(frozen=True)
class Claims:
    """The content of claims.yaml: titles of the papers, sets of row keys with names, claims, and contradictions."""

    documents: Mapping[str, str]
    sets: Mapping[str, Sequence[Key]]
    claims: tuple[Claim, ...]
    contradictions: tuple[Contradiction, ...]


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim from one source of numbers (printed tables or a run), and the comparisons that decide it.

    `word` is the verdict and `why` its reason. `metrics` are the metrics in the expression. `p` is the p-value, or None
    if no interval decides. `alone` is the verdict before the correction for many claims, if the correction changes it.
    `tells` says what would decide a claim that cannot be told. `missing` are rows that it reads and that are not made.
    """

    word: str
    why: str = ""
    metrics: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    p: float | None = None
    alone: str = ""
    tells: str = ""
    runs: tuple[Run, ...] = ()
    """Runs of the cells that were read."""
    missing: tuple[Run, ...] = ()


def load_claims(path: Path) -> Claims:
    """Read and check claims.yaml; ConfigError names the wrong entry and what is wrong with it."""
    try:
        content = parsed(path.read_text(encoding="utf-8"), is_json=False)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; it belongs to the repository, restore it") from None
    except ConfigError as problem:
        raise ConfigError(f"{path}: {problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(problem).split())}); correct the file") from None
    parts = ("documents", "sets", "claims", "contradictions")
    if not isinstance(content, dict) or set(content) != set(parts):
        description = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ConfigError(f"{path}: found {description}, expected {', '.join(parts)}; see docs/claims.md")
    loaded = Claims(
        documents=content["documents"],
        sets=content["sets"],
        claims=tuple(_claim(entry, content, path) for entry in content["claims"]),
        contradictions=tuple(_contradiction(entry, path) for entry in content["contradictions"]),
    )
    names = [*(claim.id for claim in loaded.claims), *(entry.id for entry in loaded.contradictions)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: {', '.join(twice)}: found twice; every id is there once")
    return loaded


def _claim(entry: Any, content: Mapping[str, Any], path: Path) -> Claim:
    where = f"{path.name}: claim {entry.get('id') if isinstance(entry, dict) else entry!r}"
    _fields(entry, REQUIRED, OPTIONAL, where)
    claim = Claim(**entry)
    for word, allowed, field in ((claim.kind, KINDS, "kind"), (claim.source, content["documents"], "source")):
        if word not in allowed:
            raise ConfigError(
                f"{where}: {field} {word!r}, allowed are {', '.join(allowed)}{did_you_mean(word, allowed)}"
            )
    checkable = bool(claim.table) + bool(claim.expression)
    if checkable != (0 if claim.kind == HISTORICAL else 2):
        raise ConfigError(f"{where}: kind {claim.kind!r}; all kinds but historical have a table and an expression")
    if claim.kind == HISTORICAL:
        return claim
    if claim.table not in KEYS:
        hint = did_you_mean(claim.table, KEYS)
        raise ConfigError(f"{where}: table {claim.table!r}, allowed are {', '.join(KEYS)}{hint}")
    for text in filter(None, (claim.expression, claim.miniature)):
        try:
            parse(text, table=claim.table, sets=content["sets"])
        except ConfigError as problem:
            raise ConfigError(f"{where}: {problem}") from None
    return claim


def _contradiction(entry: Any, path: Path) -> Contradiction:
    where = f"{path.name}: contradiction {entry.get('id') if isinstance(entry, dict) else entry!r}"
    _fields(entry, ("id", "between", "first", "second"), ("resolution", "differences"), where)
    return Contradiction(**{**entry, "differences": tuple(entry.get("differences", ()))})


def _fields(entry: Any, required: Sequence[str], optional: Sequence[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: expected a mapping with {', '.join(required)}")
    missing, allowed = [name for name in required if not entry.get(name)], (*required, *optional)
    unknown = [name for name in entry if name not in allowed]
    if missing or unknown:
        problem = f"lacks {', '.join(missing)}" if missing else f"unknown {', '.join(map(str, unknown))}"
        raise ConfigError(f"{where}: {problem}; allowed are {', '.join(allowed)}")


def judge(claim: Claim, sets: Mapping[str, Sequence[Key]], source: Printed | Measured) -> Verdict:
    """Return the verdict on one claim from one source of numbers, before the correction for many claims."""
    if (verdict := unchecked(claim, source)) is not None:
        return verdict
    return _judged(claim, parse(expression_of(claim, source), table=claim.table, sets=sets), sets, source)


def judge_at_damage(claim: Claim, sets: Mapping[str, Sequence[Key]], source: Measured, papers: Measured) -> Verdict:
    """Return the verdict on one claim at W4A4, where damage begins, before the correction for many claims.

    `source` has the rows at W4A4; `papers` has the rows of the same run at the papers' bits.
    """
    expression = expression_of(claim, source)
    if claim.kind != HISTORICAL and (why := not_at_damage(claim.table, claim.form, expression)):
        return Verdict(NOT_CHECKED, why)
    if (verdict := unchecked(claim, source)) is not None:
        return verdict
    node = parse(expression, table=claim.table, sets=sets)
    node, sets, restricted = at_bits(node, claim.table, sets, source, papers)
    verdict = _judged(claim, node, sets, source)
    where = f"only at {', '.join(map(str, restricted))}" if restricted else ""
    return replace(verdict, why="; ".join(filter(None, (where, verdict.why))))


def expression_of(claim: Claim, source: Printed | Measured) -> str:
    """Return the expression of a claim to evaluate on a source: `miniature` for a miniature, if it has one."""
    return claim.miniature if source.miniature and claim.miniature else claim.expression


def unchecked(claim: Claim, source: Printed | Measured) -> Verdict | None:
    """Return the verdict on a claim that can be given without evaluating its expression; None if it must be evaluated.

    A historical claim is never checked. A claim about a number of the paper's model cannot be told on a miniature.
    """
    if claim.kind == HISTORICAL:
        return Verdict(NOT_CHECKED, claim.remark)
    if source.miniature and claim.kind == NUMERIC and not claim.miniature:
        return Verdict(OPEN, "a number about the paper’s model and data, which a miniature cannot measure")
    return None


def _judged(claim: Claim, node: ast.expr, sets: Mapping[str, Sequence[Key]], source: Printed | Measured) -> Verdict:
    """The verdict that a parsed expression gives."""
    if isinstance(source, Measured):
        source.fitted, source.read = False, {}
    evaluation = Evaluation(source, claim.table, sets)
    truth = evaluation.truth(node, {})
    reasons = (
        tuple(dict.fromkeys(piece.reason for piece in truth.evidence if piece.reason)) if truth.value is None else ()
    )
    why = reasons[0] + (f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else "") if reasons else ""
    bare = isinstance(source, Measured) and any(piece.no_interval for piece in truth.evidence)
    if bare and truth.value is not None:
        why = "without an interval: the run has no bootstrap.npz"
    word = WORDS[truth.value]
    p = truth.p if isinstance(source, Measured) else None
    if isinstance(source, Measured) and (source.fitted or claim.kind == BY_CONSTRUCTION):
        p = None  # no evidence either way, so the correction for many claims does not count it
        if truth.value is not None:
            word, why = CONSTRUCTED, f"{word}, but the {claim.form} form was chosen with its cells"
    tells = what_would_tell(truth.evidence) if word == OPEN else ""
    runs = tuple(source.read) if isinstance(source, Measured) else ()
    return Verdict(word, why, tuple(evaluation.read), deciding(truth.value, truth.evidence), p, tells=tells, runs=runs)


def among_many(verdicts: Mapping[str, Verdict], least: int = 0) -> dict[str, Verdict]:
    """Correct the verdicts for many claims, by Benjamini and Hochberg over all claims with a p-value.

    A verdict that this correction changes becomes “cannot be told”. At least `least` claims are counted: claims that
    lack a p-value then count with p = 1, so that a run with fewer rows is not judged less strictly.
    """
    tested = {name: verdict.p for name, verdict in verdicts.items() if verdict.p is not None}
    count = max(least, len(tested))
    decided = benjamini_hochberg([*tested.values(), *[1.0] * (count - len(tested))])
    stands = dict(zip(tested, decided, strict=False))
    why = f"decided by itself, but not among {count} claims (false discovery rate {100 * LEVEL:g} %)"
    return {
        name: verdict
        if stands.get(name, True) or verdict.word == OPEN
        else replace(verdict, word=OPEN, why=why, alone=verdict.word)
        for name, verdict in verdicts.items()
    }


def deciding(outcome: bool | None, evidence: Sequence[Evidence]) -> tuple[Evidence, ...]:
    """Sort the comparisons that decide a verdict: the smallest difference comes first.

    For a verdict that cannot be told, only the undecided comparisons are returned, if there are any.
    """
    shown = [piece for piece in evidence if outcome is not None or piece.outcome is None] or list(evidence)
    return tuple(sorted(shown, key=lambda piece: piece.margin))


def judge_all(claims: Claims, source: Printed | Measured, least: int = 0) -> dict[str, Verdict]:
    """Return claim id → verdict on one source, corrected for many claims: at least `least` (`among_many`).

    A claim about the salient form is evaluated on the rows of the run in the salient form.
    """
    forms: dict[str, Printed | Measured] = {}
    verdicts = {}
    for claim in claims.claims:
        form_source = source
        if isinstance(source, Measured) and claim.form != source.form:
            form_source = forms.setdefault(claim.form, source.like(form=claim.form))
        verdicts[claim.id] = judge(claim, claims.sets, form_source)
    return among_many(verdicts, least)


def judge_all_at_damage(claims: Claims, papers: Measured, least: int = 0) -> dict[str, Verdict]:
    """Return claim id → verdict at W4A4, where damage begins.

    The correction for many claims counts only these verdicts, and at least `least` of them (`among_many`).
    """
    source = damaged(papers)
    verdicts = {claim.id: judge_at_damage(claim, claims.sets, source, papers) for claim in claims.claims}
    return among_many(verdicts, least)
