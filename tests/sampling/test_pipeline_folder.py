"""Lists of prompts as people bring them: other line ends, blanks, a byte order mark, no text at all."""

from pathlib import Path

import pytest

from qdit.core.errors import ConfigError
from qdit.sampling.pipeline_folder import read_prompts


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_byte_order_mark_and_line_ends_are_no_part_of_a_prompt(tmp_path: Path, start: bytes, end: bytes) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(start + end.join([b"a cup on a table", b"", "  a café  ".encode(), b""]))
    assert read_prompts(path) == ["a cup on a table", "a café"]


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf \n", b"\xff\xfea\x00"])
def test_a_file_without_prompts_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"prompts\.txt: (holds no prompt|cannot be read as text)"):
        read_prompts(path)
