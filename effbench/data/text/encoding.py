"""Texts -> rows of token numbers, and the options that all datasets of texts have."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from effbench.config.options import COUNT
from effbench.data.text.tokenizers import Tokenizer, check_vocab_size, tokenizer_class
from effbench.special_tokens import PADDING

log = logging.getLogger(__name__)

MAX_LENGTH, VOCAB_SIZE = 256, 8192  # tokens; token numbers


@dataclass(frozen=True)
class TextOptions:
    """Options that all datasets of texts have.

    Attributes:
        tokenizer: bytes, chars, words or bpe.
        max_length: tokens of a text that are kept.
        vocab_size: most token numbers of a fitted tokenizer, padding and unknown included.

    Raises:
        ConfigError: an option is of the wrong type or out of range.
    """

    tokenizer: str = "bytes"
    max_length: int = MAX_LENGTH
    vocab_size: int = VOCAB_SIZE

    def __post_init__(self) -> None:
        tokenizer_class(self.tokenizer)
        COUNT.check(self.max_length, "data.max_length", "a whole number of tokens, at least 1", "256 is usual.")
        check_vocab_size(self.tokenizer, self.vocab_size)


def text_problem(text: str) -> str | None:
    """Return why a text cannot be a sample, or None: it is empty, or cannot be encoded as UTF-8."""
    if not text.strip():
        return "is empty"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"has a lone surrogate (character {error.start + 1}), which is no Unicode text"
    return None


def encoded(tokenizer: Tokenizer, texts: Iterable[str], max_length: int) -> tuple[Tensor, int]:
    """Encode texts.

    Args:
        tokenizer: a fitted tokenizer.
        texts: N texts.
        max_length: T.

    Returns:
        (token numbers (N, T) in the narrowest integer type, padded with 0; number of texts that were cut)
    """
    rows, cut = [], 0
    for text in texts:
        tokens = tokenizer.encode(text, max_length + 1)  # one more, to see whether there is more
        cut += len(tokens) > max_length
        rows.append(tokens[:max_length])
    padded = torch.full((len(rows), max_length), PADDING, dtype=token_type(tokenizer))
    used = torch.arange(max_length) < torch.tensor(list(map(len, rows)))[:, None]
    padded[used] = torch.tensor(list(chain.from_iterable(rows)), dtype=padded.dtype)
    return padded, cut


def token_type(tokenizer: Tokenizer) -> torch.dtype:
    """Return the narrowest integer type that holds all token numbers: memory is N x T of it."""
    return next(
        kind for kind in (torch.uint8, torch.int16, torch.int32) if tokenizer.vocab_size - 1 <= torch.iinfo(kind).max
    )
