"""Results: VBench's schema, no score on fewer clips, totals in VBench's weights, mFVD; with random instruments."""

import numpy as np
import pytest
import torch

from qdit.core.errors import CheckpointError, DataError
from qdit.core.files import save_arrays, save_tensors
from qdit.core.seeds import Purpose, torch_generator
from qdit.metrics.vbench_totals import scaled_between, totals
from qdit.mini.data.moving_digits import make_clips
from qdit.mini.training.video_instruments import initialize
from qdit.mini.vbench.evaluate import ClipSet, evaluate, load_clips, mfvd, noise_clips, reference_clips, report
from qdit.mini.vbench.networks import Instruments
from qdit.mini.vbench.observation import PROTOCOL, Observer, load_observer
from qdit.mini.vbench.suites import DIMENSIONS, all_prompts, suite_prompts


@pytest.fixture(scope="module")
def observer():
    network = Instruments()
    initialize(network, torch_generator(0, Purpose.TRAINING))
    return Observer(network, "none")


@pytest.fixture(scope="module")
def prompts():
    return all_prompts(1)


@pytest.fixture
def clips(prompts):
    return reference_clips(prompts, samples=2)


def test_results_have_vbench_schema(observer, clips, prompts):
    results = evaluate(observer, clips, prompts, samples=2)
    assert list(results) == list(DIMENSIONS)
    for dimension, (mean, rows) in results.items():
        values = [row["video_results"] for row in rows if row["video_results"] is not None]
        assert len(rows) == 2 * sum(dimension in prompt.dimensions for prompt in prompts)
        assert mean == pytest.approx(np.mean(values) if values else 0)
        assert rows[0]["video_path"].endswith("-0") and rows[1]["video_path"].endswith("-1")


def test_the_order_of_clips_does_not_matter(observer, clips, prompts):
    order = list(reversed(range(len(clips.frames))))
    turned = ClipSet(clips.frames[order], clips.prompts[::-1], clips.numbers[::-1])
    expected, found = (evaluate(observer, c, prompts, samples=2) for c in (clips, turned))
    assert found == expected


def test_a_report_is_labelled_and_real_clips_are_its_upper_end(observer, clips, prompts):
    found = report(observer, clips, prompts, samples=2)
    assert found["protocol"] == PROTOCOL == "mini-VBench (moving digits)"
    assert found["clips"] == len(clips.frames) and found["scores"] == found["real_clips"]
    few = suite_prompts("scene", 2)
    assert report(observer, reference_clips(few, samples=1), few, samples=1)["totals"] is None


def test_nothing_is_scored_on_fewer_clips(observer, clips, prompts):
    fewer = ClipSet(clips.frames[1:], clips.prompts[1:], clips.numbers[1:])
    with pytest.raises(DataError, match=r"1 of \d+ are missing, first .* number 0; sample them"):
        evaluate(observer, fewer, prompts, samples=2)
    with pytest.raises(DataError, match="missing"):
        evaluate(observer, clips, prompts, samples=3)
    twice = ClipSet(clips.frames, clips.prompts, (0,) * len(clips.numbers))
    with pytest.raises(DataError, match="there twice"):
        evaluate(observer, twice, prompts, samples=2)


def test_clips_come_back_from_their_file(tmp_path, clips):
    clips.save(tmp_path / "clips.npz")
    found = load_clips(tmp_path / "clips.npz")
    assert torch.equal(found.frames, clips.frames)
    assert (found.prompts, found.numbers) == (clips.prompts, clips.numbers)


def test_bad_files_of_clips_are_refused_in_one_line(tmp_path, clips):
    arrays = {"frames": clips.frames.numpy(), "prompts": np.array(clips.prompts), "numbers": np.array(clips.numbers)}
    bad = {
        "fewer frames": ({**arrays, "frames": arrays["frames"][:, :, :7]}, r"found uint8 .* 7, 16, 16\), allowed is"),
        "floats": ({**arrays, "frames": arrays["frames"] / 255}, "found float64"),
        "no prompts": ({"frames": arrays["frames"], "numbers": arrays["numbers"]}, "has no prompts"),
        "fewer numbers": ({**arrays, "numbers": arrays["numbers"][1:]}, "prompts and .* numbers"),
        "words for numbers": ({**arrays, "numbers": arrays["prompts"]}, "not a set of clips"),
    }
    for name, (content, message) in bad.items():
        path = tmp_path / f"{name}.npz"
        save_arrays(path, content)
        with pytest.raises(DataError, match=message) as refused:
            load_clips(path)
        assert "\n" not in str(refused.value) and str(path) in str(refused.value)
    whole = tmp_path / "clips.npz"
    clips.save(whole)
    whole.write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(DataError, match="not a readable npz"):
        load_clips(whole)


def test_totals_are_vbench_weights():
    scores = {d: 0.1 * (i % 10) for i, d in enumerate(DIMENSIONS)}
    zero, one = dict.fromkeys(DIMENSIONS, 0.0), dict.fromkeys(DIMENSIONS, 1.0)
    found = totals(scaled_between(scores, worst=zero, best=one))
    quality = ("subject_consistency", "background_consistency", "temporal_flickering", "motion_smoothness",
               "aesthetic_quality", "imaging_quality")  # fmt: skip
    expected = (sum(scores[d] for d in quality) + 0.5 * scores["dynamic_degree"]) / 6.5
    semantic = sum(scores[d] for d in DIMENSIONS if d not in (*quality, "dynamic_degree")) / 9
    assert found == pytest.approx({"quality": expected, "semantic": semantic, "total": (4 * expected + semantic) / 5})
    assert totals(scaled_between(one, worst=zero, best=one))["total"] == pytest.approx(1)
    half = totals(scaled_between(dict.fromkeys(DIMENSIONS, 0.75), worst=dict.fromkeys(DIMENSIONS, 0.5), best=one))
    assert half["total"] == pytest.approx(0.5)
    with pytest.raises(DataError, match="missing are scene"):
        totals(scaled_between({d: v for d, v in scores.items() if d != "scene"}, worst=zero, best=one))


def test_mfvd_is_zero_for_equal_sets_and_finite_for_few_clips(observer):
    one, two = (make_clips(seed, range(20), "train").frames for seed in (0, 1))
    assert mfvd(observer, one, one) == pytest.approx(0, abs=1e-6)
    apart = mfvd(observer, one, noise_clips(ClipSet(one, ("",) * 20, (0,) * 20)).frames)
    assert 0 < mfvd(observer, one, two) < apart < np.inf


def test_instruments_are_loaded_strictly(tmp_path, observer):
    path = tmp_path / "mini-vbench.safetensors"
    save_tensors(path, observer.network.state_dict())
    clips = make_clips(0, range(3), "train").frames
    ours, theirs = observer(clips), load_observer(path)(clips)
    assert all(np.array_equal(a.embedding, b.embedding) for a, b in zip(ours, theirs, strict=True))
    state = observer.network.state_dict()
    save_tensors(path, {**state, "aesthetic.bias": state["aesthetic.bias"] * torch.nan})
    with pytest.raises(CheckpointError, match="aesthetic.bias: 1 of 1 values are NaN"):
        load_observer(path)
    del state["aesthetic.bias"]
    save_tensors(path, state)
    with pytest.raises(CheckpointError, match="not the instruments of mini-VBench"):
        load_observer(path)
    with pytest.raises(CheckpointError, match="no such file"):
        load_observer(tmp_path / "absent.safetensors")
