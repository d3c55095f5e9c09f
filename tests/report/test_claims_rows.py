"""The rows that the claims read, the sentences that count the claims, and the command that makes missing rows."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from qdit.core.files import write_json
from qdit.core.run import Run
from qdit.report.claims.claims import CONSTRUCTED, FAILS, FILE, HOLDS, NOT_CHECKED, OPEN, Verdict, load_claims
from qdit.report.claims.damage import at_damage
from qdit.report.claims.page_inputs import page_inputs
from qdit.report.claims.report import Report, damaged_name, load_report
from qdit.report.claims.rows_read import NO_RESULTS, OVERLAY, command, rows_of_claims, rows_read, with_overlay
from qdit.report.claims.sources import Measured
from qdit.report.claims.summary import first_sentences, standing
from qdit.report.claims.survival import Comparison
from qdit.report.claims.written import text_of
from qdit.report.data.published import REPOSITORY_COPY
from qdit.report.pages.claims_page import claims_markdown, claims_page
from qdit.workflow.profile import load_profile, runs_of
from tests.report.conftest import MISSING, record, write_record

CLAIMS = load_claims(REPOSITORY_COPY / FILE)
PLAIN = "digits-cfg1.0-s20"
CHOSEN = ("order-of-steps-salient", "allocation-improves-salient")
"""Claims of the kind “by construction”."""


@pytest.fixture(scope="module")
def mini() -> dict[str, Any]:
    return load_profile(OVERLAY)


def test_the_rows_that_claims_read_are_rows_of_tables_and_nothing_more(mini: dict[str, Any], tmp_path: Path) -> None:
    rows = rows_read(mini)
    tables = {run for table in mini["tables"] for run in runs_of(mini, table)}
    assert len(rows) == len(set(rows)) and set(rows) <= tables
    plain = {run.path for run in rows if run.setting == PLAIN and run.form == "natural"}
    wanted = "fp/w16a16 q-dit/w6a8 rtn-g36-dynamic/w4a4 svdquant-nearest/w4a4 ditas-g16/w4a8 vidit-q/w8a8"
    assert {f"{PLAIN}/natural/{path}-common" for path in wanted.split()} <= plain
    unread = "rtn/w2a2 rtn/w8a8 allocated-random/w4a8 svdquant-token/w4a4 nvfp4/w4a4"
    assert plain.isdisjoint(f"{PLAIN}/natural/{path}-common" for path in unread.split())
    salient = {(run.label, run.bits) for run in rows if run.form == "salient"}
    labels = {"rtn", "rtn-g16-static", "rtn-g16-dynamic", "q-dit"}
    assert salient == {("fp", "w16a16"), *((label, "w4a8") for label in labels)}, "order-of-steps-salient and its like"
    seed = tmp_path / "seed1.yaml"
    seed.write_text("profile: seed1\nseed: 1\n", encoding="utf-8")
    assert rows_read(load_profile(OVERLAY, seed)) == rows


def test_every_claim_of_a_miniature_reads_rows_that_exist(mini: dict[str, Any]) -> None:
    """Only numbers of the paper's model read no row; no expression names a row that no table has."""
    papers, _ = rows_of_claims(mini, CLAIMS)
    measured = {claim.id for claim in CLAIMS.claims if claim.kind != "historical"}
    numbers = {claim.id for claim in CLAIMS.claims if claim.kind == "numeric" and not claim.miniature}
    assert {claim for claim, rows in papers.items() if rows} == measured - numbers


def test_group_size_128_of_table_6_is_found_at_w4a4_too(mini: dict[str, Any]) -> None:
    """The paper prints W4A8 alone, so the row at W4A4 has no printed row beside it."""
    rows = Measured(at_damage(mini), NO_RESULTS).rows("table6")
    assert {keys[0] for keys in rows} >= {"uniform", "ilp", "hessian", "evolution"}
    assert rows[("uniform",)]["key"] == Run(PLAIN, "natural", "rtn-g16-dynamic", "w4a4", "common")


def test_a_claim_without_rows_names_the_command_that_makes_them(results: Path, profile: dict[str, Any]) -> None:
    report = load_report(profile, results)
    ladder = report.verdicts[damaged_name("mini")]["groups-improve"]  # at W4A4; in no table of this profile
    assert ladder.word == OPEN and ladder.missing == () and ladder.tells == ""
    run = Run("digits-cfg1.5-s20", "natural", "g4w+p4a", "w6a8", "common")
    (run.folder(results) / "metrics.json").unlink()
    verdict = load_report(profile, results).verdicts["mini"]["fid-reduced-by-1.09"]
    assert verdict.missing == (run,)
    assert verdict.tells == f"“qdit run claims_rows --profile {OVERLAY}” makes 1 missing row"
    assert command({"profile": "paper"}) == "qdit run claims_rows --profile paper"


def test_the_command_writes_into_the_results_of_the_profile_or_is_not_named(
    results: Path, profile: dict[str, Any]
) -> None:
    """`mini-damage` alone would make rows of results/mini, not those of another miniature."""
    named = command(profile | {"profile": "mini-precise"})
    assert named == f"qdit run claims_rows --profile {OVERLAY} --profile mini-precise"
    (Run("digits-cfg1.5-s20", "natural", "g4w+p4a", "w6a8", "common").folder(results) / "metrics.json").unlink()
    report = load_report(profile | {"profile": "seed1"}, results)
    assert report.command == "" and report.verdicts["seed1"]["fid-reduced-by-1.09"].tells == "it reads 1 missing row"
    assert "without rows that they read" in first_sentences(report)[2]


def test_rows_of_the_overlay_are_judged_without_naming_it(results: Path, profile: dict[str, Any]) -> None:
    """After the named command, `qdit claims` without the overlay decides what it could not tell before."""
    for label in ("smoothquant-g16", "svdquant-nearest", "ditas-g16", "vidit-q"):
        profile["methods"][label] = {"method": label.removesuffix("-g16").removesuffix("-nearest")}
    run, claim = Run(PLAIN, "natural", "ditas-g16", "w4a8", "common"), "ditas-comparable-w4a8"
    before = load_report(profile, results).verdicts["mini"][claim]
    assert before.word == OPEN and before.missing == (run,)
    write_record(results, run, record(run, profile))
    after = load_report(profile, results).verdicts["mini"][claim]
    assert after.word == HOLDS and run in after.runs and after.missing == ()


def test_the_page_waits_for_requested_rows_and_reads_others_that_exist(results: Path, profile: dict[str, Any]) -> None:
    """No row that nobody requested becomes an input, unless it is there: an input that is missing would be made."""
    for label in ("smoothquant-g16", "svdquant-nearest", "ditas-g16", "vidit-q"):
        profile["methods"][label] = {"method": label.removesuffix("-g16").removesuffix("-nearest")}
    of_overlay = Run(PLAIN, "natural", "ditas-g16", "w4a8", "common")
    read = rows_read(with_overlay(profile))
    default = {run for table in profile["tables"] for run in runs_of(profile, table)} & set(read)
    file, files = of_overlay.folder(results) / "metrics.json", {run.folder(results) / "metrics.json" for run in default}
    shutil.rmtree(MISSING.folder(results))
    assert MISSING in default
    assert set(page_inputs(profile, results, default)) == files
    assert set(page_inputs(profile, results, [*default, of_overlay])) == {*files, file}
    write_record(results, of_overlay, record(of_overlay, profile))
    assert set(page_inputs(profile, results, default)) == {*files, file}
    assert set(page_inputs(profile, results, [])) == {path for path in (*files, file) if path.exists()}


def test_the_page_reads_the_rows_of_the_papers_profile(results: Path, profile: dict[str, Any]) -> None:
    folder = results.parent / "paper"
    row = folder / "runs" / "dit-xl-2-256" / "natural" / "rtn" / "w4a8-common" / "metrics.json"
    write_json(row, {"error": "stopped"})
    assert row not in page_inputs(profile, results, [])
    write_json(folder / "profile.json", {})
    assert page_inputs(profile, results, [])[-2:] == [folder / "profile.json", row]
    assert row not in page_inputs(profile | {"profile": "paper"}, folder, [])


def made_up(words: dict[str, tuple[str, str]], comparisons: dict[str, tuple[Comparison, ...]]) -> Report:
    """A report with these verdicts at the papers' bits and at W4A4; all other claims cannot be told."""
    ids = [claim.id for claim in CLAIMS.claims]
    historical = {claim.id for claim in CLAIMS.claims if claim.kind == "historical"}
    rest = {name: NOT_CHECKED if name in historical else OPEN for name in ids}
    row = Run(PLAIN, "natural", "ditas-g16", "w4a8", "common")
    own, damaged = ({name: Verdict(words[name][at] if name in words else rest[name]) for name in ids} for at in (0, 1))
    own["ditas-comparable-w4a8"] = Verdict(OPEN, missing=(row,))
    verdicts = {"printed": own, "mini": own, "mini at W4A4": damaged}
    return Report(CLAIMS, verdicts, "mini", "f", True, survival=comparisons, command="qdit run claims_rows")


def test_the_first_sentences_count_each_claim_once_and_stand_on_every_page() -> None:
    words = {
        "groups-improve": (HOLDS, HOLDS),
        "dynamic-boosts": (FAILS, OPEN),
        "not-monotone": (OPEN, HOLDS),
        "order-of-steps-salient": (CONSTRUCTED, NOT_CHECKED),
    }
    seeds = (
        Comparison("a", {"groups-improve": (HOLDS, HOLDS), "dynamic-boosts": (FAILS, HOLDS)}),
        Comparison("b", {"groups-improve": (HOLDS, HOLDS)}, lacking=("dynamic-boosts",)),
    )
    damaged = (Comparison("a", {"not-monotone": (HOLDS, HOLDS), "groups-improve": (HOLDS, OPEN)}), Comparison("b", {}))
    report = made_up(words, {"mini": seeds, "mini at W4A4": damaged})
    found = standing(report)
    assert (found.constructed, found.at_damage) == (CHOSEN, ("not-monotone",))
    assert set(found.at_papers_bits) == {"groups-improve", "dynamic-boosts"}
    assert (len(found.numbers), found.lacking, found.checked) == (6, ("ditas-comparable-w4a8",), 50)
    checkable, decided, undecided, stay = first_sentences(report)
    assert checkable == (
        "50 of the 61 claims can be checked; the others are only quoted. 2 of the 50 are by construction, which is no"
        " evidence."
    )
    assert decided == (
        "Of the other 48 claims, the runs of profile mini decide 2 at the papers’ bits (1 holds, 1 does not hold) and 1"
        " more only at W4A4 (1 holds); 45 cannot be told. A verdict at W4A4 is not a verdict on the paper."
    )
    assert undecided.startswith("Of the 45 claims that cannot be told, 6 are about a number of the paper’s own model")
    assert "; 1 is without rows that “qdit run claims_rows” makes; 38 are open" in undecided
    assert stay == (
        "3 of the 3 decided claims were judged again with 1 to 2 other random draws (seeds or replicates); 2 of them"
        " keep their verdict every time. 1 could not be compared with every run, because rows or numbers are missing"
        " there."
    )
    page, text = " ".join(claims_page(report).split()), " ".join(text_of(report).split())
    for line in (checkable, decided, stay):
        assert line in page and line in text and line in claims_markdown(report)
    assert "✓ holds (the same verdict in 2 of 2 other draws)" in claims_markdown(report)
