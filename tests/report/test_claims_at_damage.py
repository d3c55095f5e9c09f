"""Claims at the bits where damage begins, and whether verdicts survive other replicates and seeds."""

import ast
import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import sha256_json
from qdit.core.intervals import Resamples, write_resamples
from qdit.core.run import Run
from qdit.report.claims.claims import (
    FAILS,
    FILE,
    HOLDS,
    NOT_CHECKED,
    OPEN,
    Verdict,
    judge_all_at_damage,
    load_claims,
)
from qdit.report.claims.damage import at_bits, damaged
from qdit.report.claims.language import parse
from qdit.report.claims.report import damaged_name, load_report
from qdit.report.claims.sources import Measured
from qdit.report.claims.summary import summary
from qdit.report.claims.survival import Comparison, survival_text
from qdit.report.claims.written import csv_of
from qdit.report.data.published import REPOSITORY_COPY
from qdit.report.data.values import Unknown
from qdit.report.pages.claims_page import claims_page
from tests.report.conftest import change_protocol

CLAIMS = load_claims(REPOSITORY_COPY / FILE)
PLAIN, GUIDED = "digits-cfg1.0-s20", "digits-cfg1.5-s20"
Change = Callable[..., None]


def test_bits_move_and_loops_keep_the_places_that_have_rows(results: Path, profile: dict[str, Any]) -> None:
    papers = Measured(profile, results)
    sets = {"settings": ["256", "256-cfg1.5"], "bits": ["w6a8", "w4a8"], "methods": ["rtn", "g4w+p4a"]}
    loops = "for m in methods for b in bits for s in settings"
    text = f"all((fid(m, b, s) > fid('q-dit', 'w4a8', s) >= fid('fp', 'w16a16', s) {loops}))"
    node = parse(text, table="table2", sets=sets)
    node, moved, kept = at_bits(node, "table2", sets, damaged(papers), papers)
    assert ast.unparse(node) == text.replace("'w4a8'", "'w4a4'")
    assert moved == {"settings": ["256"], "bits": ["w4a4"], "methods": ["rtn", "g4w+p4a"]} and kept == ("256",)


def test_a_claim_is_judged_by_its_w4a4_rows_in_a_column_of_its_own(
    results: Path, profile: dict[str, Any], change_record: Change
) -> None:
    """At the papers' bits Q-DiT beats G4W+P4A; its W4A4 row is made worse, and only that column turns."""
    name, claim = damaged_name("mini"), "fid-reduced-by-1.26"
    profile["tables"]["table2"]["blocks"][0]["bits"].append("w8a8")
    for label in ("g4w+p4a", "q-dit"):
        for bits, value in (("w8a8", 50.0 if label == "q-dit" else 40.0), ("w4a4", 20.0 if label == "q-dit" else 30.0)):
            key = Run(PLAIN, "natural", label, bits, "common")
            change_record(key, lambda record, value=value: record["metrics"].update(psnr_fp=value))
    report = load_report(profile, results)
    assert report.verdicts["mini"][claim].word == HOLDS and report.verdicts[name][claim].word == FAILS
    assert "w4a4" in report.verdicts[name][claim].evidence[0].text
    assert report.at_papers_bits == ["printed", "mini"]
    page = claims_page(report)
    assert f'data-source="{name}"' in page and "are not verdicts on the paper" in " ".join(page.split())


def test_what_has_no_verdict_at_w4a4_says_why(results: Path, profile: dict[str, Any]) -> None:
    verdicts = judge_all_at_damage(CLAIMS, Measured(profile, results))
    assert verdicts["better-than-tfmq-w16a8"].word == NOT_CHECKED
    assert verdicts["order-of-steps-salient"].why == "only the natural form is judged at W4A4"
    assert verdicts["svdquant-beats-plain-w4a4"].why == "the claim is about W4A4 already"
    assert "q-dit w4a4 256-cfg1.5: missing: no metrics.json" in verdicts["fid-reduced-by-1.09"].why
    assert verdicts["w4a8-numbers"].word == OPEN and "miniature" in verdicts["w4a8-numbers"].why
    ladder = verdicts["groups-improve"]
    assert ladder.word == OPEN and "missing: no metrics.json" in ladder.why, "Table 4 has no rows at W4A4 here"


@pytest.fixture
def repeated(results: Path, profile: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Two rows with three replicates. In replicates 0 and 1 Q-DiT is the better one, in 2 it is the worse one."""
    values = {"q-dit": (50.0, 51.0, 38.0), "g4w+p4a": (40.0, 40.0, 40.0)}
    for label, numbers in values.items():
        key = Run(GUIDED, "natural", label, "w6a8", "common")
        for number, value in enumerate(numbers):
            folder = replace(key, replicate=number).folder(results)
            if number:
                shutil.copytree(key.folder(results), folder)
            path = folder / "metrics.json"
            record = json.loads(path.read_text(encoding="utf-8"))
            record["metrics"]["psnr_fp"] = value
            record["run"] |= {"replicate": number} if number else {}
            path.write_text(json.dumps(record), encoding="utf-8")
    rows = [{"table": "table2", "setting": GUIDED, "bits": ["w6a8"], "methods": list(values)}]
    return results, profile | {"replicates": {"count": 3, "rows": rows}}


def test_verdicts_are_compared_with_those_of_each_replicate(repeated: tuple[Path, dict[str, Any]]) -> None:
    results, profile = repeated
    report = load_report(profile, results)
    claim = "fid-reduced-by-1.09"  # without intervals the means decide: 46.3 against 40
    assert report.verdicts["mini"][claim].word == HOLDS
    first, second, third = report.survival["mini"]
    assert [of.words[claim] for of in (first, second, third)] == [(HOLDS, HOLDS), (HOLDS, HOLDS), (HOLDS, FAILS)]
    assert third.changed[claim] == (HOLDS, FAILS) and third.turned == 1
    assert "groups-improve" not in first.words, "its rows have no replicates"
    assert any("1 turned into the opposite" in line and claim in line for line in summary(report))
    rows = {(row["id"], row["evaluated_on"]): row for row in csv.DictReader(io.StringIO(csv_of(report)))}
    assert (rows[claim, "mini"]["runs_compared"], rows[claim, "mini"]["runs_agreeing"]) == ("3", "2")
    assert rows[claim, "printed"]["runs_compared"] == "" == rows["groups-improve", "mini"]["runs_compared"]
    assert "With replicate 2 alone in the place of the mean over the replicates" in claims_page(report)


def test_without_a_mean_replicate_0_is_no_other_draw(repeated: tuple[Path, dict[str, Any]]) -> None:
    """A row that lacks a replicate has the number of replicate 0, so it would agree with itself."""
    results, profile = repeated
    for label in ("q-dit", "g4w+p4a"):
        shutil.rmtree(Run(GUIDED, "natural", label, "w6a8", "common", replicate=2).folder(results))
    names = [comparison.name for comparison in load_report(profile, results).survival["mini"]]
    assert [name.partition(" alone")[0] for name in names] == ["replicate 1", "replicate 2"]


@pytest.fixture
def other_seed(results: Path, tmp_path: Path) -> Path:
    """The same rows with seed 1, without a profile.json."""
    folder = tmp_path / "results" / "seed1"
    shutil.copytree(results, folder)
    (folder / "profile.json").unlink(missing_ok=True)
    for path in folder.glob("runs/**/metrics.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        change_protocol(record, seed=1)
        path.write_text(json.dumps(record), encoding="utf-8")
    return folder


def change_psnr(folder: Path, key: Run, value: float) -> None:
    path = key.folder(folder) / "metrics.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["metrics"]["psnr_fp"] = value
    path.write_text(json.dumps(record), encoding="utf-8")


def test_verdicts_are_compared_with_those_of_another_seed(
    results: Path, profile: dict[str, Any], other_seed: Path
) -> None:
    change_psnr(other_seed, Run(GUIDED, "natural", "rtn-g16-static", "w4a8", "common"), 1.0)
    (comparison,) = load_report(profile, results, [other_seed]).survival["mini"]
    assert comparison.name == "the run of seed 1 in seed1" and comparison.lacking == ()
    assert comparison.words["groups-improve"] == (HOLDS, FAILS), "only this row is worse there"
    assert set(comparison.changed) == {"groups-improve", "order-of-steps"} & set(comparison.words)


def test_verdicts_at_w4a4_are_compared_too_and_each_claim_says_how_often(
    results: Path, profile: dict[str, Any], other_seed: Path
) -> None:
    """A row at W4A4 is worse with the other seed: the CSV, a sentence and the page say so."""
    name, claim = damaged_name("mini"), "fid-reduced-by-1.26"  # its rows at W8A8 are missing
    change_psnr(other_seed, Run(PLAIN, "natural", "q-dit", "w4a4", "common"), 1.0)
    report = load_report(profile, results, [other_seed])
    (comparison,) = report.survival[name]
    assert comparison.changed[claim] == (HOLDS, FAILS) and not report.survival["mini"][0].changed
    rows = {(row["id"], row["evaluated_on"]): row for row in csv.DictReader(io.StringIO(csv_of(report)))}
    counted = [rows[claim, name][f"runs_{word}"] for word in ("compared", "agreeing", "lacking_rows")]
    assert counted == ["1", "0", "0"]
    assert "the same verdict in 0 of 1 other draw" in claims_page(report)
    assert any("decided at W4A4 were compared" in line or "decided at W4A4 was" in line for line in summary(report))


def test_a_claim_whose_rows_are_missing_in_the_other_run_is_not_compared(
    results: Path, profile: dict[str, Any], other_seed: Path
) -> None:
    """Nor does it count as a verdict that changed: at the papers' bits, and at W4A4."""
    for row in (
        Run(GUIDED, "natural", "rtn-g16-static", "w4a8", "common"),
        Run(PLAIN, "natural", "q-dit", "w4a4", "common"),
    ):
        shutil.rmtree(row.folder(other_seed))
    report = load_report(profile, results, [other_seed])
    (papers,), (damaged_rows,) = report.survival["mini"], report.survival[damaged_name("mini")]
    assert {"groups-improve", "dynamic-boosts"} <= set(papers.lacking) and not papers.changed
    assert {"lossless-w6a8", "fid-reduced-by-1.26"} <= set(damaged_rows.lacking) and not damaged_rows.changed
    assert f"{len(papers.lacking)} are not compared: rows or numbers are missing there (" in papers.text
    rows = {(row["id"], row["evaluated_on"]): row for row in csv.DictReader(io.StringIO(csv_of(report)))}
    row = rows["groups-improve", "mini"]
    assert [row[f"runs_{word}"] for word in ("compared", "agreeing", "lacking_rows")] == ["0", "0", "1"]


def test_a_row_without_the_number_in_the_other_run_is_not_compared(
    results: Path, profile: dict[str, Any], other_seed: Path
) -> None:
    """A row that equals full precision has no finite PSNR-FP. That is no verdict that changed."""
    path = Run(GUIDED, "natural", "rtn-g16-static", "w4a8", "common").folder(other_seed) / "metrics.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["metrics"] |= {"psnr_fp": None, "mse_fp": 0.0}
    path.write_text(json.dumps(record), encoding="utf-8")
    (papers,) = load_report(profile, results, [other_seed]).survival["mini"]
    assert {"groups-improve", "dynamic-boosts"} <= set(papers.lacking) and not papers.changed
    value = Measured({**profile, "seed": 1}, other_seed).cell("table4", "psnr_fp", ("groups",))
    assert value == Unknown("groups is equal to full precision, so PSNR-FP has no finite value")


def test_results_of_the_same_seed_are_no_other_draw(results: Path, profile: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="its rows have seed 0, as those of .* name results of another seed"):
        load_report(profile, results, [results])


def test_two_folders_of_one_seed_are_refused(results: Path, profile: dict[str, Any], other_seed: Path) -> None:
    with pytest.raises(ConfigError, match="its rows have seed 1, as those of .*seed1; name results of another seed"):
        load_report(profile, results, [other_seed, other_seed])


def test_a_damaged_row_of_the_other_run_is_left_out(results: Path, profile: dict[str, Any], other_seed: Path) -> None:
    """The first row in the order of the paths decided alone once: damaged, it ended the command without its path."""
    paths = sorted(other_seed.glob("runs/*/*/*/*/metrics.json"))
    paths[0].write_text('{"run": {', encoding="utf-8")
    (comparison,) = load_report(profile, results, [other_seed]).survival["mini"]
    assert comparison.name == "the run of seed 1 in seed1"
    for path in paths:
        path.write_text("[]", encoding="utf-8")
    with pytest.raises(
        DataError, match=rf"seed1: found no row with numbers \({re.escape(str(paths[0]))}: .* is not an object"
    ):
        load_report(profile, results, [other_seed])


def test_rows_of_two_seeds_in_one_folder_are_refused(results: Path, profile: dict[str, Any], other_seed: Path) -> None:
    path = sorted(other_seed.glob("runs/*/*/*/*/metrics.json"))[-1]
    record = json.loads(path.read_text(encoding="utf-8"))
    record["protocol"]["seed"] = 7
    path.write_text(json.dumps(record | {"protocol_sha256": sha256_json(record["protocol"])}), encoding="utf-8")
    with pytest.raises(DataError, match=rf"has seed 1, {re.escape(str(path))} has seed 7; keep the rows of one seed"):
        load_report(profile, results, [other_seed])


def test_the_sentence_counts_what_stays_in_every_comparison() -> None:
    one = Comparison("a", {"x": (HOLDS, HOLDS), "y": (FAILS, OPEN)})
    two = Comparison("b", {"x": (HOLDS, HOLDS), "z": (FAILS, FAILS)})
    assert (one.survived, one.turned, two.survived) == (1, 0, 2)
    verdicts = {"x": Verdict(HOLDS), "y": Verdict(FAILS), "z": Verdict(FAILS), "w": Verdict(HOLDS), "v": Verdict(OPEN)}
    first, *others = survival_text([one, two], verdicts, "at W4A4")
    assert first.startswith("3 of the 4 verdicts decided at W4A4 were compared")
    assert "2 of them stay the same in every comparison that has their rows" in first
    assert others[0] == (
        "With a, 1 of 2 decided verdicts stays; 0 turned into the opposite (y: does not hold, then cannot be told)."
    )
    assert survival_text([], verdicts, "at W4A4")[0].startswith("None of the 4 verdicts decided at W4A4")


def test_a_verdict_with_intervals_of_its_own_can_differ_from_the_mean(repeated: tuple[Path, dict[str, Any]]) -> None:
    """With intervals the mean over replicates that disagree cannot be told, so nothing is compared."""
    results, profile = repeated
    draw = np.random.default_rng(0).normal(size=200) * 0.1
    for path in results.glob(f"runs/{GUIDED}/natural/*/w6a8-common*/metrics.json"):
        value = json.loads(path.read_text(encoding="utf-8"))["metrics"].get("psnr_fp")
        if value is not None:
            write_resamples(path.parent, Resamples({"psnr_fp": value + draw}, "200x1024"))
    report = load_report(profile, results)
    verdict = report.verdicts["mini"]["fid-reduced-by-1.09"]
    assert verdict.word == OPEN and "images alone" in verdict.why
    assert all("fid-reduced-by-1.09" not in comparison.words for comparison in report.survival["mini"])
