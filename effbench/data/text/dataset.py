"""Texts of all splits -> Splits of token numbers: the tokenizer is fitted to the train split, long texts are cut."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch

from effbench.data.option_checks import check_memory
from effbench.data.splits import Split, Splits
from effbench.data.text.encoding import (
    LONGEST,
    TextOptions,
    bytes_of,
    encoded,
    tell_unknown,
    text_problem,
    token_type,
    unknown_share,
)
from effbench.data.text.modality import Texts
from effbench.data.text.tokenizers import fitted_tokenizer
from effbench.errors import DataError

log = logging.getLogger(__name__)

MANY_CUT = 0.1  # share of train texts that are cut, from which there is a warning


def text_splits(
    name: str,
    texts: Mapping[str, Sequence[str]],
    labels: Mapping[str, Any],
    classes: Sequence[str],
    options: TextOptions,
    facts: Mapping[str, Any] | None = None,
    modality: type[Texts] = Texts,
    drawn: tuple[str, ...] = (),
    many_cut: float = MANY_CUT,
) -> Splits:
    """Fit the tokenizer to the train texts, and encode all splits.

    Args:
        name: name of the dataset.
        texts: 'train', and where they exist 'val' and 'test' -> texts.
        labels: the same keys -> labels.
        classes: names of the classes.
        options: tokenizer and length.
        facts: further entries for the record.
        modality: class that describes the samples.
        drawn: splits that were drawn at random.
        many_cut: part of the train texts that are cut, from which there is a warning; above 1: none.

    Raises:
        DataError: a text is empty or no Unicode text.
    """
    for which, each in texts.items():
        for place, text in enumerate(each):
            if why := text_problem(text):
                raise DataError(f"{name} {which}: text {place} {why}. Leave it out.")
    tokenizer = fitted_tokenizer(options.tokenizer, texts["train"], options.vocab_size, options.rules, classes)
    every = chain.from_iterable(texts.values())
    check_memory(
        bytes_of(every, options.max_length, token_type(tokenizer).itemsize), "max_length", more="give fewer texts"
    )
    cut, unknown = dict[str, int](), dict[str, float]()
    parts: dict[str, Split | None] = {"val": None, "test": None}
    for which, each in texts.items():
        tokens, cut[which] = encoded(tokenizer, each, options.max_length)
        unknown[which] = unknown_share(tokenizer, tokens)
        parts[which] = Split(tokens, torch.as_tensor(labels[which]))
    warnings = _tell(name, {which: len(each) for which, each in texts.items()}, cut, unknown, options, many_cut)
    about: dict[str, Any] = {"tokenizer": tokenizer.record(), "truncated": cut, "unknown_tokens": unknown}
    train = parts["train"]
    assert train is not None
    sha256 = _digest(texts, labels)
    return Splits(
        name, train, parts["val"], parts["test"], tuple(classes), sha256, {**(facts or {}), **about}, modality, drawn,
        warnings=warnings,
    )  # fmt: skip


def _tell(
    name: str,
    counts: Mapping[str, int],
    cut: Mapping[str, int],
    unknown: Mapping[str, float],
    options: TextOptions,
    many_cut: float,
) -> tuple[str, ...]:
    """Log how many texts were cut, and how many tokens are unknown.

    Args:
        name: of the dataset.
        counts: split -> texts.
        cut: split -> texts that were cut.
        unknown: split -> part of the tokens that is unknown.
        options: tokenizer and length.
        many_cut: see `text_splits`.

    Returns:
        Warnings for the record of a run.
    """
    warnings: tuple[str, ...] = ()
    if cut["train"] >= many_cut * counts["train"]:
        words = ", or use data.tokenizer=words" if options.tokenizer in ("bytes", "chars") else ""
        warning = (
            f"{cut['train']:,} of {counts['train']:,} train texts are longer than data.max_length="
            f"{options.max_length} tokens, and the model reads their beginning only. Raise it "
            f"(data.max_length={min(4 * options.max_length, LONGEST)}){words}"
        )
        log.warning(f"{name}: {warning}")
        warnings = (warning,)
    elif any(cut.values()):
        listed = ", ".join(f"{number:,} of {counts[which]:,} {which}" for which, number in cut.items())
        log.info(f"{name}: cut to data.max_length={options.max_length} tokens: {listed} texts")
    tell_unknown(name, unknown, "data.tokenizer=bpe and bytes know all")
    return warnings


def _digest(texts: Mapping[str, Sequence[str]], labels: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of texts and labels: not of tokens, which follow from the config."""
    sha = hashlib.sha256()
    for which, each in texts.items():
        sha.update(f"{which} {len(each)}\n".encode())
        for text in each:
            content = text.encode()
            sha.update(f"{len(content)} ".encode() + content)  # with lengths: 'ab', 'c' and 'a', 'bc' differ
        sha.update(torch.as_tensor(labels[which]).contiguous().numpy().tobytes())
    return sha.hexdigest()
