"""The texts of a list of prompts, read from VBench's full_info JSON.

They are for models that accept any English text.
"""

from collections.abc import Sequence
from pathlib import Path

from qdit.core.errors import DataError
from qdit.metrics.vbench.driver import BadInput, read_suite


def suite_prompts(path: Path) -> tuple[str, ...]:
    """The distinct prompts of a prompt suite, in its order. DataError in one line if the file is not a suite.

    In VBench's suite, two prompts occur in two dimensions each: 946 entries, 944 prompts. Their clips count in both.
    """
    try:
        return tuple(dict.fromkeys(row["prompt_en"] for row in read_suite(path)))
    except BadInput as problem:
        raise DataError(str(problem)) from None


def clips_of_texts(prompts: Sequence[str], samples: int) -> list[tuple[str, int]]:
    """(prompt, number) of every clip of a run, in order: the clips of a prompt follow each other."""
    return [(prompt, number) for prompt in prompts for number in range(samples)]
