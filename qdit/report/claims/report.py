"""Judge all claims of a run: on the printed numbers, at the papers' bits, at W4A4, and with other random draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError
from qdit.core.files import read_json
from qdit.report.claims.claims import FILE, Claims, Verdict, judge_all, judge_all_at_damage, load_claims
from qdit.report.claims.damage import BITS
from qdit.report.claims.pooled import pooled
from qdit.report.claims.rows_read import command, with_missing_rows, with_overlay
from qdit.report.claims.sources import Measured, Printed
from qdit.report.claims.survival import Comparison, Judge, folders_by_seed, of_folders, of_replicates
from qdit.report.data.published import REPOSITORY_COPY, published_folder
from qdit.workflow.profile import validate

PRINTED = "printed"
PAPER_PROFILE = "paper"


@dataclass(frozen=True)
class Report:
    """All claims, and `verdicts`: source of numbers (`printed`, a profile, …) → claim id → verdict.

    `survival` maps a source to the comparisons of its verdicts with those of other random draws.
    """

    claims: Claims
    verdicts: Mapping[str, Mapping[str, Verdict]]
    profile: str
    face: str
    miniature: bool
    remarks: tuple[str, ...] = ()
    survival: Mapping[str, Sequence[Comparison]] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    """Setting → its model, of all runs."""
    command: str = ""
    """Command that makes the rows that the claims read; empty if it is not known."""
    seeds: tuple[int, ...] = ()
    """Seeds of the runs whose means are judged together; empty if one run is judged."""

    @property
    def at_papers_bits(self) -> list[str]:
        """Names of the sources that judge at the papers' bits. Only their verdicts count as verdicts on a paper."""
        return [source for source in self.verdicts if source != damaged_name(self.profile)]


def profile_in(folder: Path) -> dict[str, Any]:
    """Read and check the profile of a results folder. ConfigError if it is not valid."""
    path = folder / "profile.json"
    profile: dict[str, Any] = read_json(path)
    try:
        validate(profile)
    except ConfigError as problem:
        raise ConfigError(f"{path}: {problem}; run that profile again") from None
    return profile


def damaged_name(profile: str) -> str:
    """Return the name of the source with the rows of a profile where damage begins, for example `mini at W4A4`."""
    return f"{profile} at {BITS.upper()}"


def load_report(
    profile: Mapping[str, Any], results: Path, others: Sequence[Path] = (), *, together: bool = False
) -> Report:
    """Judge all claims: on the printed numbers, on the results of a profile, and on the results of the profile `paper`.

    The results of the profile `paper` are in the folder `paper` beside `results`. They are used if the folder has a
    profile.json. A miniature is also judged at W4A4, where damage begins. Its tables include those of the overlay
    `mini-damage`, whose rows are read if they are made. `others` are results of the profile with other seeds. Their
    verdicts, and the verdicts of replicates, are compared with the verdicts on `results`. With `together` the means
    over `results` and `others` are judged (`qdit.report.claims.pooled`), and compared with each of these runs alone.
    """
    published = published_folder(results)
    claims = load_claims((published if (published / FILE).is_file() else REPOSITORY_COPY) / FILE)
    alone, name = Measured(with_overlay(profile), results), str(profile["profile"])
    folders = folders_by_seed(alone, others)
    measured = pooled(alone, folders) if together else alone
    judges: dict[str, Judge] = {name: partial(judge_all, claims)}
    if measured.miniature:
        judges[damaged_name(name)] = partial(judge_all_at_damage, claims)
    verdicts: dict[str, Mapping[str, Verdict]] = {PRINTED: judge_all(claims, Printed(published))}
    judged = {source: judge(measured, 0) for source, judge in judges.items()}
    read = {run for of_source in judged.values() for verdict in of_source.values() for run in verdict.runs}
    verdicts |= with_missing_rows(judged, profile, results, claims)
    papers = run_of_paper(name, results)
    for run in papers:
        verdicts[PAPER_PROFILE] = judge_all(claims, run)
    survival = {
        source: other_draws(judge, alone, verdicts[source], folders, together=together)
        for source, judge in judges.items()
    }
    runs = (measured, *papers)
    models = {setting: str(entry["model"]) for run in runs for setting, entry in run.profile["settings"].items()}
    return Report(
        claims,
        verdicts,
        name,
        str(profile["face"]),
        measured.miniature,
        tuple(measured.remarks(read)),
        survival,
        models,
        command(profile),
        tuple(folders) if together else (),
    )


def run_of_paper(profile: str, results: Path) -> list[Measured]:
    """Return the results of the profile `paper` beside those of another `profile`; an empty list if there are none."""
    folder = results.parent / PAPER_PROFILE
    if profile == PAPER_PROFILE or not (folder / "profile.json").is_file():
        return []
    return [Measured(profile_in(folder), folder)]


def other_draws(
    judge: Judge, run: Measured, verdicts: Mapping[str, Verdict], folders: Mapping[int, Path], *, together: bool
) -> tuple[Comparison, ...]:
    """Compare the verdicts with those of other random draws: of each replicate of `run`, and of each other seed.

    Verdicts on the means over all seeds (`together`) are compared with those of each seed, also that of `run`.
    """
    if together:
        return tuple(of_folders(judge, run, verdicts, folders))
    others = {seed: folder for seed, folder in folders.items() if seed != run.profile["seed"]}
    return (*of_replicates(judge, run, verdicts), *of_folders(judge, run, verdicts, others))
