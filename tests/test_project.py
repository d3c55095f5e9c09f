"""The repository as a whole: style, types, layers, locked versions, and that what the documents name exists."""

import ast
import csv
import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import LONGEST, TOGETHER
from tests.preloaded import snakemake

APACHE_2 = "0ffddef9e48f8a09aed5caf2d44f7ba1c1be2d9b8e0a6f693b1635b2d5566645"
"""sha256 of the words of the licence, one space between them."""

PUBLISHED_COLUMNS = {
    "table1": "resolution group_size fid sfid",
    "table2": "model resolution steps cfg_scale weight_bits activation_bits method size_mb fid sfid is precision",
    "table3": "method weight_bits activation_bits subject_consistency overall_consistency temporal_style"
    " appearance_style scene spatial_relationship color human_action multiple_objects object_class imaging_quality"
    " aesthetic_quality dynamic_degree motion_smoothness temporal_flickering background_consistency",
    "table4": "step fid sfid is",
    "table5": "method weight_bits activation_bits fid sfid is precision",
    "table6": "search fid sfid is precision",
}
PUBLISHED_COLUMNS |= dict.fromkeys(("ptq4dit_table1", "tq_dit"), PUBLISHED_COLUMNS["table2"])
PUBLISHED_COLUMNS["methods"] = (
    "model steps weight_bits activation_bits format method fid image_reward lpips_fp psnr_fp source"
)


def run(repository: Path, tool: str, *arguments: str) -> None:
    """Run a tool of this environment; the test fails with what it printed."""
    command = [str(Path(sys.executable).parent / tool), *arguments]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{tool} {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(
    "command",
    [
        "ruff check .",
        "ruff format --check .",
        pytest.param("mypy", marks=pytest.mark.ci),
        "lint-imports",
        "snakefmt --check Snakefile rules",
    ],
)
def test_tool_is_clean(repository: Path, command: str) -> None:
    run(repository, *command.split())


def test_groups_of_tests_that_start_first_exist(repository: Path) -> None:
    files = {f"tests/workflow/test_{name}.py" for names in TOGETHER.values() for name in names}
    files |= set(LONGEST) - TOGETHER.keys()
    assert {file for file in files if not (repository / file).is_file()} == set()


def test_the_workflow_is_clean(repository: Path) -> None:
    done = snakemake(["--lint"], repository)
    assert done.returncode == 0, done.stdout + done.stderr


def pyproject(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))


def normalized(name: str) -> str:
    """Package names compare as PEP 503 says."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(line: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", line)
    assert name, line
    return normalized(name[0])


def locked(repository: Path) -> list[str]:
    """Requirements of the lock with their markers, without comments."""
    lines = (repository / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line and not line.lstrip().startswith("#")]


def test_lock_pins_every_package(repository: Path) -> None:
    unpinned = [line for line in locked(repository) if not re.match(r"[a-z0-9._-]+==[0-9][^ ;]*( ;|$)", line)]
    assert not unpinned


def test_lock_names_no_place_outside_the_repository(repository: Path) -> None:
    for name in ("requirements.lock", "environment.yml"):
        text = (repository / name).read_text(encoding="utf-8")
        assert not re.search(r"https?://|file:|(?:^|[\s=])/\w|--(?:extra-)?index-url|--find-links", text), name


def test_lock_has_the_versions_the_numbers_were_made_with(repository: Path) -> None:
    assert {"torch==2.15.0", "torchvision==0.29.2", "torch-fidelity==0.4.0"} <= set(locked(repository))


def test_lock_covers_every_direct_dependency(repository: Path) -> None:
    project = pyproject(repository)["project"]
    direct = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {requirement_name(line) for line in direct} <= {requirement_name(line) for line in locked(repository)}


def test_conda_installs_the_locked_versions(repository: Path) -> None:
    environment = yaml.safe_load((repository / "environment.yml").read_text(encoding="utf-8"))
    by_pip = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    by_conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert by_pip == [locked(repository)]
    assert sorted(by_conda) == ["pip", "python=3.11"]


def test_interpreter_is_one_the_lock_was_resolved_for(repository: Path) -> None:
    resolved_for = (repository / "requirements.lock").read_text(encoding="utf-8").splitlines()[1]
    assert "--universal --python-version 3.11 --extra dev" in resolved_for
    assert pyproject(repository)["project"]["requires-python"].startswith(">=3.11")


def test_the_house_has_thirteen_rooms_and_three_loose_files(repository: Path) -> None:
    contracts = pyproject(repository)["tool"]["importlinter"]["contracts"]
    house = next(contract for contract in contracts if contract.get("containers") == ["qdit"])
    assert house["exhaustive"]
    listed = {room.strip() for floor in house["layers"] for room in floor.split("|")}
    rooms = {path.parent.name for path in (repository / "qdit").glob("*/__init__.py")}
    loose = {path.name for path in (repository / "qdit").glob("*.py")}
    assert len(rooms) == 13 and loose == {"__init__.py", "__main__.py", "diffusers.py"}
    assert rooms | {"diffusers"} == listed


MOST_PARAMETERS, MOST_LINES, MOST_OLD_NAMES = 10, 350, 20

TRITON_KERNELS = {
    "codes_kernel",
    "narrow_kernel",
    "linear_kernel",
    "channel_kernel",
    "inputs_kernel",
    "fake_groups_kernel",
    "fake_static_kernel",
    "entered",
}
"""Triton passes each pointer, stride and constant of a kernel as a parameter of its own."""

OLD_NAMES = re.compile(r"\b(found|own|place|made|given) =|\basked\b")
"""Names that do not say what they hold."""


def parameters_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Number of parameters but `self` and `cls`."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    others = [extra for extra in (arguments.vararg, arguments.kwarg) if extra is not None]
    return len([argument for argument in (*named, *others) if argument.arg not in ("self", "cls")])


def sources(repository: Path, *folders: str) -> dict[str, str]:
    """Path below the repository → text of every Python file."""
    files = [file for folder in folders for file in sorted((repository / folder).rglob("*.py"))]
    return {file.relative_to(repository).as_posix(): file.read_text(encoding="utf-8") for file in files}


def test_functions_take_few_parameters(repository: Path) -> None:
    """Commands of the CLI have one for each option; facts that several functions need travel as one object."""
    too_many = [
        f"{path}: {function.name}"
        for path, text in sources(repository, "qdit", "baselines", "rules").items()
        for function in ast.walk(ast.parse(text))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and parameters_of(function) > MOST_PARAMETERS
        if not path.startswith("qdit/cli/") and function.name not in TRITON_KERNELS
    ]
    assert not too_many


def test_files_are_short(repository: Path) -> None:
    lines = {path: text.count("\n") for path, text in sources(repository, "qdit", "baselines", "rules").items()}
    rules = {path.as_posix(): path.read_text().count("\n") for path in (repository / "rules").rglob("*.smk")}
    assert not [path for path, count in (lines | rules).items() if count > MOST_LINES]


def test_names_say_what_they_hold(repository: Path) -> None:
    named = [
        f"{path}: {line.strip()}"
        for path, text in sources(repository, "qdit", "baselines").items()
        for line in text.splitlines()
        if OLD_NAMES.search(line)
    ]
    assert len(named) <= MOST_OLD_NAMES, "\n".join(named)


def test_licence_is_apache_2(repository: Path) -> None:
    words = " ".join((repository / "LICENSE").read_text(encoding="utf-8").split())
    assert hashlib.sha256(words.encode()).hexdigest() == APACHE_2
    assert pyproject(repository)["project"]["license"] == "Apache-2.0"


def test_citation_has_what_the_format_requires(repository: Path) -> None:
    citation = yaml.safe_load((repository / "CITATION.cff").read_text(encoding="utf-8"))
    project = pyproject(repository)["project"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"] and citation["title"] and citation["authors"] == [{"name": "The qdit contributors"}]
    assert str(citation["version"]) == project["version"] and citation["license"] == project["license"]
    (paper,) = citation["references"]
    assert len(paper["authors"]) == 8 and all(set(a) == {"family-names", "given-names"} for a in paper["authors"])
    assert paper["year"] == 2025 and paper["type"] == "conference-paper" and "2406.17343" in paper["url"]


def test_changelog_has_an_entry_for_this_version(repository: Path) -> None:
    text = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{pyproject(repository)['project']['version']}]" in text
    assert "**performance-impacting**" in text


@pytest.mark.parametrize("table", PUBLISHED_COLUMNS)
def test_published_table_has_the_columns_of_the_paper(repository: Path, table: str) -> None:
    with (repository / "results" / "published" / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == PUBLISHED_COLUMNS[table].split()
    assert rows and all(len(row) == len(header) for row in rows)


def test_no_other_table_is_published(repository: Path) -> None:
    tables = {path.stem for path in (repository / "results" / "published").glob("*.csv")}
    assert tables == set(PUBLISHED_COLUMNS)


def make_targets(repository: Path) -> set[str]:
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, flags=re.MULTILINE))


def test_make_has_the_targets_that_the_readme_calls(repository: Path) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    # Only code counts: "make" is also a word.
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", readme, flags=re.DOTALL))
    called = set(re.findall(r"\bmake ([a-z][a-z-]*)", code))
    assert {"reproduce", "test"} <= called
    assert called <= make_targets(repository)


def test_make_describes_every_target(repository: Path) -> None:
    done = subprocess.run(["make", "--silent"], cwd=repository, capture_output=True, text=True, check=True, timeout=60)
    assert {line.split()[0] for line in done.stdout.splitlines()} == make_targets(repository)


def test_continuous_integration_runs_the_tests_and_the_workflow(repository: Path) -> None:
    script = repository / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=60)
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text and '\nmake test MARKERS="not slow"\n' in text
    for configuration in re.search(r"--configfile ((?:[\w/]+\.yaml ?)+)", text)[1].split():
        assert (repository / configuration).is_file(), configuration
