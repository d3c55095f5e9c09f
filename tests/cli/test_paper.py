"""Commands around a full reproduction, as they are typed: what they print, and one line for what is wrong."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qdit.cli import main as cli
from qdit.methods.quantize import quantize_model
from qdit.models.config import DiTConfig
from qdit.models.loading import load_dit, save_model
from qdit.quant.checkpoint import save_checkpoint
from tests.small_models import calibration_set, random_dit

Qdit = Callable[..., tuple[int, str, str]]


@pytest.fixture
def qdit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Qdit:
    """Run a command in this process: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qdit", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        code = stopped.value.code
        captured = capsys.readouterr()
        return (code if isinstance(code, int) else 1), captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("check-file nothing.pt", "nothing.pt: missing; `qdit fetch`"),
        ("fetch nothing.pt", "nothing.pt: not a file that can be fetched"),
        ("fetch --profile papr", "did you mean 'paper'?"),
        ("explain table2 --results nowhere", "nowhere/profile.json"),
        ("explain table9 1 --profile mini", "did you mean"),
        ("explain table2 natural --profile mini", "give its number, or more words"),
        ("explain table2 999 --profile mini", "row 999 does not exist"),
        ("export nothing out", "nothing/config.json: no such file"),
        ("import-weights nothing.pt out.safetensors", "nothing.pt"),
        ("import-weights nothing.pt out.safetensors --shape 3", "expected a JSON object"),
        ("import-weights nothing.pt out.safetensors --shape {}x", "not valid JSON"),
        ("import-reference nothing.npz out.npz", "nothing.npz: missing"),
        ("doctor --tflops 0", "--tflops"),
        ("doctor --gpus 0", "--gpus"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: str, words: str, qdit: Qdit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = qdit(*arguments.split())
    assert code == 2
    assert err.count("\n") == 1
    assert words in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_check_file_says_nothing_about_a_good_file(qdit: Qdit, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert qdit("check-file", tmp_path / "weights", "--sha256", digest[:10]) == (0, "", "")


def test_export_writes_what_diffusers_loads(qdit: Qdit, tmp_path: Path) -> None:
    import diffusers

    quantized = quantize_model(
        random_dit(),
        "rtn",
        weight_bits=4,
        activation_bits=16,
        calibration={"trajectory": calibration_set("trajectory")},
        options={"group_size": 16},
    )
    save_checkpoint(tmp_path / "checkpoint", quantized, {"method": "rtn"})
    code, out, err = qdit("export", tmp_path / "checkpoint", tmp_path / "exported")
    assert (code, err) == (0, "")
    assert [Path(line).name for line in out.splitlines()] == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "manifest.json",
    ]
    assert diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "exported").network.config.hidden_size == 48


def test_import_weights_takes_a_shape(qdit: Qdit, tmp_path: Path) -> None:
    model = random_dit(DiTConfig(input_size=8, hidden_size=48, depth=1, num_heads=2))
    save_model(tmp_path / "theirs.safetensors", model)
    shape = '{"input_size": 8, "hidden_size": 48, "depth": 1, "num_heads": 2}'
    out = tmp_path / "ours.safetensors"
    assert qdit("import-weights", tmp_path / "theirs.safetensors", out, "--shape", shape)[0] == 0
    assert torch.equal(load_dit(out).pos_embed, model.pos_embed)
    code, _, err = qdit("import-weights", tmp_path / "theirs.safetensors", tmp_path / "no.safetensors")
    assert code == 2
    assert "weights of another model" in err
    assert not (tmp_path / "no.safetensors").exists()


def test_doctor_of_the_paper_profile(qdit: Qdit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = qdit("doctor", "--profile", "paper")
    head = out.split("estimate at")[0].splitlines()
    assert code == 1 and len(head) <= 28 and max(map(len, head)) < 260
    assert head[0].startswith("paper: NOT READY: 40 of 40 files missing (about ") and "; no GPU" in head[0]
    assert "GPU: none, and this profile needs one" in head and "none is needed" not in out
    assert any("36 of 40 have no whole sha256" in line and "--allow-unverified" in line for line in head)
    code, out, err = qdit(
        "doctor", "--all", "--profile", "paper", "--tflops", "100", "--gpus", "8", "--figure", "paper.svg"
    )
    assert (code, err) == (1, "")
    assert out.count("missing; `qdit fetch` with the profile that needs it downloads it; about") == 28
    for words in ("CC-BY-NC-4.0", "sha256 unknown", "sha256 6726825d", "Hugging Face stabilityai/sd-vae-ft-mse"):
        assert words in out, words
    for rule in ("import_weights", "reference_adm", "(sample)", "evaluate", "(sample_video)", "(embed_prompts)"):
        assert rule in out, rule
    assert "100 TFLOP/s per GPU (given)" in out
    assert "   8 GPUs:" in out and "  64 GPUs:" not in out
    assert (tmp_path / "paper.svg").stat().st_size > 1000
