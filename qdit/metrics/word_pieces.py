"""BERT's tokens of a lower-case text: words and punctuation marks, cut into the longest known pieces."""

import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qdit.core.errors import DataError

PADDING, UNKNOWN, FIRST, LAST = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
LONGEST = 100
"""Letters of a word; a longer one is unknown."""
IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
"""Ranges of characters that are words by themselves."""


def stands_alone(letter: str) -> bool:
    """Whether a character is a word by itself: punctuation, every ASCII symbol, or an ideograph."""
    code = ord(letter)
    if code < 128:
        return 33 <= code and not letter.isalnum() and code != 127
    return unicodedata.category(letter).startswith("P") or any(low <= code <= high for low, high in IDEOGRAPHS)


def words_of(text: str) -> list[str]:
    """Words of a text in lower case, without accents and control characters."""
    spaced = []
    for letter in text:
        category = unicodedata.category(letter)
        if letter in "\t\n\r" or category == "Zs":
            spaced.append(" ")
        elif ord(letter) not in (0, 0xFFFD) and not category.startswith("C"):
            spaced.append(letter)
    plain = unicodedata.normalize("NFD", "".join(spaced).lower())
    letters = (letter for letter in plain if unicodedata.category(letter) != "Mn")
    return "".join(f" {letter} " if stands_alone(letter) else letter for letter in letters).split()


@dataclass(frozen=True)
class WordPieces:
    """BERT's vocabulary: a list of pieces; the position is the token number. A piece inside a word begins with ##."""

    pieces: tuple[str, ...]

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Each piece → its token number."""
        return {piece: number for number, piece in enumerate(self.pieces)}

    @property
    def padding(self) -> int:
        """Number of the token that fills the places after the end of a text."""
        return self.numbers[PADDING]

    def tokens(self, text: str, length: int) -> list[int]:
        """The `length` tokens of a text: first token, pieces, last token, padding.

        A longer text is cut; its last token stays.
        """
        pieces = [piece for word in words_of(text) for piece in self.cut(word)]
        kept = [self.numbers[FIRST], *(self.numbers[piece] for piece in pieces[: length - 2]), self.numbers[LAST]]
        return kept + [self.padding] * (length - len(kept))

    def cut(self, word: str) -> list[str]:
        """Cut a word from left to right into the longest pieces that the vocabulary has.

        If no piece fits at some place, the whole word is the unknown token.
        """
        parts: list[str] = []
        start = 0
        while start < len(word) <= LONGEST:
            begin = "##" if start else ""
            ends = (end for end in range(len(word), start, -1) if begin + word[start:end] in self.numbers)
            end = next(ends, None)
            if end is None:
                return [UNKNOWN]
            parts.append(begin + word[start:end])
            start = end
        return parts if len(word) <= LONGEST else [UNKNOWN]


def read_word_pieces(path: Path) -> WordPieces:
    """Read the vocabulary of a text file with one piece a line; DataError for a file without BERT's special pieces."""
    try:
        pieces = tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path}: cannot be read as text ({' '.join(str(problem).split())})") from None
    if missing := [piece for piece in (PADDING, UNKNOWN, FIRST, LAST) if piece not in pieces]:
        raise DataError(f"{path}: has no {missing[0]}; give vocab.txt of bert-base-uncased")
    return WordPieces(pieces)
