"""CLIP score, ImageReward and DINOv2 against reference programs, on tiny networks with random weights."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qdit.core.errors import CheckpointError, ConfigError, DataError
from qdit.core.files import save_arrays
from qdit.metrics import judge_clip, judge_dino, judge_reward
from qdit.metrics.byte_pairs import BytePairs, read_byte_pairs
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.imported import import_images
from qdit.metrics.judge_run import judge_run
from qdit.metrics.judged import judged_file, read_judged
from qdit.metrics.reference import make_reference
from qdit.metrics.statistics import moments
from qdit.metrics.vision_transformer import resized
from qdit.metrics.word_pieces import read_word_pieces
from tests.metrics import judges_golden as golden

VALUES = np.load(golden.FILE)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Judge → its files with random weights."""
    root = tmp_path_factory.mktemp("weights")
    for name, state in (
        ("clip", golden.clip_weights()),
        ("dino", golden.dino_weights()),
        ("reward", golden.reward_weights()),
    ):
        save_file(state, root / f"{name}.safetensors")
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in golden.MERGES), ""])
    (root / "merges.txt.gz").write_bytes(gzip.compress(merges.encode()))
    (root / "vocab.txt").write_text("\n".join(golden.PIECES) + "\n", encoding="utf-8")
    torch.save(golden.reward_weights(), root / "reward.pt")
    return {
        "clip": {"weights": root / "clip.safetensors", "vocabulary": root / "merges.txt.gz"},
        "dino": {"weights": root / "dino.safetensors"},
        "image-reward": {"weights": root / "reward.pt", "vocabulary": root / "vocab.txt"},
    }


def test_tokens_are_those_of_the_reference_tokenizers(files) -> None:
    vocabulary = read_byte_pairs(files["clip"]["vocabulary"])
    assert vocabulary == BytePairs(tuple(golden.MERGES))
    # The reference does not replace &amp; by &; OpenAI's own tokenizer does.
    texts = [text.replace("&amp;", "&") for text in golden.TEXTS]
    kept = [number for number, text in enumerate(golden.TEXTS) if "&" not in text]
    tokens = np.array([vocabulary.tokens(text, golden.LENGTH) for text in golden.TEXTS])
    np.testing.assert_array_equal(tokens[kept], VALUES["clip-tokens"][kept])
    np.testing.assert_array_equal(vocabulary.tokens(texts[1], golden.LENGTH), tokens[1])
    pieces = read_word_pieces(files["image-reward"]["vocabulary"])
    tokens = np.array([pieces.tokens(text, judge_reward.TOKENS) for text in golden.TEXTS])
    np.testing.assert_array_equal(tokens, VALUES["reward-tokens"])


def test_clip_scores_are_those_of_transformers(files) -> None:
    network = judge_clip.read_clip(files["clip"]["weights"])
    pixels = golden.prepared(golden.CLIP_SIDE, golden.CLIP_MEAN, golden.CLIP_SPREAD, crop=True)
    cosines = network(pixels, torch.from_numpy(VALUES["clip-tokens"]))
    np.testing.assert_allclose(cosines.numpy(), VALUES["clip-cosines"], atol=1e-6)
    assert np.ptp(VALUES["clip-cosines"]) > 0.1
    scores = judge_clip.load(files["clip"], "cpu")(golden.random_images(), golden.TEXTS)
    kept = [number for number, text in enumerate(golden.TEXTS) if "&" not in text]
    np.testing.assert_allclose(scores[kept], VALUES["clip"][kept], rtol=1e-5, atol=1e-4)


def test_dino_features_are_those_of_the_publishers_program(files) -> None:
    features = judge_dino.load(files["dino"], "cpu")(golden.random_images(), ())
    np.testing.assert_allclose(features, VALUES["dino"], rtol=1e-5, atol=1e-5)


def test_rewards_are_those_of_blip_in_transformers(files) -> None:
    rewards = judge_reward.load(files["image-reward"], "cpu")(golden.random_images(), golden.TEXTS)
    np.testing.assert_allclose(rewards, VALUES["reward"], rtol=1e-5, atol=1e-5)
    assert np.ptp(rewards) > 0.01


@pytest.mark.parametrize("shape", [(45, 61), (61, 45), (224, 224), (300, 200), (31, 97)])
def test_images_are_prepared_as_torchvision_prepares_them(shape: tuple[int, int]) -> None:
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize, ToTensor

    image = np.random.Generator(np.random.Philox(4)).integers(0, 256, (3, *shape), dtype=np.uint8)
    for crop in (True, False):
        cut = (
            [Resize(224, InterpolationMode.BICUBIC), CenterCrop(224)]
            if crop
            else [Resize((224, 224), InterpolationMode.BICUBIC)]
        )
        expected = Compose([*cut, ToTensor()])(Image.fromarray(image.transpose(1, 2, 0)))
        assert torch.equal(resized(image[None], 224, crop=crop)[0], expected)


def test_neighbours_change_nothing(files) -> None:
    images, texts = (np.concatenate([golden.random_images()] * 5), golden.TEXTS * 5)
    for judge in (judge_clip.load(files["clip"], "cpu"), judge_reward.load(files["image-reward"], "cpu")):
        np.testing.assert_allclose(judge(images, texts)[:4], judge(images[:4], texts[:4]), rtol=1e-5, atol=1e-5)


def test_other_files_are_refused_in_one_line(files, tmp_path: Path) -> None:
    cases = [
        (lambda: judge_clip.read_clip(files["dino"]["weights"]), "not CLIP in Hugging Face's layout"),
        (lambda: judge_dino.read_dino(files["clip"]["weights"]), "has no tensor cls_token"),
        (lambda: judge_reward.read_reward(files["dino"]["weights"]), "not the weights of ImageReward"),
        (lambda: judge_clip.read_clip(tmp_path / "absent.safetensors"), "no such file"),
    ]
    for read, message in cases:
        with pytest.raises(CheckpointError, match=message) as raised:
            read()
        assert "\n" not in str(raised.value)
    other = {"weights": files["clip"]["weights"], "vocabulary": tmp_path / "two.txt"}
    other["vocabulary"].write_text("#version\na b\n")
    with pytest.raises(CheckpointError, match="CLIP knows 526 tokens, the vocabulary 515"):
        judge_clip.load(other, "cpu")
    with pytest.raises(DataError, match="holds no merges"):
        read_byte_pairs(files["image-reward"]["vocabulary"])
    with pytest.raises(DataError, match=r"has no \[PAD\]"):
        read_word_pieces(other["vocabulary"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Samples without prompts."""
    np.savez(tmp_path / "images.npz", arr_0=golden.random_images().transpose(0, 2, 3, 1))
    import_images(tmp_path / "images.npz", tmp_path / "run", chunk=3)
    return tmp_path / "run"


def test_a_file_of_features_is_read_for_its_own_images_only(files, run: Path, tmp_path: Path) -> None:
    path = judged_file(run, "dino")
    assert judge_run(run, path, "dino", files["dino"]) == 4
    features, made_of = read_judged(path, samples=run, images=4, judge="dino")
    np.testing.assert_allclose(features, VALUES["dino"], rtol=1e-5, atol=1e-5)
    assert made_of.files.keys() == {"weights"}
    with pytest.raises(DataError, match="is not of clip and the images"):
        read_judged(path, samples=run, images=4, judge="clip")
    np.savez(tmp_path / "other.npz", arr_0=255 - golden.random_images().transpose(0, 2, 3, 1))
    import_images(tmp_path / "other.npz", tmp_path / "other", chunk=3)
    with pytest.raises(DataError, match="is not of dino and the images"):
        read_judged(path, samples=tmp_path / "other", images=4, judge="dino")
    save_arrays(path, {"values": features})
    with pytest.raises(DataError, match="not the values of a judge"):
        read_judged(path, samples=run, images=4, judge="dino")


def test_images_without_prompts_have_no_scores(files, run: Path) -> None:
    path = judged_file(run, "clip")
    assert judge_run(run, path, "clip", files["clip"]) is None
    assert read_judged(path, samples=run, images=4, judge="clip") is None
    with pytest.raises(ConfigError, match="it needs weights, vocabulary"):
        judge_run(run, path, "clip", files["dino"])
    with pytest.raises(ConfigError, match="allowed are clip, dino, image-reward"):
        judge_run(run, path, "clap", files["dino"])


def test_a_reference_of_dino_is_made_of_the_images_of_a_batch_with_statistics(files, tmp_path: Path) -> None:
    images = golden.random_images()
    inception = {"mu": np.zeros(2048), "sigma": np.eye(2048)}
    np.savez(tmp_path / "batch.npz", arr_0=images.transpose(0, 2, 3, 1), **inception)
    extractor = judge_dino.load_named("dinov2", files["dino"]["weights"], sha256=None, device="cpu")
    reference = make_reference(tmp_path / "batch.npz", extractor, images_only=True)
    expected = moments(VALUES["dino"])
    np.testing.assert_allclose(reference.pool.mean, expected.mean, atol=1e-5)
    assert frechet_distance(reference.pool, expected) < 1e-3
