"""Texts as a modality: encoding, batches by length, padding."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effbench.data.batches import EvalBatches, Shard, TrainBatches, by_length
from effbench.data.modality import Settings
from effbench.data.splits import Split, Splits
from effbench.data.text.dataset import text_splits
from effbench.data.text.encoding import TextOptions, bytes_of, encoded
from effbench.data.text.modality import TEXTS, Texts
from effbench.data.text.tokenizers import Bytes, Words
from effbench.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("before", "now", "option"),
    [
        ({"tokenizer": "bytes"}, {"tokenizer": "bytes"}, None),
        ({"tokenizer": "bytes"}, {"tokenizer": "words"}, "tokenizer"),
        ({"tokenizer": "bytes"}, {"tokenizer": "here"}, "tokenizer"),
        ({"tokenizer": "there"}, {"tokenizer": "here"}, None),  # a folder may have moved
        ({"tokenizer": "words", "vocab_size": 99}, {"tokenizer": "words", "vocab_size": 100}, "vocab_size"),
        ({"tokenizer": "words", "rules": 1}, {"tokenizer": "words", "rules": 2}, "rules"),
        ({}, {}, None),
    ],
)
def test_a_resumed_run_keeps_what_numbers_its_tokens(before: dict, now: dict, option: str | None) -> None:
    """A model that hashes tokens takes any: its weights would load, and answer for other tokens."""
    assert Texts.misread(before, now) == option


def texts(count: int = 400, seed: int = 0) -> list[str]:
    """Texts of 1 to 60 letters, most of them short; each is its number in another alphabet, then filling."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (torch.rand(count, generator=generator) ** 3 * 60).long().add(4).tolist()
    return [f"{number:03d}{'x' * length}" for number, length in enumerate(lengths)]


def dataset(count: int = 400, **options) -> Splits:
    own = texts(count)
    labels = {"train": torch.arange(count) % 3, "val": torch.arange(30) % 3}
    return text_splits("mine", {"train": own, "val": own[:30]}, labels, ["a", "b", "c"], TextOptions(**options))


def batches(**options) -> TrainBatches:
    data = dataset()
    kind = Texts.fit(data, Settings())
    return TrainBatches(data.train, num_classes=3, modality=kind, **{"batch_size": 16, "seed": 5, **options})


def decoded(tokens: Tensor) -> list[str]:
    return [Bytes().decode(row) for row in tokens.tolist()]


# --- encoding


def test_encoded_rows_are_utf8_padded_with_zeros():
    tokens, cut = encoded(Bytes(), ["né", "abcdef"], 4)
    assert tokens.dtype == torch.int16
    assert tokens.tolist() == [[111, 0xC3 + 1, 0xA9 + 1, 0], [98, 99, 100, 101]]
    assert cut == 1


def test_tokens_take_the_narrowest_type():
    assert encoded(Words(["a"]), ["a"], 2)[0].dtype == torch.uint8
    assert encoded(Words(list(map(str, range(40_000)))), ["7"], 2)[0].dtype == torch.int32


def test_the_tokenizer_is_fitted_to_train_alone(caplog):
    labels = {"train": [0, 1], "test": [0]}
    with caplog.at_level("INFO"):
        data = text_splits(
            "mine", {"train": ["a b", "b c"], "test": ["b zebra"]}, labels, ["x", "y"], TextOptions("words", 4, 100)
        )
    assert data.facts["tokenizer"]["tokens"] == ["b", "a", "c"]
    assert data.facts["unknown_tokens"] == {"train": 0.0, "test": 0.5}
    assert "tokens that are not in the vocabulary: test 50.0 %" in caplog.text


def test_cut_texts_are_counted_and_said(caplog):
    with caplog.at_level("INFO"):
        data = dataset(max_length=10)
    long = sum(len(text) > 10 for text in texts())
    assert data.facts["truncated"]["train"] == long > 0
    assert f"{long} of 400 train" in caplog.text


@pytest.mark.parametrize(("long", "told"), [(9, False), (10, True)])
@pytest.mark.parametrize("tokenizer", ["bytes", "words"])
def test_many_cut_texts_are_a_warning_of_the_run(long, told, tokenizer, caplog):
    own = ["a b c d e f g h i"] * long + ["a b"] * (100 - long)
    data = text_splits("mine", {"train": own}, {"train": torch.arange(100) % 2}, ["x", "y"], TextOptions(tokenizer, 8))
    said = (
        "10 of 100 train texts are longer than data.max_length=8 tokens, and the model reads their beginning only. "
        f"Raise it (data.max_length=32){', or use data.tokenizer=words' * (tokenizer == 'bytes')}"
    )
    assert data.warnings == ((said,) if told else ())
    assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == [f"mine: {said}"] * told


@pytest.mark.parametrize("text", ["", "  \n\t", "\ud800", "a\0b"])
def test_empty_and_impossible_texts_are_named(text):
    with pytest.raises(DataError, match="mine train: text 1 (is empty|has a lone surrogate|holds a NUL)"):
        text_splits("mine", {"train": ["a", text]}, {"train": [0, 1]}, ["x", "y"], TextOptions())


def test_a_text_of_a_megabyte_is_cut():
    tokens, cut = encoded(Bytes(), ["ä" * 1_000_000], 7)
    assert tokens.shape == (1, 7)
    assert cut == 1


def test_many_texts_are_encoded_a_few_at_a_time(monkeypatch):
    own = texts(10)
    whole = encoded(Bytes(), own, 20)
    monkeypatch.setattr("effbench.data.text.encoding.ROWS", 3)
    tokens, cut = encoded(Bytes(), own, 20)
    assert torch.equal(tokens, whole[0])
    assert decoded(tokens) == [text[:20] for text in own]
    assert cut == whole[1] == sum(len(text) > 20 for text in own)


def test_texts_that_no_memory_holds_are_refused_with_their_size(monkeypatch):
    """Token numbers alone would be 1.3 MB; Python's objects and a mask make it more than twice as much."""
    memory = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 2_000_000}
    monkeypatch.setattr("os.sysconf", memory.__getitem__)
    own = [f"text {number}" for number in range(5000)]
    ask = {"train": own}, {"train": torch.arange(5000) % 2}, ["a", "b"]
    assert text_splits("mine", *ask, TextOptions(max_length=40)).train.inputs.nbytes == 400_000
    with pytest.raises(ConfigError, match=r"data.max_length: .* Lower data.max_length, or give fewer texts\."):
        text_splits("mine", *ask, TextOptions(max_length=128))


def test_python_objects_of_texts_are_counted_as_they_are():
    """As a table is held: a tuple of text and label in one list, in that of its split, and the text in a third."""
    tracemalloc.start()
    try:
        found = [(f"text number {number}", f"label {number % 3}") for number in range(20_000)]
        held = [found[:16_000], found[16_000:18_000], found[18_000:]]
        own = [[text for text, _ in part] for part in held]
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    counted = bytes_of((text for part in own for text in part), 1, 1) - 20_000 * 2
    assert used <= counted <= 1.5 * used


def test_a_bad_row_is_named_wherever_it_is():
    tokens = torch.ones(TEXTS * 2, 3, dtype=torch.int64)
    tokens[TEXTS + 5, 1] = 0
    labels = torch.arange(TEXTS * 2) % 2
    with pytest.raises(DataError, match=f"text {TEXTS + 5} has padding"):
        Splits("mine", Split(tokens, labels), None, None, ("a", "b"), "0", modality=Texts)


def test_a_length_that_no_memory_holds_is_refused():
    with pytest.raises(ConfigError, match="data.max_length must be at most 1,048,576 tokens; got 2,000,000,000"):
        TextOptions(max_length=2_000_000_000)
    with pytest.raises(ValueError, match="with at most 1,048,576 tokens"):  # a stranger's record
        Texts.restored({"shape": [2_000_000_000], "tokenizer": None}, Settings())


@pytest.mark.parametrize("key", ["max_length", "vocab_size", "tokenizer"])
def test_bad_options_are_refused_by_key(key):
    with pytest.raises(ConfigError, match=f"data.{key}"):
        TextOptions(**{"tokenizer": "words", key: 0})


def test_other_texts_or_labels_give_another_digest():
    first = text_splits("m", {"train": ["ab", "c"]}, {"train": [0, 1]}, ["x", "y"], TextOptions())
    moved = text_splits("m", {"train": ["a", "bc"]}, {"train": [0, 1]}, ["x", "y"], TextOptions())
    relabelled = text_splits("m", {"train": ["ab", "c"]}, {"train": [1, 0]}, ["x", "y"], TextOptions())
    assert len({first.sha256, moved.sha256, relabelled.sha256}) == 3


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.ones(2, 3), "must be token numbers"),
        (torch.ones(2, dtype=torch.int64), "must be token numbers"),
        (torch.tensor([[1, -1], [1, 1]]), "at least 0"),
        (torch.tensor([[1, 1], [0, 0]]), "text 1 is padding"),
        (torch.tensor([[1, 1, 1], [1, 0, 1]]), "text 1 has padding"),
    ],
)
def test_token_numbers_of_a_users_dataset_are_checked(tokens, message):
    with pytest.raises(DataError, match=message):
        Splits("mine", Split(tokens, torch.tensor([0, 1])), None, None, ("a", "b"), "0", modality=Texts)


def test_a_dataset_without_its_tokenizer_is_refused():
    data = Splits("mine", Split(torch.ones(2, 3).long(), torch.tensor([0, 1])), None, None, ("a", "b"), "0", {}, Texts)
    with pytest.raises(DataError, match="text_splits fits a tokenizer"):
        Texts.fit(data, Settings())


# --- batches by length


def test_an_epoch_has_each_text_once_and_batches_of_its_own():
    made = batches(drop_last=False)
    epochs = [
        [text for step in made.epoch(epoch) for batch in step.micro_batches for text in decoded(batch.inputs)]
        for epoch in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(texts())
    assert epochs[0] != epochs[1]


def test_little_of_the_batches_is_padding():
    def padding(inputs: list[Tensor]) -> float:
        return sum(int((tokens == 0).sum()) for tokens in inputs) / sum(tokens.numel() for tokens in inputs)

    made = batches()
    sorted_ = [batch.inputs for step in made.epoch(0) for batch in step.micro_batches]
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    unsorted = [made.modality.plain(made.split.inputs, rows) for rows in order.split(16)]
    assert padding(sorted_) < 0.05
    assert made.padding() == pytest.approx(padding(sorted_))
    assert batches(accumulate=2, batch_size=8).padding() < 0.05
    assert padding(unsorted) > 0.4


def test_dropped_texts_are_of_any_length():
    """Sorting before the cut would always drop the longest."""
    made = batches(batch_size=350)
    dropped = [
        set(texts()) - {*decoded(next(iter(step.micro_batches)).inputs)} for n in range(20) for step in made.epoch(n)
    ]
    mean = sum(map(len, texts())) / 400
    means = [sum(map(len, each)) / len(each) for each in dropped]
    assert all(len(each) == 50 for each in dropped)
    assert abs(sum(means) / len(means) - mean) < 3


@pytest.mark.parametrize("accumulate", [1, 3])
def test_ranks_and_workers_read_the_same_texts(accumulate):
    def read(**options):
        made = batches(accumulate=accumulate, batch_size=8, **options)
        return [[decoded(b.inputs) for b in step.micro_batches] for step in made.epoch(2)]

    one = read()
    assert read(num_workers=2) == one
    halves = [read(shard=Shard(rank, 2)) for rank in (0, 1)]
    joined = [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(*halves, strict=True)]
    assert joined == one


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 300), st.integers(0, 11), st.integers(0, 99))
def test_by_length_keeps_sizes_and_samples(size, whole, rest, seed):
    sizes = [size] * whole + [rest % size] * bool(rest % size)
    generator = torch.Generator().manual_seed(seed)
    count = sum(sizes) + 5
    lengths = torch.randint(1, 100, (count,), generator=generator)
    order = torch.randperm(count, generator=generator)
    got = by_length(order, lengths, sizes, generator)
    assert sorted(got.tolist()) == sorted(order[: sum(sizes)].tolist())


def test_evaluation_keeps_the_order_of_the_file():
    data = dataset()
    read = EvalBatches(data.train, batch_size=64, modality=Texts.fit(data, Settings()))
    assert [text for batch in read for text in decoded(batch.inputs)] == texts()


# --- prediction


def test_given_texts_are_encoded_and_numbers_checked():
    kind = Texts.fit(dataset(max_length=8), Settings())
    [tokens] = kind.given(["abc", "0123456789"])
    assert decoded(tokens) == ["abc", "01234567"]
    [one] = kind.given("abc")
    assert one.shape == (1, 8)
    for wrong in (torch.ones(2, 9).long(), torch.ones(2, 8), torch.full((1, 8), 257)):
        with pytest.raises(ConfigError, match="predict takes"):
            list(kind.given(wrong))
    with pytest.raises(ConfigError, match="text 1 is empty"):
        list(kind.given(["a", " "]))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([0, 0, 73, 102], r"text 1 has padding \(token 0\) before its tokens; it belongs at the end"),
        ([73, 0, 102, 0], r"text 1 has padding \(token 0\) between its tokens; it belongs at the end"),
        ([0, 0, 0, 0], r"text 1 is padding \(token 0\) alone: it is empty"),
    ],
)
def test_padding_belongs_at_the_end_of_token_numbers(row: list[int], said: str) -> None:
    """A model takes the first padding for the end of the text, and answers for what is before it."""
    kind = Texts.fit(dataset(max_length=8), Settings())
    good = torch.tensor([[73, 102, 0, 0]])
    assert torch.equal(kind.required(good), good)
    with pytest.raises(ConfigError, match=f"predict: {said}"):
        kind.required(torch.cat([good, torch.tensor([row])]))
    with pytest.raises(DataError, match=f"val {said}"):
        Texts.checked("val", torch.cat([good, torch.tensor([row])]), 2)
