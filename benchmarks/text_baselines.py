"""What a linear model on n-grams and general compressors reach on the texts that ship.

    python -m benchmarks.text_baselines  # all, a minute; or some: language_id wordnet_gloss kjv_kinds kjv

The figures are in the docstrings of effbench/data/text/; those of test are its references (data/reference.py), which
every run on these data shows beside its own.
"""

from __future__ import annotations

import bz2
import lzma
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from effbench.data.text.kjv import read_kjv, read_kjv_kinds
from effbench.data.text.language_id import read_language_id
from effbench.data.text.tables import LabelledTexts
from effbench.data.text.wordnet_gloss import read_wordnet_gloss


@dataclass(frozen=True)
class Linear:
    """What a linear model reaches.

    Attributes:
        accuracy: of val and test.
        counts: texts of val and test.
        most_frequent: accuracy on test of always naming test's most frequent class.
    """

    accuracy: Mapping[str, float]
    counts: Mapping[str, int]
    most_frequent: float

    def __str__(self) -> str:
        parts = [f"{which} {100 * value:.1f} % ({self.counts[which]})" for which, value in self.accuracy.items()]
        return f"{', '.join(parts)}; most frequent class {100 * self.most_frequent:.1f} %"


def linear(data: LabelledTexts, *ngrams: dict[str, Any]) -> Linear:
    """Fit a linear SVM on train's TF-IDF.

    Args:
        data: texts.
        ngrams: options of scikit-learn's TfidfVectorizer, one for each kind of n-gram.
    """
    # not at the top: other benchmarks are measured where scikit-learn is not installed
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.svm import LinearSVC

    vectorizers = [TfidfVectorizer(sublinear_tf=True, **options) for options in ngrams]
    model = make_pipeline(make_union(*vectorizers), LinearSVC(random_state=0)).fit(data.train.texts, data.train.labels)
    parts = {"val": data.val, "test": data.test}
    accuracy = {which: float(model.score(part.texts, part.labels)) for which, part in parts.items()}
    most = max(Counter(data.test.labels).values()) / len(data.test.labels)
    return Linear(accuracy, {which: len(part.texts) for which, part in parts.items()}, most)


def language_id() -> Linear:
    """Characters 1 to 5, capitals kept."""
    return linear(read_language_id(), {"analyzer": "char", "ngram_range": (1, 5), "lowercase": False})


def wordnet_gloss() -> Linear:
    """Words 1 to 2 and characters 2 to 5 within words."""
    words = {"ngram_range": (1, 2), "token_pattern": r"\w+"}
    return linear(read_wordnet_gloss(), words, {"analyzer": "char_wb", "ngram_range": (2, 5)})


def kjv_kinds() -> Linear:
    """Words 1 to 2."""
    return linear(read_kjv_kinds(), {"ngram_range": (1, 2), "token_pattern": r"\w+"})


def kjv() -> str:
    """Bits per byte of val by itself, by two compressors."""
    val = read_kjv().val
    sizes = {"bz2": len(bz2.compress(val, 9)), "lzma": len(lzma.compress(val, preset=9 | lzma.PRESET_EXTREME))}
    return ", ".join(f"{name} {8 * size / len(val):.3f} bits per byte" for name, size in sizes.items())


if __name__ == "__main__":
    every = {each.__name__: each for each in (language_id, wordnet_gloss, kjv_kinds, kjv)}
    for name in sys.argv[1:] or every:
        print(f"{name}: {every[name]()}", flush=True)
