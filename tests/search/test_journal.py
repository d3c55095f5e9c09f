"""The journal: kill and go on gives what an undisturbed search gives, and nothing is measured twice."""

import json
import math
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import sha256_json
from qdit.search.evolution import Outcome, evolve
from qdit.search.journal import Journal, entry_digest, in_full, search_identity
from qdit.search.option_classes import EvolutionOptions, RacingOptions
from qdit.search.racing import Race
from tests.preloaded import python
from tests.search.toys import SPACE, Counted, noisy

OPTIONS = EvolutionOptions(population=8, parents=3, crossover=3, mutation=3, iterations=3)
IDENTITY = search_identity("evolution", SPACE, {"seed": 1, "parents": (1, 2)}, seed=0, fitness={"name": "toy"})


def plain(path: Path, fitness) -> Outcome:
    with Journal(path, IDENTITY) as journal:
        return evolve(SPACE, in_full(fitness, images=8, journal=journal), OPTIONS, seed=0)


def race(path: Path, fitness) -> tuple[Outcome, int]:
    with Journal(path, IDENTITY) as journal:
        options = RacingOptions((2, 4, 8), parents=3)
        outcome = evolve(SPACE, Race(fitness, options, journal, frozenset({SPACE.start})), OPTIONS, seed=0)
        return outcome, journal.images_sampled


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("journal") / "plain.jsonl"
    return plain(path, Counted()), path.read_bytes()


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_kill_at_any_byte_and_go_on(undisturbed, data):
    outcome, content = undisturbed
    cut = data.draw(st.integers(0, len(content)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.jsonl"
        path.write_bytes(content[:cut])
        fitness = Counted()
        assert plain(path, fitness) == outcome
        kept = max(0, content[:cut].count(b"\n") - 1)
        assert len(fitness.asked) == OPTIONS.evaluations - kept
        assert path.read_bytes() == content


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_kill_a_race_and_go_on(position):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "race.jsonl"
        outcome = race(path, noisy)
        content = path.read_bytes()
        path.write_bytes(content[: position % (len(content) + 1)])
        assert race(path, noisy) == outcome
        assert path.read_bytes() == content
        assert race(path, lambda genome, images: pytest.fail("measured twice")) == outcome


KILLED = """
import os, runpy, signal, sys
from pathlib import Path
from qdit.search.evolution import EvolutionOptions, evolve
from qdit.search.journal import Journal, in_full, search_identity
toys = runpy.run_path(sys.argv[1])
asked = []

def fitness(genome):
    asked.append(genome)
    if len(asked) == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return toys["loss"](genome)

identity = search_identity(
    "evolution", toys["SPACE"], {"seed": 1, "parents": (1, 2)}, seed=0, fitness={"name": "toy"}
)
options = EvolutionOptions(population=8, parents=3, crossover=3, mutation=3, iterations=3)
with Journal(Path(sys.argv[2]), identity) as journal:
    evolve(toys["SPACE"], in_full(fitness, images=8, journal=journal), options, seed=0)
"""


def test_killed_process_goes_on(tmp_path, undisturbed):
    toys, path = Path(__file__).with_name("toys.py"), tmp_path / "journal"
    killed = python(["-c", KILLED, str(toys), str(path)])
    assert killed.returncode == -signal.SIGKILL
    fitness = Counted()
    assert plain(path, fitness) == undisturbed[0]
    assert len(fitness.asked) == OPTIONS.evaluations - 11
    assert path.read_bytes() == undisturbed[1]


def test_header_and_lines(undisturbed):
    header, *lines = map(json.loads, undisturbed[1].splitlines())
    assert header == {"identity": json.loads(json.dumps(IDENTITY))}
    entry = {"genome": list(SPACE.start), "images": 8, "fitness": undisturbed[0].evaluations[0].fitness}
    assert lines[0] == entry | {"sha256": entry_digest(entry, sha256_json(IDENTITY))}


@pytest.mark.parametrize("change", [{"fitness": 0.0}, {"images": 10**12}, {"genome": [4, 4]}, {"sha256": "0"}])
def test_an_edited_line_is_refused(tmp_path, change):
    plain(tmp_path / "j", Counted())
    header, first, *rest = (tmp_path / "j").read_text().splitlines(keepends=True)
    edited = json.dumps(json.loads(first) | change) + "\n"
    (tmp_path / "j").write_text(header + edited + "".join(rest))
    with pytest.raises(DataError, match="line 2 is not an entry of this search, or was edited"):
        Journal(tmp_path / "j", IDENTITY)


def test_a_line_of_another_search_is_refused(tmp_path):
    plain(tmp_path / "j", Counted())
    with Journal(tmp_path / "k", IDENTITY | {"seed": 1}) as other:
        other.add(SPACE.start, 8, 0.0)
    foreign = (tmp_path / "k").read_text().splitlines(keepends=True)[1]
    with (tmp_path / "j").open("a") as journal:
        journal.write(foreign)
    with pytest.raises(DataError, match="is not an entry of this search"):
        Journal(tmp_path / "j", IDENTITY)


def test_another_search_is_refused(tmp_path):
    plain(tmp_path / "j", Counted())
    with pytest.raises(ConfigError, match=r"another search \(different: seed\)"):
        Journal(tmp_path / "j", IDENTITY | {"seed": 1})
    plain(tmp_path / "j", lambda genome: pytest.fail("measured twice"))


def test_two_writers_are_refused(tmp_path):
    with (
        Journal(tmp_path / "j", IDENTITY),
        pytest.raises(ConfigError, match="another search is writing"),
    ):
        Journal(tmp_path / "j", IDENTITY)


@pytest.mark.parametrize(
    "damage",
    [b"{torn\n", b"[1]\n", b"[" * 50_000, b'{"genome": [4], "images": 1, "fitness": NaN}', b'{"a": 1, "a": 1}'],
)
def test_damage_before_the_end_is_no_torn_line(tmp_path, damage):
    plain(tmp_path / "j", Counted())
    content = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(content + damage + b"\n")
    with pytest.raises(DataError, match=f"line {content.count(chr(10).encode()) + 1} is"):
        Journal(tmp_path / "j", IDENTITY)


def test_what_is_not_finite_is_infinite(tmp_path):
    with Journal(tmp_path / "j", IDENTITY) as journal:
        journal.add((4, 4), 8, math.nan)
        journal.add((4, 8), 8, -math.inf)
        assert journal.losses([(4, 4), (4, 8)], 8, lambda _: pytest.fail("measured twice")) == [math.inf] * 2
    heard = []
    with Journal(tmp_path / "j", IDENTITY, listen=lambda *entry: heard.append(entry)) as journal:
        assert journal.entries == {((4, 4), 8): math.inf, ((4, 8), 8): math.inf}
        journal.add((8, 8), 8, 1)
    assert heard == [((4, 4), 8, math.inf), ((4, 8), 8, math.inf), ((8, 8), 8, 1.0)]
