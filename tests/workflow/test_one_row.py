"""One row in an evening: how it is named, what it needs of a profile, its smoke form, and hours by card."""

import os
import re
from copy import deepcopy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qdit.cli.main import app
from qdit.core.errors import ConfigError, DataError
from qdit.core.files import write_json
from qdit.core.repository import ROOT
from qdit.core.run import Run
from qdit.report.pages.one_row import beside_published
from qdit.workflow.cost import Speed, card_speed, cost_text, jobs_of, speed_of
from qdit.workflow.cost_speeds import CARDS
from qdit.workflow.cost_tables import ONCE, speeds_of_cards, table_hours, tables_text
from qdit.workflow.doctor import Finding
from qdit.workflow.doctor_text import doctor_text
from qdit.workflow.fetch import files_of, needed_files
from qdit.workflow.one_row import (
    find_row,
    missing_files,
    plan_lines,
    profile_of_row,
    require_files,
    row_hours,
    rows_of_row,
    smoke_profile,
    steps_of,
)
from qdit.workflow.profile import Profile, load_profile, runs_of, sampled, validate
from tests.preloaded import command_server, python, snakemake

ROW = "table2 q-dit w4a8"
RUN = Run("dit-256-cfg1.0-s100", "natural", "q-dit", "w4a8", "common")


@pytest.fixture(scope="module")
def paper() -> Profile:
    return load_profile("paper")


def test_a_row_is_named_by_table_method_and_bits(paper: Profile) -> None:
    row = find_row(paper, ROW)
    assert (row.table, row.run) == ("table2", RUN)
    assert row.others == ("dit-256-cfg1.5-s100 natural common", "dit-512-cfg1.5-s50 natural common")
    guided = find_row(paper, "W4A8 dit-256-cfg1.5-s100 q-dit table2")
    assert guided.run == Run("dit-256-cfg1.5-s100", "natural", "q-dit", "w4a8", "common")
    assert find_row(paper, guided.words) == guided, "the whole name finds it again"
    assert find_row(paper, "rtn-g64-dynamic w4a8 dit-512-cfg1.0-s50").table == "table1"
    assert find_row(paper, "table3 q-dit w4a8").run.setting.startswith("opensora")
    assert find_row(paper, "Table2 Q-DiT W4A8") == find_row(paper, "table2 q-dit w4a8")
    assert [run.label for run in rows_of_row(paper, find_row(paper, "table2 fp w16a16"))] == ["fp"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "table2 q-dot w4a8",
            "nothing is called q-dot in table2; expected a table, a method and bits, e.g. table2 rtn w6a8",
        ),
        ("table2 q-dit w2a2", "nothing is called w2a2 in table2"),
        ("table2 q-dit w16a16", "no row has these names in table2"),
        (
            "table2 q-dit",
            "2 rows have these names; add names so that one row is left: table2 q-dit w6a8 .*; table2 q-dit w4a8 ",
        ),
        ("q-dit w4a8", r"4 rows have these names.*table2 q-dit w4a8 dit-256-cfg1\.0.*table3 q-dit w4a8"),
        ("table2", "expected a table, a method and bits"),
    ],
)
def test_names_that_are_no_row_or_several_are_one_line(paper: Profile, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        find_row(paper, text)
    assert "\n" not in str(raised.value)


def test_a_row_needs_eight_files_and_31_jobs(paper: Profile) -> None:
    """As `snakemake -n` counts them; 57 jobs with 500 images a job and without the search."""
    row = find_row(paper, ROW)
    part = profile_of_row(paper, row)
    files = needed_files(part)
    assert len(files) == 8 and files.keys() == part["files"].keys()
    assert sum(part["files"][path]["megabytes"] for path in files) == pytest.approx(6594.006)
    assert not any("512" in path or "vbench" in path or "OpenSora" in path for path in files)
    steps = {"check files": 8, "import weights": 1, "reference": 2, "calibrate": 1, "search": 1, "quantize": 2}
    assert steps_of(paper, row) == steps | {"sample": 10, "LPIPS": 2, "judge": 2, "evaluate": 2}
    assert set(runs_of(part, "table2")) == set(rows_of_row(paper, row))
    speed = Speed(1e12, "a test")
    assert {job.name for job in jobs_of(part, speed)} == {
        job.name
        for job in jobs_of(paper, speed)
        if RUN.path in job.name
        or Run(RUN.setting, "natural", "fp", "w16a16", "common").path in job.name
        or job.name.startswith(
            ("search dit-256-cfg1.0-s50/natural/evolution/w4a8", f"calibrate {RUN.setting} natural trajectory")
        )
    }
    assert "1 GPUs:" in cost_text(part, speed)


def test_the_page_has_the_numbers_of_the_plan(paper: Profile) -> None:
    page, row = (ROOT / "docs" / "one-row.md").read_text(encoding="utf-8"), find_row(paper, ROW)
    files = needed_files(profile_of_row(paper, row))
    size = sum(paper["files"][path]["megabytes"] for path in files) / 1000
    assert f"| files | {len(files)}, about {size:.1f} GB" in page
    assert (
        f"| jobs | {sum(steps_of(paper, row).values())}: {steps_of(paper, row)['check files']} checks of files" in page
    )
    for card in ("H100", "A100"):
        hours = row_hours(paper, row, card_speed(card))
        assert f"| {card} | {sum(hours.values()):.1f} hours, of which the search takes {hours['search']:.1f} |" in page
    fixed = find_row(paper, "searched q-dit-fixed w4a8")
    alone = [sum(row_hours(paper, fixed, card_speed(card)).values()) for card in ("H100", "A100")]
    assert "{:.1f} hours on an H100, {:.1f} on an".format(*alone) in page
    assert f"needs one GPU, {size:.1f} GB" in (ROOT / "docs" / "paper-profile.md").read_text(encoding="utf-8")


@pytest.mark.ci
def test_snakemake_plans_as_many_jobs_as_the_command_says(paper: Profile) -> None:
    row = find_row(paper, ROW)
    targets = [f"results/paper/runs/{run.path}/metrics.json" for run in rows_of_row(paper, row)]
    words = ["-n", "--configfile", "config/paper.yaml", "--quiet", "rules", "--"]
    done = snakemake([*words, *targets], ROOT)
    assert done.returncode == 0, done.stderr
    totals = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("total ")]
    assert set(totals) == {sum(steps_of(paper, row).values())}


def test_a_row_of_clips_needs_no_files_of_images(paper: Profile) -> None:
    part = profile_of_row(paper, find_row(paper, "table3 q-dit w4a8"))
    files = needed_files(part)
    assert part["models"].keys() == {"stdit3-opensora"} and not part["references"]
    assert any("vbench" in path for path in files) and not any("DiT-XL" in path or "i3d" in path for path in files)


def test_missing_files_are_one_line_with_the_command_that_fetches_them(
    paper: Profile, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = find_row(paper, ROW)
    with pytest.raises(
        DataError, match=r"8 of 8 files are missing, about 6\.6 GB; fetch .* --row 'table2 q-dit w4a8 dit-256-"
    ) as problem:
        require_files(paper, [row])
    assert str(problem.value).endswith("--allow-unverified weights/paper")
    for path in needed_files(profile_of_row(paper, row)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"x")
    require_files(paper, [row])
    assert missing_files(profile_of_row(paper, row)) == []
    assert missing_files(profile_of_row(paper, find_row(paper, "table2 q-dit w4a8 dit-512-cfg1.5-s50"))) != []


@pytest.mark.parametrize("name", ["paper", "mini"])
def test_a_smoke_run_is_small_valid_and_elsewhere(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    profile, layers = smoke_profile([name])
    assert layers == [name, f"results/{name}-smoke/smoke.json"]
    assert validate(profile).profile == profile["profile"] == f"{name}-smoke"
    row = find_row(profile, ROW)
    assert sampled(profile, row.run.setting, row.run.form)["images"] <= 64
    whole = load_profile(name)
    assert row.run == find_row(whole, ROW).run, "the same row, with the same steps and guidance"
    assert profile["settings"] == whole["settings"]
    if name == "paper":
        hours = row_hours(profile, row, card_speed("A100"))
        assert sum(hours.values()) < 5 / 60
        learned = find_row(profile, "table2 ptq4dit w4a8")
        assert sum(row_hours(profile, learned, card_speed("A100")).values()) < 10 / 60


def test_the_commands_name_the_row_its_files_and_hours(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    planned = CliRunner().invoke(app, ["run", "--row", ROW, "--profile", "paper", "--dry-run"])
    assert planned.exit_code == 0
    text = planned.output
    assert "files: 8, about 6.6 GB" in text and "jobs: 31 (" in text and "A100" in text and "H100" in text
    assert f"results/paper/runs/{RUN.path}/metrics.json" in text and "paper-smoke" not in text
    assert "--resources gpu=1 --configfile" in text, "one job for each GPU"
    smoke = CliRunner().invoke(app, ["run", "--row", ROW, "--profile", "paper", "--smoke", "--dry-run"])
    assert smoke.exit_code == 0 and f"results/paper-smoke/runs/{RUN.path}/metrics.json" in smoke.output
    assert smoke.output.rstrip().endswith("results/paper-smoke/smoke.json")
    checked = CliRunner().invoke(app, ["doctor", "--row", ROW, "--profile", "paper"])
    assert checked.exit_code == 1 and "8 of 8 files missing (about 6.6 GB)" in checked.output
    assert "next: qdit fetch --profile paper --row 'table2 q-dit w4a8 dit-256-cfg1.0-s100" in checked.output
    alone = CliRunner().invoke(app, ["run", "--smoke"])
    assert isinstance(alone.exception, ConfigError) and "--smoke: found no --row" in str(alone.exception)


def test_the_next_command_names_the_files_of_the_profile(paper: Profile, tmp_path: Path, monkeypatch) -> None:
    """The name of an overlay is no profile that a command knows."""
    monkeypatch.chdir(tmp_path)
    mine, layers = {**paper, "profile": "mine"}, ["paper", "my files/mine.yaml"]
    words = "qdit fetch --profile paper --profile 'my files/mine.yaml' --row 'table2 q-dit w4a8 dit-256-cfg1.0-s100"
    with pytest.raises(DataError, match=re.escape(words)):
        require_files(mine, [find_row(mine, ROW)], layers)
    with pytest.raises(DataError, match="qdit fetch --profile mine --row"):
        require_files(mine, [find_row(mine, ROW)])
    needed = next(file for file in files_of(mine) if file.entry)
    finding = Finding(False, "weights: missing", "weights of models", needed)
    text = doctor_text(mine, [finding], layers=layers)
    assert "next: qdit fetch --profile paper --profile 'my files/mine.yaml' downloads what is missing" in text
    assert "qdit doctor --profile paper --profile 'my files/mine.yaml' --all" in text


def test_printed_numbers_stand_beside_ours(paper: Profile, tmp_path: Path) -> None:
    row = find_row(paper, ROW)
    text = beside_published(paper, "table2", rows_of_row(paper, row), tmp_path / "paper")
    lines = [line.split() for line in text.splitlines()]
    assert ["FP", "W16A16", "printed", "1349", "12.4", "19.11", "116.7", "0.6605"] in lines
    assert ["Q-DiT", "W4A8", "printed", "347", "15.76", "19.84", "98.78", "0.6395"] in lines
    assert sum(line[0] == "here:" for line in lines if line) == 2, "both are missing yet"


def test_steps_that_are_only_printed_are_no_rows(tmp_path: Path) -> None:
    """A profile with fewer steps of Table 4: the command ended with a traceback after it had made the row."""
    mini = load_profile("mini")
    for block in mini["tables"]["table4"]["blocks"]:
        block["methods"] = ["fp", "rtn", "rtn-g16-static"]
    row = find_row(mini, "table4 rtn w4a8 natural")
    text = beside_published(mini, "table4", rows_of_row(mini, row), tmp_path / "mini")
    assert text.count("here: missing") == 2 and "RTN" in text and "Sample-wise" not in text


def test_addresses_that_nobody_tried_are_said(paper: Profile) -> None:
    files = {file.path.name: file for file in files_of(paper) if file.entry}
    assert files["VBench_full_info.json"].is_tried and "seen this address" not in files["VBench_full_info.json"].about
    clip = files["ViT-B-32.pt"]  # its whole digest is a part of its address
    assert (
        clip.sha256 is not None
        and not clip.is_tried
        and clip.about.endswith("nobody here has seen this address answer")
    )
    assert not files["DiT-XL-2-256x256.pt"].is_tried
    assert not any("azureedge" in file.source for file in files.values())


def test_speeds_are_below_the_data_sheets_and_in_their_order() -> None:
    for card in CARDS.values():
        assert card.half < 0.6 * card.half_peak and card.float32 == pytest.approx(0.6 * card.float32_peak)
        assert card.source
    assert CARDS["RTX 4090"].half < CARDS["A100"].half < CARDS["H100"].half < CARDS["H200"].half
    assert 190e12 < CARDS["H100"].half < 320e12
    assert CARDS["A100"].float32 == pytest.approx(11.7e12)


def test_quantizing_has_its_own_speed(paper: Profile) -> None:
    both, single = Speed(4e12, "a test", 1e12), Speed(4e12, "a test")
    slow, fast = ({job.name: job for job in jobs_of(paper, speed)} for speed in (both, single))
    for name, job in slow.items():
        assert job.seconds == pytest.approx(fast[name].seconds * (4 if job.rule == "quantize" else 1)), name


def test_tensor_float_32_shortens_the_quantizations_that_ask_for_it(paper: Profile) -> None:
    for card in CARDS.values():
        assert card.float32 <= card.tf32 <= 0.6 * max(card.tf32_peak, card.float32_peak)
    assert 2.5 < CARDS["H100"].tf32 / CARDS["H100"].float32 < 5
    assert 3 < CARDS["A100"].tf32 / CARDS["A100"].float32 < 5
    assert CARDS["RTX 4090"].tf32 == CARDS["RTX 4090"].float32  # its peaks are the same
    speed, rounded = card_speed("H100"), deepcopy(paper)
    assert paper["methods"]["ptq4dit"]["options"] == {"matmul": "tf32"}, "as its program"
    rounded["methods"]["ptq4dit"]["options"] = {}
    fast, slow = ({job.name: job for job in jobs_of(profile, speed)} for profile in (paper, rounded))
    assert slow.keys() == fast.keys()
    changed = {name for name, job in slow.items() if job.seconds != fast[name].seconds}
    assert changed and all(name.startswith("quantize") and "/ptq4dit/" in name for name in changed)


def test_hours_of_each_table_on_cards_and_measured(paper: Profile, tmp_path: Path) -> None:
    speed = card_speed("H100")
    hours = table_hours(paper, speed)
    assert hours[ONCE] == pytest.approx(sum(job.seconds for job in jobs_of(paper, speed)) / 3600)
    assert hours[ONCE] < sum(hours.values()) - hours[ONCE]
    assert list(speeds_of_cards(paper, tmp_path)) == ["A100", "H100"]
    write_json(tmp_path / "runs" / RUN.path / "logs" / "sample-000.json", {"seconds": 1000.0})
    measured = speeds_of_cards(paper, tmp_path)["measured"]
    assert measured.flops == pytest.approx(2000 * 100 * 118.64e9 * 2 / 1000, rel=1e-3) and measured.float32 is None
    learned = Run(RUN.setting, "natural", "tfmq-dm", "w4a8", "common")
    write_json(tmp_path / "runs" / learned.path / "logs" / "quantize.json", {"seconds": 10_000.0})
    again = speed_of(paper, tmp_path, None)
    assert again.float32 is not None and again.flops == measured.flops
    assert again.float32 == pytest.approx((3 * 25_600 + 3 * 20_000 * 32) * 118.64e9 * 2 / 10_000, rel=1e-3)
    text = tables_text(paper, tmp_path)
    assert "measured" in text.splitlines()[0] and "table2_first (only when named)" in text
    assert len(plan_lines(paper, [find_row(paper, ROW)], tmp_path)) == 2 + 9 + 1 + 3


def test_gpus_have_the_speed_of_a_card_until_one_is_measured(paper: Profile, tmp_path: Path) -> None:
    assert speed_of(paper, tmp_path, None) == card_speed("H100")
    assert speed_of(paper, tmp_path, 50.0) == Speed(50e12, "given")


@pytest.mark.ci
def test_a_smoke_run_of_the_miniature_says_that_everything_is_in_place(tmp_path: Path) -> None:
    words = ["-m", "qdit", "run", "--row", "table2 rtn w4a8", "--smoke", "--cores", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "QDIT_SERVER": command_server(ROOT)}
    done = python(words, tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    assert "rtn w4a8 digits-cfg1.0-s20 natural common: everything is in place." in done.stdout
    assert [folder.name for folder in (tmp_path / "results").iterdir()] == ["mini-smoke"]
    profile = load_profile("mini", tmp_path / "results" / "mini-smoke" / "smoke.json")
    row = find_row(profile, "table2 rtn w4a8")
    text = beside_published(profile, "table2", rows_of_row(profile, row), tmp_path / "results" / "mini-smoke")
    assert "other models and data" in text and text.count("here") == 2 and "missing" not in text
