"""The search on video models: swapped layers are quantized ones, distances are of clips, files to an allocation."""

import json
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from qdit.core.errors import ConfigError
from qdit.core.files import read_json
from qdit.core.pixels import to_uint8
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.statistics import moments
from qdit.mini.data.moving_digits_prompts import CHANNELS
from qdit.mini.vbench.evaluate import clip_features
from qdit.mini.vbench.observation import load_observer
from qdit.mini.video_fitness import (
    ClipExtractor,
    VideoFitness,
    VideoSearchJob,
    i3d_extractor,
    mini_extractor,
    moving_digits_prompts,
)
from qdit.models.loading import save_model
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.allocation import read_allocation
from qdit.quant.apply import insert_dynamic, round_weights
from qdit.quant.sites import prepare_inference
from qdit.sampling.batch import sample_clips
from qdit.sampling.calibration import CalibrateJob, calibrate_weights_file
from qdit.sampling.flow_protocol import FlowProtocol
from qdit.search.fitness import Noises
from qdit.search.layers import LayerQuantizer
from qdit.search.options import parse_search_options
from qdit.search.run import Search, run_search
from qdit.search.space import SearchSpace
from tests.small_video_models import TINY_VIDEO, random_stdit3

CONFIG = replace(TINY_VIDEO, text_width=CHANNELS, text_tokens=9, pixels_per_cell=1)
MODEL = random_stdit3(CONFIG)
SPACE = SearchSpace.of(MODEL, (4, 8, 24), 8)  # type: ignore[arg-type]
FLOW = FlowProtocol(frames=2, height=4, width=6, fps=8, steps=1, cfg_scale=1.5, shift=1.0, seed=4)
MIXED = tuple((4, 8, 24)[layer % 3] for layer in range(len(SPACE.layers)))
PIXELS = ClipExtractor("pixels", "0" * 64, lambda clips: clips.float().flatten(1)[:, ::37].double().numpy() / 255)


def fitness(**options: Any) -> VideoFitness:
    given: dict[str, Any] = {"protocol": FLOW, "images": 6, "chunk": 2, "extractor": PIXELS}
    return VideoFitness(MODEL, SPACE, **(given | {"quantizer": LayerQuantizer(4, 8)} | options))


def clips_by_hand(genome: tuple[int, ...] | None, clips: range, seed: int = 4) -> torch.Tensor:
    """Sampled with a model that was quantized anew."""
    model = deepcopy(MODEL)
    if genome is not None:
        sites, sizes = select(model.sites(), roles=CORE_ROLES), SPACE.groups(genome)
        insert_dynamic(model, sites, bits=8, group_sizes=sizes)
        round_weights(model, sites, bits=4, group_sizes=sizes)
    text, mask = moving_digits_prompts(clips)
    flow = replace(FLOW, seed=seed)
    return to_uint8(sample_clips(prepare_inference(model), flow, text, mask, clips))


def features_by_hand(genome: tuple[int, ...] | None, clips: int, seed: int = 4) -> np.ndarray:
    parts = [PIXELS.features(clips_by_hand(genome, range(first, first + 2), seed)) for first in range(0, clips, 2)]
    return np.concatenate(parts)


def test_the_space_has_all_seven_linears_of_every_block() -> None:
    assert len(SPACE.layers) == 7 * 2 * CONFIG.depth
    assert {layer.name.split(".")[0] for layer in SPACE.layers} == {"spatial_blocks", "temporal_blocks"}


def test_fd_fp_is_the_distance_to_full_precisions_clips_of_the_same_noise() -> None:
    expected = frechet_distance(moments(features_by_hand(MIXED, 6)), moments(features_by_hand(None, 6)))
    own = fitness()
    assert own(MIXED) == expected > 0
    assert own.images_sampled == 6 and own.identity()["metric"] == "fd_fp"


def test_prefixes_are_nested_and_clips_are_sampled_once() -> None:
    own = fitness()
    first = own.on_prefix(MIXED, 4)
    assert first == frechet_distance(moments(features_by_hand(MIXED, 4)), moments(features_by_hand(None, 4)))
    assert own.on_prefix(MIXED, 6) == fitness()(MIXED) and own.images_sampled == 6
    with pytest.raises(ConfigError, match=r"5 images in chunks of 2: allowed are \[2, 4, 6\]"):
        own.on_prefix(MIXED, 5)


def test_other_noise_has_the_same_prompts_and_other_clips() -> None:
    own = fitness()
    other = own.on_noise(9)
    expected = frechet_distance(moments(features_by_hand(MIXED, 6, 9)), moments(features_by_hand(None, 6, 9)))
    assert other(MIXED) == expected != own(MIXED)
    assert own.identity()["prompts_sha256"] == other.identity()["prompts_sha256"]
    assert own.identity()["protocol"] != other.identity()["protocol"]
    assert Noises(own).on_prefix((9, MIXED), 6) == expected


def test_mfvd_compares_with_real_clips() -> None:
    real = moments(np.random.default_rng(0).normal(size=(40, PIXELS.features(clips_by_hand(None, range(2))).shape[1])))
    own = fitness(reference=real)
    assert own(MIXED) == frechet_distance(moments(features_by_hand(MIXED, 6)), real)
    assert own.identity()["metric"] == "mfvd"


def test_the_mini_features_are_those_that_runs_are_scored_with(job: VideoSearchJob) -> None:
    observer = load_observer(job.instruments)
    clips = torch.randint(256, (3, 3, 8, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    np.testing.assert_allclose(mini_extractor(observer)(clips).pool, clip_features(observer, clips), rtol=1e-5)


def test_clips_that_are_not_finite_are_infinitely_bad() -> None:
    broken = fitness()
    with torch.no_grad():
        broken.swappable.layer(SPACE.layers[0].name, 4).bias.fill_(float("nan"))  # type: ignore[operator, union-attr]
    assert broken((4, *MIXED[1:])) == float("inf")


def test_i3ds_features_see_frames_as_videos_have_them() -> None:
    class Network:
        sha256 = "1" * 64

        def __call__(self, clips: Any) -> np.ndarray:
            return np.stack([clip[:, :, :, 0].astype(float).mean(axis=(1, 2)) for clip in clips])

    extractor = i3d_extractor(Network())  # type: ignore[arg-type]
    clips = torch.randint(256, (4, 3, 5, 6, 8), dtype=torch.uint8)
    assert np.allclose(extractor(clips).pool, clips[:, 0].double().mean(dim=(2, 3)).numpy())
    assert fitness(extractor=extractor, reference=moments(np.eye(5))).identity()["metric"] == "fvd"


@pytest.fixture(scope="module")
def job(repository, tmp_path_factory) -> VideoSearchJob:
    """The mini world's clips, which its instruments can see, by a tiny model."""
    path = tmp_path_factory.mktemp("video") / "tiny.safetensors"
    save_model(path, random_stdit3(replace(CONFIG, depth=1)))
    flow = FlowProtocol(frames=8, height=16, width=16, fps=8, steps=1, cfg_scale=1.0, shift=1.0)
    instruments = repository / "weights" / "mini-vbench.safetensors"
    return VideoSearchJob(path, (4, 8, 24), 8, 4, 8, flow, images=4, chunk=2, instruments=instruments)


FEW = {"population": 2, "parents": 1, "crossover": 1, "mutation": 1, "iterations": 1}


@pytest.mark.parametrize(
    ("kind", "metric", "options"),
    [("evolution", "fd_fp", FEW), ("racing", "mfvd", FEW | {"rungs": [2, 4]}), ("ilp", "fd_fp", {})],
)
def test_from_weights_to_an_allocation(job, tmp_path, kind, metric, options) -> None:
    out, trajectory = tmp_path / "found.json", tmp_path / "trajectory.safetensors"
    if kind == "ilp":
        text = moving_digits_prompts(range(4))
        calibrate_weights_file(CalibrateJob(job.weights, trajectory, "trajectory", job.protocol, 4, text))
    given = {"calibration": trajectory} if kind == "ilp" else {"fresh": 1}
    search = Search(kind, replace(job, metric=metric), parse_search_options(kind, options), **given)
    content = run_search(search, out, show=False)
    assert content["budget"] <= content["budget_limit"]
    groups = read_allocation(out)
    assert len(groups) == 14 and set(groups) < {layer.name for layer in SPACE.layers}
    assert set(groups.values()) <= {4, 8, 24}
    if kind != "ilp":
        assert content["identity"]["fitness"]["metric"] == metric and content["images_sampled"] > 0
        again = run_search(search, out, show=False)  # from the journal, nothing is sampled
        assert json.dumps(again, sort_keys=True) == json.dumps(read_json(out), sort_keys=True)


def test_models_of_latents_and_other_metrics_are_refused(job, tmp_path) -> None:
    with pytest.raises(ConfigError, match="allowed for a video model are fd_fp, mfvd"):
        replace(job, metric="fid")
    save_model(tmp_path / "latent.safetensors", random_stdit3(replace(CONFIG, pixels_per_cell=8)))
    with pytest.raises(ConfigError, match="is not a video model of RGB pixels"):
        replace(job, weights=tmp_path / "latent.safetensors").fitness()
