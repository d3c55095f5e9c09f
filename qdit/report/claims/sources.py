"""The two sources of numbers for claims: the printed tables and the tables of a run. Both are read by the same keys."""

from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from qdit.core.metrics import METRICS, claim_functions
from qdit.core.ranking import EQUAL, known_value
from qdit.core.run import Run
from qdit.report.claims.language import KEYS, Key, cell_functions
from qdit.report.data.compare_rows import quantity
from qdit.report.data.metrics_json import Row
from qdit.report.data.published import PublishedRow, method_names, read_published
from qdit.report.data.rows import is_measured, is_miniature
from qdit.report.data.values import Quantity, Unknown, Value
from qdit.report.tables.comparison import COMPARISONS
from qdit.report.tables.kinds import load_table
from qdit.report.tables.table1 import RESOLUTIONS
from qdit.report.tables.table4 import STEPS

STEP_KEYS = ("fp", "rtn", "groups", "dynamic", "allocation")
SEARCH_KEYS = {
    "Group size = 128": "uniform",
    "ILP": "ilp",
    "Hessian-based": "hessian",
    "Evolutionary (Q-DiT)": "evolution",
}
UNIFORM_SIZE = 128
"""The group size of all layers with which Table 6 compares searches."""
Keys = tuple[Key, ...]
PRINTED_BITS = ("w16a16", "w4a8")
"""The bits that Table 3 prints."""


def column_of(function: str) -> str:
    """Return the table column that a function of the claims language reads: `fid`, for example."""
    known = claim_functions()
    return known[function].name if function in known else function


def setting_key(resolution: Any, cfg_scale: Any) -> str:
    """Write a setting as claims name it: `256-cfg1.5`, or `256` without guidance."""
    return f"{resolution}" if cfg_scale == 1 else f"{resolution}-cfg{cfg_scale:g}"


class Printed:
    """The numbers that the papers print, read from the CSV files in `folder`."""

    miniature = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables: dict[str, dict[Keys, PublishedRow]] = {}

    def cell(self, table: str, metric: str, keys: Keys) -> Value:
        """Return a printed number. Unknown for a blank cell, and for a row or column that the paper does not print."""
        if table not in self.tables:
            self.tables[table] = {printed_keys(table, row): row for row in read_published(self.folder / f"{table}.csv")}
        column = column_of(metric)
        if table == "table3":
            keys, column = keys[:1], str(keys[1])
        name = describe(table, keys)
        row = self.tables[table].get(keys)
        if row is None:
            return Unknown(f"no such row is printed ({name})")
        if column not in row:
            return Unknown(f"{cell_functions().get(metric, column)} is not printed in {table}")
        value = row[column]
        return Quantity(float(value)) if isinstance(value, int | float) else Unknown(f"blank cell ({name}, {column})")


def printed_keys(table: str, row: PublishedRow) -> Keys:
    """Return the keys of a printed row: method and bits, in some tables also group size, setting or step."""
    names = (
        {printed: ours for ours, printed in COMPARISONS[table].printed_names.items()} if table in COMPARISONS else {}
    )
    method = str(row.get("method"))
    labels = {name: label for label, name in method_names().items()}
    label = labels.get(names.get(method, method), method)
    bits = f"w{row.get('weight_bits')}a{row.get('activation_bits')}"
    known: dict[str, Key] = {"method": label, "bits": bits}
    if table == "table1":
        known |= {"group": row["group_size"], "resolution": row["resolution"]}  # type: ignore[dict-item]
    if table == "table2":
        known["setting"] = setting_key(row["resolution"], row["cfg_scale"])
    if table == "table4":
        known["step"] = STEP_KEYS[STEPS.index(str(row["step"]))]
    if table == "table6":
        known["search"] = SEARCH_KEYS[str(row["search"])]
    if table == "ptq4dit_table1":
        known["steps"] = row["steps"]  # type: ignore[assignment]
    if table == "methods":
        known["setting"] = str(row["model"])
    return tuple(known[name] for name in KEYS[table] if name != "dimension")


class Measured:
    """The measured numbers: the tables of a run in one form of the weights.

    `fitted` becomes true when the number of a fitted row is read. `read` collects the runs whose numbers are read. The
    claims about Table 3 do not name bits: its rows at `video_bits` are read.
    """

    def __init__(
        self,
        profile: Mapping[str, Any],
        results: Path,
        *,
        form: str = "natural",
        video_bits: tuple[str, ...] = PRINTED_BITS,
    ) -> None:
        self.profile = profile
        self.results = results
        self.form = form
        self.video_bits = video_bits
        self.fitted = False
        self.read: dict[Run, None] = {}
        self.tables: dict[str, dict[Keys, Row]] = {}

    def like(self, **changes: Any) -> "Measured":
        """Return the same run with other arguments, for example another `form` of the weights."""
        return type(self)(**self.arguments | changes)

    @property
    def arguments(self) -> dict[str, Any]:
        """Name → value of the arguments that this object was made with."""
        names = ("profile", "results", "form", "video_bits")
        return {name: getattr(self, name) for name in names}

    def has(self, row: Row) -> bool:
        """Return whether a row can be read: it is measured."""
        return is_measured(row)

    @cached_property
    def miniature(self) -> bool:
        """Whether the profile is a miniature, whose numbers are not comparable with the printed ones."""
        return is_miniature(self.profile)

    def cell(self, table: str, metric: str, keys: Keys) -> Value:
        """Return a measured number with its bootstrap samples; Unknown for a row that is absent or not measured."""
        if not self.rows(table):
            return Unknown(f"this profile has no {table} in the {self.form} form")
        name, column = describe(table, keys), column_of(metric)
        if table == "table3":
            keys, column = keys[:1], str(keys[1])
        row = self.tables[table].get(keys)
        if row is None:
            return Unknown(f"this profile has no such row ({name})")
        if not self.has(row):
            return Unknown(f"{name}: {row['status']}")
        if row.get(column) is None:
            title = cell_functions().get(metric, metric)
            equal = column in METRICS and known_value(row, METRICS[column]) is not None
            return Unknown(f"{name} is {EQUAL}, so {title} has no finite value" if equal else f"{name} has no {title}")
        self.read[row["key"]] = None
        self.fitted = self.fitted or row.get("fitted") is not None
        return Quantity(float(row[column])) if metric == "size_mb" else quantity(row, column)

    def rows(self, table: str) -> dict[Keys, Row]:
        """Return keys → row, for all tables of one kind (`table2`, …). Rows without a result are included."""
        if table not in self.tables:
            self.tables[table] = self._rows(table)
        return self.tables[table]

    def remarks(self, read: Collection[Run]) -> list[str]:
        """Name the tables in which Q-DiT has one group size for all layers, as sentences; the paper searched the sizes.

        Only the rows in `read` count.
        """
        rows = [(table, row) for table, rows in self.tables.items() for row in rows.values() if row.get("key") in read]
        uniform = [table for table, row in rows if row["label"] == "q-dit" and row.get("allocation_sha256") is None]
        if not uniform:
            return []
        where = ", ".join(dict.fromkeys(uniform))
        return [f"{where}: Q-DiT’s rows have one group size for all layers here; the paper’s have searched ones"]

    def _rows(self, kind: str) -> dict[Keys, Row]:
        rows_by_key: dict[Keys, Row] = {}
        for name, definition in self.profile["tables"].items():
            if definition["kind"] != kind or kind not in KEYS:
                continue
            places = _settings(definition)
            blocks = load_table(self.profile, name, self.results).blocks
            for block, loaded in zip(definition["blocks"], blocks, strict=True):
                if block["form"] == self.form:
                    for row in loaded.rows:
                        if kind == "table3" and bits_of(row) not in self.video_bits:
                            continue  # its claims do not name bits
                        rows_by_key.setdefault(self._keys(kind, block, row, places), row)
        return rows_by_key

    def _keys(self, kind: str, block: Mapping[str, Any], row: Row, places: Mapping[str, str]) -> Keys:
        printed = block.get("published", {})
        model = self.profile["models"][self.profile["settings"][block["setting"]]["model"]]
        step = row.get("step")
        known: dict[str, Any] = {
            "method": row.get("label"),
            "bits": bits_of(row),
            "setting": places.get(block["setting"], block["setting"]),
            "steps": printed.get("steps"),
            "group": row.get("paper_group_size"),
            "resolution": RESOLUTIONS.get(reference := model.get("reference"), reference),
            "step": STEP_KEYS[STEPS.index(step)] if step in STEPS else None,
            "search": _search_key(row),
        }
        return tuple(known[name] for name in KEYS[kind] if name != "dimension")


def _search_key(row: Row) -> str:
    """The search of a row of Table 6. The paper prints W4A8; rows at other bits are known by search or group size."""
    if (printed := str(row.get("published_method"))) in SEARCH_KEYS:
        return SEARCH_KEYS[printed]
    uniform = "uniform" if row.get("paper_group_size") == UNIFORM_SIZE else row.get("label")
    return str(row.get("search") or uniform)


def bits_of(row: Row) -> str:
    """Write the bits of a row as in a profile: `w4a8`."""
    return f"w{row['weight_bits']}a{row['activation_bits']}"


def _settings(definition: Mapping[str, Any]) -> dict[str, str]:
    """Setting of a profile → the paper's setting, for the blocks that give one."""
    return {
        block["setting"]: setting_key(block["published"]["resolution"], block["published"]["cfg_scale"])
        for block in definition["blocks"]
        if "published" in block
    }


def describe(table: str, keys: Keys) -> str:
    """Write the keys of a row for readers: `q-dit w4a8 256-cfg1.5` or `group 128, resolution 256`."""
    if table == "table1":
        return ", ".join(f"{name} {key}" for name, key in zip(KEYS[table], keys, strict=False))
    return " ".join(f"{key}" for key in keys)
