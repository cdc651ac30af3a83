"""Texts with labels from files of your own: CSV, TSV, JSONL or Parquet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from effbench.data.modality import Settings
from effbench.data.option_checks import check_division, check_names, given_file
from effbench.data.other_source import reads_other_source
from effbench.data.preview import previewed
from effbench.data.splits import Split, Splits, stratified
from effbench.data.table_files import ENCODING, natural_order, read_columns
from effbench.data.text.dataset import text_splits
from effbench.data.text.encoding import MAX_LENGTH, VOCAB_SIZE, TextOptions, encoded, text_problem
from effbench.data.text.files import TEXT_COLUMN
from effbench.data.text.modality import Texts
from effbench.data.text.tokenizers import restored_tokenizer
from effbench.errors import ConfigError, DataError
from effbench.escaping import for_terminal

log = logging.getLogger(__name__)

Sample = tuple[str, str]  # text, label
LABEL_COLUMN = "label"
_SHOWN = 5  # texts or labels in a message


def texts_of(max_length: int) -> Callable[[Mapping[str, Any], Settings], Texts]:
    """Return a preview for `previewed`: texts by the option max_length, with this default."""

    def preview(options: Mapping[str, Any], settings: Settings) -> Texts:
        length = options.get("max_length")
        # An invalid value counts as the default here: the dataset's function refuses it with a message.
        return Texts.blank((length if isinstance(length, int) and length > 0 else max_length,), settings)

    return preview


@previewed(texts_of(MAX_LENGTH))
def text_csv(
    file: str | None = None,
    val_file: str | None = None,
    test_file: str | None = None,
    text_column: str = TEXT_COLUMN,
    label_column: str = LABEL_COLUMN,
    encoding: str = ENCODING,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split_seed: int = 0,
    tokenizer: str = "bytes",
    max_length: int = MAX_LENGTH,
    vocab_size: int = VOCAB_SIZE,
) -> Splits:
    """Read texts and their classes.

    Args:
        file: .csv, .tsv, .jsonl or .parquet with a text and a label a row.
        val_file, test_file: the same for validation and test; None: drawn from `file`.
        text_column, label_column: names of the columns.
        encoding: of text files.
        val_fraction, test_fraction: parts of the texts of `file`; unused with val_file, test_file.
        split_seed: seed of the draw.
        tokenizer, max_length, vocab_size: see TextOptions.

    Raises:
        ConfigError: an option is missing or out of range.
        DataError: a file cannot be read, a text or a label is empty, or a label of val or test is not in train.
    """
    options = TextOptions(tokenizer, max_length, vocab_size)
    check_division(split_seed, val_fraction=val_fraction, test_fraction=test_fraction)
    check_names(text_column=text_column, label_column=label_column, encoding=encoding)
    given = {
        "train": given_file("file", file),
        "val": given_file("val_file", val_file),
        "test": given_file("test_file", test_file),
    }
    if given["train"] is None:
        raise ConfigError("data=text_csv needs data.file=FILE, a .csv, .tsv, .jsonl or .parquet file.")
    found = {
        which: _samples(path, text_column, label_column, encoding) for which, path in given.items() if path is not None
    }
    return labelled_splits(
        given["train"].name, found, {"val": val_fraction, "test": test_fraction}, split_seed, options,
        {"file": str(file), "text_column": text_column, "label_column": label_column},
    )  # fmt: skip


@reads_other_source(text_csv)
def other_texts(
    before: Mapping[str, Any], now: Mapping[str, Any], recorded: Mapping[str, Any], which: str
) -> tuple[str, Split] | None:
    """Read a file other than the run's for evaluation, with the run's tokenizer and classes.

    Args:
        before: options of text_csv in training.
        now: its options for the evaluation.
        recorded: `data` of the run's summary.
        which: split to read; '' for the test.

    Returns:
        (name of the split, its texts), all of the file; None if the run's own files are meant.
    """
    which = which or "test"
    key = {"train": "file", "val": "val_file", "test": "test_file"}.get(which)
    changed = {name for name in ("file", "val_file", "test_file") if now.get(name) != before.get(name)}
    # a new data.file alone: its texts are what is to be evaluated
    chosen = key if key in changed else "file" if changed == {"file"} else None
    if chosen is None or now.get(chosen) is None:
        return None
    path = given_file(chosen, now[chosen])
    assert path is not None
    samples = _samples(
        path, now.get("text_column", TEXT_COLUMN), now.get("label_column", LABEL_COLUMN),
        now.get("encoding", ENCODING),
    )  # fmt: skip
    classes = [str(name) for name in recorded["classes"]]
    _check_labels(f"data.{chosen}", samples, classes)
    tokens, _ = encoded(
        restored_tokenizer(recorded.get("tokenizer")), [text for text, _ in samples], recorded["shape"][0]
    )
    log.info(f"note: data.{chosen} is not the run's file: all {len(samples):,} texts of it are evaluated")
    return which, Split(tokens, torch.tensor([classes.index(label) for _, label in samples]))


def labelled_splits(
    name: str,
    found: Mapping[str, Sequence[Sample]],
    fractions: Mapping[str, float],
    split_seed: int,
    options: TextOptions,
    facts: Mapping[str, Any],
) -> Splits:
    """Return Splits of texts with labels; splits that are not given are drawn from train.

    Equal texts are drawn into one split together: a text of train in test would make the test too easy.

    Args:
        name: of the dataset.
        found: 'train', and where given 'val' and 'test' -> samples.
        fractions: 'val', 'test' -> part of the train texts to draw if the split is not given.
        split_seed: seed of the draw.
        options: tokenizer and length.
        facts: for the record.

    Raises:
        DataError: a label of val or test is not in train, or train has one class.
    """
    parts = dict(found)
    for which in ("test", "val"):  # test first: it stays the same for another val_fraction
        # of all texts, as the options say: what test has taken counts too
        rest = len(parts["train"])
        wanted = round(fractions[which] * len(found["train"]))
        if which not in found and wanted and rest:
            parts["train"], parts[which] = _drawn(parts["train"], wanted / rest, split_seed)
    classes = sorted({label for _, label in parts["train"]}, key=natural_order)
    if len(classes) < 2:
        raise DataError(
            f"{name} has one class, {classes[0]!r}: classification needs two." if classes else f"{name} has no texts."
        )
    numbers = {label: number for number, label in enumerate(classes)}
    for which, samples in parts.items():
        _check_labels(f"{name} {which}", samples, classes)
    _tell_shared(name, parts)
    ordered = {which: parts[which] for which in ("train", "val", "test") if parts.get(which)}
    texts = {which: [text for text, _ in samples] for which, samples in ordered.items()}
    labels = {which: torch.tensor([numbers[label] for _, label in samples]) for which, samples in ordered.items()}
    return text_splits(name, texts, labels, classes, options, facts)


def _samples(path: Path, text_column: str, label_column: str, encoding: str) -> list[Sample]:
    if text_column == label_column:
        raise ConfigError(f"data.text_column and data.label_column are both {text_column!r}; name two columns.")
    rows = read_columns(path, [text_column, label_column], encoding)
    name, problems = for_terminal(str(path)), []
    for line, row in rows:
        why = text_problem(row[text_column])
        if why or not row[label_column].strip():
            problems.append(f"line {line}: the {'text' if why else 'label'} {why or 'is empty'}")
    if problems:
        more = f" … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(f"{name} {'; '.join(problems[:_SHOWN])}{more}. Fill them in, or remove those lines.")
    if not rows:
        raise DataError(f"{name} holds no rows.")
    return [(row[text_column], row[label_column].strip()) for _, row in rows]


def _check_labels(name: str, samples: Iterable[Sample], classes: Sequence[str]) -> None:
    if unseen := sorted({label for _, label in samples} - set(classes), key=natural_order):
        raise DataError(
            f"{name} has the label {', '.join(map(repr, unseen[:_SHOWN]))}, which train does not have. "
            f"Labels of train: {', '.join(map(repr, classes[:_SHOWN]))}{' …' * (len(classes) > _SHOWN)}."
        )


def _drawn(samples: Sequence[Sample], fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Draw about `fraction` of the samples of each class; equal texts stay together. Returns (rest, drawn)."""
    groups: dict[str, list[int]] = {}
    for place, (text, _) in enumerate(samples):
        groups.setdefault(text, []).append(place)
    names = {label: number for number, label in enumerate(sorted({label for _, label in samples}))}
    firsts = [places[0] for places in groups.values()]  # the class of a group is that of its first sample
    labels = torch.tensor([names[samples[place][1]] for place in firsts])
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    per_class = {
        number: min(max(round(count * fraction), 1), count - 1) if count > 1 else 0
        for number, count in enumerate(counts)
    }
    chosen = set(stratified(labels, per_class, seed).tolist())
    held = {place for number, places in enumerate(groups.values()) if number in chosen for place in places}
    rest = [sample for place, sample in enumerate(samples) if place not in held]
    return rest, [samples[place] for place in sorted(held)]


def _tell_shared(name: str, parts: Mapping[str, Iterable[Sample]]) -> None:
    """Log how many texts of val and test are also in train: given files may share some."""
    train = {text for text, _ in parts["train"]}
    for which in ("val", "test"):
        shared = sum(text in train for text, _ in parts.get(which, ()))
        if shared:
            log.warning(f"{name}: {shared:,} texts of {which} are in train too: its figures will be too good")
