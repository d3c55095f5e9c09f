"""The digest of a step's code changes with exactly the files that the step imports."""

from collections.abc import Callable
from pathlib import Path

import pytest

from qdit.core.digest import code_digest, import_closure
from qdit.core.errors import ConfigError
from qdit.core.repository import ROOT

SOURCES = {
    "qdit/__init__.py": "",
    "qdit/step.py": "import json\nfrom qdit.part import tool\n\ndef f():\n    from qdit.deep.leaf import g\n",
    "qdit/part.py": "import qdit.base\ntool = 1\n",
    "qdit/base.py": "from qdit.step import f\n",
    "qdit/deep/__init__.py": "from .sibling import x\n",
    "qdit/deep/leaf.py": "g = 1\n",
    "qdit/deep/sibling.py": "from .. import relative\nx = 1\n",
    "qdit/relative.py": "",
    "qdit/unrelated.py": "",
    "baselines/__init__.py": "",
    "baselines/rtn.py": "from qdit import part\n",
    "baselines/other.py": "",
    "results.py": "",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, source in SOURCES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path


def names(root: Path, *modules: str) -> set[str]:
    return {path.relative_to(root).as_posix() for path in import_closure(*modules, root=root)}


def test_closure_follows_every_form_of_import(tree: Path) -> None:
    outside = {"qdit/unrelated.py", "baselines/__init__.py", "baselines/rtn.py", "baselines/other.py", "results.py"}
    assert names(tree, "qdit.step") == set(SOURCES) - outside


def test_closure_of_a_method_holds_its_own_file_only(tree: Path) -> None:
    result = names(tree, "baselines.rtn")
    assert {"baselines/__init__.py", "baselines/rtn.py", "qdit/part.py"} <= result
    assert "baselines/other.py" not in result


@pytest.mark.parametrize("name", SOURCES)
def test_digest_changes_with_the_closure_and_nothing_else(tree: Path, name: str) -> None:
    before = code_digest("qdit.step", root=tree)
    inside = name in names(tree, "qdit.step")
    path = tree / name
    path.write_text(path.read_text() + "# edited\n")
    assert (code_digest("qdit.step", root=tree) != before) is inside


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "qdit/part.py").rename(root / "qdit/party.py"),
        lambda root: (root / "qdit/deep/leaf.py").unlink(),
        lambda root: (root / "qdit/part.py").write_text("from qdit import unrelated\n"),
    ],
)
def test_digest_sees_moved_and_newly_imported_files(tree: Path, change: Callable[[Path], object]) -> None:
    before = code_digest("qdit.step", root=tree)
    change(tree)
    assert code_digest("qdit.step", root=tree) != before


def test_digest_does_not_depend_on_the_place_or_the_order(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy") / "elsewhere"
    tree.rename(copy)
    digest = code_digest("qdit.step", "baselines.rtn", root=copy)
    copy.rename(tree)
    assert code_digest("baselines.rtn", "qdit.step", root=tree) == digest


def test_contents_cannot_move_between_files_unseen(tree: Path) -> None:
    before = code_digest("baselines.rtn", root=tree)
    first, second = tree / "qdit/part.py", tree / "qdit/base.py"
    texts = first.read_text(), second.read_text()
    first.write_text(texts[1])
    second.write_text(texts[0])
    assert code_digest("baselines.rtn", root=tree) != before


def test_unknown_module_is_refused(tree: Path) -> None:
    with pytest.raises(ConfigError, match=r"module 'qdit\.stepp': no such file"):
        code_digest("qdit.stepp", root=tree)


@pytest.mark.parametrize(
    "step",
    [
        "qdit.sampling.calibration",
        "qdit.methods.quantize",
        "qdit.sampling.run",
        "qdit.metrics.extraction",
        "qdit.mini.reference",
        "qdit.metrics.run",
        "qdit.report.pages.build",
    ],
)
def test_no_step_depends_on_a_method_or_the_command_line(step: str) -> None:
    result = names(ROOT, step)
    assert f"{step.replace('.', '/')}.py" in result
    assert not [
        name
        for name in result
        if name.startswith("baselines/") or name in ("qdit/methods/q_dit.py", "qdit/cli/main.py")
    ]


def test_images_do_not_depend_on_how_they_are_scored() -> None:
    assert not {name for name in names(ROOT, "qdit.sampling.run") if name.startswith("qdit/metrics/")}
    scoring = {
        f"qdit/metrics/{name}.py" for name in ("evaluate", "frechet", "run", "scores", "statistics", "reference")
    }
    assert not scoring & names(ROOT, "qdit.metrics.extraction")


def test_sampling_does_not_depend_on_how_checkpoints_are_made() -> None:
    result = names(ROOT, "qdit.sampling.run")
    assert (
        not {
            "qdit/methods/method.py",
            "qdit/methods/quantize.py",
            "qdit/quant/gptq.py",
            "qdit/metrics/run.py",
            "qdit/report/pages/build.py",
        }
        & result
    )


def test_a_file_that_is_no_python_is_named_with_its_line(tree: Path) -> None:
    (tree / "qdit/part.py").write_text("tool = 1\ndef oops(:\n")
    with pytest.raises(ConfigError, match=r"qdit/part\.py line 2: invalid syntax; correct the file"):
        code_digest("qdit.step", root=tree)


@pytest.fixture
def tree_with_data(tree: Path) -> Path:
    (tree / "qdit/part.py").write_text('import qdit.base\nPACKAGE_DATA = ("pages", "../qdit/styles")\n')
    for name in ("pages/page.html", "styles/page.css", "unread/page.js"):
        path = tree / "qdit" / name
        path.parent.mkdir()
        path.write_text(name)
    return tree


@pytest.mark.parametrize(
    ("name", "inside"), [("pages/page.html", True), ("styles/page.css", True), ("unread/page.js", False)]
)
def test_digest_covers_the_data_that_a_module_of_the_closure_names(
    tree_with_data: Path, name: str, inside: bool
) -> None:
    before = code_digest("qdit.step", root=tree_with_data)
    assert (f"qdit/{name}" in names(tree_with_data, "qdit.step")) is inside
    (tree_with_data / "qdit" / name).write_text("edited")
    assert (code_digest("qdit.step", root=tree_with_data) != before) is inside
    before = code_digest("qdit.step", root=tree_with_data)
    (tree_with_data / "qdit" / name).with_suffix(".new").write_text("added")
    assert (code_digest("qdit.step", root=tree_with_data) != before) is inside


def test_data_belong_to_the_steps_that_import_their_module_only(tree_with_data: Path) -> None:
    before = code_digest("baselines.other", root=tree_with_data)
    (tree_with_data / "qdit/pages/page.html").write_text("edited")
    assert code_digest("baselines.other", root=tree_with_data) == before


@pytest.mark.parametrize(
    ("value", "message"),
    [('("page",)', "'page', no such folder"), ('"pages"', "line 1: .* tuple of texts"), ("(1,)", "tuple of texts")],
)
def test_wrong_package_data_are_refused(tree_with_data: Path, value: str, message: str) -> None:
    (tree_with_data / "qdit/part.py").write_text(f"PACKAGE_DATA = {value}\n")
    with pytest.raises(ConfigError, match=message):
        code_digest("qdit.step", root=tree_with_data)


@pytest.mark.parametrize(
    "step",
    [
        "qdit.report.pages.build",
        "qdit.report.pages.claims_page",
        "qdit.report.pages.leaderboard",
        "qdit.report.pages.run_report",
        "qdit.report.votes.ab_page",
    ],
)
def test_steps_that_render_pages_depend_on_their_templates_and_styles(step: str) -> None:
    report = ROOT / "qdit/report"
    files = {
        path.relative_to(ROOT).as_posix() for name in ("templates", "static") for path in (report / name).iterdir()
    }
    assert files and files <= names(ROOT, step)
    assert not files & names(ROOT, "qdit.metrics.run")
