"""Time of a search: earlier attempts of the same search count, those of another do not."""

import json

from qdit.search import clock as module
from qdit.search.clock import Clock, times_path


class Time:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


def test_attempts_of_one_search_add_up(tmp_path, monkeypatch):
    time, path = Time(), tmp_path / "a.times.json"
    monkeypatch.setattr(module, "time", time)
    clock = Clock(path, "a", workers=2)
    time.now += 0.5
    clock()
    assert not path.exists()
    time.now += 1
    clock("what a journal says")
    assert json.loads(path.read_text())["seconds"] == 1.5
    time.now += 0.25
    clock()
    assert json.loads(path.read_text())["seconds"] == 1.5
    time.now += 50  # killed here; nothing was heard since
    again = Clock(path, "a", workers=3)
    time.now += 2
    again.stop()
    found = json.loads(path.read_text())
    assert (found["seconds"], found["workers"], found["identity_sha256"]) == (3.5, 3, "a")
    assert found["processor"]


def test_another_search_or_a_damaged_file_begins_at_zero(tmp_path, monkeypatch):
    time, path = Time(), tmp_path / "a.times.json"
    monkeypatch.setattr(module, "time", time)
    path.write_text(json.dumps({"identity_sha256": "a", "seconds": 7}))
    assert Clock(path, "a", workers=1).seconds == 7
    assert Clock(path, "b", workers=1).seconds == 0
    for damaged in ("{", "[]", '{"identity_sha256": "a"}', '{"identity_sha256": "a", "seconds": "x"}'):
        path.write_text(damaged)
        assert Clock(path, "a", workers=1).seconds == 0


def test_it_lies_beside_the_allocation(tmp_path):
    assert times_path(tmp_path / "w4a8.json") == tmp_path / "w4a8.times.json"
