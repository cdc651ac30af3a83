"""Which of 20 languages a short string is in: names of places, currencies, languages, units and dates from CLDR.

All are written in Latin letters. A string is here if it occurs in one of the 20 languages alone (capitals aside).
No concept, such as a currency or a territory, is in two splits. embedded/make_language_id.py states the rules.

27,122 / 3,863 / 5,365 strings in train, val and test, of 16.5 bytes on average and 63 at most. A linear SVM on TF-IDF
of characters 1 to 5 reaches 86.9 % on val and 87.5 % on test; the most frequent class is 7.6 % of test
(`python -m benchmarks.text_baselines language_id`, scikit-learn 1.9.1).
"""

from __future__ import annotations

from pathlib import Path

from effbench.data.reference import Reference
from effbench.data.text.tables import LabelledTexts, read_table

# ISO 639-1
CLASSES = (
    "cs", "da", "de", "en", "es", "fi", "fr", "hr", "hu", "id", "it", "nb", "nl", "pl", "pt", "ro", "sk", "sv", "tr",
    "vi",
)  # fmt: skip
FILE = Path(__file__).parent / "embedded" / "language_id.tsv.xz"
BABEL = "2.19.0"
FACTS = {"source": "Unicode CLDR, through Babel", "version": f"CLDR 49, Babel {BABEL}", "licence": "Unicode-3.0"}
REFERENCE = Reference("linear n-grams", "acc", 0.875, "python -m benchmarks.text_baselines language_id")


def read_language_id() -> LabelledTexts:
    """Read the strings.

    Raises:
        DataError: the file is missing or damaged.
    """
    return read_table(FILE, CLASSES, FACTS, REFERENCE)
