"""The texts that ship are what their docstrings say, their splits share nothing, and the scripts make them again.

White-box: `_encoded`, because reading a whole set takes seconds.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import subprocess
import unicodedata
from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest

from effbench.data.text import kjv, language_id, shipped, wordnet_gloss
from effbench.data.text.embedded import make_kjv, make_wordnet_gloss
from effbench.data.text.embedded.concepts import joined, split_of
from effbench.data.text.encoding import TextOptions
from effbench.data.text.kjv import BOOKS, SplitText, read_kjv, read_kjv_kinds
from effbench.data.text.language_id import read_language_id
from effbench.data.text.tables import LabelledSplit, LabelledTexts
from effbench.data.text.wordnet_gloss import read_wordnet_gloss
from effbench.errors import ConfigError, DataError

# WNSEARCHDIR is WordNet's own variable (wnintro(5WN))
WORDNET = Path(os.environ.get("WNSEARCHDIR", "/usr/share/wordnet")) / "data.noun"
SPLITS = ("train", "val", "test")
SOURCES = {"language_id": language_id, "wordnet_gloss": wordnet_gloss, "kjv": kjv}


def babel_version() -> str | None:
    try:
        return version("babel")
    except PackageNotFoundError:
        return None


@pytest.fixture(scope="module")
def every() -> dict[str, LabelledTexts]:
    return {
        "language_id": read_language_id(), "wordnet_gloss": read_wordnet_gloss(), "kjv_kinds": read_kjv_kinds(),
    }  # fmt: skip


def samples(data: LabelledTexts) -> list[tuple[str, str, str]]:
    """(split, class, text) of all samples."""
    parts = {which: getattr(data, which) for which in SPLITS}
    return [
        (which, data.classes[label], text)
        for which, part in parts.items()
        for text, label in zip(part.texts, part.labels, strict=True)
    ]


def in_several(pairs: Iterable[tuple[str, object]]) -> set[object]:
    """Things that are in more than one split. pairs: (split, something hashable)."""
    first: dict[object, str] = {}
    return {thing for split, thing in pairs if first.setdefault(thing, split) != split}


# --- the files


@pytest.mark.parametrize("name", SOURCES)
def test_the_file_has_the_sha256_beside_it_and_a_licence(name: str) -> None:
    path = SOURCES[name].FILE
    stated, file_name = path.with_name(f"{path.name}.sha256").read_text().split()
    assert file_name == path.name
    assert hashlib.sha256(path.read_bytes()).hexdigest() == stated
    licence = path.with_name(f"{name}.LICENSE").read_text(encoding="utf-8")
    assert licence.startswith(f"{path.name} is ")
    assert {"language_id": "UNICODE LICENSE V3", "wordnet_gloss": "WordNet 3.0 Copyright 2006", "kjv": "expired"}[
        name
    ] in licence


def test_the_files_are_small() -> None:
    assert sum(module.FILE.stat().st_size for module in SOURCES.values()) < 2_000_000


@pytest.mark.parametrize("reader", [read_language_id, read_wordnet_gloss, read_kjv, read_kjv_kinds])
def test_facts_state_source_version_licence_and_sha256(reader) -> None:
    facts, file = reader().facts, import_module(reader.__module__).FILE
    assert list(facts) == ["source", "version", "licence", "sha256"]
    assert all(facts.values())
    assert facts["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("reader", [read_language_id, read_wordnet_gloss, read_kjv, read_kjv_kinds])
def test_a_damaged_file_is_named(reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module(reader.__module__)
    copy = tmp_path / module.FILE.name
    content = bytearray(module.FILE.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    shutil.copy(module.FILE.with_name(f"{copy.name}.sha256"), tmp_path)
    monkeypatch.setattr(module, "FILE", copy)
    with pytest.raises(DataError, match=rf"{copy} is damaged: its sha256 is not .*Install effbench again"):
        reader()


# --- labelled texts


@pytest.mark.parametrize(
    ("name", "counts", "num_classes"),
    [
        ("language_id", (27_122, 3_863, 5_365), 20),
        ("wordnet_gloss", (25_490, 3_343, 5_137), 19),
        ("kjv_kinds", (2_821, 416, 619), 6),
    ],
)
def test_counts_and_classes_are_those_of_the_docstring(name, counts, num_classes, every) -> None:
    data = every[name]
    assert tuple(len(getattr(data, which).texts) for which in SPLITS) == counts
    assert len(data.classes) == len(set(data.classes)) == num_classes
    module = import_module("effbench.data.text." + name.removesuffix("_kinds"))
    assert " / ".join(f"{count:,}" for count in counts) in module.__doc__
    for which in SPLITS:
        sizes = Counter(getattr(data, which).labels)
        assert set(sizes) == set(range(num_classes))  # every class in every split
        assert min(sizes.values()) >= 33


@pytest.mark.parametrize("name", ["language_id", "wordnet_gloss", "kjv_kinds"])
def test_no_text_is_empty_untidy_or_there_twice(name, every) -> None:
    texts = [text for *_, text in samples(every[name])]
    assert all(text == text.strip() and len(text) >= 3 for text in texts)
    assert unicodedata.is_normalized("NFC", "|".join(texts))
    breaks = "\n" if name == "kjv_kinds" else ""
    assert not re.search(rf"[^\S {breaks}]|[\x00-\x08\x7f\xad\u200b-\u200f]", "|".join(texts))
    assert len({text.casefold() for text in texts}) == len(texts)


def test_the_length_chosen_for_a_shipped_set_is_no_warning() -> None:
    """White-box: a whole set takes seconds to read."""
    part = LabelledSplit(["a b c", "b c d"], [0, 1])
    data = shipped._encoded("own", LabelledTexts(part, part, part, ("x", "y"), {}), TextOptions("words", 2))
    assert (data.facts["truncated"]["train"], data.warnings) == (2, ())


@pytest.mark.spread(1)
@pytest.mark.parametrize("module", [language_id, wordnet_gloss])
def test_no_concept_of_the_file_is_in_two_splits(module: ModuleType) -> None:
    lines = lzma.decompress(module.FILE.read_bytes()).decode().removesuffix("\n").split("\n")
    rows = [line.split("\t") for line in lines]
    assert {len(row) for row in rows} == {4}
    assert len({row[2] for row in rows}) > 1_500
    assert not in_several((row[0], row[2]) for row in rows)


# --- language_id


def test_no_name_is_in_two_splits_with_and_without_brackets(every) -> None:
    names = [
        (which, (language, re.sub(r" ?\([^)]*\)", "", text.casefold())))
        for which, language, text in samples(every["language_id"])
    ]
    assert len({name for _, name in names}) < len(names) - 1_000  # there are such names
    assert not in_several(names)


# the same thing in several languages, from a dictionary
TRANSLATIONS = {
    "Germany": "de Deutschland, es Alemania, fi Saksa, hu Németország, nl Duitsland, pl Niemcy, tr Almanya, vi Đức",
    "France": "de Frankreich, fi Ranska, hr Francuska, pl Francja, pt França, ro Franța, sk Francúzsko, tr Fransa",
    "Monday": "cs pondělí, de Montag, fi maanantai, fr lundi, hu hétfő, it lunedì, pl poniedziałek, sk pondelok",
    "Slovakia": "de Slowakei, hr Slovačka, fr Slovaquie, hu Szlovákia, nl Slowakije, pl Słowacja, pt Eslováquia",
    "Kazakhstan": "de Kasachstan, cs Kazachstán, es Kazajistán, hu Kazahsztán, pt Cazaquistão",
}


@pytest.mark.parametrize("thing", TRANSLATIONS)
def test_translations_have_their_language_and_share_a_split(thing, every) -> None:
    place = {text: (which, language) for which, language, text in samples(every["language_id"])}
    expected = dict(reversed(pair.split(" ")) for pair in TRANSLATIONS[thing].split(", "))
    assert {text: place[text][1] for text in expected} == expected
    assert len({place[text][0] for text in expected}) == 1


def test_the_strings_are_short_and_in_latin_letters(every) -> None:
    texts = [text for *_, text in samples(every["language_id"])]
    sizes = [len(text.encode()) for text in texts]
    assert max(sizes) == 63
    assert sum(sizes) / len(sizes) == pytest.approx(16.5, abs=0.05)
    letters = {character for text in texts for character in text if character.isalpha()}
    others = {letter for letter in letters if not re.match(r"(LATIN|MODIFIER)", unicodedata.name(letter))}
    assert len(others) <= 6, others  # signs of units


# --- wordnet_gloss


def test_no_class_has_more_than_2000_glosses(every) -> None:
    sizes = Counter(kind for _, kind, _ in samples(every["wordnet_gloss"]))
    assert max(sizes.values()) == 2_000
    assert min(sizes.values()) > 950


def test_labels_name_what_the_glosses_describe(every) -> None:
    """Words that hardly occur but in one kind: a list of classes in another order would show."""
    typical = {
        "fishes": "animal", "leaves and": "plant", "basic unit of money": "quantity", "month of the": "time",
        "river in": "object", "city in": "location", "sandwich": "food", "artery": "body", "department": "group",
    }  # fmt: skip
    found = samples(every["wordnet_gloss"])
    for words, kind in typical.items():
        kinds = Counter(each for _, each, text in found if words in text)
        assert kinds.most_common(1)[0][0] == kind, words


@pytest.mark.slow
def test_no_two_splits_have_glosses_that_differ_in_one_word(every) -> None:
    """Of ten words or more, before the examples: with one exchanged or left out, nine of eleven words are shared."""
    found = []
    for which, _, text in samples(every["wordnet_gloss"]):
        # a sum of hashes stands for a set of words: fast, and equal sums of different sets do not happen
        words = [hash(word) for word in set(re.findall(r"\w+", text.partition('; "')[0].lower()))]
        whole = sum(words)
        if len(words) >= 10:
            found += [(which, whole - word) for word in (0, *words)]
    assert len(found) > 150_000
    assert not in_several(found)


def test_money_of_every_country_is_in_one_split(every) -> None:
    """A template of few words, which the test above does not see."""
    template = re.compile(r"the basic unit of money in \w+$")
    money = [which for which, _, text in samples(every["wordnet_gloss"]) if template.match(text)]
    assert len(money) == 85
    assert len(set(money)) == 1


# --- kjv


@pytest.fixture(scope="module")
def whole() -> str:
    return lzma.decompress(kjv.FILE.read_bytes()).decode("ascii")


@pytest.fixture(scope="module")
def split_text() -> SplitText:
    return read_kjv()


def test_the_text_is_whole(whole: str) -> None:
    assert (len(whole), len(set(whole))) == (4_139_037, 63)
    assert whole.startswith("In the beginning God created the heaven and the earth.\nAnd the earth was without form")
    assert whole.endswith("The grace of our Lord Jesus Christ be with you all. Amen.")
    chapters = whole.split("\n\n")
    assert len(chapters) == 1_189
    assert sum(len(chapter.split("\n")) for chapter in chapters) == 31_102
    assert not re.search(r"\n\n\n|  \n|\n ", whole)


FIRST_VERSES = {
    "Genesis": "In the beginning God created", "Exodus": "Now these are the names of the children of Israel",
    "Deuteronomy": "These be the words which Moses spake", "Ruth": "Now it came to pass in the days when the judges",
    "Job": "There was a man in the land of Uz", "Psalms": "Blessed is the man that walketh not",
    "Ecclesiastes": "The words of the Preacher", "Isaiah": "The vision of Isaiah", "Malachi": "The burden of the word",
    "Matthew": "The book of the generation", "John": "In the beginning was the Word", "Acts": "The former treatise",
    "Romans": "Paul, a servant of Jesus Christ, called", "Jude": "Jude, the servant", "Revelation": "The Revelation of",
}  # fmt: skip


def test_each_book_begins_where_the_table_says(whole: str) -> None:
    chapters = whole.split("\n\n")
    assert (len(BOOKS), sum(book.chapters for book in BOOKS)) == (66, len(chapters))
    starts = {book.name: sum(each.chapters for each in BOOKS[:place]) for place, book in enumerate(BOOKS)}
    for name, verse in FIRST_VERSES.items():
        assert chapters[starts[name]].startswith(verse)


def test_every_kind_has_books_in_every_split() -> None:
    held = {(book.kind, book.split) for book in BOOKS if book.kind}
    assert held == {(kind, which) for kind in kjv.CLASSES for which in SPLITS}


def test_the_splits_are_the_whole_text_once(whole: str, split_text: SplitText) -> None:
    text = split_text
    sizes = [len(getattr(text, which)) for which in SPLITS]
    assert sizes == [3_060_238, 451_329, 627_466]
    assert " / ".join(f"{size:,}" for size in sizes) in kjv.__doc__
    chapters = [chapter for which in SPLITS for chapter in getattr(text, which).decode().split("\n\n")]
    assert Counter(chapters) == Counter(whole.split("\n\n"))
    assert text.val.startswith(FIRST_VERSES["Deuteronomy"].encode())
    assert text.test.startswith(FIRST_VERSES["Exodus"].encode())


def test_few_held_out_verses_occur_elsewhere(split_text: SplitText) -> None:
    train, val, test = ([line for line in getattr(split_text, which).split(b"\n") if line] for which in SPLITS)
    assert (len(train), len(val), len(test)) == (22_845, 3_322, 4_935)
    in_train, in_both = set(train), {*train, *val}
    assert sum(line in in_train for line in val) == 4  # 0.12 %
    assert sum(line in in_both for line in test) == 14  # 0.28 %


@pytest.mark.parametrize("verses", [1, 8])
def test_passages_are_all_verses_of_a_kind_in_order(verses: int, split_text: SplitText) -> None:
    data, text = read_kjv_kinds(verses=verses), split_text
    for which in SPLITS:
        part, lines = getattr(data, which), getattr(text, which).decode().replace("\n\n", "\n").split("\n")
        found = list(chain.from_iterable(passage.split("\n") for passage in part.texts))
        assert found == lines[: len(found)]
        assert len(lines) - len(found) == (404 if which == "train" else 0)  # Revelation, the last book
    if verses == 8:
        counts = [passage.count("\n") + 1 for passage in chain(data.train.texts, data.val.texts, data.test.texts)]
        assert 7.5 < sum(counts) / len(counts) < 8.5
        assert max(counts) <= 11


def test_passages_have_the_kind_of_their_book(every) -> None:
    kind = {text: name for _, name, text in samples(every["kjv_kinds"])}
    expected = {"Genesis": "law", "Ruth": "history", "Job": "wisdom", "Isaiah": "prophets", "Malachi": "prophets",
                "John": "gospels", "Acts": "gospels", "Romans": "epistles", "Jude": "epistles"}  # fmt: skip
    for book, name in expected.items():
        assert {kind[text] for text in kind if text.startswith(FIRST_VERSES[book])} == {name}


@pytest.mark.parametrize("verses", [0, -1, 2.5, "many"])
def test_a_wrong_number_of_verses_is_named(verses) -> None:
    with pytest.raises(ConfigError, match=rf"data\.verses must be a whole number, at least 1 verse; got '?{verses}"):
        read_kjv_kinds(verses=verses)


# --- how the files are made


def test_groups_that_share_a_member_are_joined() -> None:
    groups = [("b", "c"), ("x",), ("d", "c"), ("a", "d"), ("z", "y")]
    assert joined(groups) == {"a": "a", "b": "a", "c": "a", "d": "a", "x": "x", "y": "y", "z": "y"}


def test_concepts_are_split_75_10_15_whatever_others_there_are() -> None:
    counts = Counter(split_of(f"concept {number}") for number in range(10_000))
    assert [round(counts[which] / 100) for which in SPLITS] == pytest.approx([75, 10, 15], abs=1)


def shipped_text(module: ModuleType) -> str:
    return lzma.decompress(module.FILE.read_bytes()).decode()


@pytest.mark.slow
@pytest.mark.skipif(babel_version() != language_id.BABEL, reason=f"needs babel=={language_id.BABEL}")
def test_the_script_makes_language_id_again() -> None:
    from effbench.data.text.embedded import make_language_id

    assert make_language_id.make() == shipped_text(language_id)


@pytest.mark.slow
@pytest.mark.skipif(not WORDNET.is_file(), reason=f"no {WORDNET}")
def test_the_script_makes_wordnet_gloss_again() -> None:
    assert make_wordnet_gloss.make(WORDNET) == shipped_text(wordnet_gloss)


@pytest.mark.process
@pytest.mark.skipif(shutil.which("bible") is None, reason="no program bible, of Debian's bible-kjv")
def test_the_script_makes_kjv_again() -> None:
    command = ["bible", "-f", "gen1:1-rev22:21"]
    printed = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, text=True).stdout
    assert make_kjv.make(printed) == shipped_text(kjv)
