"""Table 3 of a model that VBench scores, through the workflow: clips, sixteen dimensions, metrics, table, explain.

VBench is a stand-in in an environment of its own, which scores a clip by the size of its file; the rest is real.
"""

import os
import shutil
from pathlib import Path

import pytest

from qdit.core.files import read_json
from qdit.core.metrics import DIMENSIONS, TOTALS
from qdit.core.mp4 import read_mp4
from qdit.workflow.explain import chain, explain_text, find_run
from qdit.workflow.profile import load_profile
from tests.workflow.checkout import Checkout, copied
from tests.workflow.tiny_vbench import write_tiny_vbench

OVERLAYS = ("tests/workflow/tiny.yaml", "tests/workflow/latent.yaml")
RUNS = "runs/latents-cfg3.0-s2/natural"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scored(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which Table 3 was made."""
    copy = Checkout(copied(repository, tmp_path_factory.mktemp("vbench")))
    write_tiny_vbench(copy.root / "results/tiny-latent", copy.results)
    copy.snakemake("--cores", "2", "table3", overlays=OVERLAYS)
    return copy


def test_rows_are_vbenchs_scores_of_the_clips_that_the_run_made(scored: Checkout) -> None:
    for label, bits in (("fp", "w16a16"), ("q-dit", "w4a8")):
        folder = scored.results / RUNS / label / f"{bits}-common"
        record, listing = read_json(folder / "metrics.json"), read_json(folder / "vbench" / "clips.json")
        assert len(listing["clips"]) == 6 and listing["frames"] == 6 and listing["fps"] == 8
        sizes = [(folder / "vbench" / "clips" / name).stat().st_size % 97 / 97 for name in listing["clips"]]
        for name in DIMENSIONS:
            assert record["metrics"][name] == pytest.approx(sum(sizes) / 6)
        assert set(record["intervals"]) == {*DIMENSIONS, *TOTALS, "mse_fp"}
        assert (record["metrics"]["mse_fp"] > 0) == (label == "q-dit") and record["metrics"]["mfvd"] is None
        assert record["protocol"]["decoder"].startswith("OpenSoraVAE sha256:")
    page = (scored.results / "tables" / "table3.html").read_text(encoding="utf-8")
    assert "clips scored by VBench 0.1.5" in page and "mini-VBench" not in page and "data:image/gif;base64," in page
    strip = read_mp4(scored.results / "tables" / "table3-clips" / "natural-q-dit-w4a8.mp4")
    assert strip.shape[1] == 8 * 16


def test_the_chain_of_a_row_holds_until_a_file_is_another(scored: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scored.root)
    profile = load_profile(scored.results / "profile.json")
    text, whole = explain_text(profile, "table3", "q-dit", scored.results)
    assert whole, text
    assert (
        "text embeddings" in text
        and "results of VBench" in text
        and "clips that VBench saw" in text
        and "not that of this checkout" not in text
    )
    path = scored.results / RUNS / "q-dit" / "w4a8-common" / "vbench.json"
    before = path.read_bytes()
    path.write_bytes(before + b"\n")
    try:
        links = chain(profile, "table3", find_run(profile, "table3", "q-dit"), scored.results)
        assert [link.what for link in links if link.broken] == ["results of VBench"]
    finally:
        path.write_bytes(before)


def test_a_row_is_not_made_of_another_runs_scores(scored: Checkout) -> None:
    folder, other = (scored.results / RUNS / name for name in ("q-dit/w4a8-common", "fp/w16a16-common"))
    before = (folder / "vbench.json").read_bytes()
    (folder / "vbench.json").write_bytes((other / "vbench.json").read_bytes())
    target = str((folder / "metrics.json").relative_to(scored.root))
    arguments = ("--cores", "1", "--rerun-triggers", "mtime", "--force", target)
    os.utime(folder / "vbench.json", None)
    try:
        done = scored.snakemake(*arguments, overlays=OVERLAYS, code=1)
    finally:
        (folder / "vbench.json").write_bytes(before)
    log = (folder / "logs" / "evaluate.log").read_text(encoding="utf-8")
    assert "6 of 6 clips are not those of this run" in log + done.stdout + done.stderr


def test_that_the_environment_is_missing_is_said_before_anything_is_sampled(scored: Checkout) -> None:
    run = scored.results / RUNS / "fp" / "w16a16-common"
    shutil.rmtree(scored.results / "vbench-ready")
    done = [run / "samples" / "shard-000.json", *run.glob("vbench/*.json"), run / "vbench.json", run / "metrics.json"]
    for path in done:
        path.unlink()
    (scored.root / "results/tiny-latent" / "env" / "bin" / "python").unlink()
    failed = scored.snakemake("--cores", "1", str(done[-1].relative_to(scored.root)), overlays=OVERLAYS, code=1)
    text = failed.stdout + failed.stderr
    line = "vbench: error: no VBench environment at results/tiny-latent/env/bin/python; make it with snakemake"
    assert line in text and text.index(line) < text.index("rule sample_video:"), "the first job, not the last"
    assert "rule vbench_dimension:" not in text and not done[-1].exists()
