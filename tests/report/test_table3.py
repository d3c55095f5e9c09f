"""Table 3: sixteen dimensions in two halves, wins with what chance explains, blank cells that nobody filled, clips."""

import base64
import csv
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qdit.core.errors import ConfigError
from qdit.core.files import save_arrays, sha256_json
from qdit.core.intervals import Resamples, centred, interval, read_resamples, write_resamples
from qdit.core.metrics import DIMENSIONS
from qdit.core.run import Run
from qdit.report.claims.claims import judge, load_claims
from qdit.report.claims.sources import Measured
from qdit.report.data.published import read_published
from qdit.report.pages.build import build_table
from qdit.report.pages.clip_files import write_clip_files
from qdit.report.pages.leaderboard import leaderboard
from qdit.report.render import clips as shown
from qdit.report.render.clips import COUNT, clip_sheet, gif, strip_frames
from qdit.report.tables.kinds import load_table
from qdit.report.tables.table3 import FIRST, SECOND, Wins

SETTING, CLIPS = "clips-cfg2.5-s15", 12
METHODS = ["fp", "rtn", "g4w+p4a", "q-dit"]
HALF = len(DIMENSIONS) // 2
Profile = dict[str, Any]


@pytest.fixture
def video(profile: Profile) -> Profile:
    profile["models"]["stdit3"] = {"forms": {"natural": "x"}, "instruments": "y"}
    flow = {"sampler": "rectified-flow", "steps": 15, "cfg_scale": 2.5, "shift": 2.5}
    profile["settings"][SETTING] = {"model": "stdit3", **flow}
    block = {"setting": SETTING, "form": "natural", "scope": "common", "bits": ["w4a8"], "methods": METHODS}
    profile["tables"] = {"table3": {"kind": "table3", "blocks": [block]}}
    return profile


def key_of(label: str) -> Run:
    bits = "w16a16" if label == "fp" else "w4a8"
    return Run(SETTING, "natural", label, bits, "common")


def scores_of(label: str) -> dict[str, float]:
    """Q-DiT is ahead of G4W+P4A in the first nine dimensions, equal in the tenth, behind in the others."""
    base = {name: 0.5 + number / 100 for number, name in enumerate(DIMENSIONS)}
    signs = [1] * 9 + [0] + [-1] * 6
    step = {"q-dit": 0.02, "rtn": -0.1, "fp": 0.2}.get(label, 0)
    return {name: base[name] + step * sign for name, sign in zip(DIMENSIONS, signs, strict=True)}


def write_run(results: Path, label: str, *, spread: float = 0.005) -> None:
    """metrics.json, resampled values of deviation `spread` per run, and clips, as the steps of a video write them."""
    key, hurt = key_of(label), {"fp": 0.0, "rtn": 60.0, "g4w+p4a": 30.0, "q-dit": 10.0}[label]
    metrics = scores_of(label) | {"quality": 0.7, "semantic": 0.6, "total": 0.68, "mfvd": 1 + hurt}
    metrics |= {"fd_fp": hurt / 10, "mse_fp": hurt / 1e4, "psnr_fp": 40 - hurt / 10}
    protocol = {
        "model": "stdit3",
        "sampler": "rectified flow",
        "steps": 15,
        "cfg_scale": 2.5,
        "shift": 2.5,
        "images": CLIPS,
    }
    protocol |= {"chunk": 8, "seed": 0, "uint8": "u", "decoder": "none", "prompts": {"count": 6, "sha256": "p"}}
    protocol |= {"clip_flops": 9_300_000_000, "evaluator": {"name": "mini-VBench (moving digits)", "sha256": "e" * 64}}
    run = {"setting": SETTING, "form": "natural", "label": label, "method": label, "scope": "common", "options": {}}
    run |= {"weight_bits": key.weight_bits, "activation_bits": key.activation_bits, "allocation_sha256": None}
    record = {
        "run": run,
        "protocol": protocol,
        "protocol_sha256": sha256_json(protocol),
        "mode": "simulate",
        "backend": "torch",
    }
    record |= {"inputs": {"weights_sha256": "a" * 64, "checkpoint_sha256": label, "calibration_sha256": {}}}
    record |= {"code": {"quantize": "1", "sample": "2", "evaluate": "3"}, "packages": {"torch": "2"}}
    draw = np.random.default_rng(len(label))
    values = {name: metrics[name] + spread * draw.standard_normal(200) for name in (*DIMENSIONS, "fd_fp", "mse_fp")}
    record |= {"metrics": metrics, "size": {"paper_mb": 3.3, "actual_mb": 3.4}}
    record["intervals"] = {"scene": interval(centred("scene", metrics["scene"], values["scene"]))}
    folder = key.folder(results)
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(record))
    write_resamples(folder, Resamples(values, "clips"))
    clean = np.random.default_rng(0).integers(0, 256, (CLIPS, 3, 8, 16, 16))
    noise = hurt * draw.standard_normal(clean.shape)
    frames = np.clip(clean + noise, 0, 255).astype(np.uint8)
    prompts = np.array([f"prompt {number // 2}" for number in range(CLIPS)])
    for chunk in range(2):
        part = slice(8 * chunk, 8 * chunk + 8)
        save_arrays(folder / "samples" / f"{chunk:05d}.npz", {"frames": frames[part], "prompts": prompts[part]})


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    results = tmp_path / "results" / "mini"
    for label in METHODS:
        write_run(results, label)
    return results


def test_every_format_has_both_halves_and_says_whose_scores_these_are(
    video: Profile, clips: Path, tmp_path: Path
) -> None:
    made = build_table(video, "table3", clips, tmp_path / "table3")
    texts = {path.suffix: path.read_text(encoding="utf-8") for path in made}
    rows = list(csv.DictReader(io.StringIO(texts[".csv"])))
    assert [row["label"] for row in rows] == METHODS and {row["status"] for row in rows} == {"ok"}
    for name in DIMENSIONS:
        assert [float(row[name]) for row in rows] == pytest.approx([scores_of(label)[name] for label in METHODS])
    assert rows[3]["won"] == "9" and rows[2]["won"] == "" and 0 < float(rows[0]["scene_low"]) < 1
    for text in texts.values():
        assert (
            "mini-VBench (moving digits), not VBench’s scores" in text
            or "mini-VBench (moving digits), not VBench's" in text
        )
    markdown = texts[".md"]
    heads = [line for line in markdown.splitlines() if re.match(r"\| Bits ", line)]
    for line, name in zip(heads, ("Subject consistency", "Multiple objects", "Quality total"), strict=False):
        assert re.search(rf"\| +{name}", line)
    assert "12 clips a row (6 prompts, 2 of each); 9.3 GFLOP a clip, 0.11 TFLOP a row" in markdown


@pytest.fixture
def scored_by_vbench(video: Profile, clips: Path) -> Path:
    """The same runs as VBench scores them: without mFVD and FD-FP, and some dimensions without an interval."""
    video["models"]["stdit3"] = {"forms": {"natural": "x"}, "text_encoder": "t5", "vae": "z"}
    for label in METHODS:
        folder = key_of(label).folder(clips)
        record = json.loads((folder / "metrics.json").read_text())
        record["metrics"] |= {"mfvd": None, "fd_fp": None} | ({"mse_fp": None} if label == "fp" else {})
        record["protocol"]["evaluator"]["name"] = "VBench 0.1.5"
        record["protocol_sha256"] = sha256_json(record["protocol"])
        (folder / "metrics.json").write_text(json.dumps(record))
        found = read_resamples(folder)
        assert found is not None
        kept = {name: values for name, values in found.values.items() if name not in (*DIMENSIONS[:2], "fd_fp")}
        write_resamples(folder, Resamples(kept, found.pairing))
    return clips


def test_scores_of_vbench_are_called_so_in_every_format(video: Profile, scored_by_vbench: Path, tmp_path: Path) -> None:
    made = build_table(video, "table3", scored_by_vbench, tmp_path / "table3")
    for path in made:
        text = path.read_text(encoding="utf-8")
        assert "clips scored by VBench 0.1.5" in text and "mini-VBench" not in text and "moving digits" not in text
    markdown = next(path for path in made if path.suffix == ".md").read_text(encoding="utf-8")
    assert "MSE-FP" in markdown and "FD-FP ↓" not in markdown and "mFVD" not in markdown
    assert "the paper does not give" in markdown, "nobody knows the resolution of the paper's clips"
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table3.csv").read_text(encoding="utf-8"))))
    assert {row["status"] for row in rows} == {"ok"} and rows[3]["published_scene"] == "0.3871"
    assert rows[3]["won"] == "9" and rows[3]["won_certain"] == "7", "two dimensions have no interval"


def test_the_leaderboard_takes_runs_without_a_distance_of_features(video: Profile, scored_by_vbench: Path) -> None:
    rows = [row for row in leaderboard(video, scored_by_vbench).rows if row["setting"] == SETTING]
    assert {row["label"] for row in rows} == set(METHODS) and all(row["fd_fp"] is None for row in rows)


def test_published_cells_stand_beside_ours_and_unknown_ones_stay_blank(
    video: Profile, clips: Path, repository: Path
) -> None:
    printed = read_published(repository / "results" / "published" / "table3.csv")
    rows = {row["label"]: row for row in load_table(video, "table3", clips).rows}
    for row in printed:
        ours = rows[{"FP": "fp", "G4W+P4A": "g4w+p4a", "Q-DiT": "q-dit"}[str(row["method"])]]
        for name in FIRST:
            assert ours[f"published_{name}"] == row[name] is not None
            assert ours[f"difference_{name}"] == pytest.approx(ours[name] - row[name])
        assert all(ours[f"published_{name}"] is None for name in SECOND)
    assert "published_scene" not in rows["rtn"]


def test_other_bits_have_no_published_cells(video: Profile, clips: Path) -> None:
    video["tables"]["table3"]["blocks"][0]["bits"] = ["w4a4"]
    rows = load_table(video, "table3", clips).rows
    assert [row.get("published_scene") for row in rows] == [0.4094, None, None, None]


def test_wins_are_counted_by_the_numbers_and_by_what_chance_leaves(video: Profile, clips: Path) -> None:
    rows = {row["label"]: row for row in load_table(video, "table3", clips).rows}
    wins = Wins.between(rows["q-dit"], rows["g4w+p4a"])
    assert (wins.of, wins.ahead, wins.behind) == (16, 9, 6)
    # 0.02 apart with deviations of 0.005 each: all of them are certain
    assert (wins.surely_ahead, wins.surely_behind) == (9, 6)
    summary = " ".join(load_table(video, "table3", clips).summary)
    counted = "Q-DiT is ahead of G4W+P4A in 9 of 16 dimensions (9 beyond chance), behind in 6 (6), equal in 1."
    assert f"In the natural form at W4A8, {counted}" in summary
    assert "G4W+P4A in 15 of 16 dimensions of VBench; of the 8 whose numbers are known to us, in 7" in summary


def test_wide_intervals_leave_no_win_beyond_chance(video: Profile, tmp_path: Path) -> None:
    for label in METHODS:
        write_run(tmp_path, label, spread=0.5)
    rows = {row["label"]: row for row in load_table(video, "table3", tmp_path).rows}
    wins = Wins.between(rows["q-dit"], rows["g4w+p4a"])
    assert (wins.ahead, wins.surely_ahead, wins.surely_behind) == (9, 0, 0)


def test_a_missing_run_is_a_row_that_says_so_and_no_win(video: Profile, clips: Path, tmp_path: Path) -> None:
    (key_of("g4w+p4a").folder(clips) / "metrics.json").unlink()
    table = load_table(video, "table3", clips)
    assert [row["status"].split(":")[0] for row in table.rows] == ["ok", "ok", "missing", "ok"]
    assert len(table.summary) == 1 and "In the paper" in table.summary[0]
    for path in build_table(video, "table3", clips, tmp_path / "table3"):
        assert "no metrics.json" in path.read_text(encoding="utf-8")


def test_claims_about_dimensions_are_judged_on_a_run(video: Profile, clips: Path, repository: Path) -> None:
    claims = load_claims(repository / "results" / "published" / "claims.yaml")
    words = {
        claim.id: judge(claim, claims.sets, Measured(video, clips)).word
        for claim in claims.claims
        if claim.table == "table3"
    }
    assert words == {
        "fifteen-of-sixteen": "does not hold",
        "seven-of-eight-readable": "holds",
        "scene-is-the-exception": "does not hold",
    }


def test_runs_of_clips_stand_on_the_leaderboard_without_fid(video: Profile, clips: Path) -> None:
    rows = [row for row in leaderboard(video, clips).rows if row["setting"] == SETTING]
    assert [row["label"] for row in rows] == ["fp", "q-dit", "g4w+p4a", "rtn"]
    assert all(row.get("fid") is None for row in rows)


def test_quality_control_knows_rows_of_clips(video: Profile, clips: Path) -> None:
    block = {"setting": SETTING, "form": "natural", "scope": "common", "bits": ["w2a2"], "methods": ["fp", "rtn"]}
    video["tables"]["qc"] = {"kind": "qc", "blocks": [block]}
    record = json.loads((key_of("rtn").folder(clips) / "metrics.json").read_text())
    record["run"] |= {"weight_bits": 2, "activation_bits": 2}
    record["metrics"] |= {"fd_fp": 4.0, "mse_fp": 1.0}  # the distances of rtn at W4A8 are 6.0 and 0.006
    folder = Run(SETTING, "natural", "rtn", "w2a2", "common").folder(clips)
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(record))
    checks = {(row["label"], row["weight_bits"]): row["check"] for row in load_table(video, "qc", clips).rows}
    assert checks == {
        ("fp", 16): "control",
        ("rtn", 2): "control",
        ("rtn", 4): "✗ FD-FP",
        ("g4w+p4a", 4): "✓",
        ("q-dit", 4): "✓",
    }


def test_large_clips_become_small_animations_and_only_their_chunks_are_read(
    video: Profile, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = key_of("rtn").folder(clips) / "samples"
    for path in folder.iterdir():
        path.unlink()
    for chunk in range(40):
        frames = np.full((1, 3, 51, 130, 141), chunk, np.uint8)
        save_arrays(folder / f"{chunk:05d}.npz", {"frames": frames, "prompts": np.array([f"prompt {chunk}"])})
    read: list[str] = []
    load = shown.load_arrays
    monkeypatch.setattr(shown, "load_arrays", lambda path: read.append(path.name) or load(path))
    row = next(row for row in load_table(video, "table3", clips).rows if row["label"] == "rtn") | {"images": 40}
    found = shown.clips_of(row, clips)
    assert isinstance(found, shown.Shown) and found.frames.shape == (COUNT, 3, 17, 64, 70)
    assert [int(clip.max()) for clip in found.frames] == [0, 6, 11, 17, 22, 28, 33, 39] and len(set(read)) == COUNT
    assert found.prompts[1] == "prompt 6"
    assert shown.clips_of(row | {"images": 41}, clips) == "clips are not readable"


def test_clips_of_a_block_are_animations_of_the_same_columns(video: Profile, clips: Path) -> None:
    sheet = clip_sheet(load_table(video, "table3", clips).blocks[0], clips)
    assert len(sheet.strips) == 4 and sheet.labels == tuple(range(1, COUNT + 1)) and len(sheet.captions) == COUNT
    assert sheet.captions[0] == "prompt 0" and sheet.captions[-1] == "prompt 5"
    pictures = [Image.open(io.BytesIO(strip.samples)) for strip in sheet.strips if strip.samples]
    assert {(picture.n_frames, *picture.size) for picture in pictures} == {(8, COUNT * 18 - 2, 16)}
    assert sheet.strips[0].difference is None and all(strip.difference for strip in sheet.strips[1:])


def test_runs_without_clips_have_a_note(video: Profile, clips: Path) -> None:
    folder = key_of("rtn").folder(clips) / "samples"
    (folder / "00001.npz").write_bytes(b"cut off")
    for path in (key_of("q-dit").folder(clips) / "samples").iterdir():
        path.unlink()
    sheet = clip_sheet(load_table(video, "table3", clips).blocks[0], clips)
    assert [strip.note for strip in sheet.strips] == ["", "clips are not readable", "", "no clips"]


def test_strips_keep_every_pixel_and_animations_every_frame() -> None:
    frames = np.random.default_rng(0).integers(0, 4, (2, 3, 5, 6, 7), dtype=np.uint8) * 80
    strip = strip_frames(frames, gap=1)
    assert strip.shape == (5, 6, 15, 3)
    assert np.array_equal(strip[3, :, 8:], frames[1, :, 3].transpose(1, 2, 0)) and (strip[:, :, 7] == 255).all()
    picture = Image.open(io.BytesIO(gif(strip)))
    for number in range(5):
        picture.seek(number)
        assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - strip[number]).max() <= 8
    assert gif(strip) == gif(strip.copy())


def test_mp4_files_of_the_rows_and_of_the_block(video: Profile, clips: Path, tmp_path: Path) -> None:
    from qdit.core.mp4 import read_mp4

    written = write_clip_files(video, "table3", clips, tmp_path / "mp4")
    names = ["natural-fp-w16a16", "natural-rtn-w4a8", "natural-g4w+p4a-w4a8", "natural-q-dit-w4a8", "natural"]
    assert [path.stem for path in written] == names
    assert read_mp4(written[0], frames=32).shape == (32, 128, (COUNT * 18 - 2) * 8, 3)
    assert read_mp4(written[-1], frames=32).shape == (32, (4 * 18 - 2) * 8, (COUNT * 18 - 2) * 8, 3)
    video["tables"]["other"] = {"kind": "table4", "blocks": []}
    with pytest.raises(ConfigError, match="shows no clips"):
        write_clip_files(video, "other", clips, tmp_path / "mp4")


def test_blocks_of_one_form_do_not_write_each_others_mp4_files(
    video: Profile, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two settings at one form: each row of each block is in the file that has its setting in the name."""
    monkeypatch.setattr(
        "qdit.report.pages.clip_files._write", lambda path, strip, zoom: path.parent.mkdir(exist_ok=True)
    )
    video["settings"]["other"] = dict(video["settings"][SETTING])
    blocks = video["tables"]["table3"]["blocks"]
    blocks.append({**blocks[0], "setting": "other", "methods": ["fp", "rtn"]})
    for label in ("fp", "rtn"):
        run = key_of(label)
        folder = replace(run, setting="other").folder(clips)
        shutil.copytree(run.folder(clips), folder)
        record = json.loads((folder / "metrics.json").read_text())
        record["run"]["setting"] = "other"
        (folder / "metrics.json").write_text(json.dumps(record))
    written = write_clip_files(video, "table3", clips, tmp_path / "mp4")
    assert len(written) == len(set(written)) == 5 + 3
    assert {path.stem for path in written} >= {f"natural-{SETTING}", "natural-other", "natural-other-rtn-w4a8"}
    blocks[1] = {**blocks[0], "bits": ["w4a4"]}
    written = write_clip_files(video, "table3", clips, tmp_path / "mp4")
    assert len(written) == len(set(written)) == 5 + 2, "full precision is measured at the other bits too"


def test_the_page_opens_with_the_clips_of_every_method(video: Profile, clips: Path, tmp_path: Path) -> None:
    build_table(video, "table3", clips, tmp_path / "table3")
    page = (tmp_path / "table3.html").read_text(encoding="utf-8")
    opening = page[page.index('<section class="showcase"') : page.index("<h2>The numbers</h2>")]
    names = re.findall(r"<figcaption>(.*?)(?: <small>|</figcaption>)", opening)
    assert names == ["Full precision", "Q-DiT", "G4W+P4A", "RTN"], "from the least damage to the most"
    pictures = [base64.b64decode(data) for data in re.findall(r"data:image/gif;base64,([^\"]+)", opening)]
    assert len(pictures) == 7, "clips of four rows, and the difference of three"
    for data in pictures:
        with Image.open(io.BytesIO(data)) as picture:
            assert getattr(picture, "n_frames", 1) == 8 and picture.size == (5 * 16 + 4 * 2, 16)
    widths = {int(width) for width in re.findall(r"width:(\d+)px", opening)}
    assert widths == {352} and opening.count("Prompts, from left to right: prompt 0") == 1


def test_rows_of_other_prompts_have_no_difference_at_the_top(video: Profile, clips: Path, tmp_path: Path) -> None:
    for chunk in (key_of("rtn").folder(clips) / "samples").glob("*.npz"):
        arrays = dict(np.load(chunk, allow_pickle=False))
        save_arrays(chunk, arrays | {"prompts": np.char.add(arrays["prompts"], " else")})
    build_table(video, "table3", clips, tmp_path / "table3")
    page = (tmp_path / "table3.html").read_text(encoding="utf-8")
    opening = page[page.index('<section class="showcase"') : page.index("<h2>The numbers</h2>")]
    assert "Clips of RTN at W4A8" in opening and "Difference of RTN" not in opening
    assert "Difference of Q-DiT" in opening
