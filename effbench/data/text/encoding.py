"""Texts -> rows of token numbers, and the options that all datasets of texts have."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from effbench.config.options import COUNT
from effbench.data.rules import RULES, check_rules
from effbench.data.table_files import cell_problem
from effbench.data.text.tokenizers import Tokenizer, check_vocab_size, tokenizer_class
from effbench.errors import ConfigError, DataError, shown
from effbench.special_tokens import PADDING
from effbench.units import counted

log = logging.getLogger(__name__)

MAX_LENGTH, VOCAB_SIZE = 256, 8192  # tokens; token numbers
ROWS = 8192  # texts that are encoded at once
TEXT_OBJECTS = 200  # bytes of a text beside its letters and tokens: its target, a tuple, and its places in lists
LONGEST = 2**20  # most tokens of a text: each is padded to data.max_length
MANY_UNKNOWN = 0.2  # share of unknown tokens from which there is a warning: a model of whole texts misses a fifth


@dataclass(frozen=True)
class TextOptions:
    """Options that all datasets of texts have.

    Attributes:
        tokenizer: bytes, chars, words or bpe.
        max_length: tokens of a text that are kept.
        vocab_size: most token numbers of a fitted tokenizer, padding and unknown included.
        rules: version of the rules by which texts are compared, divided and cut into words (effbench/data/rules.py).

    Raises:
        ConfigError: an option is of the wrong type or out of range.
    """

    tokenizer: str = "bytes"
    max_length: int = MAX_LENGTH
    vocab_size: int = VOCAB_SIZE
    rules: int = RULES

    def __post_init__(self) -> None:
        tokenizer_class(self.tokenizer)
        COUNT.check(self.max_length, "data.max_length", "a whole number of tokens, at least 1", "256 is usual.")
        if self.max_length > LONGEST:
            raise ConfigError(f"data.max_length must be at most {LONGEST:,} tokens; got {self.max_length:,}.")
        check_vocab_size(self.tokenizer, self.vocab_size)
        check_rules(self.rules)


def text_problem(text: str, blank: bool = False) -> str | None:
    """Return why a text cannot be a sample, or None: it is empty, holds a NUL, or cannot be encoded as UTF-8.

    blank: white space alone is a text, too.
    """
    return cell_problem(text) if (text if blank else text.strip()) else "is empty"


def padding_problem(tokens: Tensor) -> tuple[int, str] | None:
    """Return (first row whose padding is not at its end alone, what is wrong with it); None if there is none.

    tokens: integers (N, T). A model would take padding before or between tokens for the end of the text.
    """
    for start in range(0, len(tokens), ROWS):  # some at a time: masks of all would be as large as the texts
        used = tokens[start : start + ROWS] != PADDING
        wrong = ~used[:, 0] | (used[:, 1:] & ~used[:, :-1]).any(1)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            if not used[row].any():
                why = "is padding (token 0) alone: it is empty. Leave empty texts out"
            else:
                place = "between its tokens" if used[row, 0] else "before its tokens"
                why = f"has padding (token 0) {place}; it belongs at the end"
            return start + row, why
    return None


def encoded(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> tuple[Tensor, int]:
    """Encode texts.

    Args:
        tokenizer: a fitted tokenizer.
        texts: N texts.
        max_length: T.

    Returns:
        (token numbers (N, T) in the narrowest integer type, padded with 0; number of texts that were cut)
    """
    padded, cut = torch.full((len(texts), max_length), PADDING, dtype=token_type(tokenizer)), 0
    # some at a time: as numbers of Python, a text's tokens take up to 36 bytes each
    for start in range(0, len(texts), ROWS):
        rows = []
        for text in texts[start : start + ROWS]:
            tokens = tokenizer.encode(text, max_length + 1)  # one more, to see whether there is more
            if not tokens:
                raise DataError(f"the tokenizer leaves nothing of the text {shown(text[:100])}. Leave that text out.")
            cut += len(tokens) > max_length
            rows.append(tokens[:max_length])
        used = torch.arange(max_length) < torch.tensor(list(map(len, rows)))[:, None]
        padded[start : start + ROWS][used] = torch.tensor(list(chain.from_iterable(rows)), dtype=padded.dtype)
    return padded, cut


def bytes_of(texts: Iterable[str], max_length: int, item_bytes: int) -> int:
    """Return the memory of a dataset of texts while it is encoded: texts, their places in lists, and token numbers.

    Args:
        texts: of all splits.
        max_length: T, token numbers of each.
        item_bytes: of a token number.
    """
    # + 1: a mask of used tokens, when their lengths are counted
    return sum(sys.getsizeof(text) + TEXT_OBJECTS + max_length * (item_bytes + 1) for text in texts)


class UnknownTokens:
    """Counts the tokens of texts, and those that are not in the tokenizer's vocabulary; padding does not count.

    Args:
        tokenizer: of the run.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._number = tokenizer.unknown  # None: every text has its tokens
        self._unknown = self._used = self._texts = self._strange = 0

    def add(self, tokens: Tensor) -> Tensor:
        """Count token numbers, (N, T) of texts or (L,) of one long text, and return them."""
        for part in tokens.split(ROWS) if self._number is not None else ():  # some at a time: masks take memory too
            used, unknown = part != PADDING, part == self._number
            self._used += int(used.sum())
            self._unknown += int((unknown & used).sum())
            if tokens.dim() == 2:
                self._texts += len(part)
                self._strange += int((unknown | ~used).all(1).sum())
        return tokens

    @property
    def share(self) -> float:
        """The part of the tokens that is unknown."""
        return self._unknown / max(1, self._used)

    def tell(self, name: str) -> None:
        """Log which part of other texts the run's tokenizer does not know, and of how many it knows nothing.

        name: of the texts.
        """
        if not self.share:
            return
        strange = self._strange
        texts = f", and none of {strange:,} of the {counted(self._texts, 'text')} is" if strange else ""
        level = logging.WARNING if self.share >= MANY_UNKNOWN or strange else logging.INFO
        log.log(
            level,
            f"{name}: {_percent(self.share)} of the tokens are not in the run's vocabulary{texts}; the model reads "
            "them all as one unknown token",
        )


def unknown_share(tokenizer: Tokenizer, tokens: Tensor) -> float:
    """Return the part of the tokens that are not in the tokenizer's vocabulary; padding does not count."""
    unknown = UnknownTokens(tokenizer)
    unknown.add(tokens)
    return unknown.share


def tell_unknown(name: str, shares: Mapping[str, float], rest: str, least: float = 0.005) -> None:
    """Log which part of each split the tokenizer does not know; a warning from MANY_UNKNOWN on.

    Args:
        name: of the data.
        shares: split -> part of its tokens. The vocabulary is train's: of that only a large part is told.
        rest: end of the line.
        least: smallest part that is told.
    """
    told = {
        which: share
        for which, share in shares.items()
        if share > 0 and share >= (MANY_UNKNOWN if which == "train" else least)
    }
    if told:
        listed = ", ".join(f"{which} {_percent(share)}" for which, share in told.items())
        level = logging.WARNING if max(told.values()) >= MANY_UNKNOWN else logging.INFO
        log.log(level, f"{name}: tokens that are not in the vocabulary: {listed}; {rest}")


def tell_unknown_of_run(name: str, tokenizer: Tokenizer, tokens: Tensor) -> None:
    """Log which part of other texts the run's tokenizer does not know, and how many of them it knows nothing of.

    Args:
        name: of the texts.
        tokenizer: the run's.
        tokens: (N, T) for texts, (L,) for one long text.
    """
    unknown = UnknownTokens(tokenizer)
    unknown.add(tokens)
    unknown.tell(name)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.01 else f"{100 * share:.1f} %"


def token_type(tokenizer: Tokenizer) -> torch.dtype:
    """Return the narrowest integer type that holds all token numbers: memory is N x T of it."""
    return next(
        kind for kind in (torch.uint8, torch.int16, torch.int32) if tokenizer.vocab_size - 1 <= torch.iinfo(kind).max
    )
