"""From a training checkpoint to shipped weights: the moving average in half precision, and a manifest of all files."""

import pytest
import torch

from qdit.core.errors import CheckpointError
from qdit.core.files import load_tensors
from qdit.mini.data.digits import load
from qdit.mini.training.dit import Trainer, TrainingConfig
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
