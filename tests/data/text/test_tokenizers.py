"""Tokenizers against Python's own encodings, and round trips of any text."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effbench.data.text.tokenizers import (
    TOKENIZERS,
    BytePairs,
    Bytes,
    Characters,
    Words,
    check_vocab_size,
    fitted_tokenizer,
    restored_tokenizer,
    tokenizer_class,
)
from effbench.errors import ConfigError, DataError
from effbench.special_tokens import PADDING, UNKNOWN

TRAIN = ["Das Haus, das rote Haus.", "The house is red.", "La maison est rouge!"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def fitted(name: str):
    if name == "bpe":
        pytest.importorskip("tokenizers")
    return TOKENIZERS[name].fit(TRAIN, 300)


@given(TEXT)
def test_bytes_are_utf8_and_none_is_padding(text):
    tokens = Bytes().encode(text)
    assert tokens == [byte + 1 for byte in text.encode()]
    assert PADDING not in tokens
    assert max(tokens) < Bytes.vocab_size
    assert Bytes().decode([*tokens, PADDING, PADDING]) == text


@given(TEXT, st.integers(1, 40))
def test_a_limit_cuts_nothing_that_is_needed(text, limit):
    for tokenizer in (Bytes(), Characters.fit(TRAIN, 50), Words.fit(TRAIN, 50)):
        assert tokenizer.encode(text, limit)[:limit] == tokenizer.encode(text)[:limit]


def test_characters_of_train_come_back_and_others_are_unknown():
    tokenizer = fitted("chars")
    assert tokenizer.vocab_size == 2 + len(set("".join(TRAIN)))
    for text in TRAIN:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("Ω")[0] == UNKNOWN


def test_words_are_lower_case_and_ranked_by_count():
    tokenizer = Words.fit(TRAIN, 6)
    counts = Counter(word for text in TRAIN for word in re.findall(r"\w+|[^\w\s]", text.lower()))
    expected = sorted(counts, key=lambda word: (-counts[word], word))[:4]
    assert list(tokenizer.tokens) == expected
    assert tokenizer.vocab_size == 6
    assert tokenizer.encode("DAS haus zebra") == [2 + expected.index("das"), 2 + expected.index("haus"), UNKNOWN]


def test_vocabulary_does_not_depend_on_the_order_of_texts():
    assert Words.fit(TRAIN, 9).tokens == Words.fit(TRAIN[::-1], 9).tokens


def test_byte_pairs_round_trip_any_text_and_merge_frequent_pairs():
    tokenizer = fitted("bpe")
    for text in [*TRAIN, "naïve Ω 你好 \x00"]:
        tokens = tokenizer.encode(text)
        assert PADDING not in tokens
        assert tokenizer.decode(tokens) == text
    assert len(tokenizer.encode("Haus")) < 4
    assert tokenizer.vocab_size <= 300


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_record_gives_the_same_tokenizer(name):
    tokenizer = fitted(name)
    restored = restored_tokenizer(json.loads(json.dumps(tokenizer.record())))
    for text in [*TRAIN, "other words Ω"]:
        assert restored.encode(text) == tokenizer.encode(text)
    assert restored.vocab_size == tokenizer.vocab_size


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "must name one of bytes, chars"),
        ({"name": "wordpiece"}, "must name one of bytes, chars"),
        ({"name": "words"}, "tokens must be a list of texts"),
        ({"name": "words", "tokens": ["a", 3]}, "tokens must be a list of texts"),
        ({"name": "chars", "tokens": ["a", "a"]}, "lists a token twice"),
        ({"name": "bpe", "content": 3}, "must be the JSON"),
        ({"name": "bpe", "content": "{}"}, "is no tokenizer"),
    ],
)
def test_a_damaged_record_is_refused(record, message):
    if record and record["name"] == "bpe":
        pytest.importorskip("tokenizers")
    with pytest.raises(ValueError, match=message):
        restored_tokenizer(record)


@pytest.mark.parametrize(
    ("name", "size"), [("bytes", 256), ("bpe", 256), ("words", 2), ("words", True), ("chars", "9")]
)
def test_a_vocabulary_that_is_too_small_is_refused(name, size):
    with pytest.raises(ConfigError, match=r"data\.vocab_size must be a whole number of at least"):
        check_vocab_size(name, size)


def test_words_that_no_record_could_hold_are_refused():
    """A file with three base64 texts: the run would train, and then its summary could not be read."""
    texts = [letter * 1_400_000 for letter in "abc"]
    with pytest.raises(
        DataError, match=r"data\.tokenizer=words: its 5 tokens take 4,200,\d{3} bytes in a run's record"
    ):
        fitted_tokenizer("words", texts, 8192)
    assert fitted_tokenizer("bytes", texts, 8192).vocab_size == 257


def test_an_unknown_tokenizer_names_the_nearest():
    with pytest.raises(ConfigError, match="data.tokenizer 'word' .* Did you mean 'words'"):
        tokenizer_class("word")


def test_bpe_record_is_of_its_class():
    assert isinstance(fitted("bpe"), BytePairs)
