"""The report of a run: one file that holds everything, in order, says what is missing, and can be mailed."""

import html.parser
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qdit.bench.gpu_goals import GOALS
from qdit.core.errors import DataError
from qdit.core.intervals import Resamples, write_resamples
from qdit.core.number_text import significant
from qdit.core.run import Run
from qdit.report.pages.benches import STUDIES, bench_files, benches_of, read_bench
from qdit.report.pages.claims_page import MARKS
from qdit.report.pages.pairs import BETTER, CHANCE, SELF, UNSURE, WORSE, rankings
from qdit.report.pages.run_report import LIMIT, build_index, index_text, load_index
from qdit.report.pages.run_report_data import Index
from qdit.report.pages.run_report_page import SECTIONS
from qdit.report.pages.searches_report import study_grid
from qdit.report.render import sheets
from qdit.report.render.gallery import gallery
from qdit.report.tables.kinds import load_table
from qdit.workflow.profile import all_runs
from tests.report.conftest import change_protocol, make_profile, psnr
from tests.report.reading import Reading

GUIDED, PLAIN = "digits-cfg1.5-s20", "digits-cfg1.0-s20"
VOID = ("meta", "img", "input", "br")
PIXEL = b"\x89PNG\r\n\x1a\n" + b"0" * 40


class Page(html.parser.HTMLParser):
    """Collects what a page names and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.ids += [named["id"] or ""] if "id" in named else []
        self.links += [named["href"] or ""] if "href" in named else []
        self.loads += [named[name] or "" for name in ("src", "srcset", "data") if name in named]
        assert tag not in ("link", "iframe", "object")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script", "title"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def whole(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """What the page of a whole run shows, made once for the tests that only read it."""
    results = tmp_path_factory.mktemp("whole") / "results" / "mini"
    return load_index(make_profile(), Path(shutil.copytree(template, results)))


@pytest.fixture(scope="module")
def whole_text(whole: Index) -> str:
    return index_text(whole)


@pytest.fixture(scope="module")
def page(whole_text: str) -> Page:
    return Page(whole_text)


def test_it_is_one_whole_file_that_loads_nothing(results: Path, profile: dict[str, Any], tmp_path: Path) -> None:
    out = build_index(profile, results, tmp_path / "index.html")
    text = out.read_text(encoding="utf-8")
    found = Page(text)
    assert text.startswith("<!doctype html>") and found.open == [] and "{{" not in text and "{%" not in text
    assert found.loads and all(load.startswith("data:image/") for load in found.loads)
    assert not re.search(r"https?://|@import|url\(", re.sub(r'(?:src|href)="data:[^"]*"', "", text))
    assert out.stat().st_size < LIMIT


def test_every_link_leads_somewhere_and_no_name_is_there_twice(page: Page) -> None:
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []
    inside = [link[1:] for link in page.links if link.startswith("#")]
    assert len(inside) > 60 and set(inside) <= set(page.ids)
    assert all(link.startswith(("#", "data:")) for link in page.links)


def test_every_table_of_it_has_a_caption_and_every_picture_has_words(whole_text: str) -> None:
    read = Reading(whole_text)
    assert len(read.tables) > 5 and all(read.tables)
    assert len(read.pictures) > 20 and all(read.pictures)


def test_the_parts_stand_in_order_the_summary_first(page: Page) -> None:
    assert [name for name in page.ids if name in SECTIONS] == list(SECTIONS)
    assert next(iter(SECTIONS)) == "summary" and page.ids.index("claims") < page.ids.index("tables")
    assert page.ids.index("table-table2") < page.ids.index("table-table4") < page.ids.index("table-leaderboard")


def test_the_face_stands_first_in_what_stays_visible_and_last(page: Page, profile: dict[str, Any]) -> None:
    assert page.words.count(profile["face"]) >= 2
    assert page.words.index(profile["face"]) < page.words.index("What held") and page.words.endswith(profile["face"])


def test_equal_results_give_equal_bytes(
    results: Path,
    profile: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    strips_are_encoded_once: Callable[[Image.Image], bytes],
) -> None:
    monkeypatch.setattr(sheets, "png", strips_are_encoded_once)  # each page with its own encoding
    moved = shutil.copytree(results.parent, tmp_path / "elsewhere" / "results") / "mini"
    assert index_text(load_index(profile, results)) == index_text(load_index(profile, moved))


def test_every_claim_has_its_marks_and_the_counts_are_theirs(whole: Index, whole_text: str) -> None:
    index, text = whole, whole_text
    glance = text[text.index('<ol class="glance">') : text.index("</ol>")]
    for claim in index.report.claims.claims:
        (line,) = re.findall(rf'<li><a href="#{re.escape(claim.id)}".*?</li>', glance, flags=re.DOTALL)
        marks = re.findall(r'aria-hidden="true">(.)</span>', line)
        assert marks == [MARKS[verdicts[claim.id].word] for verdicts in index.report.verdicts.values()]
    for verdicts in index.report.verdicts.values():
        for word, count in Counter(verdict.word for verdict in verdicts.values()).items():
            plural = {"holds": "hold", "does not hold": "do not hold"}.get(word, word) if count > 1 else word
            assert f"<b>{count}</b> {plural}</li>" in text


def test_findings_say_what_the_printed_tables_do_not_support(whole: Index) -> None:
    first = whole.findings[0]
    # counted by hand from EXPECTED in test_claims.py, which was worked out from the printed tables
    assert "support 32 of the 50 claims" in first.text and "11 cannot be told" in first.text
    assert {claim.id for claim in first.claims} == {
        *("lossless-w6a8", "baselines-degrade-w6a8", "lowest-sfid", "highest-precision", "consistent-trends-512"),
        *("fid-increased-by-1.09-everywhere", "vidit-q-w4a8-negligible"),
    }


def test_a_partial_run_says_what_is_missing_and_why(results: Path, profile: dict[str, Any]) -> None:
    shutil.rmtree(Run(PLAIN, "natural", "g4w+p4a", "w4a8", "common").folder(results))
    words = Page(index_text(load_index(profile, results))).words
    total = len(all_runs(profile))
    assert f"This run is partial: {total - 1} of {total} runs were measured (1 missing: no metrics.json)." in words
    assert "1 missing or doubtful" in words and "no samples" in words


def test_a_run_that_has_not_begun_is_a_page_too(profile: dict[str, Any], tmp_path: Path) -> None:
    words = Page(index_text(load_index(profile, tmp_path / "results" / "mini"))).words
    assert "This run is partial: 0 of" in words and "No two measured rows at equal bits" in words
    assert "This run has no figures" in words and "missing: no metrics.json" in words


def test_tied_values_are_marked_and_the_mark_is_explained(results: Path, profile: dict[str, Any]) -> None:
    resample(results, "q-dit", 0.02)
    resample(results, "g4w+p4a", 10.0)
    text = index_text(load_index(profile, results))
    assert text.count("<td class=") > 100 and ">≈ " in text
    assert "the difference to the\nbest row may be chance" in text


def test_ours_minus_paper_stands_in_the_cells(whole_text: str) -> None:
    # ours 2.03 (conftest: 2 + 0.3 · 0.1), the paper 15.76
    text = whole_text
    assert '2.03</b><small class="change">+0.03</small><small class="gap">−13.73</small>' in text
    assert 'name="small" value="gap"' in text


def test_an_opt_in_table_is_shown_once_it_has_rows_of_its_own(results: Path, profile: dict[str, Any]) -> None:
    block = {"setting": PLAIN, "form": "natural", "scope": "common", "bits": ["w4a8"], "methods": ["fp", "rtn"]}
    profile["tables"]["more"] = {"kind": "table2", "opt_in": True, "blocks": [block]}
    assert [rendered.table.name for rendered in load_index(profile, results).tables] == ["table2", "table4"]
    profile["tables"]["more"]["blocks"] = [block | {"methods": ["fp", "rtn-g16-static"]}]
    assert "more" not in [rendered.table.name for rendered in load_index(profile, results).tables]
    source = Run(GUIDED, "natural", "rtn-g16-static", "w4a8", "common")
    target = Run(PLAIN, "natural", "rtn-g16-static", "w4a8", "common")
    record = json.loads((source.folder(results) / "metrics.json").read_text(encoding="utf-8"))
    record["run"]["setting"] = PLAIN
    change_protocol(record, cfg_scale=1.0)
    target.folder(results).mkdir(parents=True)
    (target.folder(results) / "metrics.json").write_text(json.dumps(record), encoding="utf-8")
    assert [rendered.table.name for rendered in load_index(profile, results).tables] == ["more", "table2", "table4"]


def test_the_page_of_choices_is_linked_where_it_is(results: Path, profile: dict[str, Any], whole_text: str) -> None:
    assert "ab.html" not in whole_text
    (results / "ab.html").write_text("x", encoding="utf-8")
    assert '<a href="ab.html">' in index_text(load_index(profile, results))


def test_every_run_names_the_command_that_explains_it(page: Page, profile: dict[str, Any]) -> None:
    words = page.words
    for run in all_runs(profile):
        assert re.search(rf"qdit explain table[24] {re.escape(run.path)}(?= )", words), run.path


# Rankings


def resample(results: Path, label: str, own: float) -> None:
    """Resampled PSNR-FP of a method at W4A8: noise that all runs share, and `own` dB that pairing cannot remove."""
    key = Run(PLAIN, "natural", label, "w4a8", "common")
    shared = np.random.default_rng(0).normal(size=200) * 0.05
    private = np.random.default_rng(len(label)).normal(size=200) * own
    write_resamples(key.folder(results), Resamples({"psnr_fp": psnr(key) + shared + private}, "200x1024"))


def w4a8_ranking(results: Path, profile: dict[str, Any]) -> Any:
    found = rankings(load_table(profile, "table2", results))
    (ranking,) = [r for r in found if r.title == f"W4A8, {PLAIN}, natural form"]
    return ranking


def test_ranks_without_intervals_are_of_the_numbers_alone(results: Path, profile: dict[str, Any]) -> None:
    ranking = w4a8_ranking(results, profile)
    assert [entry.name for entry in ranking.ranked] == ["Q-DiT", "G4W+P4A", "RTN"]  # 45, 38 and 35 dB
    assert {mark.sign for entry in ranking.ranked for mark in entry.marks} == {SELF, UNSURE}
    assert (ranking.pairs, ranking.certain, ranking.first_is_certain) == (3, 0, False)


def test_pairs_are_told_apart_by_the_interval_of_their_difference(results: Path, profile: dict[str, Any]) -> None:
    for label, own in (("q-dit", 0.04), ("g4w+p4a", 0.04), ("rtn", 20.0)):
        resample(results, label, own)
    ranking = w4a8_ranking(results, profile)
    signs = ["".join(mark.sign for mark in entry.marks) for entry in ranking.ranked]
    # the first two differ by 7 dB with ± 0.1 between them; the third one is 10 and 3 away with ± 40
    assert signs == [SELF + BETTER + CHANCE, WORSE + SELF + CHANCE, CHANCE + CHANCE + SELF]
    assert [entry.rank for entry in ranking.ranked] == ["1–2", "2–3", "1–3"]
    assert (ranking.certain, ranking.first_is_certain) == (1, False)
    assert re.fullmatch(r"Q-DiT − G4W\+P4A: 6\.99 \(6\.[89]\d … 7\.\d\d\)", ranking.ranked[0].marks[1].about)


# Figures


def write_figures(results: Path, *sizes: int) -> None:
    folder = results / "figures"
    folder.mkdir()
    entries = []
    for number, size in enumerate(sizes):
        (folder / f"{number}.svg").write_text("<svg>" + " " * size + "</svg>", encoding="utf-8")
        (folder / f"{number}.png").write_bytes(PIXEL + b"0" * 10_000)
        named = {"name": f"f{number}", "title": f"T{number}", "caption": "C <i>", "alt": "A", "group": "ab"[number % 2]}
        entries.append(named | {"file_svg": f"{number}.svg", "file_png": f"{number}.png"})
    (folder / "figures.json").write_text(json.dumps(entries), encoding="utf-8")


def test_figures_are_shown_by_group_in_the_smaller_format(results: Path, profile: dict[str, Any]) -> None:
    write_figures(results, 10, 20_000, 30)
    found = gallery(results, LIMIT)
    assert [(group, [picture.name for picture in of]) for group, of in found] == [("a", ["f0", "f2"]), ("b", ["f1"])]
    kinds = {picture.name: (picture.uri or "").partition(";")[0] for _, of in found for picture in of}
    assert kinds == {"f0": "data:image/svg+xml", "f1": "data:image/png", "f2": "data:image/svg+xml"}
    page = Page(index_text(load_index(profile, results)))
    assert {"figure-f0", "figure-f1", "figure-f2"} <= set(page.ids) and "C <i>" in page.words


def test_figures_that_would_make_the_page_too_large_are_named_instead(results: Path) -> None:
    write_figures(results, 9_000, 9_000)
    (_, (first,)), (_, (second,)) = gallery(results, 15_000)
    assert first.uri is not None and second.uri is None and second.file == "figures/1.svg"


def test_a_list_of_figures_that_is_none_is_one_clear_line(results: Path) -> None:
    write_figures(results, 10)
    (results / "figures" / "0.png").unlink()
    with pytest.raises(DataError, match=r"0\.png is not there; draw the figures again"):
        gallery(results, LIMIT)
    (results / "figures" / "figures.json").write_text('[{"name": "x"}]', encoding="utf-8")
    with pytest.raises(DataError, match="a figure lacks title, caption"):
        gallery(results, LIMIT)


# What was measured once


def test_every_record_of_a_benchmark_is_a_table_with_its_origin() -> None:
    for path in sorted(STUDIES.glob("bench-*.json")):
        bench, content = read_bench(path), json.loads(path.read_text(encoding="utf-8"))
        assert content["command"] in bench.origin and content["machine"]["processor"] in bench.origin
        assert bench.measured is not None and bench.measured.rows, path
        assert all(len(row) == len(bench.measured.headings) for row in bench.measured.rows)
        assert (len(bench.goals.rows) if bench.goals else 0) == len(content["goals"])
        assert bench.met == sum(entry["verdict"].startswith("met") for entry in content["goals"])


def bench(name: str, **content: Any) -> dict[str, Any]:
    machine = {"processor": "Abacus", "cores": 2}
    return {"bench": name, "command": "c", "commit": "1", "backend": "b", "machine": machine, "goals": []} | content


def test_numbers_of_a_benchmark_by_hand(tmp_path: Path) -> None:
    speed = [("torch fp32", 1, 2.0), ("torch fp32", 2, 8.0), ("W4A8 g32", 1, 4.0), ("W4A8 g32", 2, 64.0)]
    measured = [{"candidate": c, "rows": 256, "inputs": 8, "outputs": n, "gops": g} for c, n, g in speed]
    (tmp_path / "a.json").write_text(json.dumps(bench("kernels", measured=measured)), encoding="utf-8")
    grid = read_bench(tmp_path / "a.json").measured
    assert grid is not None  # geometric means: √(2 · 8) = 4, √(4 · 64) = 16, √(2 · 8) = 4
    assert grid.rows == (("torch fp32", "4.00", "1.00"), ("W4A8 g32", "16.0", "4.00"))
    entries = [{"group_size": g, "inputs": 8, "outputs": 9, "seconds": {"median": g / 1e4}} for g in (32, 64)]
    (tmp_path / "b.json").write_text(json.dumps(bench("latency", measured=entries)), encoding="utf-8")
    grid = read_bench(tmp_path / "b.json").measured
    assert grid is not None and grid.headings == ("Layer", "g 32", "g 64") and grid.rows == (("8 → 9", "3.20", "6.40"),)
    (tmp_path / "c.json").write_text(json.dumps(bench("newer", measured=[1])), encoding="utf-8")
    assert read_bench(tmp_path / "c.json").measured is None
    (tmp_path / "d.json").write_text('{"bench": "latency"}', encoding="utf-8")
    with pytest.raises(DataError, match="not a record of `qdit bench`"):
        read_bench(tmp_path / "d.json")


def test_goals_on_a_gpu_are_not_measured_without_a_record(tmp_path: Path) -> None:
    for folder in ("studies", "gpu", "mini"):
        (tmp_path / folder).mkdir()
    (absent,) = [read for read in benches_of(tmp_path / "mini") if read.name == "gpu"]
    assert absent.goals is not None and len(absent.goals.rows) == len(GOALS)
    assert all(row[1].startswith("not measured") and row[4] == "–" for row in absent.goals.rows)
    goals = [{"goal": asdict(GOALS[0]), "verdict": "met", "value": 0.0, "why": ""}]
    measured = {"speed": {"8192x9->9": {"g32": 0.5, "g64": "out of memory"}, "seconds": 2}}
    card = bench("gpu", device="NVIDIA H100", measured=measured, goals=goals)
    (tmp_path / "gpu" / "NVIDIA-H100.json").write_text(json.dumps(card), encoding="utf-8")
    (found,) = benches_of(tmp_path / "mini")
    assert found.title.endswith("NVIDIA H100") and found.met == 1
    assert found.measured is not None
    assert found.measured.rows[0] == ("speed", "8192x9->9", f"g32 {significant(0.5)}; g64 out of memory")


def test_a_benchmark_of_the_own_run_stands_instead_of_the_one_that_is_shipped(results: Path) -> None:
    shipped = [path.stem for path in bench_files(results)]
    assert "bench-kernels" in shipped
    (results / "bench").mkdir()
    (results / "bench" / "kernels.json").write_text("{}", encoding="utf-8")
    assert [path.stem for path in bench_files(results)] == ["kernels", *(x for x in shipped if x != "bench-kernels")]


def test_the_study_of_the_searches_is_shown_where_it_was_made(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = results.parent / "studies"
    studies.mkdir()
    assert study_grid(results) is None
    against = {"mean": -0.021, "interval_95": [-0.05, 0.01]}
    study = {
        "plan": {"seeds": 3, "bits": "w4a8", "reference": 16, "held_out_images": 64},
        "uniform": {"held_out": 0.02},
        "comparison": {"racing": {"images_sampled_mean": 928, "held_out_mean": 0.01, "against_evolution": against}},
        "command": "qdit search-study",
        "commit": "1",
        "seconds": 120,
        "machine": {"processor": "A", "cores": 2},
    }
    (studies / "search.json").write_text(json.dumps(study), encoding="utf-8")
    found = study_grid(results)
    assert found is not None
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", str(found[1]))
    assert cells == ["Racing", "928", "0.01000", "0.500", "-2.1%", "-5.0% … +1.0%"]
    (studies / "search.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="not a study of the searches"):
        study_grid(results)


def test_samples_that_another_table_shows_are_not_repeated(results: Path, profile: dict[str, Any]) -> None:
    block = {"setting": PLAIN, "form": "natural", "scope": "common", "bits": ["w4a8"], "methods": ["fp", "rtn"]}
    profile["tables"]["table5"] = {"kind": "table5", "blocks": [block]}
    index = load_index(profile, results)
    assert [rendered.table.name for rendered in index.tables] == ["table2", "table4", "table5"]
    files = [sheets.file for sheets in index.sheets]
    assert files == ["tables/table2.html", "tables/table4.html"]
    blocks = len(profile["tables"]["table2"]["blocks"])
    assert str(index.sheets[0].html).count("given class") == blocks
