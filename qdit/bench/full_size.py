"""`qdit bench full-size`: measure time and peak memory of every step at the real shapes, in a process for each step.

`python -m qdit.bench.full_size JSON` runs one part (one step) and prints its results. The record holds for
each part the commit and the load average of the machine. So one part can be measured again without the others.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from qdit.bench.full_size_parts import SCALES, parts, run_part
from qdit.bench.record import load, read_record, record, write_record
from qdit.core.errors import DataError
from qdit.core.provenance import commit, processor

LIMIT = 16 * 2**30
"""Bytes that no part may need."""

GIBIBYTE = 2**30

FACT_TITLES = {
    "actual_mb": "MB of the checkpoint",
    "dtype": "type of the numbers",
    "file_mb": "MB of the file",
    "finite": "all values are finite",
    "latents": "calibration latents",
    "layers": "quantized layers",
    "levels": "distinct pixel values (at most 256)",
    "moved": "mean absolute change of the latent in the step",
    "official_mb": "MB of the .pt file",
    "options": "options of the method",
    "predicted_mb": "MB that the shapes predict",
    "same_bits": "same output bits after saving and loading",
    "same_tensors": "same tensors as from the .pt file",
    "shape": "shape of the result",
    "sites": "quantized layers",
    "vae_parameters": "parameters of the VAE",
}
"""Fact of a part → its title on a page; other facts have their own name."""


def measure_part(name: str, folder: Path, *, scale: str = "full", threads: int = 1) -> dict[str, Any]:
    """Run one part in a process of its own. Return its stages, facts, peak memory, time and machine.

    Raises DataError with the last printed line if the process failed.
    """
    before = load()
    question = {"part": name, "folder": str(folder), "scale": scale, "threads": threads}
    call = [sys.executable, "-m", "qdit.bench.full_size", json.dumps(question)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(call, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        error_lines = done.stderr.strip().splitlines() or ["no message"]
        raise DataError(f"full-size part {name}: failed with status {done.returncode}: {error_lines[-1]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured | {
        "peak_bytes": max(stage["peak_bytes"] for stage in measured["stages"]),
        "threads": threads,
        "commit": commit(),
        "processor": processor(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": {"before": before, "after": load()},
    }


def measure(
    command: str,
    folder: Path,
    out: Path,
    *,
    only: Iterable[str] = (),
    scale: str = "full",
    threads: int = 1,
    say: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """Measure the parts of `only`, or all parts. Return the record.

    The record is written after each part. Parts that are not measured now keep their earlier values.
    """
    known, part_names = list(parts()), list(only)
    if wrong := [name for name in part_names if name not in known]:
        raise DataError(f"part {wrong[0]!r}: allowed are {', '.join(known)}")
    before = load()
    kept = read_record(out)["measured"] if out.exists() and part_names else {}
    content: dict[str, Any] = {}
    for name in part_names or known:
        kept[name] = measure_part(name, folder, scale=scale, threads=threads)
        say(line(name, kept[name]))
        measured = {known_part: kept[known_part] for known_part in known if known_part in kept}
        content = record("full-size", command, load_before=before, scale=scale, measured=measured, goals=[])
        write_record(out, content)
    return content


def seconds(entry: dict[str, Any], clock: str = "seconds") -> float:
    """Time of a part, as the sum over its stages: wall time (`seconds`) or processor time (`cpu_seconds`)."""
    return sum(float(stage[clock]) for stage in entry["stages"])


def line(name: str, entry: dict[str, Any]) -> str:
    """One line of text about a part: its time and its peak memory."""
    return (
        f"{name}: {seconds(entry):.0f} s, {seconds(entry, 'cpu_seconds'):.0f} s of CPU,"
        f" peak {entry['peak_bytes'] / GIBIBYTE:.2f} GiB"
    )


def text(content: dict[str, Any], *, style: str = "simple") -> str:
    """Format a record as text: a table of the parts and their stages, then the facts that each part recorded."""
    found_parts = content["measured"]
    measured = {name: found_parts[name] for name in parts() if name in found_parts}
    rows = [row for name, entry in measured.items() for row in stage_rows(name, entry)]
    header = ["part", "stage", "s", "CPU s", "peak GiB", "load", "commit"]
    align = ("left", "left", "right", "right", "right", "right", "left")
    body = tabulate(rows, header, tablefmt=style, colalign=align, disable_numparse=True)
    processors = ", ".join(dict.fromkeys(entry["processor"] for entry in measured.values()))
    threads = ", ".join(str(count) for count in sorted({entry["threads"] for entry in measured.values()}))
    about = (
        f"The command was `{content['command']}`. The processor was {processors} ({content['machine']['cores']} cores)."
        f" Threads of a part: {threads}. *s* is wall time. *Peak* is the largest memory that the process of the part"
        " has held so far; it includes memory-mapped files. *Load* is the load average of the machine before and after"
        " the part. A + behind a commit means that some source files differed from this commit."
    )
    missing = [f"Not measured: {', '.join(names)}.", ""] if (names := [n for n in parts() if n not in measured]) else []
    return "\n".join(
        [
            about,
            "",
            body,
            "",
            *missing,
            "Each part also records facts about its result:",
            "",
            *fact_tables(measured, style),
        ]
    )


def fact_tables(measured: dict[str, dict[str, Any]], style: str) -> list[str]:
    """Lines of tables of the facts. Parts with the same facts stand in one table."""
    by_facts: dict[tuple[str, ...], list[str]] = {}
    for name, entry in measured.items():
        by_facts.setdefault(tuple(entry["facts"]), []).append(name)
    lines = []
    for facts, part_names in by_facts.items():
        rows = [[name, *(fact_text(measured[name]["facts"][fact]) for fact in facts)] for name in part_names]
        header = ["part", *(FACT_TITLES.get(fact, fact.replace("_", " ")) for fact in facts)]
        lines += [tabulate(rows, header, tablefmt=style, disable_numparse=True), ""]
    return lines


def stage_rows(name: str, entry: dict[str, Any]) -> list[list[str]]:
    """Rows of the table for one part: one row for each stage.

    Load and commit belong to the whole part and are only in its first row.
    """
    load_text = f"{entry['load']['before']:.1f}, {entry['load']['after']:.1f}"
    return [
        [
            "" if number else name,
            stage["stage"],
            f"{stage['seconds']:.0f}",
            f"{stage['cpu_seconds']:.0f}",
            f"{stage['peak_bytes'] / GIBIBYTE:.2f}",
            "" if number else load_text,
            "" if number else entry["commit"],
        ]
        for number, stage in enumerate(entry["stages"])
    ]


def fact_text(value: Any) -> str:
    """Return a value of a record as a short text for the page."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:.1f}"
    if isinstance(value, list):
        return "×".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items()) or "none"
    return str(value)


def in_this_process(question: dict[str, Any]) -> dict[str, Any]:
    """Run the part that `question` names, in this process."""
    torch.set_num_threads(question["threads"])
    return run_part(question["part"], Path(question["folder"]), SCALES[question["scale"]])


if __name__ == "__main__":
    json.dump(in_this_process(json.loads(sys.argv[1])), sys.stdout)
