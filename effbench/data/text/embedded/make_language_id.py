"""Makes language_id.tsv.xz: strings of CLDR that occur in one of 20 languages alone.

Run `pip install babel==2.19.0`, then `python -m effbench.data.text.embedded.make_language_id`. It rewrites the file
and its sha256; the text is the same on every run.

- A string has three letters or more, at most 64 bytes of UTF-8, and no place for a number but at its ends, where that
  is removed. All kinds of blanks are one space.
- A concept is what CLDR has one key for, such as currency EUR, whose names in singular and plural it joins. Concepts
  with equal names in a language are one, such as the script and the language Armenian, or 'Afghani (1927-2002)' and
  'Afghani': what stands in brackets does not count.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping

import babel
from babel.localedata import LocaleDataDict, load

from effbench.data.shipped import write_shipped
from effbench.data.text.embedded.concepts import joined, split_of
from effbench.data.text.language_id import BABEL, CLASSES, FILE
from effbench.data.text.tables import SPLITS, Row, packed, table

MAX_BYTES = 64
MIN_LETTERS = 3
# Babel's table -> (its concepts' kind, where the key of the concept stands in the path to a string)
TABLES = {
    "territories": ("territory", 0), "languages": ("language", 0), "scripts": ("script", 0), "variants": ("variant", 0),
    "currency_names": ("currency", 0), "currency_names_plural": ("currency", 0), "time_zones": ("zone", 0),
    "meta_zones": ("meta zone", 0), "unit_display_names": ("unit", 0), "unit_patterns": ("unit", 0),
    "date_fields": ("date", 0), "months": ("month", -1), "days": ("day", -1), "quarters": ("quarter", -1),
    "day_periods": ("day period", -1), "eras": ("era", -1), "measurement_systems": ("measures", 0),
}  # fmt: skip


def leaves(tree: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (keys that lead to a string, the string)."""
    if isinstance(tree, str):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, branch in tree.items():
            yield from leaves(branch, (*path, str(key)))


def cleaned(text: str) -> str | None:
    """Return the string as it ships; None if it is too short, too long, or has a place for a number inside."""
    text = re.sub(r"^\{0\}|\{0\}$", "", text) if text.count("{") == 1 else text
    # the kind of blank would betray French, say; a soft hyphen (U+00AD) is seen by nobody
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text).replace("\u00ad", "")).strip()
    letters = sum(character.isalpha() for character in text)
    usable = letters >= MIN_LETTERS and len(text.encode()) <= MAX_BYTES and not re.search(r"[{}%_<>|]", text)
    return text if usable else None


def strings(language: str) -> Iterator[tuple[str, str]]:
    """Yield (concept, string) of a language."""
    data = LocaleDataDict(load(language))
    for name, (kind, place) in TABLES.items():
        for path, text in leaves(data[name]):
            key = path[place].partition("-")[0] if kind == "date" else path[place]  # year-short is year
            if (clean := cleaned(text)) is not None:
                yield f"{kind}/{key}", clean


def without_brackets(text: str) -> str:
    """Return what tells concepts apart: the string without capitals and brackets."""
    return re.sub(r"\W*\(.*?\)\W*", " ", text.casefold()).strip() or text.casefold()


def make() -> str:
    """Return the table: rows by split, concept, language and string."""
    # text without capitals -> language -> {string: its concepts}
    found: dict[str, dict[str, dict[str, set[str]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(set)))
    for language in CLASSES:
        for concept, text in strings(language):
            found[text.casefold()][language][text].add(concept)

    unambiguous = [next(iter(languages.items())) for languages in found.values() if len(languages) == 1]
    same_name: dict[tuple[str, str], set[str]] = defaultdict(set)
    for language, spellings in unambiguous:
        for text, concepts in spellings.items():
            same_name[language, without_brackets(text)] |= concepts
    concept_of = joined(sorted(concepts) for concepts in same_name.values())

    rows = []
    for language, spellings in unambiguous:
        text = min(spellings)  # one of 'Januar' and 'januar'
        concept = concept_of[min(spellings[text])]
        rows.append(Row(split_of(concept), language, concept, text))
    return table(sorted(rows, key=lambda row: (SPLITS.index(row.split), row.concept, row.label, row.text)))


if __name__ == "__main__":
    if babel.__version__ != BABEL:
        raise SystemExit(f"The file is made with Babel {BABEL}, other CLDR data give others; got {babel.__version__}.")
    write_shipped(FILE, packed(make()))
