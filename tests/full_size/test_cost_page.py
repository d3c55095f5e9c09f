"""docs/cost.md says what the record says and what the formulas give, and the record holds nothing that is wrong."""

import re
from pathlib import Path

import pytest

from qdit.bench.full_size import LIMIT
from qdit.bench.full_size_parts import FULL, parts
from qdit.bench.page import text_of
from qdit.bench.record import read_record
from qdit.quant.size import printed_mb, size_paper_mb, size_predicted_mb
from tests.full_size.expected import VAE_PARAMETERS, faults

RECORD = Path("results/studies/full-size.json")


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "cost.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def record(repository: Path):
    return read_record(repository / RECORD)


def test_what_was_measured_at_the_real_shapes_is_what_it_must_be(record) -> None:
    assert record["scale"] == "full" and set(record["measured"]) <= set(parts())
    for part, entry in record["measured"].items():
        assert faults(part, entry["facts"], FULL) == [], part
        assert entry["peak_bytes"] < LIMIT, part
        assert {"commit", "processor", "load", "threads"} <= set(entry)
    assert record["measured"]["weights"]["facts"]["vae_parameters"] == VAE_PARAMETERS


def test_the_page_shows_the_record(record, page: str) -> None:
    """`qdit bench show results/studies/full-size.json --into docs/cost.md` writes it."""
    assert text_of(record, style="github") in page


def test_sizes_of_the_page_are_those_of_the_formulas(page: str) -> None:
    rows = re.findall(r"^\| W(\d+)(?: g(\d+))? \| ([^|]+) \| ([\d.]+) \| ([\d,]+) \| ([\d,]+) \|$", page, re.MULTILINE)
    assert len(rows) == 7
    for bits, group, printed, paper, single, half in rows:
        kind = {"weight_bits": int(bits), "group_sizes": int(group) if group else None}
        counted = size_paper_mb(FULL.dit, **kind)
        assert paper == f"{counted:.2f}"
        assert printed.strip() in (str(printed_mb(counted)), "not in Table 2")
        for found, float_bits in ((single, 32), (half, 16)):
            size = size_predicted_mb(FULL.dit, **kind, float_bits=float_bits, positions=False)
            assert found.replace(",", "") == f"{size:.0f}"
