"""What a record says is what the files are: facts come from the files, and flags can only repeat them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qdit.cli import main as cli
from qdit.core.files import load_arrays, load_tensors, read_json
from qdit.sampling.origin import origin_key

Qdit = Callable[..., tuple[int, str]]
WEIGHTS = Path("weights/dit-digits-natural.safetensors")
SALIENT = Path("weights/dit-digits-salient.safetensors")
Q_DIT = ("--method", "q-dit", "--options", '{"group_size": 16}')
SMALL = ("--images", 16, "--chunk", 8, "--extractor", "digit-classifier")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["qdit", *map(str, arguments)])
    monkeypatch.delenv(cli.DEBUG, raising=False)
    monkeypatch.setenv("QDIT_DEVICE", "cpu")
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module")
def samples_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibration data, checkpoints, samples of 3 steps without guidance, and of full precision with and without."""
    folder, before = tmp_path_factory.mktemp("records"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for line in (
            ("reference", folder / "ref.npz"),
            ("calibrate", WEIGHTS, folder / "t", "--steps", 3, "--samples", 8),
            ("quantize", WEIGHTS, folder / "q", *Q_DIT, "--calibration", f"trajectory={folder / 't'}"),
            ("quantize", WEIGHTS, folder / "fp", "--method", "fp", "--bits", "w16a16"),
            ("sample", folder / "q", folder / "s", "--steps", 3, *SMALL),
            ("sample", folder / "fp", folder / "f", "--steps", 3, *SMALL),
            ("sample", folder / "fp", folder / "guided", "--steps", 3, "--cfg-scale", 1.5, *SMALL),
        ):
            assert call(patch, *line) == 0, line
    torch.set_num_threads(before)
    return folder


@pytest.fixture
def qdit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Qdit:
    """Run a command in this process: exit code and stderr."""

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = call(monkeypatch, *arguments)
        return code, capsys.readouterr().err

    return run


def evaluate(samples_folder: Path, out: Path, *, checkpoint: str = "q", samples: str = "s") -> tuple[object, ...]:
    reference = ("--reference-file", samples_folder / "ref.npz")
    return ("evaluate", samples_folder / samples, out, "--checkpoint", samples_folder / checkpoint, *reference)


def test_a_record_takes_its_facts_from_the_samples(samples_folder: Path, qdit: Qdit, tmp_path: Path) -> None:
    assert qdit(*evaluate(samples_folder, tmp_path / "a.json"), "--fp-samples", samples_folder / "f")[0] == 0
    protocol = read_json(tmp_path / "a.json")["protocol"]
    facts = {name: protocol[name] for name in ("sampler", "steps", "cfg_scale", "seed", "images", "chunk")}
    assert facts == {"sampler": "ddim", "steps": 3, "cfg_scale": 1.0, "seed": 0, "images": 16, "chunk": 8}
    same = ("--steps", 3, "--cfg-scale", 1, "--seed", 0, "--sampler", "ddim", "--dtype", "float32", "--images", 16)
    assert qdit(*evaluate(samples_folder, tmp_path / "b.json"), "--fp-samples", samples_folder / "f", *same)[0] == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--steps", 50, "was made with steps 3, --steps says 50"),
        ("--steps", 20, "was made with steps 3, --steps says 20"),
        ("--cfg-scale", 7.5, "was made with cfg_scale 1.0, --cfg-scale says 7.5"),
        ("--cfg-scale", 0.5, "was made with cfg_scale 1.0, --cfg-scale says 0.5"),
        ("--sampler", "ddpm", "was made with sampler ddim, --sampler says ddpm"),
        ("--seed", 9, "was made with seed 0, --seed says 9"),
        ("--dtype", "float16", "was made with dtype float32, --dtype says float16"),
        ("--shift", 2.5, "was made with shift none, --shift says 2.5"),
        ("--images", 64, "is a run of 16 images, 64 are expected"),
    ],
)
def test_flags_can_only_repeat(
    samples_folder: Path, qdit: Qdit, tmp_path: Path, flag: str, value: object, words: str
) -> None:
    code, error = qdit(*evaluate(samples_folder, tmp_path / "m.json"), flag, value)
    assert code == 2 and words in error and error.count("\n") == 1
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--suite", "suite.json", "--suite: {} holds images, and images have no such option"),
        ("--samples", 3, "--samples: {} holds images, and images have no such option"),
        ("--instruments", "x", "--instruments: {} holds images, and images have no such option"),
        ("--scope", "own", "--scope own: is for imported samples, together with --bits"),
        ("--scope", "all", "--scope all: allowed are common, own"),
        ("--bits", "w4a8", "are no imported samples, their checkpoint says it"),
    ],
)
def test_flags_without_an_effect_are_refused(
    samples_folder: Path, qdit: Qdit, tmp_path: Path, flag: str, value: object, words: str
) -> None:
    code, error = qdit(*evaluate(samples_folder, tmp_path / "m.json"), flag, value)
    assert code == 2 and words.format(samples_folder / "s") in error and error.count("\n") == 1
    assert not (tmp_path / "m.json").exists()


def test_samples_of_another_checkpoint_and_other_full_precision(
    samples_folder: Path, qdit: Qdit, tmp_path: Path
) -> None:
    out = tmp_path / "m.json"
    code, error = qdit(*evaluate(samples_folder, out, checkpoint="fp"))
    assert code == 2 and "was sampled from the checkpoint" in error
    code, error = qdit(*evaluate(samples_folder, out), "--fp-samples", samples_folder / "guided")
    assert code == 2 and "were made with cfg_scale 1.0 and 1.5" in error
    code, error = qdit(
        *evaluate(samples_folder, out, checkpoint="fp", samples="f"), "--fp-samples", samples_folder / "s"
    )
    assert code == 2 and "was sampled from q-dit w4a8, full precision is w16a16" in error


def test_every_file_says_what_it_was_made_of(samples_folder: Path) -> None:
    listing = read_json(samples_folder / "s" / "shard-000.json")
    chunks = [load_arrays(samples_folder / "s" / f"0000{number}.npz") for number in range(2)]
    assert {str(chunk["key"]) for chunk in chunks} == {listing["key"]} == {origin_key(listing["origin"])}
    assert all(json.loads(str(chunk["origin"])) == listing["origin"] for chunk in chunks)
    assert listing["origin"]["model"]["method"] == "q-dit" and listing["packages"]["torch"]
    metadata = load_tensors(samples_folder / "t")[1]
    assert metadata["weights_sha256"] == listing["origin"]["model"]["weights_sha256"]
    assert metadata["code"] and metadata["packages"]["torch"]


def test_calibration_data_of_other_weights_or_sampling(samples_folder: Path, qdit: Qdit, tmp_path: Path) -> None:
    options = (*Q_DIT, "--calibration", f"trajectory={samples_folder / 't'}")
    code, error = qdit("quantize", SALIENT, tmp_path / "q", *options)
    assert code == 2 and "holds calibration data of" in error and "calibrate with these weights" in error
    for flag, value, words in (
        ("--steps", 20, "steps 3, --steps says 20"),
        ("--cfg-scale", 1.5, "cfg_scale 1.0, --cfg-scale says 1.5"),
    ):
        code, error = qdit("quantize", WEIGHTS, tmp_path / "q", *options, flag, value)
        assert code == 2 and words in error and error.count("\n") == 1
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--cfg-scale", "0"), "cfg_scale 0.0: allowed are numbers from 1"),
        (("--cfg-scale", "0.5"), "cfg_scale 0.5"),
        (("--cfg-scale", "inf"), "cfg_scale inf"),
        (("--cfg-scale", "nan"), "cfg_scale nan"),
        (("--cfg-scale", "1e30"), "cfg_scale 1e+30"),
        (("--steps", "0"), "steps 0"),
        (("--threads", "100000"), "--threads 100000: this machine runs"),
    ],
)
@pytest.mark.parametrize("command", [("calibrate", WEIGHTS), ("video", "calibrate", WEIGHTS)], ids=["images", "clips"])
def test_what_cannot_be_sampled_is_one_line(
    qdit: Qdit, tmp_path: Path, command: tuple[object, ...], flags: tuple[str, str], words: str
) -> None:
    code, error = qdit(*command, tmp_path / "t", *flags)
    assert code == 2 and words in error and error.count("\n") == 1
    assert not (tmp_path / "t").exists()


def test_an_edited_configuration_is_refused(samples_folder: Path, qdit: Qdit, tmp_path: Path) -> None:
    path = samples_folder / "q" / "config.json"
    text = path.read_text(encoding="utf-8")
    assert '"bits": 8' in text
    try:
        path.write_text(text.replace('"bits": 8', '"bits": 4'), encoding="utf-8")
        for line in (
            ("sample", samples_folder / "q", tmp_path / "s", *SMALL),
            evaluate(samples_folder, tmp_path / "m.json"),
        ):
            code, error = qdit(*line)
            assert code == 2 and "it was edited by hand" in error and error.count("\n") == 1
    finally:
        path.write_text(text, encoding="utf-8")
