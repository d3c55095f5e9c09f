"""Write the results of blind A/B votes: reliability of the voters, pairs of methods, scores, agreement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from qdit.core.errors import DataError
from qdit.core.intervals import interval
from qdit.report.votes.ab_page import Page, Question
from qdit.report.votes.ab_trials import CONTROL, PAIR, SAME
from qdit.report.votes.statistics import (
    CHOICES,
    LEFT,
    RIGHT,
    TIE,
    Ballot,
    bootstrap_scores,
    bradley_terry,
    cohen_kappa,
    fleiss_kappa,
    sign_test,
    wilson,
)

COLUMNS = ("contest", "a", "b", "votes", "a_better", "equal", "b_better", "share", "low", "high", "p")
FEWEST = 5
"""A pair with fewer votes is marked “few votes”."""


@dataclass
class Tally:
    """The votes on one group of compared runs: `pairs` is methods (a, b) → [wins of a, ties, wins of b].

    a and b are sorted by name. `of_voters` has the votes of each voter.
    """

    names: list[str] = field(default_factory=list)
    pairs: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    of_voters: dict[str, list[tuple[int, int, float]]] = field(default_factory=dict)


def page_of(ballot: Ballot, pages: Mapping[str, Page]) -> Page:
    """Return the page that a file of votes belongs to.

    DataError if it is not among `pages`, or if it does not have a trial with a vote.
    """
    page = pages.get(ballot.page)
    if page is None:
        known = ", ".join(f"{digest[:12]}…" for digest in pages)
        raise DataError(
            f"{ballot.file}: votes on page {ballot.page[:12]}…, given is {known}; give the page they saw with --page"
        )
    if max(ballot.votes) >= len(page.questions):
        raise DataError(
            f"{ballot.file}: a vote on trial {max(ballot.votes)}, the page has {len(page.questions)};"
            " save it from the page again"
        )
    return page


def caught(ballot: Ballot, page: Page, kind: str) -> tuple[int, int]:
    """Return (correct answers, trials) of a voter for one kind of catch trials, which test the voter."""
    answers = [(page.questions[trial], choice) for trial, choice in ballot.votes.items()]
    right = [choice == question.answer for question, choice in answers if question.kind == kind]
    return sum(right), len(right)


def reliability(ballot: Ballot, page: Page) -> float | None:
    """Return the share of catch trials (tests) that a voter answered correctly; None if there were none."""
    counts = [caught(ballot, page, kind) for kind in (SAME, CONTROL)]
    catch_trials = sum(number for _, number in counts)
    return sum(right for right, _ in counts) / catch_trials if catch_trials else None


def tally(ballots: Sequence[tuple[Ballot, Page]]) -> dict[str, Tally]:
    """Count the votes: title of the compared runs → their votes, without catch trials (tests of the voter)."""
    tallies: dict[str, Tally] = {}
    for _, page in ballots:
        for question in page.questions:
            if question.kind == PAIR:
                names = tallies.setdefault(question.contest, Tally()).names
                names += [name for name in (question.left, question.right) if name not in names]
    for counted in tallies.values():
        counted.names.sort()
    for ballot, page in ballots:
        for trial, choice in sorted(ballot.votes.items()):
            if page.questions[trial].kind == PAIR:
                _count(tallies[page.questions[trial].contest], page.questions[trial], choice, ballot.file)
    return {title: counted for title, counted in tallies.items() if counted.pairs}


def _count(into: Tally, question: Question, choice: str, voter: str) -> None:
    a, b = sorted((question.left, question.right))
    preferred = {LEFT: question.left, RIGHT: question.right, TIE: ""}[choice]
    outcome = 1 if choice == TIE else 0 if preferred == a else 2
    into.pairs.setdefault((a, b), [0, 0, 0])[outcome] += 1
    vote = (into.names.index(a), into.names.index(b), 1 - outcome / 2)
    into.of_voters.setdefault(voter, []).append(vote)


def pairs_frame(tallies: Mapping[str, Tally], names: Mapping[str, str]) -> pd.DataFrame:
    """Return one line for each pair of methods: votes, share of a without ties, Wilson's interval, sign test."""
    lines = []
    for title, contest_votes in tallies.items():
        for (a, b), (better, equal, worse) in sorted(contest_votes.pairs.items()):
            decided = better + worse
            share = better / decided if decided else None
            low, high = wilson(better, decided)
            counts = (better + equal + worse, better, equal, worse)
            lines.append((title, names[a], names[b], *counts, share, low, high, sign_test(better, worse)))
    return pd.DataFrame(lines, columns=pd.Index(COLUMNS))


def agreement(ballots: Sequence[tuple[Ballot, Page]]) -> list[str]:
    """Write how much the voters of each page agree on their common trials: Cohen's kappa for two, Fleiss' for more."""
    lines = []
    for digest in dict.fromkeys(page.digest for _, page in ballots):
        (page, *_) = [page for _, page in ballots if page.digest == digest]
        page_votes = [ballot.votes for ballot, seen in ballots if seen.digest == digest]
        pair_trials = [number for number, question in enumerate(page.questions) if question.kind == PAIR]
        shared = [trial for trial in pair_trials if all(trial in votes for votes in page_votes)]
        if len(page_votes) < 2:
            continue
        if len(page_votes) == 2:
            first, second = ([votes[trial] for trial in shared] for votes in page_votes)
            name, kappa = "Cohen", cohen_kappa(first, second)
        else:
            rows = [[sum(votes[trial] == choice for votes in page_votes) for choice in CHOICES] for trial in shared]
            name, kappa = "Fleiss", fleiss_kappa(np.array(rows, np.float64))
        value = "cannot be told" if kappa is None else f"{kappa:.2f}"
        lines.append(
            f"  page {digest[:12]}: {name}'s kappa {value} of {len(page_votes)} voters on {len(shared)} trials"
        )
    return lines or ["  one voter for each page: nothing to compare"]


def scores_lines(contest_votes: Tally, names: Mapping[str, str], *, draws: int) -> list[str]:
    """Write Bradley–Terry scores, best first, with 95 % intervals of a bootstrap over voters and their votes."""
    wins = np.zeros((len(contest_votes.names), len(contest_votes.names)))
    for votes in contest_votes.of_voters.values():
        for i, j, share in votes:
            wins[i, j] += share
            wins[j, i] += 1 - share
    scores = bradley_terry(wins)
    resampled = bootstrap_scores(list(contest_votes.of_voters.values()), len(contest_votes.names), draws=draws)
    lines = []
    for index in sorted(range(len(scores)), key=lambda index: (-scores[index], contest_votes.names[index])):
        low, high = interval(resampled[:, index])
        lines.append(f"  {names[contest_votes.names[index]]:<24} {scores[index]:+.2f}  {low:+.2f} … {high:+.2f}")
    return lines


def votes_text(
    ballots: Sequence[Ballot], pages: Mapping[str, Page], *, least: float = 0.0, draws: int = 400
) -> tuple[str, pd.DataFrame]:
    """Return all results as text, and the pairs of methods as a table.

    Voters whose share of correct catch trials is below `least` do not count. DataError for votes on another page, and
    if no voter is left.
    """
    known = [(ballot, page_of(ballot, pages)) for ballot in ballots]
    names = {name: shown for page in pages.values() for name, shown in page.names.items()}
    lines, counted = ["voters (catch trials: one image twice, full precision beside destroyed images)"], []
    for ballot, page in known:
        trust = reliability(ballot, page)
        counts = trust is None or trust >= least
        counted += [(ballot, page)] if counts else []
        same, control = ("{} of {}".format(*caught(ballot, page, kind)) for kind in (SAME, CONTROL))
        tail = "" if counts else f"  left out: below {least:g}"
        voter = f"{ballot.file} {ballot.voter}".strip()
        lines.append(f"  {voter}: {len(ballot.votes)} votes, twice {same}, destroyed {control}{tail}")
    tallies = tally(counted)
    if not tallies:
        raise DataError(f"no votes on two methods by {len(counted)} voters; lower --least or give more files")
    frame = pairs_frame(tallies, names)
    for title, contest_votes in tallies.items():
        lines += ["", title, "  pair: better, equal, worse; share of decided votes, 95 % (Wilson); sign test p"]
        for row in frame[frame["contest"] == title].itertuples():
            few = "  few votes" if row.votes < FEWEST else ""
            share = "–" if pd.isna(row.share) else f"{row.share:.2f}"
            lines.append(
                f"  {row.a} against {row.b}: {row.a_better}, {row.equal}, {row.b_better};"
                f" {share}, {row.low:.2f} … {row.high:.2f}; {row.p:.3f}{few}"
            )
        lines += ["  Bradley–Terry scores, 95 % by a bootstrap", *scores_lines(contest_votes, names, draws=draws)]
    return "\n".join([*lines, "", "agreement", *agreement(counted)]) + "\n", frame
