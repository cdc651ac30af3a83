"""One text of your own for next-token prediction, cut by position into train, val and test."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from effbench.data.modality import Settings
from effbench.data.option_checks import check_division, check_names, given_file
from effbench.data.other_source import check_split, keep_options, measured_whole, reads_other_source, same_place
from effbench.data.preview import previewed
from effbench.data.splits import Split, Splits
from effbench.data.table_files import ENCODING, decoded
from effbench.data.text.encoding import tell_unknown_of_run
from effbench.data.text.kjv import SplitText
from effbench.data.text.tokenizers import restored_tokenizer
from effbench.data.text.windows import (
    CONTEXT,
    VOCAB_SIZE,
    Windows,
    content_sha256,
    cut,
    stream,
    window_options,
    window_splits,
)
from effbench.errors import ConfigError, DataError
from effbench.escaping import for_terminal

log = logging.getLogger(__name__)

FRACTION = 0.1  # of the characters, for validation and for the test


def windows_of(context: int) -> Callable[[Mapping[str, Any], Settings], Windows]:
    """Return a preview for `previewed`: windows of the option context, with this default."""

    def preview(options: Mapping[str, Any], settings: Settings) -> Windows:
        length = options.get("context")
        # An invalid value counts as the default here: the dataset's function refuses it with a message.
        return Windows.blank((length if isinstance(length, int) and length > 0 else context,), settings)

    return preview


@previewed(windows_of(CONTEXT))
def text_file(
    file: str | None = None,
    encoding: str = ENCODING,
    val_fraction: float = FRACTION,
    test_fraction: float = FRACTION,
    tokenizer: str = "bytes",
    context: int = CONTEXT,
    vocab_size: int = VOCAB_SIZE,
) -> Splits:
    """Read a text, and cut it by position: train, then val, then test.

    Args:
        file: any text file.
        encoding: of the file.
        val_fraction, test_fraction: parts of its characters.
        tokenizer, context, vocab_size: see `window_options`.

    Raises:
        ConfigError: an option is missing or out of range.
        DataError: the file cannot be read, is no text, or is shorter than a window.
    """
    options = window_options(tokenizer, context, vocab_size)
    check_division(0, val_fraction=val_fraction, test_fraction=test_fraction)
    check_names(encoding=encoding)
    path = given_file("file", file)
    if path is None:
        raise ConfigError("data=text_file needs data.file=FILE, any text file.")
    text = _divided(_read(path, encoding), val_fraction, test_fraction, {"file": path.name})
    return window_splits(path.name, text, options)


@reads_other_source(text_file)
def other_text(
    before: Mapping[str, Any], now: Mapping[str, Any], recorded: Mapping[str, Any], which: str
) -> tuple[str, Split] | None:
    """Read a file other than the run's for evaluation, with the run's tokenizer and context.

    Args:
        before: options of text_file in training.
        now: its options for the evaluation.
        recorded: `data` of the run's summary.
        which: '' or test, the name that it has.

    Returns:
        (name, all of the file); None if it is the run's file.
    """
    path = given_file("file", now.get("file"))
    if path is None or same_place(before.get("file"), now.get("file")):
        return None
    check_split(which)
    keep_options(before, now, ("tokenizer", "context", "vocab_size"))
    text = _read(path, now.get("encoding", ENCODING))
    fractions = (before.get(f"{which}_fraction", FRACTION) for which in ("val", "test"))
    # the run's own text, moved or named from another folder: most of it was trained on
    if content_sha256(_divided(text, *fractions)) == recorded.get("sha256"):
        return None
    name, tokenizer = measured_whole(which), restored_tokenizer(recorded.get("tokenizer"))
    tokens = stream(tokenizer, text)
    log.info(f"note: data.file is not the run's file: all {len(tokens):,} tokens of it are evaluated")
    tell_unknown_of_run("data.file", tokenizer, tokens)
    return name, cut(for_terminal(str(path)), tokens, recorded["shape"][0])


def _divided(text: str, val_fraction: float, test_fraction: float, facts: dict[str, str] | None = None) -> SplitText:
    """Cut a text by position.

    Args:
        text: the whole.
        val_fraction, test_fraction: parts of its characters.
        facts: for the record.
    """
    test = len(text) - round(test_fraction * len(text))
    val = test - round(val_fraction * len(text))
    parts = {"train": text[:val], "val": text[val:test], "test": text[test:]}
    return SplitText(**{which: part.encode() for which, part in parts.items()}, facts=facts or {})


def _read(path: Path, encoding: str) -> str:
    """Return the text of a file. Raises DataError if it is empty or no text."""
    name, text = for_terminal(str(path)), decoded(path, encoding)
    if not text.strip():
        raise DataError(f"{name} is empty. Name a file with a text.")
    try:
        text.encode()  # some encodings, such as utf-7, decode lone surrogates
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name} has a lone surrogate (character {error.start + 1}), which is no Unicode text."
        ) from error
    return text
