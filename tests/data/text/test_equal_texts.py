"""Texts that a reader sees as equal stay in one split; conflicting labels are said; small classes keep fractions."""

from __future__ import annotations

import csv
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from effbench.data.rules import compared
from effbench.data.splits import counts_to_draw, without_last_of_a_class
from effbench.data.text.text_csv import text_csv
from effbench.data.text.tokenizers import Bytes

THIRDS = {"val_fraction": 0.3, "test_fraction": 0.3}


def write(path: Path, rows: list[tuple[str, str]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    return str(path)


def samples(data) -> dict[str, list[tuple[str, str]]]:
    """Split -> (text, label) of each of its samples."""
    return {
        which: [
            (Bytes().decode(row), data.classes[label])
            for row, label in zip(split.inputs.tolist(), split.labels.tolist(), strict=True)
        ]
        for which, split in data.named().items()
    }


def plain(text: str) -> str:
    """The text without what a reader does not see, by another way than the code's: NFD, and words."""
    return "\n".join(unicodedata.normalize("NFD", text).split())


def forms(number: int) -> list[str]:
    """One text as an editor, a Mac and a web page write it."""
    text = f"Größe {number} é"
    return [text, unicodedata.normalize("NFD", text), f" Größe\u00a0{number}\r\n  é "]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_forms_of_a_text_stay_in_one_split(tmp_path, count):
    path = write(tmp_path / "a.csv", [(text, "ab"[n % 2]) for n in range(30) for text in forms(n)[:count]])
    seen = {}
    for rules in (1, 2):
        parts = samples(text_csv(path, rules=rules, **THIRDS))
        seen[rules] = [{plain(text) for text, _ in each} for each in parts.values()]
        assert len(set.union(*seen[rules])) == 30
    assert sum(map(len, seen[2])) == 30
    assert (sum(map(len, seen[1])) > 30) == (count > 1)


def test_capitals_and_punctuation_make_other_texts():
    assert len({compared(text) for text in ("No", "no", "no.", "n o", "nö")}) == 5
    assert compared("a\u2003b\t\n") == compared(" a b") == "a b"
    assert compared("\u1100\u1161") == compared("\uac00")  # Korean, as macOS writes it


@pytest.mark.parametrize("repeated", [False, True])
def test_a_table_without_other_forms_keeps_its_splits(tmp_path, repeated):
    """Runs that were begun by rules 1, and results that were published, stay what they are."""
    rows = [(f"text {n % (40 if repeated else 99)}", "abc"[n % 3]) for n in range(99)]
    path = write(tmp_path / "a.csv", rows)
    for seed in range(5):
        one, two = (text_csv(path, rules=rules, split_seed=seed, **THIRDS) for rules in (1, 2))
        assert one.sha256 == two.sha256


def test_shared_texts_of_given_files_are_found_in_any_form(tmp_path, caplog):
    train = write(tmp_path / "a.csv", [(forms(n)[0], "ab"[n % 2]) for n in range(20)])
    test = write(tmp_path / "b.csv", [(forms(3)[1], "b"), (forms(4)[2], "a"), ("new", "a")])
    text_csv(train, test_file=test, val_fraction=0)
    assert "2 texts of test are in train too, white space and Unicode forms aside" in caplog.text


# --- conflicting labels


def test_a_text_with_two_labels_is_counted_and_shown(tmp_path, caplog):
    rows = [(f"text {n}", "ab"[n % 2]) for n in range(20)]
    path = write(tmp_path / "a.csv", [*rows, ("text 4", "b"), ("text  4", "b"), ("text 6", "b"), ("text 8", "a")])
    text_csv(path)
    [said] = [message for message in caplog.messages if "different labels" in message]
    assert said.startswith("a.csv: 2 texts occur with different labels, such as 'text 4' with 'a' and 'b': ")
    caplog.clear()
    text_csv(write(tmp_path / "b.csv", rows))
    assert "different labels" not in caplog.text


def test_no_class_is_drawn_away_with_texts_of_another(tmp_path):
    """The texts of class c are also of class a, which decides where they are drawn to."""
    rows = [(f"text {n}", "ab"[n % 2]) for n in range(40)]
    path = write(tmp_path / "a.csv", [*rows, ("text 4", "c"), ("text 6", "c")])
    for seed in range(20):
        data = text_csv(path, split_seed=seed, **THIRDS)
        parts = samples(data)
        assert {label for _, label in parts["train"]} == {"a", "b", "c"} == set(data.classes)
        seen = [{text for text, _ in part} for part in parts.values()]
        assert sum(map(len, seen)) == len(set.union(*seen))


def test_a_group_returns_only_if_a_class_would_be_lost():
    labels, groups = torch.tensor([0, 0, 1, 2, 1, 0]), torch.tensor([0, 1, 1, 2, 2, 3])
    # classes 1 and 2 are in the groups 1 and 2 alone
    assert without_last_of_a_class(labels, groups, torch.tensor([2, 1, 0])).tolist() == [0]
    assert without_last_of_a_class(labels, groups, torch.tensor([1, 0])).tolist() == [1, 0]


def test_labels_that_look_the_same_are_named(tmp_path, caplog):
    names = ("café", unicodedata.normalize("NFD", "café"))
    text_csv(write(tmp_path / "a.csv", [(f"text {n}", names[n % 2]) for n in range(20)]))
    assert r"the labels 'cafe\u0301' and 'caf\xe9' differ in white space or in their Unicode form alone" in caplog.text


def test_a_label_without_a_train_text_is_named(tmp_path, caplog):
    """Of listed labels: every text that has it is drawn into val or test."""
    rows = [(f"text {n}", "x;rare" if n == 7 else "x" if n % 2 else "y") for n in range(30)]
    path = write(tmp_path / "a.csv", rows)
    for seed in range(20):
        caplog.clear()
        data = text_csv(path, split_seed=seed, targets="labels", **THIRDS)
        there = bool(data.train.labels[:, data.classes.index("rare")].any())
        assert ("no text of train has the label 'rare': a model cannot learn it" in caplog.text) == (not there)


# --- small classes


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_many_small_classes_keep_the_fractions(tmp_path, size, caplog):
    """One of each class would put a third of 150 classes of 3 into each split."""
    rows = [(f"text {label} {n}", f"class {label}") for label in range(150) for n in range(size)]
    with caplog.at_level("INFO"):
        data = text_csv(write(tmp_path / "a.csv", rows))
    parts = {which: len(split) for which, split in data.named().items()}
    assert parts["train"] >= 0.79 * len(rows)
    for which in ("val", "test"):
        assert size == 1 or parts[which] == pytest.approx(0.1 * len(rows), abs=1)
    assert set(data.train.labels.tolist()) == set(range(150))
    alone = set(range(150)).difference(*(data.named()[which].labels.tolist() for which in parts if which != "train"))
    if size > 1:
        assert f"train alone has {len(alone)} labels: " in caplog.text
    assert "far more than" not in caplog.text


def test_classes_of_a_small_split_are_of_the_whole_alphabet(tmp_path):
    rows = [(f"text {label} {n}", f"class {label:03d}") for label in range(100) for n in range(4)]
    data = text_csv(write(tmp_path / "a.csv", rows))
    both = [set(data.named()[which].labels.tolist()) for which in ("val", "test")]
    assert all(len(each) == 40 for each in both)
    assert all(30 < sum(each) / 40 < 70 for each in both)


def test_a_few_small_classes_beside_large_ones_are_measured(tmp_path):
    sizes = {"large": 300, "four": 4, "three": 3, "two": 2}
    rows = [(f"{label} {n}", label) for label, size in sizes.items() for n in range(size)]
    parts = samples(text_csv(write(tmp_path / "a.csv", rows)))
    counts = {which: Counter(label for _, label in part) for which, part in parts.items()}
    assert counts["test"] == {"large": 30, "four": 1, "three": 1, "two": 1}
    assert counts["val"]["four"] == counts["val"]["three"] == 1


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.floats(0.01, 0.5), st.integers(0, 5))
def test_counts_leave_one_of_each_class_and_stay_near(sizes, fraction, seed):
    counts = counts_to_draw(sizes, sizes, fraction, seed)
    one_each = counts_to_draw(sizes, sizes, fraction, seed, every_class=True)
    wanted = max(1, round(sum(sizes) * fraction))
    assert list(counts) == list(range(len(sizes)))
    assert all(0 <= counts[label] <= max(0, size - 1) for label, size in enumerate(sizes))
    assert sum(counts.values()) <= 2 * wanted
    # by the rule of runs from before, written out
    assert one_each == {
        label: min(max(round(size * fraction), 1), size - 1) if size > 1 else 0 for label, size in enumerate(sizes)
    }
    if sum(one_each.values()) <= 2 * wanted:
        assert counts == one_each


def test_a_split_that_copies_make_large_is_named(tmp_path, caplog):
    rows = [("the same", "a")] * 60 + [(f"text {n}", "ab"[n % 2]) for n in range(40)]
    path = write(tmp_path / "a.csv", rows)
    found = set()
    for seed in range(40):
        caplog.clear()
        data = text_csv(path, split_seed=seed, val_fraction=0)
        found.add(large := len(data.named()["test"]) > 20)
        assert ("texts, far more than data.test_fraction=0.1 asks for" in caplog.text) == large
    assert found == {True, False}
