"""Makes wordnet_gloss.tsv.xz: up to 2,000 glosses of each of 19 kinds of nouns.

Run `python -m effbench.data.text.embedded.make_wordnet_gloss FILE`, FILE being data.noun of WordNet 3.0 (Debian's
package wordnet-base puts it in /usr/share/wordnet). It rewrites the file and its sha256; the text is the same on every
run.

- A gloss is whole, with its examples. One that several synsets have is taken once, and not at all if they are of
  different kinds (capitals aside).
- Glosses are one concept if their definitions share most of their words, as 'the fifth month of the Islamic calendar'
  and 'the fourth month of the Islamic calendar' do: see SIMILAR. The concept's name is its least synset offset.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from effbench.data.shipped import write_shipped
from effbench.data.text.embedded.concepts import joined, rank, split_of
from effbench.data.text.tables import SPLITS, Row, packed, table
from effbench.data.text.wordnet_gloss import CLASSES, FILE

# lexnames(5WN): the lexicographer files of nouns, from number 3 on
NOUN_FILES = (
    "Tops", "act", "animal", "artifact", "attribute", "body", "cognition", "communication", "event", "feeling", "food",
    "group", "location", "motive", "object", "person", "phenomenon", "plant", "possession", "process", "quantity",
    "relation", "shape", "state", "substance", "time",
)  # fmt: skip
FIRST_NOUN_FILE = 3
PER_CLASS = 2000
SIMILAR = 0.7  # words that two definitions share, over words that either has (Jaccard)


class Gloss(NamedTuple):
    """The gloss of a synset, which its offset in data.noun names."""

    offset: str
    kind: str
    text: str


def glosses(path: Path) -> Iterator[Gloss]:
    """Yield the glosses of data.noun (wndb(5WN))."""
    for line in path.read_text(encoding="ascii").split("\n"):
        if line and not line.startswith(" "):  # the licence is indented
            synset, _, text = line.partition(" | ")
            offset, number = synset.split()[:2]
            yield Gloss(offset, NOUN_FILES[int(number) - FIRST_NOUN_FILE], re.sub(r"\s+", " ", text).strip())


def chosen(path: Path) -> list[Gloss]:
    """Return the glosses that ship, each once."""
    by_text: dict[str, list[Gloss]] = defaultdict(list)
    for gloss in glosses(path):
        if gloss.kind in CLASSES:
            by_text[gloss.text.casefold()].append(gloss)
    single = [min(same) for same in by_text.values() if len({gloss.kind for gloss in same}) == 1]
    # by rank, not the first in the file: neighbours there are of one kind
    single.sort(key=lambda gloss: rank(gloss.offset))
    return [gloss for kind in CLASSES for gloss in [each for each in single if each.kind == kind][:PER_CLASS]]


def definition_words(text: str) -> frozenset[str]:
    """Return the words of a gloss before its first example."""
    return frozenset(re.findall(r"[a-z0-9]+", text.partition('; "')[0].lower()))


def similar_pairs(words: dict[str, frozenset[str]]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of names whose sets of words are similar.

    Sets of n words of which a share s is common have one of their n - ceil(s * n) + 1 rarest words in common, so only
    sets that share such a word are compared (Chaudhuri et al., ICDE 2006: prefix filter).
    """
    frequency = Counter(word for each in words.values() for word in each)
    names_with: dict[str, list[str]] = defaultdict(list)
    for name, own in words.items():
        rarest = sorted(own, key=lambda word: (frequency[word], word))[: len(own) - math.ceil(SIMILAR * len(own)) + 1]
        for other in dict.fromkeys(other for word in rarest for other in names_with[word]):
            common = len(own & words[other])
            if common >= SIMILAR * (len(own) + len(words[other]) - common):
                yield other, name
        for word in rarest:
            names_with[word].append(name)


def make(path: Path) -> str:
    """Return the table: rows by split, concept and offset."""
    found = chosen(path)
    words = {gloss.offset: definition_words(gloss.text) for gloss in found}
    concept_of = {offset: offset for offset in words} | joined(similar_pairs(words))
    rows = [
        Row(split_of(concept_of[gloss.offset]), gloss.kind, concept_of[gloss.offset], gloss.text)
        for gloss in sorted(found)
    ]
    return table(sorted(rows, key=lambda row: (SPLITS.index(row.split), row.concept)))


if __name__ == "__main__":
    write_shipped(FILE, packed(make(Path(sys.argv[1]))))
