"""Copy the pages of one finished run to docs/mini, and its numbers into the README (`qdit docs-mini`).

Everything must come from one run of one commit. Three conditions are checked. The working tree has no change, except
for files that this command writes. No job of the workflow is left, because each job carries the digest of its code. And
all records of a step have the same digest of the code.
"""

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from qdit.core.errors import ConfigError, DataError, QditError
from qdit.core.files import read_json, write_json, write_text
from qdit.core.metrics import METRICS
from qdit.core.metrics_record import MetricsRecord, Status, read_record
from qdit.core.provenance import machine
from qdit.core.ranking import ranking_metric, why_it_ranks
from qdit.core.run import FULL_PRECISION_METHOD, SIMULATE, Run
from qdit.report.data.published import printed_name
from qdit.report.data.times import times_text
from qdit.workflow.profile import Profile, default_tables, runs_of

RECORD = "run.json"
INDEX_LIMIT = 5_000_000
"""Bytes that index.html may have to be kept in the repository."""
PAGES = ("claims", "leaderboard")
CLAIMS = {"source": "paper", "words": "claim", "evaluated_on": "on", "verdict": "verdict", "why": "why"}
NUMBERS = tuple(dict.fromkeys((ranking_metric().name, "psnr_fp", "fd_fp", "fid", "mse_fp")))
LEADERBOARD = ("setting", "form", "scope", "bits", "rank", "method", *NUMBERS)
README_TABLE, README_SETTING = "table2", "digits-cfg1.0-s20"
BEGIN, END = "<!-- numbers of docs/mini: make docs-mini writes them -->", "<!-- end of the numbers -->"


def fill(profile: Profile, results: Path, docs: Path, readme: Path, *, commit: str) -> list[Path]:
    """Write docs/mini and the README's table from a finished run of `commit`. Return the written files.

    DataError if the run is incomplete or was made by different code. ConfigError if the README lacks the two marks
    between which the table stands, and for a folder `docs` that this function did not fill.
    """
    require_filled_by_us(docs)
    records = records_of(profile, results)
    require_one_code(records)
    if not (BEGIN in readme.read_text(encoding="utf-8") and END in readme.read_text(encoding="utf-8")):
        raise ConfigError(f"{readme}: has no lines {BEGIN} and {END}; put them around its table of numbers")
    pages = pages_of(profile, results)
    facts = facts_of(profile, results, records, commit)
    texts = {
        "claims.md": claims_text(results),
        "leaderboard.md": leaderboard_text(results),
        "times.md": times_page(facts, times_text(profile, results)),
    }
    docs.mkdir(parents=True, exist_ok=True)
    for old in docs.iterdir():
        if old.is_file():
            old.unlink()
    for page in pages:
        shutil.copyfile(page, docs / page.name)
    for name, text in texts.items():
        write_text(docs / name, text)
    write_json(docs / RECORD, facts)
    write_readme(readme, docs / f"{README_TABLE}.csv")
    return [*(docs / page.name for page in pages), *(docs / name for name in texts), docs / RECORD, readme]


def require_filled_by_us(docs: Path) -> None:
    """Raise ConfigError for a folder with files that `fill` did not write, because `fill` removes what is there.

    A folder that `fill` wrote has the record of the run.
    """
    others = sorted(path.name for path in docs.iterdir() if path.is_file()) if docs.is_dir() else []
    if others and RECORD not in others:
        raise ConfigError(
            f"--docs {docs}: holds {others[0]} and no {RECORD}, so `qdit docs-mini` did not fill it, and would remove"
            " what it did not write; give docs/mini or an empty folder"
        )


def records_of(profile: Profile, results: Path) -> dict[Run, MetricsRecord]:
    """Read the metrics.json of every run in the tables that docs/mini shows. DataError if one is missing."""
    records = {}
    for run in dict.fromkeys(run for table in kept_tables(profile, results) for run in runs_of(profile, table)):
        try:
            records[run] = read_record(run.folder(results) / "metrics.json")
        except FileNotFoundError:
            raise DataError(f"{results}: has no {run.path}; finish the run first (make reproduce)") from None
        except QditError as problem:
            raise DataError(f"{run.folder(results)}: {problem}") from None
    return records


def kept_tables(profile: Profile, results: Path) -> list[str]:
    """Return the names of the tables that docs/mini shows: the default tables, and opt-in tables with a page."""
    default = default_tables(profile)
    folder = results / "tables"
    return [name for name in profile["tables"] if name in default or (folder / f"{name}.html").is_file()]


def require_one_code(records: Mapping[Run, MetricsRecord]) -> None:
    """Raise DataError if two runs were made by different code in the same step.

    The code of quantization is compared for each method, that of other steps for each kind and mode.
    """
    makers: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for run, record in records.items():
        for step, digest in record.code.items() if record.status == Status.OK else ():
            kind = str(record.run.get("method")) if step == "quantize" else "clips" if record.is_of_clips else "images"
            kind = kind if step == "quantize" or run.mode == SIMULATE else f"{kind}, {run.mode}"
            makers[step, kind].setdefault(digest, run.path)
    for (step, kind), runs in makers.items():
        if len(runs) > 1:
            first, second = list(runs.values())[:2]
            raise DataError(
                f"the step {step} ({kind}) of {first} and of {second} was made by different code; run the workflow"
                " again"
            )


def require_clean(root: Path, ours: Iterable[str]) -> str:
    """Return the commit of a checkout; DataError if it has changes, except in paths that begin with one of `ours`."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout

    try:
        changed = [line[3:] for line in git("status", "--porcelain").splitlines()]
        commit = git("rev-parse", "--short=12", "HEAD").strip()
    except (OSError, subprocess.CalledProcessError):
        raise DataError(f"{root}: no git checkout; docs/mini is made in one, since it names the commit") from None
    others = [name for name in changed if not name.startswith(tuple(ours))]
    if others:
        raise DataError(f"{root}: {len(others)} files differ from the commit, first {others[0]}; commit them first")
    return commit


def require_finished(command: Sequence[str], root: Path) -> None:
    """Raise DataError unless a dry run of the workflow has no job left to do."""
    done = subprocess.run([*command, "--dry-run", "--quiet"], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode or "Nothing to be done" not in done.stdout + done.stderr:
        raise DataError("jobs of the workflow are left to do, or their code changed; run it first (make reproduce)")


def pages_of(profile: Profile, results: Path) -> list[Path]:
    """Return the paths of the pages to copy. DataError if one is missing. A too large index.html is left out."""
    tables = [
        results / "tables" / f"{name}.{suffix}"
        for name in kept_tables(profile, results)
        for suffix in ("html", "md", "csv")
    ]
    pages = [*tables, *(results / f"{name}.{suffix}" for name in PAGES for suffix in ("html", "csv"))]
    if missing := [page for page in pages if not page.is_file()]:
        raise DataError(f"{missing[0]}: no such file; finish the run first (make reproduce)")
    index = results / "index.html"
    return [*pages, *([index] if index.is_file() and index.stat().st_size <= INDEX_LIMIT else [])]


def claims_text(results: Path) -> str:
    """Write the claims as Markdown, for a page of the repository. The sentences at the top are those of claims.md."""
    frame = pd.read_csv(results / "claims.csv", keep_default_na=False)
    columns = [name for name in CLAIMS if name in frame]
    text = (results / "claims.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    table = frame[columns].rename(columns=CLAIMS).map(one_cell).to_markdown(index=False)
    return f"# Claims of the papers\n\n{face_of(frame)}\n\n" + "\n".join(lines) + f"\n\n{table}\n"


def leaderboard_text(results: Path) -> str:
    """Write the leaderboard as Markdown: a part for each setting, form, scope and bits, with the best run first."""
    frame = pd.read_csv(results / "leaderboard.csv", dtype={"rank": str})
    frame = frame[frame["status"] == Status.OK]
    frame = frame.assign(bits=[f"W{row.weight_bits:.0f}A{row.activation_bits:.0f}" for row in frame.itertuples()])
    frame["method"] = [printed_name(label) for label in frame["label"]]
    for name in NUMBERS:
        frame[name] = [METRICS[name].write(value) if pd.notna(value) else "" for value in frame[name]]
    frame["rank"] = frame["rank"].fillna("")
    parts = [f"# Leaderboard\n\n{face_of(frame)}\n\n{ranking_metric().reading} {why_it_ranks()}"]
    group = ["setting", "form", "scope", "bits"]
    for key, rows in frame.groupby(group, sort=False):
        shown = rows[[name for name in LEADERBOARD if name not in group]]
        shown = shown.rename(columns={name: METRICS[name].axis_title for name in NUMBERS})
        parts.append(f"## {', '.join(map(str, key))}\n\n{shown.to_markdown(index=False, disable_numparse=True)}")
    return "\n\n".join(parts) + "\n"


def face_of(frame: pd.DataFrame) -> str:
    """Return the line at the top of every page of the profile, which says what its data are."""
    return f"**{frame['face'].iloc[0]}**" if "face" in frame and len(frame) else ""


def one_cell(value: Any) -> str:
    """Write one cell of a Markdown table; characters that would end the cell are escaped."""
    return " ".join(str(value).replace("|", "\\|").split())


def facts_of(profile: Profile, results: Path, records: Mapping[Run, MetricsRecord], commit: str) -> dict[str, Any]:
    """Return facts about the run: commit, machine, wall time, number of rows."""
    calls = results / "logs" / "calls.json"
    call_records = read_json(calls) if calls.is_file() else []
    failed = sum(record.status != Status.OK for record in records.values())
    facts = {
        "commit": commit,
        "profile": profile["profile"],
        **machine(),
        "rows": len(records),
        "without_numbers": failed,
    }
    return facts | {"calls": call_records}


def times_page(facts: Mapping[str, Any], tables: str) -> str:
    """Write the page with the times of the run, as Markdown."""
    calls = [f"- {_call_text(call)}" for call in facts["calls"]]
    return (
        "# Times of this run\n\n"
        f"Commit {facts['commit']} on {facts['processor']}, {facts['cores']} cores, {facts['system']};"
        f" {facts['rows']} rows.\n\n"
        + "".join(f"{line}\n" for line in ["Calls of the workflow that made it, in their order:", "", *calls, ""])
        + f"Seconds of single-threaded jobs (`qdit times`):\n\n{tables}"
    )


def _call_text(call: Mapping[str, Any]) -> str:
    """Write what a call of the workflow did, and whether it was stopped before its end."""
    minutes = f"{call['seconds'] / 60:.1f} minutes"
    if not call["stopped"]:
        return f"{call['jobs']} jobs in {minutes}"
    return f"{call.get('finished', 'some')} of {call['jobs']} jobs in {minutes}, then stopped"


def readme_table(csv: Path) -> str:
    """Write the README's table of the ranking metric from the CSV of a table.

    It has one column per method and one row per bits. It has the rows of the main setting only.
    """
    frame = pd.read_csv(csv)
    frame = frame[(frame["setting"] == README_SETTING) & (frame["label"] != FULL_PRECISION_METHOD)]
    frame = frame[frame["status"] == Status.OK].drop_duplicates(["form", "label", "weight_bits", "activation_bits"])
    labels = list(dict.fromkeys(frame["label"]))
    metric = ranking_metric()
    lines = [f"| {metric.axis_title} | {' | '.join(map(printed_name, labels))} |", "|---" * (len(labels) + 1) + "|"]
    groups = dict(iter(frame.groupby(["form", "weight_bits", "activation_bits"])))
    for form, weight_bits, activation_bits in sorted(groups, key=lambda key: (key[0] != "natural", -key[1], -key[2])):
        values = groups[form, weight_bits, activation_bits].set_index("label")[metric.name]
        name = f"W{weight_bits:.0f}A{activation_bits:.0f}" + ("" if form == "natural" else f", {form} form")
        cells = [metric.write(values[label]) if pd.notna(values.get(label)) else "–" for label in labels]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_readme(readme: Path, csv: Path) -> None:
    """Write the table of the ranking metric between the two marks in the README."""
    text = readme.read_text(encoding="utf-8")
    block = f"{BEGIN}\n{readme_table(csv)}\n{END}"
    write_text(readme, re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: block, text, flags=re.DOTALL))
