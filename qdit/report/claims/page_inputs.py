"""List the files that the claims page is made from, as inputs of its job in the workflow.

The page reads every row that a claim reads and whose file exists: also rows of opt-in tables and of the overlay
`mini-damage`, and the rows of the profile `paper`. The workflow must list them, so that it makes the page again when
one of them changes. But it must not make a row that no target asks for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qdit.core.metrics_record import FILE
from qdit.core.run import Run
from qdit.report.claims.report import PAPER_PROFILE
from qdit.report.claims.rows_read import rows_read, with_overlay
from qdit.workflow.replicates import with_replicates


def page_inputs(profile: Mapping[str, Any], results: Path, requested: Iterable[Run]) -> list[Path]:
    """Return the metrics.json of each row that the claims page of a profile reads, with replicates.

    `requested` are the rows that the workflow makes anyway. They are listed whether they exist or not, so that the page
    waits for them. Other rows are listed only if they exist. Files of the profile `paper` (`results_of_paper`) come
    last.
    """
    will_be_made = set(requested)
    files = {
        run.folder(results) / FILE: replace(run, replicate=0) in will_be_made
        for run in with_replicates(profile, rows_read(with_overlay(profile)))
    }
    listed = [path for path, is_requested in files.items() if is_requested or path.is_file()]
    return [*listed, *results_of_paper(profile, results)]


def results_of_paper(profile: Mapping[str, Any], results: Path) -> list[Path]:
    """Return the files of the profile `paper` in the folder beside `results` that the claims page reads.

    The list is empty for this profile itself, and if the folder has no profile.json.
    """
    folder = results.parent / PAPER_PROFILE
    record = folder / "profile.json"
    if profile["profile"] == PAPER_PROFILE or not record.is_file():
        return []
    return [record, *sorted(folder.glob(f"runs/*/*/*/*/{FILE}"))]
