"""Texts in folders: one folder a class, one file a text."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effbench.cache_dir import expanded
from effbench.data.folder_files import FileKind, existing_folder, printable, walk
from effbench.data.folder_layout import ALL, Scan, findings, scan
from effbench.data.folder_rows import Rows, check_every_class, class_names, labelled, measured_split
from effbench.data.option_checks import check_division, check_name_lists, check_names
from effbench.data.other_source import check_split, keep_options, reads_other_source, same_place
from effbench.data.preview import previewed
from effbench.data.rules import RULES
from effbench.data.splits import Split, Splits
from effbench.data.table_files import ENCODING, TABLES, decoded
from effbench.data.text.encoding import MAX_LENGTH, VOCAB_SIZE, TextOptions, text_problem
from effbench.data.text.files import check_there
from effbench.data.text.modality import TEXTS, Encoder, Texts
from effbench.data.text.text_csv import Sample, labelled_splits, other_samples, texts_of
from effbench.errors import ConfigError, DataError, shown

log = logging.getLogger(__name__)

SUFFIXES = (".txt", ".text", ".md")
NEEDS = ("text_folder", "*.txt")  # for the message about a missing data.root
_SHOWN = 5  # files in a message


class TextFiles(Texts):
    """Texts that are files of their own. `predict` reads a whole file as one text; tables as any run on texts."""

    def read_files(
        self, paths: Sequence[str], options: Mapping[str, int], problems: list[str]
    ) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
        """Yield {'file': path, 'row': 1, 'line': 1} for each file; of tables the row and the line of each text.

        They have the order of `paths`; the files of a folder and below are sorted by their whole path.
        """
        kind, encoding = file_kind(self._options.get("suffixes", SUFFIXES)), self._options.get("encoding") or ENCODING
        names, texts, encoder = list[dict[str, Any]](), list[str](), Encoder(self)
        for path in _given(paths, kind):
            table = path.suffix.lower() in TABLES and not kind.holds(path.name)
            if texts and (table or len(texts) == TEXTS):  # a table's texts come after those of the files before it
                yield names, encoder.samples(texts)
                names, texts = [], []
            if table:
                yield from super().read_files([str(path)], options, problems)
                continue
            text, problem = _read(path, printable(path), encoding)
            if problem:
                problems.append(problem)
                continue
            names.append({"file": str(path), "row": 1, "line": 1})
            texts.append(text)
        if texts:
            yield names, encoder.samples(texts)
        encoder.tell("predict")


@previewed(texts_of(MAX_LENGTH))
def text_folder(
    root: str | Path | None = None,
    suffixes: Sequence[str] = SUFFIXES,
    encoding: str = ENCODING,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split_seed: int = 0,
    tokenizer: str = "bytes",
    max_length: int = MAX_LENGTH,
    vocab_size: int = VOCAB_SIZE,
    rules: int = RULES,
) -> Splits:
    """Read a folder of texts, with the rules of data=image_folder for classes, splits, links and hidden names.

    Args:
        root: ROOT/{train,val,test}/CLASS/..., where a missing val is held out of train and a missing test is None; or
            ROOT/CLASS/..., divided by the fractions. Equal texts stay in one split.
        suffixes: of the files that are read; '' for names without one. Others are counted and said.
        encoding: of the files.
        val_fraction, test_fraction: parts of the texts of each class.
        split_seed: seed of the draws.
        tokenizer, max_length, vocab_size, rules: see TextOptions.

    Raises:
        ConfigError: an option is missing or out of range.
        DataError: folders are missing or ambiguous, or a file is empty or not of the encoding.
    """
    options = TextOptions(tokenizer, max_length, vocab_size, rules)
    check_division(split_seed, val_fraction=val_fraction, test_fraction=test_fraction)
    check_names(encoding=encoding)
    kind = file_kind(suffixes)
    folder = existing_folder(root, *NEEDS)
    found = scan(folder, kind)
    # before any file is opened: a wrong layout is refused at once
    classes = class_names(folder, found)
    parts = {
        which: _samples(folder, labelled(folder, members, which, classes), encoding)
        for which, members in found.splits.items()
    }
    _log_findings(found)
    # splits that are folders: the test is theirs, or there is none
    fractions = {"val": val_fraction, "test": test_fraction if ALL in parts else 0.0}
    if ALL in parts:
        parts["train"] = parts.pop(ALL)
    facts = {"skipped_files": dict(found.skipped)} if found.skipped else {}
    name = f"text_folder/{printable(folder.resolve().name)}"  # distinguishes folders in a report
    made = labelled_splits(name, parts, fractions, split_seed, options, facts, modality=TextFiles, every_class=True)
    labels = torch.cat([split.labels for split in made.named().values()])
    counts = {which: len(split) for which, split in made.named().items()}
    drawn = f"data.val_fraction={val_fraction:g}, data.test_fraction={test_fraction:g}"
    check_every_class(Rows(folder, made.classes, [], labels, counts), found, drawn)
    return made


@reads_other_source(text_folder)
def other_folder(
    before: Mapping[str, Any], now: Mapping[str, Any], recorded: Mapping[str, Any], which: str
) -> tuple[str, Split] | None:
    """Read one split of another folder than the run's, with the run's tokenizer and classes.

    Args:
        before: options of text_folder in training.
        now: its options for the evaluation.
        recorded: `data` of the run's summary.
        which: split to read; '' for the test, or the only one.

    Returns:
        (name of the split, its texts); None if the folder holds the run's texts, perhaps moved.
    """
    defaults = {name: word.default for name, word in inspect.signature(text_folder).parameters.items()}
    options = {**defaults, **now}
    root = options["root"]
    if not isinstance(root, str):  # text_folder reports what is wrong with it
        return None
    if same_place(before.get("root"), root):
        return None
    check_split(which)
    if _holds_the_runs(options, recorded):
        return None
    keep_options(before, now, ("tokenizer", "max_length", "vocab_size"))
    folder = existing_folder(root, *NEEDS)
    found = scan(folder, file_kind(options["suffixes"]), need_train=False)  # new test texts alone will do
    name = measured_split(folder, found, which or None)
    rows = labelled(folder, found.splits[name], name, [str(each) for each in recorded["classes"]])
    samples = _samples(folder, rows, options["encoding"])
    _log_findings(found)
    log.info(f"note: {root} is not the run's dataset: {len(samples)} of its texts are evaluated")
    return ("test" if name == ALL else name), other_samples("data.root", samples, recorded)


def _log_findings(found: Scan) -> None:
    for note in findings(found):
        log.info(f"text_folder: {note}")
    for line in found.warnings:
        log.warning(f"text_folder: {line}")


def file_kind(suffixes: object) -> FileKind:
    """Return the kind of the files to read. Raises ConfigError unless data.suffixes lists suffixes."""
    check_name_lists(suffixes=suffixes)
    assert isinstance(suffixes, list | tuple)
    if not suffixes or any(suffix and (suffix[0] != "." or "." in suffix[1:]) for suffix in suffixes):
        raise ConfigError(
            f"data.suffixes must be endings with one dot, such as [.txt,.md], or '' for names without; got "
            f"{shown(suffixes)}."
        )
    return FileKind("text", tuple(suffix.lower() for suffix in suffixes))


def _holds_the_runs(options: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    try:
        return bool(text_folder(**options).sha256 == recorded["sha256"])
    except DataError:  # a folder of test texts alone, say
        return False


def _given(paths: Sequence[str], kind: FileKind) -> Iterator[Path]:
    """Yield the files in the given order; those of a folder and below sorted by name."""
    for path in map(expanded, paths):
        check_there(path)
        if path.is_dir():
            files, _ = walk(path, kind)
            if not files:
                raise DataError(f"{printable(path)} holds no text ({', '.join(kind.suffixes)}).")
            yield from files
        else:  # also a pipe, such as /dev/stdin
            yield path


def _samples(root: Path, rows: Rows, encoding: str) -> list[Sample]:
    """Read the files. Raises DataError that lists some of those that are no texts."""
    found, problems = list[Sample](), list[str]()
    for place, path in enumerate(rows.files):
        text, problem = _read(path, rows.relative(place), encoding)
        problems += [problem] * bool(problem)
        found.append((text, rows.classes[int(rows.labels[place])]))
    if problems:
        more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        listing = "".join(f"\n  {line}" for line in problems[:_SHOWN] + more)
        raise DataError(
            f"data.root={printable(root)}: {len(problems)} of {len(rows.files)} files are no texts:{listing}\n"
            "Mend or remove them."
        )
    return found


def _read(path: Path, name: str, encoding: str) -> tuple[str, str]:
    """Return (the text of a file, why it cannot be a sample or '')."""
    try:
        text = decoded(path, encoding)
    except DataError as error:
        return "", str(error)
    why = text_problem(text)
    return text, f"{name} {why}" if why else ""
