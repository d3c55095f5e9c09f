"""Read the files of votes from the blind A/B page, and compute statistics of methods and voters.

The statistics are shares with Wilson's interval, the sign test, Bradley–Terry scores with a bootstrap, and Cohen's and
Fleiss' kappa.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from qdit.core.errors import DataError
from qdit.core.files import read_json, sha256_file

FORMAT = "qdit-votes-1"
LEFT, RIGHT, TIE = "left", "right", "tie"
CONTROL_CHARACTER = "Cc"
"""Unicode's category of characters that a terminal obeys."""
CHOICES = (LEFT, TIE, RIGHT)
LEVEL = 0.95

Counts = NDArray[np.float64]
"""Wins (m, m) among m methods: entry (i, j) counts preferences of i over j; a tie is half a win for both."""


@dataclass(frozen=True)
class Ballot:
    """The votes in one voter's file: digest of the page, name of the voter (may be empty), and trial → choice."""

    file: str
    page: str
    voter: str
    votes: dict[int, str]


def read_ballots(paths: Sequence[Path]) -> list[Ballot]:
    """Read the files of all voters; DataError for a missing, damaged or repeated file, and for two of one voter."""
    seen: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file; give the files that the voters saved")
        if (first := seen.setdefault(sha256_file(path), path)) is not path:
            raise DataError(f"{path}: the same votes as {first}; give each voter's file once")
    ballots = [read_ballot(path) for path in paths]
    for number, ballot in enumerate(ballots):
        for other in ballots[:number]:
            require_two_voters(other, ballot)
    return ballots


def require_two_voters(first: Ballot, second: Ballot) -> None:
    """Raise DataError for two files of one voter on one page, saved at two times: the votes would count twice.

    Voters without a name are one voter if the votes of one file are also in the other.
    """
    if (first.page, first.voter) != (second.page, second.voter):
        return
    few, many = sorted((first.votes, second.votes), key=len)
    if first.voter or few.items() <= many.items():
        whose = f"of {first.voter}" if first.voter else "of one voter, whose votes are in both"
        raise DataError(
            f"{second.file}: is a second file {whose}, beside {first.file}; give only the last that the voter saved,"
            " or, if they are two people, write two names into the files (voter)"
        )


def read_ballot(path: Path) -> Ballot:
    """Read one file that the page saved: {format, page, voter, votes: [{trial, choice}]}."""
    record = read_json(path)
    hint = "save it from the page again"
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise DataError(f"{path}: not a file of votes (format {FORMAT!r} expected); {hint}")
    page, voter, entries = record.get("page"), record.get("voter"), record.get("votes")
    if not isinstance(page, str) or not isinstance(voter, str) or not isinstance(entries, list):
        raise DataError(f"{path}: lacks page, voter or votes; {hint}")
    if any(unicodedata.category(character) == CONTROL_CHARACTER for character in voter):
        raise DataError(f"{path}: the voter's name {voter!r:.60} has control characters; {hint}")
    votes: dict[int, str] = {}
    for entry in entries:
        trial = entry.get("trial") if isinstance(entry, dict) else None
        choice = entry.get("choice") if isinstance(entry, dict) else None
        if type(trial) is not int or trial < 0 or trial in votes or choice not in CHOICES:
            raise DataError(f"{path}: vote {entry!r:.120}: expected a trial once, and left, right or tie; {hint}")
        votes[trial] = choice
    if not votes:
        raise DataError(f"{path}: holds no votes; leave it out")
    return Ballot(str(path), page, voter, votes)


def wilson(wins: int, trials: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval of the share wins / trials (Wilson, 1927); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    limits = stats.binomtest(wins, trials).proportion_ci(level, method="wilson")
    return float(limits.low), float(limits.high)


def sign_test(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value of “both methods are equally good” (sign test); ties do not count."""
    return float(stats.binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0


def bradley_terry(wins: Counts, *, prior: float = 1.0) -> NDArray[np.float64]:
    """Return scores (m,) of m methods with mean 0: i is preferred to j with probability σ(score_i − score_j).

    They maximize the likelihood. For each method, `prior` ties against an imaginary method of score 0 are added.
    Without these ties a method that never lost has no finite score. Source: Bradley & Terry, Biometrika 1952.
    """

    def loss(scores: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        gap = scores[:, None] - scores[None, :]
        value = -float((wins * special.log_expit(gap)).sum())
        value -= prior / 2 * float((special.log_expit(scores) + special.log_expit(-scores)).sum())
        pull = wins * special.expit(-gap)
        slope = pull.sum(axis=0) - pull.sum(axis=1) + prior * (special.expit(scores) - 0.5)
        return value, slope

    optimum = optimize.minimize(loss, np.zeros(len(wins)), jac=True, method="L-BFGS-B", options={"ftol": 1e-14})
    return np.asarray(optimum.x - optimum.x.mean(), np.float64)


def bootstrap_scores(
    votes: Sequence[Sequence[tuple[int, int, float]]], methods: int, *, draws: int = 400, seed: int = 0
) -> NDArray[np.float64]:
    """Return Bradley–Terry scores (draws, methods) of resampled votes.

    Each draw resamples the voters, then the votes of each voter. `votes` has (i, j, share) for each vote of each voter.
    The share is 1 if method i was preferred to j, 0.5 for a tie, 0 if j was preferred.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    scores = np.empty((draws, methods))
    for draw in range(draws):
        wins = np.zeros((methods, methods))
        for voter in generator.integers(len(votes), size=len(votes)):
            voter_votes = votes[voter]
            for number in generator.integers(len(voter_votes), size=len(voter_votes)):
                i, j, share = voter_votes[number]
                wins[i, j] += share
                wins[j, i] += 1 - share
        scores[draw] = bradley_terry(wins)
    return scores


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Return how much two voters agree beyond chance on the same trials (Cohen, 1960).

    None if all votes are the same choice.
    """
    if len({*first, *second}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score  # half a second, which the page itself does not need

    return float(cohen_kappa_score(first, second))


def fleiss_kappa(counts: NDArray[np.float64]) -> float | None:
    """Return how much n ≥ 2 voters agree beyond chance (Fleiss, 1971). None if all votes are the same choice.

    `counts` (trials, choices) has the number of voters for each choice; each row sums to n. It is computed here,
    because neither scipy nor scikit-learn has it.
    """
    if not len(counts):
        return None
    voters = counts[0].sum()
    agreed = ((counts**2).sum(axis=1) - voters) / (voters * (voters - 1))
    shares = counts.sum(axis=0) / counts.sum()
    observed, expected = float(agreed.mean()), float(shares @ shares)
    return None if expected >= 1 - 1e-12 else (observed - expected) / (1 - expected)
