"""What a source imports is remembered by its content: the answer is the parser's, whatever state the file is in."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qdit.core import source_facts
from qdit.core.digest import Sources, import_closure
from qdit.core.errors import ConfigError
from qdit.core.repository import ROOT
from qdit.core.source_facts import SourceFacts, cache_file, read_entries, remember

PATH = Path("qdit/step.py")
SOURCE = b"""
import json
from .a import b
def f(x):
    try:
        import c.d
    except ValueError:
        from .. import e
"""
FACTS = SourceFacts(((0, "json", ()), (1, "a", ("b",)), (0, "c.d", ()), (2, "", ("e",))), ())


def forget() -> None:
    """What a new process knows: nothing but the file."""
    for memory in (source_facts._session, source_facts._unsaved, source_facts._remembered):
        memory.cache_clear()


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a user who has none yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    path = cache_file()
    assert path is not None and path.is_relative_to(tmp_path)
    yield path
    forget()


def facts(content: bytes = SOURCE) -> SourceFacts:
    """Facts as a new process gets them, which writes what it learned."""
    forget()
    result = source_facts.source_facts(PATH, content)
    remember()
    return result


def same(first: SourceFacts, second: SourceFacts) -> bool:
    return set(first.imports) == set(second.imports) and first.data_folders == second.data_folders


def no_parser(source: str, path: Path) -> None:
    raise AssertionError(f"{path} is parsed again")


def test_every_import_is_seen_wherever_it_stands() -> None:
    assert same(facts(), FACTS)
    assert facts().imported_names("p.q") == {"json", "p.q.a", "p.q.a.b", "c.d", "p", "p.e"}


def test_a_second_process_parses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = facts()
    monkeypatch.setattr(source_facts, "syntax_tree", no_parser)
    assert facts() == first


def test_a_new_content_is_parsed_though_size_and_time_are_the_old_ones(tmp_path: Path) -> None:
    for name in ("qdit/__init__.py", "qdit/a.py", "qdit/b.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    step = tmp_path / "qdit" / "step.py"
    for module in ("a", "b"):
        step.write_text(f"import qdit.{module}\n")
        os.utime(step, ns=(0, 0))
        forget()
        assert tmp_path / "qdit" / f"{module}.py" in import_closure("qdit.step", root=tmp_path)
        assert len(import_closure("qdit.step", root=tmp_path)) == 3


@pytest.mark.parametrize("damage", ["", "{}", "no checksum\n{}", "truncated", "changed", "\udcff"])
def test_a_damaged_file_counts_for_nothing_and_is_made_again(file: Path, damage: str) -> None:
    facts()
    whole = file.read_bytes()
    damaged = {"truncated": whole[:-9], "changed": whole.replace(b"json", b"jsom")}
    file.write_bytes(damaged.get(damage, damage.encode("utf-8", "surrogateescape")))
    assert read_entries(file) == {}
    assert same(facts(), FACTS)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("obstacle", ["a folder in its place", "no home", "no folder can be made"])
def test_where_nothing_can_be_remembered_the_answer_is_the_same(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    if obstacle == "a folder in its place":
        file.mkdir(parents=True)
    elif obstacle == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
        assert cache_file() is None
    else:
        (tmp_path / "cache").write_text("a file")
    assert same(facts(), FACTS)
    assert same(facts(), FACTS)


@pytest.mark.parametrize("source", [b"def (:\n", b"PACKAGE_DATA = 'pages'\n", b"\xff"])
def test_a_refused_source_is_refused_again(source: bytes) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"step\.py"):
            facts(source)


def test_the_file_does_not_grow_for_ever(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_facts, "MOST_ENTRIES", 3)
    for number in range(4):
        facts(f"import m{number}\n".encode())
    assert [entry.imports for entry in read_entries(file).values()] == [((0, "m3", ()),)]


def test_another_version_of_the_parser_reads_no_entry_of_this_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts()
    monkeypatch.setattr(source_facts, "VERSION", "another")
    assert cache_file() != file and not source_facts._remembered()
    assert same(facts(), FACTS) and file.exists()


def test_processes_that_write_at_once_leave_a_whole_file_and_agree(file: Path) -> None:
    """Each learns the closure of another step; entries may be lost, never wrong."""
    steps = ("qdit.core.mp4", "qdit.core.gpu_lease", "qdit.core.metrics_record", "qdit.report.render.page_files")
    program = "import sys; from qdit.core.digest import code_digest; print(code_digest(sys.argv[1]))"
    running = [
        subprocess.Popen([sys.executable, "-c", program, step], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for step in steps
    ]
    digests = [process.communicate(timeout=120)[0].strip() for process in running]
    remembered = read_entries(file)
    assert remembered
    file.unlink()
    forget()
    sources = Sources()
    assert digests == [sources.digest(step) for step in steps]
    parsed = read_entries(file)
    assert {key: entry for key, entry in parsed.items() if key in remembered} == remembered
