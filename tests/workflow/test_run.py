"""From weights to tables: the workflow, nothing to do the second time, kill -9, and a method that fails."""

import csv
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from qdit.core.files import load_arrays
from tests.workflow.checkout import OVERLAYS, Checkout

FORMATS = {"html", "csv", "md", "tex"}
Q_DIT = "runs/digits-cfg1.0-s20/natural/q-dit/w4a8-common"
FAILED = Q_DIT.replace("q-dit", "rtn")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def test_every_table_is_there_in_every_format_and_has_its_rows(checkout: Checkout) -> None:
    assert set(checkout.tables()) == {f"{table}.{suffix}" for table in ("table2", "table4") for suffix in FORMATS}
    assert not (checkout.results / "so-far").exists(), "the page of a run that goes on"
    table = rows(checkout.results / "tables" / "table2.csv")
    assert [(row["label"], row["weight_bits"], row["status"]) for row in table] == [
        ("fp", "16", "ok"),
        ("rtn", "4", "ok"),
        ("q-dit", "4", "ok"),
    ]
    assert all(float(row["fid"]) > 0 for row in table)
    assert [float(row["mse_fp"]) > 0 for row in table] == [False, True, True]
    assert len({row["protocol_sha256"] for row in table}) == 1


def test_claims_and_leaderboard_are_part_of_all(checkout: Checkout) -> None:
    leaderboard = rows(checkout.results / "leaderboard.csv")
    assert [(row["label"], row["status"]) for row in leaderboard] == [("fp", "ok"), ("q-dit", "ok"), ("rtn", "ok")]
    for row in leaderboard[1:]:
        assert float(row["fd_fp_low"]) <= float(row["fd_fp"]) <= float(row["fd_fp_high"]) and row["rank"]
    claims = {(row["id"], row["evaluated_on"]): row for row in rows(checkout.results / "claims.csv")}
    assert claims["lowest-fid-w4a8", "printed"]["verdict"] == "holds"
    assert "this profile has no such row" in claims["lowest-fid-w6a8", "tiny"]["why"]
    groups = claims["groups-improve", "tiny"]  # its table has no such row on few images
    assert (groups["verdict"], groups["metrics"]) == ("cannot be told", "PSNR-FP")
    for page in ("claims.html", "leaderboard.html"):
        assert "handwritten digits, not ImageNet" in (checkout.results / page).read_text(encoding="utf-8")


def test_intervals_come_from_as_many_resamples_as_the_profile_says(checkout: Checkout) -> None:
    values = load_arrays(checkout.results / Q_DIT / "bootstrap.npz")
    assert {len(resampled) for name, resampled in values.items() if name != "pairing"} == {50}


def test_the_report_is_one_page_and_its_path_is_the_last_thing_said(checkout: Checkout) -> None:
    page = checkout.results / "index.html"
    text = page.read_text(encoding="utf-8")
    assert "handwritten digits, not ImageNet" in text and "All 3 runs of this profile were measured." in text
    assert f"The report, one page:\n  {page.resolve()}\n" in checkout.printed[-len(str(page)) - 200 :]


def test_second_run_finds_nothing_to_do(checkout: Checkout) -> None:
    before = {path: path.stat().st_mtime_ns for path in checkout.results.rglob("*") if path.is_file()}
    done = checkout.snakemake("--cores", "2")
    assert "Nothing to be done" in done.stdout + done.stderr
    assert {path: path.stat().st_mtime_ns for path in checkout.results.rglob("*") if path.is_file()} == before


def kill_during(command: list[str], root: Path, chunks: Path) -> None:
    """Run a command until the first file is in `chunks`, then kill it and all that it started, as kill -9 does."""
    with subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        until = time.monotonic() + 120
        while not list(chunks.glob("0*.npz")) and running.poll() is None and time.monotonic() < until:
            time.sleep(0.001)
        assert running.poll() is None, "ended before it could be killed"
        program = psutil.Process(running.pid)
        processes = [program, *program.children(recursive=True)]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=30)  # until then, they may still write


@dataclass(frozen=True)
class Disturbed:
    """A command with a method that fails, killed while it samples and called twice more; then one without the fault."""

    copy: Checkout
    before: dict[Path, bytes]
    kept: dict[Path, int]
    shard_at_the_kill: bool
    goes_on: subprocess.CompletedProcess[str]
    kept_then: dict[Path, int]
    chunks_then: dict[Path, bytes]
    again: subprocess.CompletedProcess[str]
    table: list[dict[str, str]]
    log: str
    repaired: subprocess.CompletedProcess[str]


def chunks_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (folder / "samples").glob("0*.npz")}


def times_of(paths: Iterable[Path]) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope="module")
def disturbed(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    """The whole story in one fixture: each call of Snakemake here makes what the one before it left.

    It happens in a copy of the checkout, with the times of its files. So the other tests see an undisturbed run, and
    nothing but the two tables is made again.
    """
    folder = tmp_path_factory.mktemp("disturbed")
    copy = Checkout(Path(shutil.copytree(checkout.root, folder / "a checkout", symlinks=True)))
    overlay, run = folder / "seven.yaml", copy.results / Q_DIT
    overlay.write_text("methods: {rtn: {options: {group_size: 7}}}\n", encoding="utf-8")
    overlays = (*OVERLAYS, str(overlay))
    before = {path: path.read_bytes() for path in copy.results.rglob("*") if path.is_file()}
    tables = (copy.results / "tables").iterdir()
    for path in [run / "metrics.json", *tables]:
        path.unlink()
    kept: dict[Path, int] = {}
    for _ in range(6):  # all chunks are one batch, so their files appear shortly after each other
        for path in (run / "samples").iterdir():
            path.unlink()
        kill_during(copy.command("--cores", "2", "table2", overlays=overlays), copy.root, run / "samples")
        if 0 < len(kept := times_of(chunks_of(run))) < 8:
            break
    shard = (run / "samples" / "shard-000.json").exists()
    goes_on = copy.snakemake("--cores", "2", "table2", overlays=overlays, code=1)
    kept_then, chunks_then = times_of(kept), chunks_of(run)
    again = copy.snakemake("--cores", "2", "table2", overlays=overlays, code=1)
    table = rows(copy.results / "tables" / "table2.csv")
    log = (copy.results / FAILED / "logs" / "quantize.log").read_text(encoding="utf-8")
    repaired = copy.snakemake("--cores", "2", "table2", "table4")
    return Disturbed(copy, before, kept, shard, goes_on, kept_then, chunks_then, again, table, log, repaired)


@pytest.mark.ci
def test_killed_while_sampling_the_same_command_goes_on(disturbed: Disturbed) -> None:
    folder = disturbed.copy.results / Q_DIT
    chunks = {path: content for path, content in disturbed.before.items() if path.parent == folder / "samples"}
    chunks = {path: content for path, content in chunks.items() if path.match("0*.npz")}
    assert len(chunks) == 8 and 0 < len(disturbed.kept) < 8 and not disturbed.shard_at_the_kill
    assert disturbed.kept_then == disturbed.kept == times_of(disturbed.kept), "no chunk is made twice"
    assert disturbed.chunks_then == chunks


@pytest.mark.ci
def test_a_method_that_fails_leaves_the_others_their_table(disturbed: Disturbed) -> None:
    failed = f"{FAILED.removeprefix('runs/')}: failed in quantize: "
    assert failed in disturbed.goes_on.stdout and "(1):" in disturbed.goes_on.stdout
    assert f"(log: results/tiny/{FAILED}/logs/quantize.log)" in disturbed.goes_on.stdout
    said = disturbed.again.stdout + disturbed.again.stderr
    assert failed in disturbed.again.stdout and "check_rows" in said
    assert "1 of 1 steps" not in disturbed.again.stderr and "rule quantize" not in said
    by_label = {row["label"]: row["status"] for row in disturbed.table}
    assert [by_label[label] for label in ("fp", "q-dit")] == ["ok", "ok"]
    for words in ("failed in quantize: ", "group_size 7", "144"):
        assert words in by_label["rtn"]
    assert "Traceback" in disturbed.log


@pytest.mark.ci
def test_after_a_kill_and_a_repaired_method_every_file_is_as_before(disturbed: Disturbed) -> None:
    kinds = {path for path in disturbed.before if path.parent.name in ("tables", "samples")}
    kinds |= {path for path in disturbed.before if path.name == "metrics.json"}
    assert len(kinds) > 30 and [path for path in kinds if path.read_bytes() != disturbed.before[path]] == []
    pages = [path for path in kinds if path.parent.name == "tables" and path.suffix == ".html"]
    assert pages and all(f"  {path.resolve()}\n" in disturbed.repaired.stdout for path in pages)


def test_report_shows_the_tables(checkout: Checkout, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    checkout.snakemake("--report", str(report))
    text = report.read_text(encoding="utf-8")
    files = ("table2.html", "table4.csv", "claims.html", "leaderboard.csv", "index.html")
    for words in (*files, "Tables", "Claims", "Leaderboard", "Report", "handwritten digits, not ImageNet"):
        assert words in text


@pytest.mark.ci
def test_failed_job_shows_the_one_line_of_its_error(checkout: Checkout, tmp_path: Path) -> None:
    damaged = checkout.root / "data" / "damaged.safetensors"
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(b"no weights")
    overlay = tmp_path / "damaged.yaml"
    overlay.write_text(
        "profile: damaged\nmodels: {dit-digits: {forms: {natural: data/damaged.safetensors}}}\n", encoding="utf-8"
    )
    target = f"results/damaged/{Q_DIT.replace('q-dit/w4a8', 'fp/w16a16')}/checkpoint/config.json"
    done = checkout.snakemake(target, overlays=("tests/workflow/tiny.yaml", str(overlay)), code=1)
    (line,) = {line.strip() for line in (done.stdout + done.stderr).splitlines() if "qdit: error" in line}
    assert "damaged.safetensors: not a readable safetensors file" in line
    assert "Traceback" not in done.stdout + done.stderr


def test_bad_profile_stops_snakemake_with_one_line(checkout: Checkout, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("methods: {rtn: {method: rtnn}}", encoding="utf-8")
    done = checkout.snakemake("--dry-run", overlays=(str(path),), code=2)
    line = done.stderr.splitlines()[-1]
    assert line.startswith("qdit: error: ")
    for words in ("methods.rtn.method", "'rtnn'", "did you mean 'rtn'?"):
        assert words in line
    assert "Traceback" not in done.stdout + done.stderr
