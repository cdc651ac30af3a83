"""Datasets of texts that ship with the package: data=language_id, data=wordnet_gloss, data=kjv_kinds, data=kjv."""

from __future__ import annotations

from math import inf

from effbench.data.preview import previewed
from effbench.data.rules import RULES
from effbench.data.splits import Splits
from effbench.data.text.dataset import text_splits
from effbench.data.text.encoding import VOCAB_SIZE, TextOptions
from effbench.data.text.kjv import read_kjv, read_kjv_kinds
from effbench.data.text.language_id import read_language_id
from effbench.data.text.tables import SPLITS, LabelledTexts
from effbench.data.text.text_csv import texts_of
from effbench.data.text.text_file import windows_of
from effbench.data.text.windows import CONTEXT, window_options, window_splits
from effbench.data.text.windows import VOCAB_SIZE as WINDOW_VOCAB_SIZE
from effbench.data.text.wordnet_gloss import read_wordnet_gloss


@previewed(texts_of(64))
def language_id(
    tokenizer: str = "bytes", max_length: int = 64, vocab_size: int = VOCAB_SIZE, rules: int = RULES
) -> Splits:
    """Return short strings of 20 languages; see effbench.data.text.language_id.

    Args:
        tokenizer, max_length, vocab_size, rules: see TextOptions.

    Raises:
        ConfigError: an option is of the wrong type or out of range.
        DataError: the file is missing or damaged.
    """
    options = TextOptions(tokenizer, max_length, vocab_size, rules)
    return _encoded("language_id", read_language_id(), options)


@previewed(texts_of(64))
def wordnet_gloss(
    tokenizer: str = "words", max_length: int = 64, vocab_size: int = VOCAB_SIZE, rules: int = RULES
) -> Splits:
    """Return glosses of nouns of 19 kinds; see effbench.data.text.wordnet_gloss.

    Args:
        tokenizer, max_length, vocab_size, rules: see TextOptions.

    Raises:
        ConfigError: an option is of the wrong type or out of range.
        DataError: the file is missing or damaged.
    """
    options = TextOptions(tokenizer, max_length, vocab_size, rules)
    return _encoded("wordnet_gloss", read_wordnet_gloss(), options)


@previewed(texts_of(320))
def kjv_kinds(
    verses: int = 8, tokenizer: str = "words", max_length: int = 320, vocab_size: int = VOCAB_SIZE, rules: int = RULES
) -> Splits:
    """Return passages of the King James Bible with the kind of their book; see effbench.data.text.kjv.

    Args:
        verses: of a passage.
        tokenizer, max_length, vocab_size, rules: see TextOptions.

    Raises:
        ConfigError: an option is of the wrong type or out of range.
        DataError: the file is missing or damaged.
    """
    options = TextOptions(tokenizer, max_length, vocab_size, rules)
    return _encoded("kjv_kinds", read_kjv_kinds(verses), options)


@previewed(windows_of(CONTEXT))
def kjv(tokenizer: str = "bytes", context: int = CONTEXT, vocab_size: int = WINDOW_VOCAB_SIZE) -> Splits:
    """Return the King James Bible for next-token prediction, divided by whole books; see effbench.data.text.kjv.

    Args:
        tokenizer, context, vocab_size: see effbench.data.text.windows.window_options.

    Raises:
        ConfigError: an option is of the wrong type or out of range.
        DataError: the file is missing or damaged.
    """
    return window_splits("kjv", read_kjv(), window_options(tokenizer, context, vocab_size))


def _encoded(name: str, found: LabelledTexts, options: TextOptions) -> Splits:
    parts = {which: getattr(found, which) for which in SPLITS}
    texts = {which: part.texts for which, part in parts.items()}
    labels = {which: part.labels for which, part in parts.items()}
    # the file's own sha256 is in the record too: that of the dataset also covers what was chosen of the file
    facts = {("file_sha256" if key == "sha256" else key): value for key, value in found.facts.items()}
    reference = found.reference.facts() if found.reference else {}
    # no warning of cut texts: the default lengths were chosen for these
    return text_splits(name, texts, labels, found.classes, options, {**facts, **reference}, many_cut=inf)
