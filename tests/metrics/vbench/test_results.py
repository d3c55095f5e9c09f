"""VBench's results gathered: normalisation and totals by hand, and what cannot be gathered."""

from pathlib import Path
from typing import Any

import pytest

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import write_json
from qdit.core.metrics import DIMENSIONS
from qdit.metrics.vbench.needed_weights import WEIGHTS
from qdit.metrics.vbench.results import RANGES, gather, known_dimension, normalised
from qdit.metrics.vbench_totals import totals
from qdit.workflow.vbench_env import LOCK, install, installer, is_installed, python_of

ROOT = Path(__file__).parents[3]


def ends(which: int) -> dict[str, float]:
    return {dimension: RANGES.get(dimension, (0.0, 1.0))[which] for dimension in DIMENSIONS}


def result(dimension: str, score: float, **changed: Any) -> dict[str, Any]:
    found = {"dimension": dimension, "score": score, "clips": {"a-0.mp4": score}, "skipped": [], "samples": 1}
    found |= {"suite_sha256": "0", "packages": {"vbench": "0.1.5"}, "weights_sha256": {}}
    return found | {"clips_sha256": {"a-0.mp4": "0"}} | changed


def files(folder: Path, results: list[dict[str, Any]]) -> list[Path]:
    paths = [folder / f"{number}.json" for number in range(len(results))]
    for path, content in zip(paths, results, strict=True):
        write_json(path, content)
    return paths


def test_the_driver_has_table_3s_dimensions_in_its_order() -> None:
    assert tuple(WEIGHTS) == DIMENSIONS


@pytest.mark.parametrize(("which", "total"), [(0, 0.0), (1, 1.0)])
def test_the_ends_of_all_ranges_are_0_and_1(which: int, total: float) -> None:
    assert set(normalised(ends(which)).values()) == {total}
    assert totals(normalised(ends(which))) == pytest.approx({"quality": total, "semantic": total, "total": total})


@pytest.mark.parametrize(
    ("dimension", "score", "quality", "semantic"),
    [
        ("dynamic_degree", 1.0, 0.5 / 6.5, 0),
        ("imaging_quality", 0.65, 0.65 / 6.5, 0),
        ("motion_smoothness", 0.85175, 0.5 / 6.5, 0),
        ("scene", 0.4111, 0, 0.5 / 9),
        ("overall_consistency", 0.273, 0, 0.75 / 9),
        ("human_action", 0.9, 0, 0.1),
    ],
)
def test_one_dimension_alone(dimension: str, score: float, quality: float, semantic: float) -> None:
    found = totals(normalised(ends(0) | {dimension: score}))
    assert found == pytest.approx({"quality": quality, "semantic": semantic, "total": (4 * quality + semantic) / 5})


def test_all_sixteen_are_gathered_in_order_with_totals(tmp_path: Path) -> None:
    paths = files(tmp_path, [result(name, value) for name, value in reversed(ends(1).items())])
    found = gather(paths)
    assert tuple(found["scores"]) == DIMENSIONS and found["missing"] == []
    assert found["totals"]["total"] == pytest.approx(1) and found["protocol"] == "VBench 0.1.5"
    assert found["results"]["scene"] == [0.8222, {"a-0.mp4": 0.8222}]


def test_without_all_sixteen_there_are_no_totals(tmp_path: Path) -> None:
    found = gather(files(tmp_path, [result("temporal_flickering", 0.9)]))
    assert found["totals"] is None and len(found["missing"]) == 15 and "temporal_flickering" not in found["missing"]
    assert found["normalised"]["temporal_flickering"] == pytest.approx((0.9 - 0.6293) / (1 - 0.6293))
    with pytest.raises(DataError, match="missing are subject_consistency"):
        totals(normalised(found["scores"]))


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([result("scene", 0.5), result("scene", 0.5)], "a second score of scene"),
        ([result("scene", 0.5), result("color", 0.5, samples=5)], "differ in samples"),
        ([result("scene", 0.5), result("color", 0.5, suite_sha256="1")], "differ in suite_sha256"),
        ([result("scene", 0.5), result("color", 0.5, clips_sha256={"a-0.mp4": "1"})], "color: was scored on another"),
        ([{"scene": [0.5, []]}], "not the score of a VBench dimension"),
        ([{name: value for name, value in result("scene", 0.5).items() if name != "clips_sha256"}], "not the score of"),
        ([result("flow", 0.5)], "not the score of a VBench dimension"),
        ([], "no scores to gather"),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path: Path, results: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        gather(files(tmp_path, results))


def test_a_dimension_is_known_by_its_name() -> None:
    assert known_dimension("color") == "color"
    with pytest.raises(ConfigError, match="did you mean 'temporal_flickering'"):
        known_dimension("temporal_flicker")


def test_the_conda_environment_has_the_locked_packages() -> None:
    import yaml

    environment = yaml.safe_load((ROOT / "rules/envs/vbench.yaml").read_text())
    python, pip, packages = environment["dependencies"]
    locked = [line for line in LOCK.read_text().split() if not line.startswith("pip==")]
    assert (python, pip, packages["pip"]) == ("python=3.11", "pip", locked)
    assert {"vbench==0.1.5", "torch==2.5.1", "numpy==1.26.4"} <= set(locked)


def test_an_installation_is_known_by_its_lock_and_other_folders_are_left_alone(tmp_path: Path) -> None:
    import hashlib

    assert not is_installed(tmp_path)
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something that is not a Python environment"):
        install(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
    write_json(tmp_path / "qdit-vbench.json", {"lock_sha256": "0"})
    assert not is_installed(tmp_path)
    write_json(tmp_path / "qdit-vbench.json", {"lock_sha256": hashlib.sha256(LOCK.read_bytes()).hexdigest()})
    assert is_installed(tmp_path) and install(tmp_path) is False


def test_the_installer_takes_the_lock_and_nothing_else(tmp_path: Path) -> None:
    made, filled = installer(tmp_path)
    assert made[-1] == str(tmp_path) and filled[-2:] == ["-r", str(LOCK)]
    assert str(python_of(tmp_path)) in filled
