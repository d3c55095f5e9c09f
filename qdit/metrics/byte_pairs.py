"""CLIP's tokens: byte pairs of lower-case words (Sennrich et al., ACL 2016), with the merges of OpenAI's file."""

import gzip
import html
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import regex

from qdit.core.errors import DataError

START, END, LAST = "<|startoftext|>", "<|endoftext|>", "</w>"
WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.I
)
MOST_MERGES = 49152 - 512 - 2
"""Merges that CLIP takes of the file, which has more."""


def byte_letters() -> dict[int, str]:
    """A printable letter for each byte. It is the byte's Latin-1 letter if that is printable.

    Otherwise it is the next unused letter from 256 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


@dataclass(frozen=True)
class BytePairs:
    """CLIP's vocabulary: pairs of word pieces, in the order in which they are merged."""

    merges: tuple[tuple[str, str], ...]

    @cached_property
    def ranks(self) -> dict[tuple[str, str], int]:
        """Each pair of pieces → its position in the order of merges."""
        return {pair: rank for rank, pair in enumerate(self.merges)}

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Each piece → its token number.

        Pieces are single letters, letters at the end of a word, merged pairs, and the start and end of a text.
        """
        letters = list(byte_letters().values())
        pieces = [*letters, *(letter + LAST for letter in letters), *map("".join, self.merges), START, END]
        return {piece: number for number, piece in enumerate(pieces)}

    @property
    def size(self) -> int:
        """Number of tokens in the vocabulary."""
        return 512 + len(self.merges) + 2

    def tokens(self, text: str, length: int) -> list[int]:
        """The `length` tokens of a text: start token, pieces, end token, zeros.

        A longer text is cut; its last token is the end token.
        """
        clean = " ".join(html.unescape(html.unescape(unicodedata.normalize("NFC", text))).split()).lower()
        pieces = [self.numbers[piece] for word in WORDS.findall(clean) for piece in self.pieces(word)]
        kept = [self.numbers[START], *pieces[: length - 2], self.numbers[END]]
        return kept + [0] * (length - len(kept))

    def pieces(self, word: str) -> list[str]:
        """Cut a word into pieces of the vocabulary.

        Its letters are merged pair by pair, the earliest pair of the vocabulary first, until no pair is in the
        vocabulary.
        """
        if word in (START, END):
            return [word]
        letters = byte_letters()
        parts = [letters[byte] for byte in word.encode()]
        parts[-1] += LAST
        while len(parts) > 1:
            pair = min(pairwise(parts), key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if pair not in self.ranks:
                break
            parts = merged(parts, pair)
        return parts


def merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """The pieces with every occurrence of `pair` merged into one piece, from left to right."""
    result: list[str] = []
    position = 0
    while position < len(parts):
        is_pair = tuple(parts[position : position + 2]) == pair
        result.append("".join(pair) if is_pair else parts[position])
        position += 2 if is_pair else 1
    return result


def read_byte_pairs(path: Path) -> BytePairs:
    """Read the vocabulary of a gzip or text file: a line about the version, then one pair of pieces in each line.

    DataError for another file.
    """
    try:
        data = path.read_bytes()
        lines = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8").split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as problem:
        raise DataError(f"{path}: not a vocabulary of byte pairs ({' '.join(str(problem).split())})") from None
    merges = [tuple(line.split()) for line in lines[1 : 1 + MOST_MERGES] if line.strip()]
    if not merges or any(len(pair) != 2 for pair in merges):
        raise DataError(f"{path}: holds no merges of two pieces a line; fetch bpe_simple_vocab_16e6.txt.gz again")
    return BytePairs(tuple((pair[0], pair[1]) for pair in merges))
