"""Texts with labels from files of your own: CSV, TSV, JSONL or Parquet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from effbench.data.modality import Settings
from effbench.data.option_checks import check_division, check_memory, check_names, given_file
from effbench.data.other_source import check_split, keep_options, measured_whole, reads_other_source, same_place
from effbench.data.preview import previewed
from effbench.data.rules import RULES, compared
from effbench.data.splits import FAR, Split, Splits, counts_to_draw, stratified, without_last_of_a_class
from effbench.data.table_files import ENCODING, each_row
from effbench.data.target_columns import (
    LABEL_COLUMN,
    SEPARATOR,
    Target,
    TargetColumns,
    holds_numbers,
    tell_coarse,
    tell_conflicts,
    tell_unmeasured,
)
from effbench.data.text.dataset import text_splits
from effbench.data.text.encoding import MAX_LENGTH, VOCAB_SIZE, TextOptions, encoded, tell_unknown_of_run, text_problem
from effbench.data.text.files import TEXT_COLUMN
from effbench.data.text.modality import Texts
from effbench.data.text.tokenizers import restored_tokenizer
from effbench.errors import ConfigError, DataError
from effbench.escaping import for_terminal

log = logging.getLogger(__name__)

Sample = tuple[str, Target]
CLASSES = TargetColumns()  # a class a text
FILES = {"train": "file", "val": "val_file", "test": "test_file"}  # split -> option
Draw = Callable[[Sequence[Sample], float], tuple[list[Sample], list[Sample]]]
_SHOWN = 5  # lines in a message
_READING = 4  # least memory a byte of a file takes while it is read: its text, that of the reader, and what is kept
MOST_GRADES = 10  # numbers that may well be classes, such as stars from 1 to 5


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
    label_column: str | Sequence[str] = LABEL_COLUMN,
    encoding: str = ENCODING,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split_seed: int = 0,
    tokenizer: str = "bytes",
    max_length: int = MAX_LENGTH,
    vocab_size: int = VOCAB_SIZE,
    targets: str = "class",
    label_separator: str = SEPARATOR,
    rules: int = RULES,
) -> Splits:
    """Read texts and their classes, labels or numbers.

    Args:
        file: .csv, .tsv, .jsonl or .parquet with a text and a target a row.
        val_file, test_file: the same for validation and test; None: drawn from `file`.
        text_column: name of the column with the texts.
        label_column, targets, label_separator: see TargetColumns.
        encoding: of text files.
        val_fraction, test_fraction: parts of the texts of `file`; unused with val_file, test_file.
        split_seed: seed of the draw.
        tokenizer, max_length, vocab_size, rules: see TextOptions.

    Raises:
        ConfigError: an option is missing or out of range.
        DataError: a file cannot be read, a text or a label is empty, or a label of val or test is not in train.
    """
    options = TextOptions(tokenizer, max_length, vocab_size, rules)
    check_division(split_seed, val_fraction=val_fraction, test_fraction=test_fraction)
    check_names(text_column=text_column, encoding=encoding)
    columns = TargetColumns(targets, label_column, label_separator)
    given = {
        "train": given_file("file", file),
        "val": given_file("val_file", val_file),
        "test": given_file("test_file", test_file),
    }
    if given["train"] is None:
        raise ConfigError("data=text_csv needs data.file=FILE, a .csv, .tsv, .jsonl or .parquet file.")
    found = {which: _samples(path, text_column, columns, encoding) for which, path in given.items() if path is not None}
    facts = {"file": given["train"].name, "text_column": text_column, "label_column": label_column}
    fractions = {"val": val_fraction, "test": test_fraction}
    return labelled_splits(given["train"].name, found, fractions, split_seed, options, facts, columns)


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
    changed = {name for name in FILES.values() if not same_place(before.get(name), now.get(name))}
    if changed:
        check_split(which)
    key = FILES.get(which or "test")
    # a new data.file alone: its texts are what is to be evaluated
    alone = changed == {"file"}
    chosen = "file" if alone else key if key in changed else None
    if chosen is None or not now.get(chosen):
        return None
    path = given_file(chosen, now[chosen])
    assert path is not None
    keep_options(before, now, ("tokenizer", "max_length", "vocab_size"))
    columns = TargetColumns(
        now.get("targets", "class"), now.get("label_column", LABEL_COLUMN), now.get("label_separator", SEPARATOR)
    )
    samples = _samples(path, now.get("text_column", TEXT_COLUMN), columns, now.get("encoding", ENCODING))
    if _are_the_runs(chosen, len(samples), before, now, recorded):
        return None
    if alone:
        which = measured_whole(which, f"name the file with data.{key}" if key != "file" else "")
    log.info(f"note: data.{chosen} is not the run's file: all {len(samples):,} texts of it are evaluated")
    return which or "test", other_samples(f"data.{chosen}", samples, recorded, columns)


def _are_the_runs(
    chosen: str, count: int, before: Mapping[str, Any], now: Mapping[str, Any], recorded: Mapping[str, Any]
) -> bool:
    """Return True if a file at another path holds the run's own texts: most of them were trained on.

    Args:
        chosen: option of the file.
        count: its texts.
        before: options of text_csv in training.
        now: its options for the evaluation.
        recorded: `data` of the run's summary.
    """
    counts = recorded.get("counts") or {}
    of_it = [which for which, name in FILES.items() if name == chosen or (chosen == "file" and not before.get(name))]
    if sum(counts.get(which, 0) for which in of_it) != count:  # known without another reading
        return False
    # bytes: the sha256 is of the texts, and no tokenizer is fitted
    options = {**before, **{name: now.get(name) for name in FILES.values()}}
    try:
        return bool(
            text_csv(**{**options, "tokenizer": "bytes", "vocab_size": VOCAB_SIZE}).sha256 == recorded["sha256"]
        )
    except DataError:  # the run's draws do not suit this file
        return False


def other_samples(
    name: str, samples: Sequence[Sample], recorded: Mapping[str, Any], columns: TargetColumns = CLASSES
) -> Split:
    """Return texts of another source, with the run's tokenizer and classes.

    Args:
        name: of the source, for messages.
        samples: texts with their targets.
        recorded: `data` of the run's summary.
        columns: how the targets were read.

    Raises:
        DataError: a label is none of the run's.
    """
    columns.check_same(name, recorded["classes"])
    labels = columns.encode(name, [target for _, target in samples], [str(each) for each in recorded["classes"]])
    tokenizer, length = restored_tokenizer(recorded.get("tokenizer")), recorded["shape"][0]
    tokens, cut = encoded(tokenizer, [text for text, _ in samples], length)
    if cut:
        log.info(f"{name}: {cut:,} of {len(samples):,} texts are cut to {length} tokens, as in training")
    tell_unknown_of_run(name, tokenizer, tokens)
    return Split(tokens, labels)


def labelled_splits(
    name: str,
    found: Mapping[str, Sequence[Sample]],
    fractions: Mapping[str, float],
    split_seed: int,
    options: TextOptions,
    facts: Mapping[str, Any],
    columns: TargetColumns = CLASSES,
    modality: type[Texts] = Texts,
    every_class: bool = False,
) -> Splits:
    """Return Splits of texts with labels; splits that are not given are drawn from train.

    Equal texts are drawn into one split together: a text of train in test would make the test too easy.

    Args:
        name: of the dataset.
        found: 'train', and where given 'val' and 'test' -> samples.
        fractions: 'val', 'test' -> part of the train texts to draw if the split is not given.
        split_seed: seed of the draw.
        options: tokenizer, length and rules.
        facts: for the record.
        columns: how the targets were read.
        modality: class that describes the samples.
        every_class: each split needs a text of each class, however large that makes it.

    Raises:
        DataError: a label of val or test is not in train, or train has one class.
    """
    # by the newest rules: what is told of a run's data changes none of it
    every = chain.from_iterable(found.values())
    tell_conflicts(name, ((compared(text), text, target) for text, target in every), "text", columns.kind)
    parts = _divided(name, found, fractions, partial(_drawn, split_seed, options.rules, columns.kind, every_class))
    # a label that only drawn texts have is still one of the model's outputs
    whole = found if columns.kind == "labels" else parts
    classes = columns.names(name, [target for _, target in whole["train"]])
    _tell_shared(name, parts)
    ordered = {which: parts[which] for which in ("train", "val", "test") if parts.get(which)}
    texts = {which: [text for text, _ in samples] for which, samples in ordered.items()}
    labels = {
        which: columns.encode(f"{name} {which}", [target for _, target in samples], classes)
        for which, samples in ordered.items()
    }
    if columns.kind == "values":
        tell_coarse(name, classes, labels["train"], [target for _, target in ordered["train"]])
    else:
        tell_unmeasured(name, labels, classes, "text")
    drawn = tuple(which for which in ordered if which not in found)
    return text_splits(name, texts, labels, classes, options, facts, modality, drawn)


def _divided(
    name: str, found: Mapping[str, Sequence[Sample]], fractions: Mapping[str, float], draw: Draw
) -> dict[str, Sequence[Sample]]:
    """Return the given splits, with those drawn from train that are not given.

    Args:
        name: of the dataset.
        found: the given splits.
        fractions: of those that are drawn.
        draw: (samples, part) -> (rest, drawn).
    """
    parts = dict(found)
    for which in ("test", "val"):  # test first: it stays the same for another val_fraction
        # of all texts, as the options say: what test has taken counts too
        rest, every = len(parts["train"]), len(found["train"])
        wanted = round(fractions[which] * every)
        if which in found or not wanted or not rest:
            continue
        parts["train"], parts[which] = draw(parts["train"], wanted / rest)
        if not parts[which]:
            log.warning(
                f"{name}: too few different texts to draw {which} from: equal ones stay in one split, and each class "
                "keeps one in train"
            )
        elif len(parts[which]) > FAR * wanted:
            log.warning(
                f"{name}: {which} has {len(parts[which]):,} of {every:,} texts, far more than "
                f"data.{which}_fraction={fractions[which]:g} asks for: equal texts stay in one split, and small "
                "classes give one each. Leave out copies, or give more texts"
            )
    return parts


def _samples(path: Path, text_column: str, columns: TargetColumns, encoding: str) -> list[Sample]:
    if text_column in columns.columns:
        raise ConfigError(f"data.text_column and data.label_column are both {text_column!r}; name two columns.")
    if path.suffix.lower() != ".parquet":  # which is compressed
        check_memory(_READING * path.stat().st_size, "file", more="divide the file, and train on a part")
    name, found, problems = for_terminal(str(path)), list[Sample](), list[str]()
    label = "data.label_column=NAME" if len(columns.columns) == 1 else "data.label_column=[NAME,NAME,...]"
    keys = {**dict.fromkeys(columns.columns, label), text_column: "data.text_column=NAME"}
    # row by row: in a table of short texts the rows take several times the memory of what is kept
    for line, row in each_row(path, [text_column, *columns.columns], encoding, keys):
        empty = text_problem(row[text_column])
        if why := f"the text {empty}" if empty else columns.problem(row):
            problems.append(f"line {line}: {why}")
        else:
            found.append((row[text_column], columns.of(row)))
    if problems:
        more = f" … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(
            f"{name} {'; '.join(problems[:_SHOWN])}{more}.{columns.rule} Fill them in, or remove those lines."
        )
    if not found:
        raise DataError(f"{name} holds no rows: it has a line with the names of columns alone.")
    classes = {str(target) for _, target in found} if columns.kind == "class" else set[str]()
    if len(classes) > MOST_GRADES and holds_numbers(sorted(classes), len(found)):
        raise DataError(
            f"{name} has {len(classes)} classes in {len(found)} rows: the column {columns.columns[0]!r} seems to hold "
            "numbers. For numbers write data.targets=values task=regression."
        )
    return found


def _drawn(
    seed: int, rules: int, kind: str, every_class: bool, samples: Sequence[Sample], fraction: float
) -> tuple[list[Sample], list[Sample]]:
    """Draw about a part of the samples, or of each class; equal texts stay together.

    Args:
        seed: of the draw.
        rules: see effbench/data/rules.py.
        kind: of the targets: labels and numbers have no classes to draw from in proportion.
        every_class: see `labelled_splits`.
        samples: to draw from.
        fraction: part of them.

    Returns:
        (rest, drawn).
    """
    # of all samples, also those that share a text: the draw of a class depends on the classes before it
    names = sorted({_stratum(kind, target) for _, target in samples})
    number_of = {name: number for number, name in enumerate(names)}
    group_of: dict[str, int] = {}
    groups, labels, of_groups = list[int](), list[int](), list[int]()
    for text, target in samples:
        groups.append(group_of.setdefault(compared(text, rules), len(group_of)))
        labels.append(number_of[_stratum(kind, target)])
        if len(group_of) > len(of_groups):  # the class of a group is that of its first sample
            of_groups.append(labels[-1])
    sizes = torch.bincount(torch.tensor(of_groups), minlength=len(names)).tolist()
    counts = counts_to_draw(sizes, sizes, fraction, seed, every_class or rules < RULES)
    members = torch.tensor(groups)
    held = without_last_of_a_class(torch.tensor(labels), members, stratified(torch.tensor(of_groups), counts, seed))
    taken = torch.isin(members, held).tolist()
    rest = [sample for sample, drawn in zip(samples, taken, strict=True) if not drawn]
    return rest, [sample for sample, drawn in zip(samples, taken, strict=True) if drawn]


def _stratum(kind: str, target: Target) -> str:
    return str(target) if kind == "class" else ""


def _tell_shared(name: str, parts: Mapping[str, Iterable[Sample]]) -> None:
    """Log how many texts of val and test are also in train: given files may share some."""
    train = {compared(text) for text, _ in parts["train"]}
    for which in ("val", "test"):
        shared = sum(compared(text) in train for text, _ in parts.get(which, ()))
        if shared:
            log.warning(
                f"{name}: {shared:,} texts of {which} are in train too, white space and Unicode forms aside: its "
                "figures will be too good"
            )
