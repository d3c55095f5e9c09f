"""From a training checkpoint to shipped weights: the moving average in half precision, and a manifest of all files."""

import pytest
import torch

from qdit.core.errors import CheckpointError
from qdit.core.files import load_tensors, save_tensors
from qdit.mini.data.digits import load
from qdit.mini.training.dit import MINI_MODELS, MiniModel, Trainer, TrainingConfig
from qdit.mini.training.salient import SalientConfig
from qdit.mini.training.shipping import ship_dit
from qdit.models.loading import load_model
from qdit.models.manifest import read_manifest, verify_manifest
from tests.small_models import TINY


@pytest.fixture
def trained(tmp_path):
    config = TrainingConfig(iterations=8, stop_at=2, batch_size=4, warmup=2, bfloat16=False)
    trainer = Trainer(TINY, config, tmp_path / "training")
    trainer.run(load("train"))
    return trainer


def test_the_natural_form_is_the_average_in_half_precision(trained, tmp_path):
    weights = tmp_path / "weights"
    ship_dit(trained.path, weights, name="tiny", salient=None)
    assert sorted(read_manifest(weights)) == ["tiny-natural.safetensors"]
    found = load_model(weights / "tiny-natural.safetensors").state_dict()
    for name, mean in trained.average.items():
        assert torch.equal(found[name], mean.half().float())


def test_the_salient_form_comes_with_it_if_asked_for(trained, tmp_path):
    weights = tmp_path / "weights"
    ship_dit(trained.path, weights, name="tiny", salient=SalientConfig())
    ship_dit(trained.path, weights, name="other", salient=None)
    assert len(read_manifest(weights)) == 3
    verify_manifest(weights)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError):
        ship_dit(tmp_path / "absent.safetensors", tmp_path, name="tiny", salient=None)


def edited(path, tmp_path, *, drop=(), **metadata):
    """A copy of a checkpoint without some tensors, and with other metadata; None removes an entry."""
    tensors, facts = load_tensors(path)
    changed = {name: value for name, value in {**facts, **metadata}.items() if value is not None}
    save_tensors(tmp_path / "edited.safetensors", {n: t for n, t in tensors.items() if n not in drop}, changed)
    return tmp_path / "edited.safetensors"


BIAS = "average.final_layer.linear.bias"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"drop": (BIAS,)},
            r"not a training checkpoint of a DiT \(1 weights are missing, first final_layer.linear.bias",
        ),
        ({"model": None}, "its metadata lack model or iteration"),
        ({"model": {"depth": 2, "with": 3}}, "not a training checkpoint of a DiT .*with"),
        (
            {"model": {**TINY.to_dict(), "hidden_size": 2 * TINY.hidden_size}},
            "not a training checkpoint of a DiT .*size",
        ),
        ({"iteration": "2"}, "its metadata lack model or iteration"),
        ({"world": "moving-digits"}, "not a training checkpoint of a DiT; give the one that `qdit train` wrote"),
        ({"training": None}, "does not say training of its training"),
    ],
)
def test_a_checkpoint_that_is_not_whole_or_of_a_video_model_is_one_line(trained, tmp_path, changes, message):
    path = edited(trained.path, tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message) as refused:
        ship_dit(path, tmp_path / "weights", name="tiny", salient=None)
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)
    assert not (tmp_path / "weights").exists()


def test_one_model_does_not_get_the_weights_of_another(trained, tmp_path, monkeypatch):
    with pytest.raises(
        CheckpointError, match=r"holds another network, the name is dit-digits; give --name of your own"
    ):
        ship_dit(trained.path, tmp_path / "weights", name="dit-digits", salient=None)
    monkeypatch.setitem(MINI_MODELS, "dit-tiny", MiniModel(TINY, lambda: load("train")))
    with pytest.raises(
        CheckpointError, match=r"holds the network of dit-tiny, the name is dit-fashion; give --name dit-t"
    ):
        ship_dit(trained.path, tmp_path / "weights", name="dit-fashion", salient=None)
    assert not (tmp_path / "weights").exists()
    ship_dit(trained.path, tmp_path / "weights", name="dit-tiny", salient=None)
    assert sorted(read_manifest(tmp_path / "weights")) == ["dit-tiny-natural.safetensors"]


def test_a_checkpoint_without_metadata_is_not_continued(tmp_path):
    save_tensors(tmp_path / "training" / "checkpoint.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="was trained with another configuration"):
        Trainer(TINY, TrainingConfig(), tmp_path / "training")


def test_a_snapshot_can_be_shipped_too(tmp_path):
    config = TrainingConfig(
        iterations=8, stop_at=3, batch_size=4, warmup=2, bfloat16=False, decay="constant", snapshot_every=3
    )
    trainer = Trainer(TINY, config, tmp_path / "training")
    trainer.run(load("train"))
    snapshots = tmp_path / "training" / "snapshots"
    assert sorted(path.name for path in snapshots.iterdir()) == [f"{n:06d}.safetensors" for n in (1, 2, 3)]
    ship_dit(snapshots / "000003.safetensors", tmp_path / "weights", name="tiny", salient=None)
    ship_dit(trainer.path, tmp_path / "weights", name="same", salient=None)
    found, same = (tmp_path / "weights" / f"{name}-natural.safetensors" for name in ("tiny", "same"))
    assert found.read_bytes() == same.read_bytes()
    assert load_tensors(found)[1]["iteration"] == 3
