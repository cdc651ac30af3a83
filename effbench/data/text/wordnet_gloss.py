"""Which of 19 kinds of thing a WordNet gloss describes, such as an animal, an artifact or a time.

The kind is the lexicographer file of the noun. No synset and no two glosses of nearly the same words are in two
splits. embedded/make_wordnet_gloss.py states the rules.

25,490 / 3,343 / 5,137 glosses in train, val and test, of 77 bytes on average and 505 at most. A linear SVM on TF-IDF of
words 1 to 2 and characters 2 to 5 reaches 79.2 % on val and 80.7 % on test; the most frequent class is 6.5 % of test
(`python -m benchmarks.text_baselines wordnet_gloss`, scikit-learn 1.9.1).
"""

from __future__ import annotations

from pathlib import Path

from effbench.data.reference import Reference
from effbench.data.text.tables import LabelledTexts, read_table

# WordNet's lexicographer files of nouns (lexnames(5WN)) with at least 1,000 synsets
CLASSES = (
    "act", "animal", "artifact", "attribute", "body", "cognition", "communication", "event", "food", "group",
    "location", "object", "person", "plant", "possession", "quantity", "state", "substance", "time",
)  # fmt: skip
FILE = Path(__file__).parent / "embedded" / "wordnet_gloss.tsv.xz"
FACTS = {
    "source": "WordNet, Princeton University: glosses of nouns",
    "version": "3.0 (Debian wordnet-base 1:3.0-37)",
    "licence": "WordNet 3.0",
}
REFERENCE = Reference("linear n-grams", "acc", 0.807, "python -m benchmarks.text_baselines wordnet_gloss")


def read_wordnet_gloss() -> LabelledTexts:
    """Read the glosses.

    Raises:
        DataError: the file is missing or damaged.
    """
    return read_table(FILE, CLASSES, FACTS, REFERENCE)
