"""One long text for next-token prediction: windows of T tokens and, one place later in the text, their targets.

A split is one stream of tokens. Inputs (N, T) and targets (N, T) are views of it, shifted by one token, so a text takes
its size once. In training each window of each epoch begins at another place of the stream. Evaluation reads windows
side by side: every token but the first is predicted exactly once, with the tokens before it in its window as context
(1 for the first of a window, T for the last). The last window is filled up with padding, whose targets do not count.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Generator, Tensor

from effbench.config.options import COUNT, NON_NEGATIVE, WHOLE
from effbench.data.modality import AugmentParams, Settings
from effbench.data.option_checks import check_memory
from effbench.data.split_checks import as_tensor, kind_of
from effbench.data.splits import Split, Splits
from effbench.data.text.encoding import TextOptions, tell_unknown, text_problem, token_type, unknown_share
from effbench.data.text.modality import Texts
from effbench.data.text.tokenizers import Tokenizer, check_recorded, fitted_tokenizer, tokenizer_class
from effbench.errors import ConfigError, DataError
from effbench.special_tokens import PADDING

if TYPE_CHECKING:
    from effbench.data.text.kjv import SplitText

log = logging.getLogger(__name__)

CONTEXT, VOCAB_SIZE = 128, 1024  # tokens of a window; token numbers
_PIECE = 1 << 20  # characters that are encoded at once


class Windows(Texts):
    """Windows of a text, int64 (B, T), with the next token of each place as target, int64 (B, T).

    Args:
        max_length: T, tokens of a window (data.context).
        vocab_size: token numbers, padding included.
        tokenizer: fitted to the train split; None before data are read.
        settings: settings of the run.
        last_start: where the last whole window of the train stream begins; None: windows are read as they are.
    """

    unit = "window"
    counted = "token"
    kept = "last"
    size_key = "data.context"
    file_options = {"length": COUNT, "temperature": NON_NEGATIVE, "seed": WHOLE}
    outputs = "token numbers"
    target_kind = "tokens"
    task_words = "task=next_token model=gpt"

    def __init__(
        self,
        max_length: int,
        vocab_size: int,
        tokenizer: Tokenizer | None,
        settings: Settings,
        last_start: int | None = None,
    ):
        super().__init__(max_length, vocab_size, tokenizer, settings)
        self._last_start = last_start

    @property
    def per_sample(self) -> int:
        return self.shape[0]

    @property
    def num_outputs(self) -> int:
        # a score of each token number: the embedding of a model that reads them may have the same rows
        return self.vocab_size

    @classmethod
    def checked(cls, name: str, inputs: Any, count: int) -> Tensor:
        """Return integers (N, T) of at least 0, with padding only at the end of the last window."""
        found = as_tensor(f"{name} windows", inputs)
        if found.dim() != 2 or len(found) != count or found.is_floating_point() or found.dtype == torch.bool:
            raise DataError(
                f"{name} windows must be token numbers (N, T), integers, with targets (N, T); got {kind_of(found)} "
                f"with {count} targets. effbench.data.text.windows.window_splits makes them."
            )
        used = found.reshape(-1) > PADDING
        count_used, earliest = int(used.sum()), used.numel() - found.shape[1] + 1
        # behind the last token used there is padding alone, and it is in the last window
        if count_used < earliest or not bool(used[:count_used].all()):
            raise DataError(
                f"{name} windows must hold token numbers above 0, with padding (0) only at the end of the last window."
            )
        return found

    @classmethod
    def size_text(cls, shape: Sequence[int]) -> str:
        return f"{shape[0]} tokens"

    @classmethod
    def fit(cls, data: Splits, settings: Settings) -> Self:
        made = super().fit(data, settings)
        labels = data.train.labels
        # of the last window: those before it are full
        real = labels.numel() - int((labels[-1] == PADDING).sum())
        made._last_start = real - data.shape[0]
        return made

    @classmethod
    def restored(cls, data: Mapping[str, Any], settings: Settings) -> Self:
        made = super().restored(data, settings)
        if len(data["classes"]) != made.vocab_size:
            raise ValueError(
                f"data.tokenizer has {made.vocab_size} token numbers, and data.classes {len(data['classes'])}"
            )
        return made

    @classmethod
    def task_facts(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return the UTF-8 bytes of each token, for bits per byte."""
        from effbench.data.text.tokenizers import restored_tokenizer

        try:
            return {"token_bytes": restored_tokenizer(recorded.get("tokenizer")).token_bytes()}
        except ValueError as error:
            raise DataError(f"the record of the data is damaged: {error}.") from error

    @property
    def facts(self) -> dict[str, Any]:
        # not vocab_size and max_length: models of whole texts, which take them, have one output a text
        return {"context": self.shape[0]}

    # --- batches

    @property
    def draws(self) -> bool:
        return self._last_start is not None

    def draw(self, count: int, generator: Generator) -> AugmentParams:
        """Draw 'offset', int64 (count,): how many tokens later than its place a window begins."""
        return {"offset": torch.randint(self.shape[0], (count,), generator=generator)}

    def lengths(self, inputs: Tensor) -> None:  # type: ignore[override]
        """Return None: all windows have one size."""

    def batch(self, inputs: Tensor, indices: Tensor, params: AugmentParams, rows: slice) -> Tensor:
        """Return int64 (B, T), windows that begin later than their places by params['offset']."""
        found = self._shifted(inputs, indices[rows], params["offset"][rows]) if params else inputs[indices[rows]]
        return self.transfer.to_device(found.contiguous()).long()

    def plain(self, inputs: Tensor, rows: slice | Tensor) -> Tensor:
        """Return int64 (B, T), the windows as they are."""
        return self.transfer.to_device(inputs[rows].contiguous()).long()

    def targets(self, labels: Tensor, rows: slice | Tensor, params: AugmentParams) -> Tensor:
        """Return int64 (B, T), the token after each of `batch` or `plain`; padding where there is none."""
        if params:
            assert isinstance(rows, Tensor)
            return self._shifted(labels, rows, params["offset"]).long()
        return labels[rows].long()

    def _shifted(self, windows: Tensor, rows_B: Tensor, offsets_B: Tensor) -> Tensor:
        """Return (B, T) tokens of the stream behind `windows`; whole windows only, so no target is padding."""
        assert self._last_start is not None
        T = self.shape[0]
        starts_B = (rows_B * T + offsets_B).clamp(max=self._last_start)
        return windows.reshape(-1)[starts_B.unsqueeze(1) + torch.arange(T)]

    # --- prediction and export

    def problem(self, text: str) -> str | None:
        # a line break is a usual start of a text, and the prompt of a run by default
        return text_problem(text, blank=True)

    def encoded(self, texts: Sequence[str]) -> tuple[Tensor, int]:
        padded, cut = torch.full((len(texts), self.shape[0]), PADDING, dtype=token_type(self.tokenizer)), 0
        for row, text in zip(padded, texts, strict=True):
            tokens = self.tokenizer.encode(text)
            cut += len(tokens) > self.shape[0]
            # the end of a text is what a continuation follows
            tokens = tokens[-self.shape[0] :]
            row[: len(tokens)] = torch.tensor(tokens)
        return padded, cut

    def shortened(self, samples: Tensor) -> Tensor:
        """Return the windows as they are: there is an output at each place, and those of all batches are joined."""
        return samples

    def export_facts(self) -> dict[str, Any]:
        about = super().export_facts()
        about["input"]["name"] = "windows"
        about["preprocessing"]["truncation"] = "the last tokens are kept"
        about["preprocessing"]["outputs"] = "logits of the token after each place, which depend on no later token"
        return about


def checked_context(options: TextOptions) -> TextOptions:
    """Return options whose tokenizer gives a text back. Raises ConfigError for one that does not."""
    if not tokenizer_class(options.tokenizer).keeps_text:
        raise ConfigError(
            f"data.tokenizer must be bytes, chars or bpe for next-token prediction; got '{options.tokenizer}', which "
            "forgets spaces and capital letters."
        )
    return options


def window_options(tokenizer: str, context: int, vocab_size: int) -> TextOptions:
    """Return checked options of a text for next-token prediction. Raises ConfigError.

    Args:
        tokenizer: bytes, chars or bpe.
        context: tokens of a window.
        vocab_size: most token numbers of a fitted tokenizer.
    """
    COUNT.check(context, "data.context", "a whole number of tokens, at least 1", "128 is usual.")
    return checked_context(TextOptions(tokenizer, context, vocab_size))


def window_splits(name: str, text: SplitText, options: TextOptions) -> Splits:
    """Fit the tokenizer to the train text, and cut all splits into windows.

    Args:
        name: of the dataset.
        text: the texts of the splits, as UTF-8; an empty one is no split.
        options: tokenizer and context.

    Raises:
        DataError: a split is too short.
    """
    texts = {which: part for which in ("train", "val", "test") if (part := getattr(text, which).decode())}
    tokenizer = fitted_tokenizer(options.tokenizer, pieces(texts.get("train", "")), options.vocab_size)
    names = tuple(map(str, range(tokenizer.vocab_size)))  # the outputs of a model are scores of token numbers
    check_recorded(options.tokenizer, tokenizer, names)
    check_memory(_bytes_of(text, token_type(tokenizer).itemsize), "file", more="name a smaller file")
    parts: dict[str, Split | None] = {"val": None, "test": None}
    sizes, unknown = dict[str, dict[str, int]](), dict[str, float]()
    for which, each in texts.items():
        tokens = stream(tokenizer, each)
        # a shorter val or test is one window that is not full
        least = options.max_length if which == "train" else 1
        parts[which] = cut(f"{name} {which}", tokens, options.max_length, least)
        sizes[which] = {"bytes": len(each.encode()), "tokens": len(tokens)}
        unknown[which] = unknown_share(tokenizer, tokens)
    _tell(name, options, sizes, unknown)
    about = {"tokenizer": tokenizer.record(), "sizes": sizes, "unknown_tokens": unknown}
    train = parts.get("train")
    if train is None:
        raise DataError(f"{name} holds no text.")
    sha256 = content_sha256(text)
    facts = {("file_sha256" if key == "sha256" else key): value for key, value in text.facts.items()}
    return Splits(name, train, parts["val"], parts["test"], names, sha256, {**facts, **about}, Windows)


def content_sha256(text: SplitText) -> str:
    """Return the sha256 (hex) of a divided text: not of tokens, which follow from the config."""
    return hashlib.sha256(b"\0".join((text.train, text.val, text.test))).hexdigest()


def _bytes_of(text: SplitText, item_bytes: int) -> int:
    """Return how much memory a text takes at most, with tokens of item_bytes each.

    Its characters are held whole, in parts and decoded once more, its bytes twice, and its tokens, at most one a byte,
    twice while they are joined.
    """
    parts = (text.train, text.val, text.test)
    return sum(3 * sys.getsizeof(part.decode()) + (2 + 2 * item_bytes) * len(part) for part in parts)


def cut(name: str, tokens: Tensor, context: int, least: int = 1) -> Split:
    """Return the windows of a stream, side by side; the last is filled up with padding.

    Args:
        name: begins the message of an error.
        tokens: integers (L,).
        context: T.
        least: fewest targets, L - 1.

    Returns:
        Inputs and targets, views (N, T) of one copy of the stream, N the least that holds all L - 1 targets.

    Raises:
        DataError: the stream is too short.
    """
    targets = len(tokens) - 1
    if targets < least:
        remedy = "Lower data.context, or give more text." if least > 1 else "Give more text, or leave this split out."
        raise DataError(
            f"{name} has {len(tokens)} tokens, and needs {least + 1}: {least} to predict, and one before them. {remedy}"
        )
    windows = -(-targets // context)
    filled = tokens.new_full((windows * context + 1,), PADDING)
    filled[: len(tokens)] = tokens
    return Split(filled[:-1].view(windows, context), filled[1:].view(windows, context))


def stream(tokenizer: Tokenizer, text: str) -> Tensor:
    """Return the tokens of a text, (L,) in the narrowest integer type."""
    kind = token_type(tokenizer)
    return torch.cat([torch.tensor(tokenizer.encode(piece), dtype=kind) for piece in pieces(text)])


def pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces of about a million characters that end with a line, if lines are not longer."""
    start = 0
    while start < len(text) or start == 0:
        end = min(len(text), start + _PIECE)
        # a token of byte pairs may span words, but hardly the end of a line
        if end < len(text) and (line := text.rfind("\n", start, end)) > start:
            end = line + 1
        yield text[start:end]
        start = max(end, 1)


def _tell(
    name: str, options: TextOptions, sizes: Mapping[str, Mapping[str, int]], unknown: Mapping[str, float]
) -> None:
    """Log how much text there is, what context its tokens have, and how much of it the tokenizer does not know."""
    T = options.max_length
    listed = ", ".join(f"{which} {size['bytes']:,} bytes ({size['tokens']:,} tokens)" for which, size in sizes.items())
    log.info(
        f"{name}: {listed}; evaluation reads windows of {T} tokens side by side: the first token of a window is "
        f"predicted from 1 token, the last from {T}"
    )
    # every unknown character costs many bits: none has been a target in training
    rest = "bits_per_byte counts each as one byte; data.tokenizer=bpe and bytes know all"
    tell_unknown(name, unknown, rest, least=0.0)
