"""Find one row of a table by the words of a command, and the parts of a profile that the row needs.

The full-precision partner of a row is made with it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import write_json
from qdit.core.run import SIMULATE, Run, split_bits
from qdit.workflow.command_words import profile_flags
from qdit.workflow.cost import Speed, run_jobs, scored_by_vbench
from qdit.workflow.cost_tables import speeds_of_cards
from qdit.workflow.families import CLIPS, family_at
from qdit.workflow.fetch import is_there, needed_files
from qdit.workflow.method_index import method_sources
from qdit.workflow.profile import (
    Profile,
    full_precision_label,
    full_precision_run,
    load_profile,
    runs_of,
    search_of,
)
from qdit.workflow.profile_pipelines import judges_of
from qdit.workflow.rows import failed_row

SMOKE_IMAGES, SMOKE_CHUNK, SMOKE_SAMPLES = 64, 32, 32
"""Images of a row, images in a batch, and noisy samples of every kind of a smoke run."""
SMOKE_ITERATIONS = 20
"""Iterations of learned rounding in a smoke run."""
SMOKE_SEARCH = {"population": 4, "parents": 2, "crossover": 1, "mutation": 1, "iterations": 1}
"""Algorithm 1 in a smoke run."""
SMOKE_RUNGS = [SMOKE_CHUNK // 2, SMOKE_CHUNK]
"""Images of a genome after each round of a race."""


@dataclass(frozen=True)
class TableRow:
    """A row of a table. `others` names the table's other blocks (setting, form, scope) with a row of this name."""

    table: str
    run: Run
    others: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """Words for `--row` that name exactly this row."""
        return f"{self.table} {names_of(self.run)}"


def names_of(run: Run) -> str:
    """Write label, bits, setting, form and scope of a run."""
    mode = "" if run.mode == SIMULATE else f" {run.mode}"
    return f"{run.label} {run.bits} {run.setting} {run.form} {run.scope}{mode}"


def block_of(run: Run) -> str:
    """Write setting, form and scope of a run."""
    return f"{run.setting} {run.form} {run.scope}"


def find_row(profile: Profile, text: str, tables: Sequence[str] = ()) -> TableRow:
    """Find the row that `text` names by a table, a method's label and bits. Setting, form and scope may follow.

    The words may have any order, and capital letters. If the text names no table, the row is searched in `tables`, or
    in all. If the table has the row in several blocks, the row of the first block is returned. ConfigError for unknown
    names, and if several rows have the names.
    """
    words, tables_by_word = text.lower().split(), {name.lower(): name for name in profile["tables"]}
    named = [tables_by_word[word] for word in words if word in tables_by_word]
    names = {word for word in words if word not in tables_by_word}
    searched_tables = named or list(tables) or list(profile["tables"])
    runs: dict[Run, str] = {}
    for table in searched_tables:
        runs |= {run: runs.get(run, table) for run in runs_of(profile, table)}
    rows = [run for run in runs if names <= set(names_of(run).lower().split())]
    if SIMULATE not in names and any(run.mode == SIMULATE for run in rows):
        rows = [run for run in rows if run.mode == SIMULATE]
    if not rows or not names:
        example = next((run for run in runs if run.label != full_precision_label(profile)), None)
        known = {name for run in runs for name in names_of(run).lower().split()}
        unknown = ", ".join(sorted(names - known))
        raise ConfigError(
            f"--row {text!r}: {f'nothing is called {unknown}' if unknown else 'no row has these names'} in"
            f" {', '.join(searched_tables)}; expected a table, a method and bits"
            + (f", e.g. {runs[example]} {example.label} {example.bits}" if example else "")
        )
    first = [run for run in rows if block_of(run) == block_of(rows[0])] if named else rows
    if len(first) > 1:
        listed = "; ".join(f"{runs[run]} {names_of(run)}" for run in first)
        raise ConfigError(
            f"--row {text!r}: {len(first)} rows have these names; add names so that one row is left: {listed}"
        )
    others = dict.fromkeys(block_of(run) for run in rows if block_of(run) != block_of(first[0]))
    return TableRow(runs[first[0]], first[0], tuple(others))


def rows_of_row(profile: Profile, row: TableRow) -> list[Run]:
    """Return the full-precision run with the same noise, then the row's run."""
    return list(dict.fromkeys((full_precision_run(profile, row.run), row.run)))


def profile_of_row(profile: Profile, row: TableRow) -> dict[str, Any]:
    """Return the part of a profile for one row and its full-precision partner: files, models, settings, and one table.

    Plans, checks and estimates use this part. The workflow itself uses the whole profile, so that the whole table can
    later use the files of the row.
    """
    run, full = row.run, full_precision_label(profile)
    search = search_of(profile, run)
    settings = {name: profile["settings"][name] for name in {run.setting, search.setting if search else run.setting}}
    names = {setting["model"] for setting in settings.values()}
    models = {
        name: {**model, "forms": {run.form: model["forms"][run.form]}}
        for name, model in profile["models"].items()
        if name in names
    }
    block = {"setting": run.setting, "form": run.form, "scope": run.scope, "bits": [run.bits]}
    block["methods"] = list(dict.fromkeys((full, run.label)))
    row_profile = {**profile, "settings": settings, "models": models}
    row_profile["tables"] = {row.table: {**profile["tables"][row.table], "opt_in": False, "blocks": [block]}}
    for key, name in (("extractors", "extractor"), ("references", "reference")):
        taken = {model.get(name) for model in models.values()}
        row_profile[key] = {entry: path for entry, path in profile.get(key, {}).items() if entry in taken}
    is_clip = family_at(profile, run.setting) is CLIPS
    unused = {"video": not is_clip, "vbench": not (is_clip and scored_by_vbench(profile, run)), "fvd": True}
    unused["perceptual"] = unused["judges"] = is_clip
    row_profile = {key: value for key, value in row_profile.items() if not unused.get(key, False)}
    if "files" in row_profile:
        needed = needed_files(row_profile)
        row_profile["files"] = {path: entry for path, entry in row_profile["files"].items() if path in needed}
    return row_profile


def smoke_values(profile: Profile) -> dict[str, Any]:
    """Return the overlay of a smoke run (a short test of every step): few images, samples and iterations.

    Every step has its real shapes. So the run finds missing files, too little memory and broken packages. Its results
    folder is a separate one.
    """
    values: dict[str, Any] = {"profile": f"{profile['profile']}-smoke"}
    values["sampling"] = {"images": SMOKE_IMAGES, "chunk": SMOKE_CHUNK, "chunks_per_shard": 1}
    values["calibration"] = {kind: _smaller(profile["calibration"], kind) for kind in profile["calibration"]}
    values["allocation"] = {"images": SMOKE_RUNGS[-1], "chunk": SMOKE_RUNGS[0], "fresh": 1}
    smaller = {"evolution": SMOKE_SEARCH, "racing": {"rungs": SMOKE_RUNGS}}
    values["searches"] = {
        name: {"options": smaller[entry["kind"]]}
        for name, entry in profile["searches"].items()
        if entry["kind"] in smaller
    }
    values["methods"] = {name: _smoke_method(profile, name) for name in profile["methods"]}
    return {key: value for key, value in values.items() if value}


def _smaller(counts: Mapping[str, int], kind: str) -> int:
    """Noisy samples of a kind; those of `per-step` are shared by all steps and stay enough for one at each."""
    return min(counts[kind], 256 if kind == "per-step" else 2 if kind == "regression" else SMOKE_SAMPLES)


def _smoke_method(profile: Profile, label: str) -> dict[str, Any]:
    """Parts of an entry that a smoke run makes smaller: samples at each step, iterations of learned rounding."""
    entry = profile["methods"][label]
    method = method_sources().get(entry["method"])
    smaller: dict[str, Any] = {}
    counted = {kind: 2 for kind, count in entry.get("calibration", {}).items() if isinstance(count, int)}
    if counted:
        smaller["calibration"] = counted
    if method is not None and method.learns_rounding:
        iterations = method.all_options(entry.get("options", {})).get("iterations", 0)
        smaller["options"] = {"iterations": min(iterations, SMOKE_ITERATIONS)}
    return smaller


def write_smoke_overlay(profile: Profile, folder: Path) -> Path:
    """Write the overlay of a smoke run into its results folder. Return the path of the file."""
    values = smoke_values(profile)
    path = folder / values["profile"] / "smoke.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, values)
    return path


def row_title(row: TableRow) -> list[str]:
    """Write lines that name the row."""
    run = row.run
    weights, activations = split_bits(run.bits)
    lines = [
        f"row: {row.table}, {run.label}, W{weights}A{activations}, setting {run.setting}, form {run.form},"
        f" scope {run.scope}; and full precision with the same noise"
    ]
    if row.others:
        lines.append(f"{row.table} has it elsewhere too, name one to take it: {'; '.join(row.others)}")
    return lines


def megabytes_of(files: Iterable[Mapping[str, Any]]) -> float:
    """Add up the file sizes that the profile gives, in MB."""
    return sum(entry.get("megabytes") or 0 for entry in files)


def files_text(row_profile: Profile) -> list[str]:
    """Write a line with the sum of the file sizes of a row, and a line for each file."""
    needed, known = needed_files(row_profile), row_profile.get("files", {})
    entries = [known.get(path, {}) for path in needed]
    lines = [f"files: {len(needed)}, about {megabytes_of(entries) / 1000:.1f} GB to download"]
    for path, entry in zip(needed, entries, strict=True):
        size = entry.get("megabytes")
        words = "part of this repository" if not entry else "size unknown" if size is None else f"{size:g} MB"
        lines.append(f"  {path}  {words}")
    return lines


def named_rows(profile: Profile, texts: Sequence[str], tables: Sequence[str]) -> tuple[list[TableRow], list[str]]:
    """Split the values of `--row`: texts of several words are rows, texts of one word are parts of paths.

    ConfigError for an empty text, because it would name every row.
    """
    for text in texts:
        if not text.strip():
            find_row(profile, text, tables)
    rows = [find_row(profile, text, tables) for text in texts if len(text.split()) > 1]
    return rows, [text for text in texts if len(text.split()) == 1]


def rows_by_table(
    profile: Profile, rows: Iterable[TableRow], others: Mapping[str, list[Run]] | None = None
) -> dict[str, list[Run]]:
    """Return table → runs of its rows with their full precision, added to the runs in `others`."""
    runs = {table: list(known) for table, known in (others or {}).items()}
    for row in rows:
        runs[row.table] = list(dict.fromkeys([*runs.get(row.table, []), *rows_of_row(profile, row)]))
    return runs


def smoke_profile(names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return a profile changed to a smoke run, and the names of its files; the overlay is written below `results/`."""
    overlay = write_smoke_overlay(load_profile(*names), Path("results"))
    layers = [*names, str(overlay)]
    return load_profile(*layers), layers


def smoke_ending(row: TableRow, results: Path) -> str:
    """Write the last line of a smoke run: every step works, or the failure that the row recorded."""
    if failure := failed_row(row.run, results):
        return f"{row.words}: the smoke run recorded a failure: {failure.text}"
    return (
        f"{row.words}: everything is in place. All steps ran with {SMOKE_IMAGES} images; its numbers mean nothing. The"
        " same command without --smoke makes the row."
    )


def missing_files(row_profile: Profile) -> list[str]:
    """Return the files of a row that do not exist."""
    return [path for path in needed_files(row_profile) if not is_there(Path(path))]


def require_files(profile: Profile, rows: Iterable[TableRow], layers: Sequence[str] = ()) -> None:
    """Raise DataError in one line if files of a row are missing. The line names the command that fetches them.

    `layers` are the files of the profile, for this command.
    """
    for row in rows:
        row_profile = profile_of_row(profile, row)
        if missing := missing_files(row_profile):
            size = megabytes_of(row_profile.get("files", {}).get(path, {}) for path in missing)
            folders = sorted({str(Path(path).parent) for path in missing})
            needed = len(needed_files(row_profile))
            raise DataError(
                f"{row.words}: {len(missing)} of {needed} files are missing, about {size / 1000:.1f}"
                f" GB; fetch them first: {fetch_command(profile, row, folders, layers)}"
            )


def fetch_command(profile: Profile, row: TableRow, folders: Sequence[str], layers: Sequence[str] = ()) -> str:
    """Return the command that downloads the files of a row, also files without a whole sha256."""
    named = profile_flags(str(profile["profile"]).removesuffix("-smoke"), layers)
    top = [
        folder
        for folder in folders
        if not any(Path(folder).is_relative_to(other) for other in folders if other != folder)
    ]
    allowed = " ".join(f"--allow-unverified {folder}" for folder in top)
    return f"qdit fetch {named} --row '{row.words}' {allowed}".rstrip()


def plan_lines(profile: Profile, rows: Iterable[TableRow], results: Path) -> list[str]:
    """Write lines about the rows. If the profile downloads files, also their files, jobs and hours."""
    lines = []
    for row in rows:
        lines += row_title(row)
        if "files" in profile:
            lines += [*files_text(profile_of_row(profile, row)), *jobs_text(profile, row, results)]
    return lines


def steps_of(profile: Profile, row: TableRow) -> dict[str, int]:
    """Return step → number of jobs for a row and its partner. Each check of a downloaded file is a job too."""
    row_profile = profile_of_row(profile, row)
    speed = Speed(1.0, "only counted")
    jobs = {job.name: job.rule for run in rows_of_row(profile, row) for job in run_jobs(profile, run, speed)}
    counts = Counter({"check files": sum(path in row_profile.get("files", {}) for path in needed_files(row_profile))})
    counts["import weights"] = sum(path in row_profile.get("files", {}) for path in _weights(row_profile))
    rows, judges = len(rows_of_row(profile, row)), judges_of(row_profile)
    counts["reference"] = len(row_profile["references"]) * (1 + ("dino" in judges))
    counts.update(jobs.values())
    counts["LPIPS"] = rows if "perceptual" in row_profile else 0
    counts["judge"] = rows * len(judges)
    counts["evaluate"] = rows
    return {name: count for name, count in counts.items() if count}


def _weights(row_profile: Profile) -> list[str]:
    """Files of weights of the models of a row."""
    return [path for model in row_profile["models"].values() for path in model["forms"].values()]


def row_hours(profile: Profile, row: TableRow, speed: Speed) -> dict[str, float]:
    """Return step → GPU-hours for a row and its full-precision partner."""
    jobs = {job.name: job for run in rows_of_row(profile, row) for job in run_jobs(profile, run, speed)}
    hours: dict[str, float] = {}
    for job in jobs.values():
        hours[job.rule] = hours.get(job.rule, 0.0) + job.seconds / 3600
    return hours


def jobs_text(profile: Profile, row: TableRow, results: Path) -> list[str]:
    """Write the number of jobs of a row by step, and its hours on some cards."""
    steps = steps_of(profile, row)
    lines = [f"jobs: {sum(steps.values())} ({', '.join(f'{name} {count}' for name, count in steps.items())})"]
    for speed in speeds_of_cards(profile, results).values():
        hours = row_hours(profile, row, speed)
        parts = ", ".join(f"{step} {time_text(count)}" for step, count in hours.items())
        lines.append(f"on one GPU ({speed.source}): {time_text(sum(hours.values()))} ({parts})")
    return lines


def time_text(hours: float) -> str:
    """Write a time: `3.7 h`, `12 min`, `20 s`."""
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min" if 60 * hours >= 1 else f"{3600 * hours:.0f} s"
