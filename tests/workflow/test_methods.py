"""One checkout: a bad file stops no other, a command begins a new one, rule files are for what is special."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.preloaded import python as run_python
from tests.workflow.checkout import OVERLAYS, Checkout, Job, copied, jobs_of

WEIGHTS = "weights/dit-digits-natural.safetensors"
DYNAMIC = ("--method", "rtn", "--options", '{"activation": "dynamic"}')


@pytest.fixture(scope="module")
def copy(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy in which nothing has run, with the tests of methods."""
    root = copied(repository, tmp_path_factory.mktemp("methods"))
    for name in ("baselines", "conftest.py", "small_models.py", "small_video_models.py"):
        source, target = repository / "tests" / name, root / "tests" / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)
    shutil.copy2(repository / "pyproject.toml", root)
    return Checkout(root)


def python(copy: Checkout, *arguments: str, code: int = 0) -> str:
    """What `python -m …` in the copy prints; fails unless it exits with `code`, or with a traceback."""
    done = run_python(["-m", *arguments], copy.root, environment={**os.environ, "PYTHONPATH": str(copy.root)})
    text = done.stdout + done.stderr
    assert done.returncode == code and "Traceback" not in text, text
    return text


@pytest.fixture
def bad_files(copy: Checkout):
    """No Python in PTQD's file, a package that is not there in TQ-DiT's, and a name that is not a literal."""
    baselines = copy.root / "baselines"
    texts = {name: (baselines / name).read_text(encoding="utf-8") for name in ("ptqd.py", "tq_dit.py")}
    (baselines / "ptqd.py").write_text(texts["ptqd.py"] + "\ndef oops(:\n", encoding="utf-8")
    (baselines / "tq_dit.py").write_text(f"import no_such_package\n{texts['tq_dit.py']}", encoding="utf-8")
    unread = "from qdit.methods.method import Method\n\n\nclass Late(Method):\n    name = 'late' + 'ly'\n"
    (baselines / "late.py").write_text(unread, encoding="utf-8")
    yield len(texts["ptqd.py"].splitlines()) + 2
    for name, text in texts.items():
        (baselines / name).write_text(text, encoding="utf-8")
    (baselines / "late.py").unlink()


@pytest.mark.ci
def test_a_bad_file_is_one_line_and_stops_no_other_method(copy: Checkout, bad_files: int, tmp_path: Path) -> None:
    ptqd = f"baselines/ptqd.py line {bad_files}: invalid syntax; correct the file"
    late = "baselines/late.py line 5: name = 'late' + 'ly': expected a literal"
    for command in (("ls",), ("validate", "mini")):
        printed = python(copy, "qdit", *command)
        assert f"broken: {ptqd} (no rows of ptqd" in printed and late in printed
    assert ptqd in python(copy, "qdit", "methods") and ptqd in python(copy, "qdit", "methods", "ptqd", code=2)
    python(copy, "qdit", "quantize", WEIGHTS, str(tmp_path / "rtn"), *DYNAMIC)
    for method, words in (("ptqd", ptqd), ("tq-dit", "baselines/tq_dit.py line 1: ModuleNotFoundError: No module")):
        printed = python(copy, "qdit", "quantize", WEIGHTS, str(tmp_path / method), "--method", method, code=2)
        assert words in printed and len(printed.splitlines()) == 1
    examined = python(copy, "qdit", "doctor", code=1)
    assert f"FAIL: {ptqd}" in examined and "FAIL: baselines/tq_dit.py line 1: ModuleNotFoundError" in examined
    assert examined.startswith("mini: NOT READY: a file of methods is broken")


def test_the_workflow_plans_the_other_rows_and_says_which_cannot_be_made(copy: Checkout, bad_files: int) -> None:
    printed = copy.dry_run(overlays=OVERLAYS[:1])
    assert f"qdit: broken: baselines/ptqd.py line {bad_files}: invalid syntax" in printed
    labels = {job.label for job in jobs_of(printed)}
    assert {"fp", "rtn", "tq-dit", "q-dit", "ptqd"} <= labels


RULE = """
use rule quantize as quantize_rtn with:
    input:
        unpack(quantize_inputs("ndtc")),
    wildcard_constraints:
        label=labels_of("rtn"),
    resources:
        mem_mb=12345,
"""


@pytest.mark.ci
def test_a_rule_file_gives_a_method_other_inputs_and_resources(copy: Checkout, tiny_plan: str) -> None:
    assert Job("quantize", "rtn") in jobs_of(tiny_plan)
    rule = copy.root / "rules" / "baselines" / "rtn.smk"
    rule.write_text(RULE, encoding="utf-8")
    try:
        printed = copy.dry_run("--printshellcmds")
    finally:
        rule.unlink()
    (job,) = re.findall(r"^rule quantize_rtn:\n((?:[ ].*\n)*)", printed, flags=re.MULTILINE)
    assert "mem_mb=12345" in job and "ndtc.safetensors" in job and "trajectory" not in job
    (command,) = re.findall(r"^Shell command: (.* --method rtn .*)$", printed, flags=re.MULTILINE)
    assert "--calibration ndtc=results/tiny/" in command and "trajectory" not in command


def test_calibration_data_are_planned_as_the_options_say(tiny_plan: str) -> None:
    blocks = re.findall(r"^rule quantize:\n((?:[ ].*\n)*)", tiny_plan, flags=re.MULTILINE)
    kinds = {}
    for block in blocks:
        inputs, label = re.search(r"input: (.*)", block), re.search(r"label=([^,\n]+)", block)
        assert inputs and label
        kinds.setdefault(label[1], set()).update(re.findall(r"([\w-]+)\.safetensors", inputs[1]))
    weights = {"dit-digits-natural", "dit-digits-salient", "dit-digits-16-natural"}
    assert {
        label: kinds_of_label - weights
        for label, kinds_of_label in kinds.items()
        if label.startswith(("rtn", "g4w", "fp"))
    } == {
        "fp": set(),
        "rtn": {"trajectory"},
        "rtn-no-zero": set(),
        "rtn-g16-static": {"trajectory"},
        "rtn-g16-dynamic": set(),
        "rtn-g36-dynamic": set(),
        "g4w+p4a": {"trajectory", "ndtc"},
    }


@pytest.mark.ci
def test_a_new_method_works_as_it_is_written(copy: Checkout, tmp_path: Path) -> None:
    printed = python(copy, "qdit", "new", "method", "my-method").splitlines()
    files = ["baselines/my_method.py", "tests/baselines/test_my_method.py", "my_method.yaml"]
    assert printed[:3] == files
    try:
        command = re.fullmatch(r"its row: snakemake --cores all (\S+) --configfile (.+)", printed[3])
        assert command is not None
        planned = copy.plan(command[1], overlays=tuple(command[2].split()))
        assert {Job("quantize", "my-method"), Job("sample", "my-method"), Job("table", None)} <= planned
        assert "my_method.yaml: valid" in python(copy, "qdit", "validate", "mini", "my_method.yaml")
        assert "group_size  GroupSize | None  null" in python(copy, "qdit", "methods", "my-method")
        python(copy, "qdit", "quantize", WEIGHTS, str(tmp_path / "checkpoint"), "--method", "my-method")
        tests = ["tests/baselines/test_contract.py", files[1]]
        outcomes = python(copy, "pytest", "-q", *tests, "-k", "my-method or my_method", "-p", "no:cacheprovider")
        assert re.search(r"^\d\d+ passed", outcomes, flags=re.MULTILINE) and "failed" not in outcomes
        for tool in (("check",), ("format", "--check")):
            python(copy, "ruff", *tool, *files[:2])
        assert "exists already" in python(copy, "qdit", "new", "method", "my-method", code=2)
    finally:
        for name in files:
            (copy.root / name).unlink()


REFUSED = {
    "rtn": "a method named 'rtn' exists already",
    "q.dit": "allowed are lower-case letters and digits",
    "g4w-p4a": "a method named 'g4w+p4a' exists already",
    "Mine": "allowed are lower-case letters and digits",
    "../x": "allowed are lower-case letters and digits",
    "x" * 41: "at most 40 characters",
    "import": "means something else in Python",
    "null": "means something else in Python, YAML",
}
"""Names that cannot be → what the message says."""
NAMING = """
import contextlib, io, json, sys
from qdit.cli.main import main
outcomes = {}
for name in sys.argv[1:]:
    text = io.StringIO()
    sys.argv = ["qdit", "new", "method", name]
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(text):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
    outcomes[name] = code, text.getvalue()
print(json.dumps(outcomes))
"""


def test_names_that_cannot_be_are_refused_in_one_line(copy: Checkout) -> None:
    before = sorted(copy.root.rglob("*.py"))
    done = run_python(["-c", NAMING, *REFUSED], copy.root, environment={**os.environ, "PYTHONPATH": str(copy.root)})
    outcomes = json.loads(done.stdout)
    assert outcomes.keys() == REFUSED.keys()
    for name, (code, printed) in outcomes.items():
        assert code == 2 and REFUSED[name] in printed and len(printed.splitlines()) == 1, (name, printed)
    assert sorted(copy.root.rglob("*.py")) == before
