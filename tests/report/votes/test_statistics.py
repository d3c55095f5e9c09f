"""Votes: closed forms and textbook values of every statistic, and files that are refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdit.core.errors import DataError
from qdit.report.votes.statistics import (
    bootstrap_scores,
    bradley_terry,
    cohen_kappa,
    fleiss_kappa,
    read_ballot,
    read_ballots,
    sign_test,
    wilson,
)

Z = 1.959963984540054


@pytest.mark.parametrize("trials", [1, 10, 200])
def test_wilson_of_no_wins_and_of_all(trials: int) -> None:
    edge = Z**2 / (trials + Z**2)
    assert wilson(0, trials) == pytest.approx((0, edge), abs=1e-12)
    assert wilson(trials, trials) == pytest.approx((1 - edge, 1), abs=1e-12)


def test_wilson_solves_its_defining_equation() -> None:
    for end in wilson(7, 20):  # |share − p| is z standard errors of p itself
        assert abs(7 / 20 - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / 20))
    assert wilson(0, 0) == (0, 1)


def test_sign_test_is_the_binomial_tail() -> None:
    assert sign_test(5, 0) == pytest.approx(2 / 2**5)
    assert sign_test(9, 1) == pytest.approx(2 * 11 / 2**10)
    assert sign_test(4, 4) == 1 and sign_test(0, 0) == 1


def test_two_methods_have_the_log_odds() -> None:
    scores = bradley_terry(np.array([[0, 12], [3, 0]], np.float64), prior=0)
    assert scores[0] - scores[1] == pytest.approx(math.log(12 / 3), abs=1e-5)
    assert scores.sum() == pytest.approx(0, abs=1e-12)


def test_scores_expect_as_many_wins_as_there_were() -> None:
    wins = np.array([[0, 5, 9], [4, 0, 6.5], [2, 3.5, 0]])
    scores = bradley_terry(wins, prior=0)
    share = 1 / (1 + np.exp(scores[None, :] - scores[:, None]))
    assert ((wins + wins.T) * share).sum(axis=1) == pytest.approx(wins.sum(axis=1), abs=1e-3)
    assert bradley_terry(wins.T, prior=0) == pytest.approx(-scores, abs=1e-4)


def test_prior_keeps_one_that_never_lost_finite_and_gives_way_to_votes() -> None:
    few, many = (bradley_terry(np.array([[0, count], [0, 0.0]])) for count in (2, 2000))
    assert 0 < few[0] < many[0] < 20
    assert bradley_terry(np.zeros((3, 3))) == pytest.approx(0, abs=1e-9)


def test_bootstrap_repeats_itself_and_is_wider_with_fewer_votes() -> None:
    def width(times: int) -> float:
        votes = [[(0, 1, 1.0), (0, 1, 0.0), (0, 1, 1.0)] * times for _ in range(4)]
        scores = bootstrap_scores(votes, 2, draws=200)
        assert np.array_equal(scores, bootstrap_scores(votes, 2, draws=200))
        assert np.abs(scores.sum(axis=1)).max() < 1e-12
        return float(np.ptp(np.quantile(scores[:, 0], [0.025, 0.975])))

    assert width(20) < width(2) / 2
    ties = bootstrap_scores([[(0, 1, 0.5)] * 5], 2, draws=100)
    assert ties == pytest.approx(0, abs=1e-9)


def test_cohen_kappa_of_a_worked_example() -> None:
    """20 yes–yes, 5 yes–no, 10 no–yes, 15 no–no: observed 0.7, by chance 0.5."""
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa(first, first) == pytest.approx(1)
    assert cohen_kappa(["yes", "no"], ["no", "yes"]) == pytest.approx(-1)
    assert cohen_kappa(["yes"] * 3, ["yes"] * 3) is None and cohen_kappa([], []) is None


def test_fleiss_kappa_of_a_worked_example() -> None:
    """Ten subjects, fourteen raters, five categories; 0.210 by hand."""
    rows = "0 0 0 0 14,0 2 6 4 2,0 0 3 5 6,0 3 9 2 0,2 2 8 1 1,7 7 0 0 0,3 2 6 3 0,2 5 3 2 2,6 5 2 1 0,0 2 2 3 7"
    counts = np.array([row.split() for row in rows.split(",")], np.float64)
    assert fleiss_kappa(counts) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa(np.array([[3, 0], [0, 3.0]])) == pytest.approx(1)
    assert fleiss_kappa(np.array([[3, 0], [3, 0.0]])) is None and fleiss_kappa(np.zeros((0, 3))) is None


def ballot(**changes: Any) -> dict[str, Any]:
    votes = [{"trial": 0, "choice": "left"}, {"trial": 3, "choice": "tie"}]
    return {"format": "qdit-votes-1", "page": "ab" * 32, "voter": "Anna", "votes": votes} | changes


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_a_file_of_votes_is_read(tmp_path: Path) -> None:
    found = read_ballot(write(tmp_path / "a.json", ballot()))
    assert found.votes == {0: "left", 3: "tie"} and found.voter == "Anna" and found.page == "ab" * 32


@pytest.mark.parametrize(
    "value",
    [
        "no JSON",
        [],
        ballot(format="qdit-votes-0"),
        ballot(page=None),
        ballot(voter=3),
        ballot(votes={}),
        ballot(votes=[]),
        ballot(votes=[3]),
        ballot(votes=[{"trial": -1, "choice": "left"}]),
        ballot(votes=[{"trial": True, "choice": "left"}]),
        ballot(votes=[{"trial": 0, "choice": "both"}]),
        ballot(votes=[{"trial": 0, "choice": ["left"]}]),
        ballot(votes=[{"trial": 0, "choice": "left"}] * 2),
    ],
)
def test_malformed_votes_are_refused_in_one_line(tmp_path: Path, value: Any) -> None:
    path = write(tmp_path / "a.json", value)
    with pytest.raises(DataError) as refused:
        read_ballot(path)
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)


def test_a_file_that_is_missing_or_given_twice_is_refused(tmp_path: Path) -> None:
    one, same = (write(tmp_path / f"{name}.json", ballot()) for name in ("one", "same"))
    with pytest.raises(DataError, match=r"same\.json: the same votes as .*one\.json"):
        read_ballots([one, same])
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        read_ballots([one, tmp_path / "none.json"])


def test_two_files_of_one_voter_are_refused(tmp_path: Path) -> None:
    votes = ballot()["votes"]
    whole, part = write(tmp_path / "whole.json", ballot()), write(tmp_path / "part.json", ballot(votes=votes[:1]))
    with pytest.raises(
        DataError, match=r"part\.json: is a second file of Anna, beside .*whole\.json; give only the last"
    ):
        read_ballots([whole, part])
    nameless = [
        write(tmp_path / f"{number}.json", ballot(voter="", votes=some))
        for number, some in enumerate((votes[:1], votes))
    ]
    with pytest.raises(
        DataError, match=r"1\.json: is a second file of one voter, whose votes are in both, beside .*0\."
    ):
        read_ballots(nameless)
    other = write(tmp_path / "other.json", ballot(voter="", votes=[{"trial": 0, "choice": "tie"}]))
    elsewhere = write(tmp_path / "elsewhere.json", ballot(page="cd" * 32))
    assert len(read_ballots([whole, nameless[1], other, elsewhere])) == 4
