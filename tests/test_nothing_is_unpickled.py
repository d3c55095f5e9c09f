"""No code path of the suite can execute what a file contains: searched for in the sources themselves."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from qdit.workflow.profile_files import UniqueKeyLoader

ROOT = Path(__file__).parents[1]
OFFICIAL_IMPORT = "qdit/models/weights_files.py"
"""The one place where official .pt weights are read, with weights_only=True."""

I3D = "qdit/metrics/vbench/i3d_process.py"
"""The process that opens I3D's TorchScript file, whose sha256 it has checked; nothing imports it to run it."""

OPTIONS = "qdit/workflow/method_options.py"
"""Executes the options dataclass of a method, which is the project's own source or an installed package's, no data."""

PROFILES = "qdit/workflow/profile_files.py"
"""Reads YAML with a safe loader of its own, which refuses repeated keys."""

MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "torch.load",
    "torch.jit.load",
    "torch.hub.load",
    "pd.read_pickle",
    "pandas.read_pickle",
    "yaml.load",
    "yaml.unsafe_load",
}
FLAGS = {("allow_pickle", True), ("trust_remote_code", True), ("weights_only", False)}


def dotted(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def dangers(source: str) -> Iterator[str]:
    """Every import, call or flag in Python source that could run what a file holds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in MODULES:
                yield str(node.module)
            yield from (f"torch.{a.name}" for a in node.names if node.module == "torch" and a.name == "load")
        elif isinstance(node, ast.Call):
            if dotted(node.func) in BUILTINS | CALLS:
                yield ast.unparse(node)
            for keyword in node.keywords:
                if isinstance(keyword.value, ast.Constant) and (keyword.arg, keyword.value.value) in FLAGS:
                    yield f"{keyword.arg}={keyword.value.value}"


def sources() -> list[Path]:
    return sorted(p for package in ("qdit", "baselines") for p in (ROOT / package).rglob("*.py"))


def test_the_only_unpickling_is_the_weights_only_import() -> None:
    calls = {path.relative_to(ROOT).as_posix(): list(dangers(path.read_text(encoding="utf-8"))) for path in sources()}
    assert len(calls) > 10
    official = calls.pop(OFFICIAL_IMPORT)
    assert len(official) == 1 and official[0].startswith("torch.load(") and "weights_only=True" in official[0]
    assert len(i3d := calls.pop(I3D)) == 1 and i3d[0].startswith("torch.jit.load(io.BytesIO(content)")
    assert len(options := calls.pop(OPTIONS)) == 2 and options[0].startswith("exec(compile(ast.Module([node], [])")
    assert calls.pop(PROFILES) == ["yaml.load(text, Loader=UniqueKeyLoader)"]
    assert {name: what for name, what in calls.items() if what} == {}


def test_the_loader_of_profiles_is_safe() -> None:
    assert issubclass(UniqueKeyLoader, yaml.SafeLoader | yaml.CSafeLoader)
    with pytest.raises(yaml.constructor.ConstructorError):
        yaml.load("!!python/object/apply:os.getcwd []", Loader=UniqueKeyLoader)


def test_rules_run_nothing_from_files() -> None:
    pattern = re.compile(
        r"torch\.load\(|\bimport (pickle|dill|joblib)|\b(?<!\.)(eval|exec)\(|allow_pickle=True|trust_remote_code"
    )
    rules = [ROOT / "Snakefile", *(ROOT / "rules").rglob("*.smk")]
    for path in rules:
        if path.exists():
            assert not pattern.search(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "eval('1')",
        "np.load('x', allow_pickle=True)",
        "f(trust_remote_code=True)",
        "f(weights_only=False)",
        "import pandas as pd\npd.read_pickle('x')",
        "yaml.load(text)",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert list(dangers(source))


def test_the_search_lets_ordinary_code_pass() -> None:
    assert not list(dangers("model.eval()\nnp.load('x', allow_pickle=False)\nyaml.safe_load(t)\n'torch.load('"))
