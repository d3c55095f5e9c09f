"""The power study on made-up rows: which pairs are told apart, the rule of the ranking column, and the page."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qdit.bench import power_study as module
from qdit.bench.power_study import chosen, entries, mean_share, metrics_studied, power_study, separations
from qdit.bench.power_study_page import page_text, write_page
from qdit.core.errors import DataError
from qdit.core.ranking import ranking_metric


def measured(shares: list[float], consistent: float = 1.0) -> list[dict[str, Any]]:
    sizes = (8, 32, 128, 512)
    return [
        {"images": n, "pairs": 10, "share": share, "consistent": consistent}
        for n, share in zip(sizes, shares, strict=True)
    ]


def test_the_rule_takes_the_largest_mean_of_consistent_paired_metrics() -> None:
    shares = {
        "fid": measured([1.0] * 4),
        "fd_fp": measured([0.2, 0.4, 0.6, 0.9]),
        "mse_fp": measured([0.5, 0.6, 0.9, 0.9]),
    }
    assert chosen(shares) == "mse_fp", "FID is not paired"
    assert chosen(shares | {"mse_fp": measured([0.5, 0.6, 0.9, 0.9], consistent=0.9)}) == "fd_fp"
    close = shares | {"fd_fp": measured([0.5, 0.59, 0.86, 0.1])}
    assert chosen(close) == "fd_fp", "within two points the first column ranks; 512 images do not count"
    assert chosen({"fid": measured([1.0] * 4)}) is None
    assert mean_share(measured([0.3, 0.6, 0.9, 0.0])) == pytest.approx(0.6)


def test_shares_are_counts_of_pairs() -> None:
    found = entries({64: [10, 5, 4], 8: [10, 0, 0]})
    assert found == [
        {"images": 8, "pairs": 10, "share": 0.0, "consistent": None},
        {"images": 64, "pairs": 10, "share": 0.5, "consistent": 0.8},
    ]


class FakeRow:
    """A row whose metric has a mean and a deviation that falls with the number of images."""

    images, is_full_precision = 64, False

    def __init__(self, mean: float) -> None:
        self.mean = mean


def test_more_images_tell_more_pairs_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    draw = np.random.default_rng(0).normal(size=200)

    def values(results: Path, row: Any, full: Any, sizes: list[int]) -> Any:
        return {("mse_fp", n): (row.mean, row.mean * (1 + draw / np.sqrt(n))) for n in sizes}

    monkeypatch.setattr(module, "resampled", values)
    members: list[Any] = [FakeRow(mean) for mean in (1.0, 1.3, 4.0)]
    full: Any = FakeRow(0.0)
    found = separations(tmp_path, members, full, (2, 16, 128))
    assert found == {("mse_fp", 2): [3, 0, 0], ("mse_fp", 16): [3, 3, 3], ("mse_fp", 64): [3, 3, 3]}


def test_without_rows_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no two measured rows"):
        power_study(tmp_path)
    assert metrics_studied()[:3] == ("fid", "fd_fp", "mse_fp")


def test_a_setting_without_rows_is_not_left_out_in_silence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def row(bits: str, full: bool = False) -> Any:
        return SimpleNamespace(group=("a", "natural", "common", bits), is_full_precision=full)

    monkeypatch.setattr(module, "rows_of", lambda results: [row("w16a16", True), row("w4a8"), row("w4a8")])
    monkeypatch.setattr(module, "separations", lambda *arguments: pytest.fail("it has begun already"))
    with pytest.raises(DataError, match=r"--setting b: .*/runs has no two measured rows of it; others are a"):
        power_study(tmp_path, settings=["a", "b"])


def test_the_page_says_the_shares_and_the_choice(tmp_path: Path) -> None:
    plan = {"groups": [{"rows": 7}, {"rows": 3}], "counted_up_to": 128}
    metrics = {"fd_fp": measured([0.2, 0.4, 0.6, 0.9]), "mse_fp": measured([0.5, 0.6, 0.9, 0.9])}
    study = {"plan": plan, "metrics": metrics, "chosen": "mse_fp"}
    for name in ("a", "b"):
        write_page(study, tmp_path / f"{name}.md", tmp_path / f"{name}.svg")
    text = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "10 rows of the tables" in text and "there are 2 such groups" in text
    assert "| FD-FP | 20% | 40% | 60% | 90% | 40.0% | 100.0% |" in text
    assert "The rule takes MSE-FP." in text and "do not compare" not in text
    assert "The tables still rank by PSNR-FP." in text
    ranks = page_text(study | {"chosen": ranking_metric().name}, Path("a.svg"))
    assert "The rule takes PSNR-FP. All tables and the leaderboard rank by it." in ranks
    shorter = {"mse_fp": [*measured([0.5] * 4)[:3], {"images": 512, "pairs": 4, "share": 0.5, "consistent": 1.0}]}
    fewer = page_text(study | {"metrics": shorter}, Path("a.svg"))
    assert "Fewer rows have 512 images. So do not compare this column with the others." in fewer
