"""Data of the figures: tables and analyses below the results, and the message about missing data."""

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
    """Data of a figure are missing. The message completes the sentence "not drawn: …"."""


@dataclass(frozen=True)
class Source:
    """A profile and the folder of its results."""

    profile: Profile
    results: Path

    @cached_property
    def _tables(self) -> dict[str, Table]:
        return {}

    def table(self, name: str) -> Table:
        """A table with its rows. It is read once."""
        if name not in self._tables:
            self._tables[name] = load_table(self.profile, name, self.results)
        return self._tables[name]

    def arrays(self, path: str) -> Arrays:
        """The arrays of an analysis. If the file is missing, `Missing` gives the command that makes it."""
        file = self.results / path
        if not file.is_file():
            raise Missing(f"{path} is missing; `snakemake --cores all figures` makes it")
        try:
            return load_arrays(file)
        except DataError:
            raise Missing(f"{path} cannot be read; delete it and run `snakemake --cores all figures`") from None

    def describe(self, subject: Subject, *, form: bool = True) -> str:
        """Model, form and protocol in words."""
        text = describe_setting(self.profile, {"setting": subject.setting})
        if not text.startswith(subject.model):
            text = f"{subject.model}: {text}"
        return f"{text} · {subject.form} form" if form else text

    def block(self, figure: Planned) -> dict[str, Any]:
        """The block of the table that a figure shows."""
        assert figure.table is not None
        return dict(self.profile["tables"][figure.table]["blocks"][figure.block])


def samples_of(arrays: Arrays) -> int:
    """Number of images that an analysis followed."""
    return int(json.loads(str(arrays["record"]))["samples"])


def require(arrays: Arrays, *names: str) -> list[np.ndarray]:
    """Arrays of an analysis by name. Raises `Missing` if an older version wrote the file without them."""
    absent = [name for name in names if name not in arrays]
    if absent:
        raise Missing(f"the analysis lacks {', '.join(absent)}; delete it and run `snakemake --cores all figures`")
    return [arrays[name] for name in names]
