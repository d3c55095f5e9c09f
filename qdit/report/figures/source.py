"""Read the data of the figures (tables and analyses below the results), and say what is missing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qdit.core.errors import DataError
from qdit.core.files import load_arrays
from qdit.report.data.rows import Table, describe_setting
from qdit.report.figures.plan import Planned, Subject
from qdit.report.tables.kinds import load_table
from qdit.workflow.profile import Profile

Arrays = Mapping[str, np.ndarray]


class Missing(Exception):
    """Raised if data of a figure are missing. The message completes the sentence "not drawn: …"."""


def lacking(*names: str) -> Missing:
    """Return the error for an analysis without these arrays, for example one of an older version."""
    return Missing(f"the analysis lacks {', '.join(names)}; delete it and run `snakemake --cores all figures`")


class Analysis(dict[str, np.ndarray]):
    """Arrays of an analysis by name. Reading a name that the file lacks raises `Missing`."""

    def __missing__(self, name: str) -> np.ndarray:
        raise lacking(name)


@dataclass(frozen=True)
class Source:
    """The data of all figures: a profile and the folder of its results."""

    profile: Profile
    results: Path

    @cached_property
    def _tables(self) -> dict[str, Table]:
        return {}

    def table(self, name: str) -> Table:
        """Return a table with its rows. The files are read once."""
        if name not in self._tables:
            self._tables[name] = load_table(self.profile, name, self.results)
        return self._tables[name]

    def arrays(self, path: str) -> Arrays:
        """Return the arrays of an analysis. If the file is missing, `Missing` names the command that makes it."""
        file = self.results / path
        if not file.is_file():
            raise Missing(f"{path} is missing; `snakemake --cores all figures` makes it")
        try:
            return Analysis(load_arrays(file))
        except DataError:
            raise Missing(f"{path} cannot be read; delete it and run `snakemake --cores all figures`") from None

    def describe(self, subject: Subject, *, form: bool = True) -> str:
        """Write the model, the form of its weights, and steps, sampler and guidance."""
        text = describe_setting(self.profile, {"setting": subject.setting})
        if not text.startswith(subject.model):
            text = f"{subject.model}: {text}"
        return f"{text} · {subject.form} form" if form else text

    def block(self, figure: Planned) -> dict[str, Any]:
        """Return the table block that a figure shows."""
        assert figure.table is not None
        return dict(self.profile["tables"][figure.table]["blocks"][figure.block])


def samples_of(arrays: Arrays) -> int:
    """Return the number of images whose activations an analysis recorded. Raises `Missing` if the file lacks it."""
    try:
        return int(json.loads(str(arrays["record"]))["samples"])
    except (ValueError, KeyError, TypeError):
        raise Missing("the analysis has no valid record; delete it and run `snakemake --cores all figures`") from None


def require(arrays: Arrays, *names: str) -> list[np.ndarray]:
    """Return some arrays of an analysis. Raises `Missing` if an older version wrote the file without them."""
    absent = [name for name in names if name not in arrays]
    if absent:
        raise lacking(*absent)
    return [arrays[name] for name in names]
