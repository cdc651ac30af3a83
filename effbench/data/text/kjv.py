"""The King James Bible: bytes for language modelling, and passages with the kind of book that they are from.

Both uses share one cut by whole books (BOOKS), so that no book is in two splits. For each kind, val and test have
books with few parallels elsewhere: of val's 3,322 verses 0.12 % occur in train, of test's 4,935 0.28 % in the other
two splits (Leviticus alone would give 3.4 %, 2 Kings 1.8 %, Ezra 6.1 %), of their substrings of 40 bytes 0.4 % and
0.8 %. What has parallels is in train as a whole: Samuel, Kings and Chronicles; Ezra and Nehemiah; the first three
gospels; Isaiah, Jeremiah and Ezekiel. Genesis is in train because it tells stories, although it counts as law.

3,060,238 / 451,329 / 627,466 bytes in train, val and test, 63 different ones. Val by itself takes 1.848 bits per byte
with bz2 and 2.052 with lzma (`python -m benchmarks.text_baselines kjv`). 2,821 / 416 / 619 passages of about 8 verses,
of 1,056 bytes on average. A linear SVM on TF-IDF of words 1 to 2 reaches 75.0 % on val and 81.1 % on test; the most
frequent class is 24.2 % of test (`python -m benchmarks.text_baselines kjv_kinds`, scikit-learn 1.9.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from effbench.data.option_checks import check_counts
from effbench.data.reference import Reference
from effbench.data.text.tables import SPLITS, LabelledSplit, LabelledTexts, unpacked

FILE = Path(__file__).parent / "embedded" / "kjv.txt.xz"
FACTS = {
    "source": "The Bible, Authorized (King James) Version of 1611",
    "version": "Debian bible-kjv-text 4.38",
    "licence": "public domain (copyright expired)",
}
CLASSES = ("law", "history", "wisdom", "prophets", "gospels", "epistles")
VERSES = 8  # of a passage by default, for which the reference was measured
REFERENCE = Reference("linear n-grams", "acc", 0.811, "python -m benchmarks.text_baselines kjv_kinds")


class Book(NamedTuple):
    """A book, its number of chapters, its kind ('' for none of CLASSES) and its split."""

    name: str
    chapters: int
    kind: str
    split: str


_CHAPTERS = {
    "law": {"Genesis": 50, "Exodus": 40, "Leviticus": 27, "Numbers": 36, "Deuteronomy": 34},
    "history": {
        "Joshua": 24, "Judges": 21, "Ruth": 4, "1 Samuel": 31, "2 Samuel": 24, "1 Kings": 22, "2 Kings": 25,
        "1 Chronicles": 29, "2 Chronicles": 36, "Ezra": 10, "Nehemiah": 13, "Esther": 10,
    },
    "wisdom": {"Job": 42, "Psalms": 150, "Proverbs": 31, "Ecclesiastes": 12, "Song of Solomon": 8},
    "prophets": {
        "Isaiah": 66, "Jeremiah": 52, "Lamentations": 5, "Ezekiel": 48, "Daniel": 12, "Hosea": 14, "Joel": 3,
        "Amos": 9, "Obadiah": 1, "Jonah": 4, "Micah": 7, "Nahum": 3, "Habakkuk": 3, "Zephaniah": 3, "Haggai": 2,
        "Zechariah": 14, "Malachi": 4,
    },
    "gospels": {"Matthew": 28, "Mark": 16, "Luke": 24, "John": 21, "Acts": 28},  # Acts continues Luke
    "epistles": {
        "Romans": 16, "1 Corinthians": 16, "2 Corinthians": 13, "Galatians": 6, "Ephesians": 6, "Philippians": 4,
        "Colossians": 4, "1 Thessalonians": 5, "2 Thessalonians": 3, "1 Timothy": 6, "2 Timothy": 4, "Titus": 3,
        "Philemon": 1, "Hebrews": 13, "James": 5, "1 Peter": 5, "2 Peter": 3, "1 John": 5, "2 John": 1, "3 John": 1,
        "Jude": 1,
    },
    "": {"Revelation": 22},
}  # fmt: skip
_HELD_OUT = {
    "val": (
        "Deuteronomy", "Ruth", "Esther", "Ecclesiastes", "Song of Solomon", "Nahum", "Habakkuk", "Zephaniah", "Haggai",
        "Zechariah", "Malachi", "John", "Romans",
    ),
    "test": (
        "Exodus", "Judges", "Job", "Hosea", "Joel", "Amos", "Obadiah", "Jonah", "Micah", "Acts", "1 Corinthians",
    ),
}  # fmt: skip
_SPLIT_OF = {name: which for which, names in _HELD_OUT.items() for name in names}
BOOKS = tuple(
    Book(name, chapters, kind, _SPLIT_OF.get(name, "train"))
    for kind, books in _CHAPTERS.items()
    for name, chapters in books.items()
)  # in the text's order


@dataclass(frozen=True)
class SplitText:
    """Three splits of a text, as bytes.

    Attributes:
        train, val, test: whole books; a newline ends a verse, two a chapter.
        facts: source, version, licence, and sha256 of the file.
    """

    train: bytes
    val: bytes
    test: bytes
    facts: dict[str, str]


def read_kjv() -> SplitText:
    """Read the text for language modelling.

    Raises:
        DataError: the file is missing or damaged.
    """
    chapters, sha256 = _read_chapters()
    parts = {which: "\n\n".join(text for book, text in chapters if book.split == which).encode() for which in SPLITS}
    return SplitText(**parts, facts={**FACTS, "sha256": sha256})


def read_kjv_kinds(verses: int = VERSES) -> LabelledTexts:
    """Read passages with the kind of their book. Revelation is of no kind.

    A chapter is cut into passages of nearly equal numbers of verses, which newlines divide.

    Args:
        verses: about how many make a passage; 8 have about 1,050 bytes.

    Raises:
        ConfigError: verses is not a whole number, at least 1.
        DataError: the file is missing or damaged.
    """
    check_counts("verse", verses=verses)
    chapters, sha256 = _read_chapters()
    splits = {which: LabelledSplit([], []) for which in SPLITS}
    for book, chapter in chapters:
        if book.kind:
            found = _passages(chapter.split("\n"), verses)
            splits[book.split].texts.extend(found)
            splits[book.split].labels.extend([CLASSES.index(book.kind)] * len(found))
    reference = REFERENCE if verses == VERSES else None
    return LabelledTexts(**splits, classes=CLASSES, facts={**FACTS, "sha256": sha256}, reference=reference)


def _read_chapters() -> tuple[list[tuple[Book, str]], str]:
    """Return (book, text) of each chapter, and the file's sha256."""
    text, sha256 = unpacked(FILE)
    of_chapter = [book for book in BOOKS for _ in range(book.chapters)]
    return list(zip(of_chapter, text.split("\n\n"), strict=True)), sha256


def _passages(lines: list[str], verses: int) -> list[str]:
    parts = max(1, round(len(lines) / verses))
    cuts = [len(lines) * part // parts for part in range(parts + 1)]
    return ["\n".join(lines[start:end]) for start, end in pairwise(cuts)]
