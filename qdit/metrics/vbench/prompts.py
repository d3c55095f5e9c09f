"""Reading of prompts from VBench's full_info JSON, for models that accept any English text."""

from collections.abc import Sequence
from pathlib import Path

from qdit.core.errors import DataError
from qdit.metrics.vbench.driver import BadInput, read_suite


def suite_prompts(path: Path) -> tuple[str, ...]:
    """The distinct prompts of a prompt suite, in the suite's order. DataError of one line if the file is not a suite.

    In VBench's suite, two prompts occur in two dimensions each: 946 entries, 944 prompts. Their clips count in both.
    """
    try:
        return tuple(dict.fromkeys(row["prompt_en"] for row in read_suite(path)))
    except BadInput as problem:
        raise DataError(str(problem)) from None


def clips_of_texts(prompts: Sequence[str], samples: int) -> list[tuple[str, int]]:
    """List of (prompt, number) for every clip of a run:

    `samples` clips of the first prompt, then of the second, and so on.
    """
    return [(prompt, number) for prompt in prompts for number in range(samples)]
