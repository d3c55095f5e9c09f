"""Every fault that users' files have shown: one line per case with exit code and message (`pytest tests/faults -s`)."""

import sys
from pathlib import Path

import pytest

from qdit.cli.main import main
from tests.faults.cases import CASES, VALUES, Case
from tests.faults.inputs import CLASSIFIER, make_all


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("faults")
    make_all(made / "in")
    (made / "out").mkdir()
    return made


def arguments(case: Case, folder: Path) -> list[str]:
    """The command's words with their paths; a `*` stands for all files of a folder."""
    words: list[str] = []
    for word in case.command.split():
        text = VALUES.get(word, "" if word == "''" else word).replace("$classifier", str(CLASSIFIER))
        if word not in VALUES:
            text = text.replace("@", f"{folder / 'in'}/").replace("%", f"{folder / 'out'}/")
        path = Path(text)
        words += sorted(map(str, path.parent.glob(path.name))) if path.name.startswith("*") else [text]
    return words


def run(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and what was printed; an exception that reaches the user is a traceback, exit code 1."""
    monkeypatch.setattr(sys, "argv", ["qdit", *words])
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except Exception as problem:
        captured = capsys.readouterr()
        return 1, f"traceback: {type(problem).__name__}: {problem} {captured.err}"
    captured = capsys.readouterr()
    return code, captured.err.strip() if code else captured.out.strip()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.command[:90])
def test_case(case: Case, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = run(arguments(case, folder), capsys, monkeypatch)
    shown = " ".join(text.replace(str(folder), "").split())
    with capsys.disabled():
        print(f"\n{code}  qdit {case.command[:100]}  →  {shown[:200]}", end="")
    assert code == case.code, text
    assert case.words in " ".join(text.split()), text
    if case.code:
        errors = [line for line in text.splitlines() if line.startswith("qdit: error: ")]
        assert len(errors) == 1
        assert not Path(folder / "out" / "x").exists()
        assert not list((folder / "out").glob(".*.tmp.*"))
