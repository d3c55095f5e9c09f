"""The workflow runs from weights to tables, does nothing the second time, and survives kill -9."""

import csv
import subprocess
import time
from pathlib import Path

import psutil

from qdit.core.files import load_arrays
from tests.workflow.checkout import Checkout

FORMATS = {"html", "csv", "md", "tex"}
Q_DIT = "runs/digits-cfg1.0-s20/natural/q-dit/w4a8-common"


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
    assert (groups["verdict"], groups["metrics"]) == ("cannot be told", "FD-FP MSE-FP")
    for page in ("claims.html", "leaderboard.html"):
        assert "handwritten digits, not ImageNet" in (checkout.results / page).read_text(encoding="utf-8")


def test_intervals_come_from_as_many_resamples_as_the_profile_says(checkout: Checkout) -> None:
    values = load_arrays(checkout.results / Q_DIT / "bootstrap.npz")
    assert {len(resampled) for name, resampled in values.items() if name != "pairing"} == {50}


def test_the_report_is_one_page_and_its_path_is_the_last_thing_said(checkout: Checkout) -> None:
    page = checkout.results / "index.html"
    text = page.read_text(encoding="utf-8")
    assert "handwritten digits, not ImageNet" in text and "All 3 runs of this profile were measured." in text
    page.unlink()
    done = checkout.snakemake("--cores", "2")
    assert f"The report, one page:\n  {page.resolve()}\n" in done.stdout[-len(str(page)) - 200 :]
    assert page.read_text(encoding="utf-8") == text


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
            time.sleep(0.005)
        assert running.poll() is None, "ended before it could be killed"
        program = psutil.Process(running.pid)
        for process in [program, *program.children(recursive=True)]:
            process.kill()


def test_killed_while_sampling_the_same_command_goes_on(checkout: Checkout) -> None:
    undisturbed = checkout.tables()
    run = checkout.results / Q_DIT
    chunks = {path.name: path.read_bytes() for path in (run / "samples").glob("0*.npz")}
    assert len(chunks) == 8
    for path in [*(run / "samples").iterdir(), run / "metrics.json", *(checkout.results / "tables").iterdir()]:
        path.unlink()

    kill_during(checkout.command("--cores", "2"), checkout.root, run / "samples")
    kept = {path: path.stat().st_mtime_ns for path in (run / "samples").glob("0*.npz")}
    assert 0 < len(kept) < len(chunks)
    assert not (run / "samples" / "shard-000.json").exists()

    again = checkout.snakemake("--cores", "2")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert {path.name: path.read_bytes() for path in (run / "samples").glob("0*.npz")} == chunks
    assert checkout.tables() == undisturbed
    pages = [name for name in undisturbed if name.endswith(".html")]
    assert all(f"  {checkout.results.resolve() / 'tables' / name}\n" in again.stdout for name in pages)


def test_report_shows_the_tables(checkout: Checkout, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    checkout.snakemake("--report", str(report))
    text = report.read_text(encoding="utf-8")
    files = ("table2.html", "table4.csv", "claims.html", "leaderboard.csv", "index.html")
    for words in (*files, "Tables", "Claims", "Leaderboard", "Report", "handwritten digits, not ImageNet"):
        assert words in text


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


def test_a_method_that_fails_leaves_the_others_their_table(checkout: Checkout, tmp_path: Path) -> None:
    overlay, failed = tmp_path / "seven.yaml", Q_DIT.replace("q-dit", "rtn")
    overlay.write_text("methods: {rtn: {options: {group_size: 7}}}\n", encoding="utf-8")
    overlays = ("tests/workflow/tiny.yaml", "tests/workflow/fewer.yaml", str(overlay))
    undisturbed = {path: path.read_bytes() for path in checkout.results.rglob("*") if path.is_file()}
    try:
        done = checkout.snakemake("table2", overlays=overlays, code=1)
        assert f"{failed.removeprefix('runs/')}: failed in quantize: " in done.stdout
        assert f"(log: results/tiny/{failed}/logs/quantize.log)" in done.stdout and "(1):" in done.stdout
        again = checkout.snakemake("table2", overlays=overlays, code=1)
        assert f"{failed.removeprefix('runs/')}: failed in quantize: " in again.stdout
        assert "1 of 1 steps" not in again.stderr and "check_rows" in again.stdout + again.stderr
        assert "rule quantize" not in again.stdout + again.stderr
        by_label = {row["label"]: row for row in rows(checkout.results / "tables" / "table2.csv")}
        assert [by_label[label]["status"] for label in ("fp", "q-dit")] == ["ok", "ok"]
        status = by_label["rtn"]["status"]
        assert "failed in quantize: " in status and "group_size 7" in status and "144" in status
        assert "Traceback" in (checkout.results / failed / "logs" / "quantize.log").read_text(encoding="utf-8")
    finally:
        checkout.snakemake("--cores", "2")
    assert all(
        path.read_bytes() == before
        for path, before in undisturbed.items()
        if path.parent.name in ("tables", "samples") or path.name == "metrics.json"
    )


def test_bad_profile_stops_snakemake_with_one_line(checkout: Checkout, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("methods: {rtn: {method: rtnn}}", encoding="utf-8")
    done = checkout.snakemake("--dry-run", overlays=(str(path),), code=2)
    line = done.stderr.splitlines()[-1]
    assert line.startswith("qdit: error: ")
    for words in ("methods.rtn.method", "'rtnn'", "did you mean 'rtn'?"):
        assert words in line
    assert "Traceback" not in done.stdout + done.stderr
