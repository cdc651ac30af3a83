"""Texts: token numbers (N, T), padded with 0 to the longest that is kept; batches are cut to their own longest."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from effbench.config.options import COUNT
from effbench.data.modality import AugmentParams, Modality, Settings, tensor_of
from effbench.data.rules import FIRST, RULES
from effbench.data.split_checks import as_tensor
from effbench.data.text.encoding import (
    LONGEST,
    VOCAB_SIZE,
    UnknownTokens,
    encoded,
    padding_problem,
    tell_unknown_of_run,
    text_problem,
)
from effbench.data.text.tokenizers import (
    TOKENIZERS,
    Bytes,
    FirstWords,
    Given,
    Tokenizer,
    plain_record,
    restored_tokenizer,
    tokenizer_file,
)
from effbench.errors import ConfigError, DataError, MissingExtraError, shown
from effbench.escaping import for_terminal
from effbench.records import sha256_of_plain
from effbench.special_tokens import PADDING
from effbench.units import counted

if TYPE_CHECKING:
    from effbench.data.splits import Splits

log = logging.getLogger(__name__)

TEXTS = 4096  # texts in a prediction batch


class Texts(Modality):
    """Texts as token numbers. Models get int64 (B, T) with padding 0 at the end of shorter texts.

    Args:
        max_length: T, tokens of a text that are kept.
        vocab_size: token numbers, padding included.
        tokenizer: fitted to the train split; None before data are read.
        settings: settings of the run.

    Attributes:
        kept: which tokens are kept of a text with more than T, for messages.
    """

    unit = "text"
    kept: ClassVar[str] = "first"
    layout = "(T,)"
    size_key = "data.max_length"
    free_length: ClassVar[str | None] = "T"

    def __init__(self, max_length: int, vocab_size: int, tokenizer: Tokenizer | None, settings: Settings):
        super().__init__((max_length,), settings.device)
        self.vocab_size, self._tokenizer, self._options = vocab_size, tokenizer, settings.data

    @property
    def tokenizer(self) -> Tokenizer:
        """The fitted tokenizer. Raises ConfigError before data are read."""
        if self._tokenizer is None:
            raise ConfigError("the tokenizer is fitted to the train split, which was not read yet.")
        return self._tokenizer

    @classmethod
    def checked(cls, name: str, inputs: Any, count: int) -> Tensor:
        """Return integers (N, T) of at least 0; every text has a token, and padding is at its end."""
        found = as_tensor(f"{name} texts", inputs)
        if found.dim() != 2 or len(found) != count or found.is_floating_point() or found.dtype == torch.bool:
            raise DataError(
                f"{name} texts must be token numbers (N, T), integers, with N labels; got {found.dtype} "
                f"{tuple(found.shape)} with {count} labels. effbench.data.text.dataset.text_splits makes them."
            )
        if len(found) and int(found.min()) < 0:
            raise DataError(f"{name} texts must be token numbers of at least 0; the smallest is {int(found.min())}.")
        if problem := padding_problem(found):
            raise DataError(f"{name} text {problem[0]} {problem[1]}.")
        return found

    @classmethod
    def size_text(cls, shape: Sequence[int]) -> str:
        return f"at most {shape[0]} tokens"

    @classmethod
    def fit(cls, data: Splits, settings: Settings) -> Self:
        """Take the tokenizer that the dataset was read with: its function fits it to the train split."""
        try:
            tokenizer = restored_tokenizer(data.facts.get("tokenizer"))
        except ValueError as error:
            raise DataError(
                f"{data.name} facts: {error}. effbench.data.text.dataset.text_splits fits a tokenizer and records it."
            ) from error
        for which, split in data.named().items():
            if (largest := int(split.inputs.max())) >= tokenizer.vocab_size:
                raise DataError(
                    f"{data.name} {which} has the token number {largest}; the tokenizer has {tokenizer.vocab_size}."
                )
        return cls(data.shape[0], tokenizer.vocab_size, tokenizer, settings)

    @classmethod
    def blank(cls, shape: Sequence[int], settings: Settings | None = None) -> Self:
        """Return texts of at most data.vocab_size token numbers; of those of a tokenizer.json if the data name one.

        Raises:
            DataError: that file is none.
        """
        options = settings.data if settings else {}
        name = options.get("tokenizer", Bytes.name)
        if (file := tokenizer_file(name)) is not None:
            return cls(shape[0], Given.read(file).vocab_size, None, settings or Settings())
        # the tokenizer is not fitted yet: data.vocab_size is the most that it may have
        vocab_size = Bytes.vocab_size if name == Bytes.name else options.get("vocab_size", VOCAB_SIZE)
        made = cls(shape[0], vocab_size if COUNT.holds(vocab_size) else VOCAB_SIZE, None, settings or Settings())
        made.provisional = name != Bytes.name
        return made

    @classmethod
    def restored(cls, data: Mapping[str, Any], settings: Settings) -> Self:
        shape = data["shape"]
        # a stranger's record: every text is padded to T
        if len(shape) != 1 or shape[0] > LONGEST:
            raise ValueError(f"data.shape of texts is [T], with at most {LONGEST:,} tokens")
        tokenizer = restored_tokenizer(data.get("tokenizer"))
        return cls(shape[0], tokenizer.vocab_size, tokenizer, settings)

    @classmethod
    def check_same(cls, recorded: Mapping[str, Any], data: Splits) -> None:
        """Check also that the tokens have the numbers of the run's tokenizer."""
        super().check_same(recorded, data)
        if plain_record(data.facts.get("tokenizer")) != plain_record(recorded.get("tokenizer")):
            raise ConfigError(
                "the data's tokenizer is not the run's: another train split or another data.tokenizer gives tokens "
                "other numbers. Leave these options as in training; run.predict, and other files of data=text_csv "
                "(data.test_file=FILE) and data=text_file (data.file=FILE), use the run's tokenizer."
            )

    @classmethod
    def misread(cls, before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
        """Tokens of another tokenizer, of another size of vocabulary, or by other rules have other numbers."""
        was, new = before.get("tokenizer"), now.get("tokenizer")
        # a path may have moved
        if was != new and (was in TOKENIZERS or new in TOKENIZERS):
            return "tokenizer"
        return next((key for key in ("vocab_size", "rules") if before.get(key) != now.get(key)), None)

    @classmethod
    def identity(cls, data: Splits) -> dict[str, Any]:
        """Return the tokenizer: one fitted to other texts, or another file at its path, gives tokens other numbers."""
        return {"tokenizer": plain_record(data.facts.get("tokenizer"))}

    @classmethod
    def older_identity(cls, data: Splits) -> dict[str, Any]:
        """Return the record of a file's tokenizer, compressed as it is."""
        return {"tokenizer": data.facts.get("tokenizer")}

    def check_pretrained(self, folder: Path) -> None:
        """Require the tokenizer of the folder: its weights are for the numbers of this one."""
        if self._tokenizer is None:  # shapes only
            return
        if self.tokenizer.numbers() != Given.read(folder / "tokenizer.json").numbers():
            raise ConfigError(
                f"model.pretrained: '{folder}' has its own tokenizer, and its weights are for the numbers of that one. "
                f"Write data.tokenizer='{folder}'."
            )

    def check_pretrained_run(self, checkpoint: Path, fitted: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
        """Require the token numbers of the run: another tokenizer of the same size gives tokens others."""
        if self._tokenizer is None:
            return
        sha256, own = fitted.get("tokenizer"), self.tokenizer.record()
        if sha256 in (sha256_of_plain(plain_record(own)), sha256_of_plain(own)):  # the latter of older checkpoints
            return
        chosen = for_terminal(str(self._options.get("tokenizer", self.tokenizer.name)))
        was = _tokenizer_of(recorded)
        if was is None and sha256 is None:
            log.info(
                f"model.pretrained: the tokenizer of '{checkpoint}' is not recorded there; its weights must be for the "
                f"token numbers of this run's data.tokenizer={chosen}"
            )
            return
        if was is not None and was.numbers() == self.tokenizer.numbers():
            return
        rule = was is not None and was.name == self.tokenizer.name and was.rule != self.tokenizer.rule
        other = f" by data.rules={FIRST if isinstance(was, FirstWords) else RULES}" if rule else ""
        # a file's tokenizer is refused for targets that are tokens: it does not give the text back
        file = ", or with one data.tokenizer=FILE.json of the package tokenizers" * (self.target_kind != "tokens")
        raise ConfigError(
            f"model.pretrained: '{checkpoint}' is of a run with another tokenizer{other}, and its weights are for the "
            f"token numbers of that one; this run has data.tokenizer={chosen}. chars, words and bpe are fitted to the "
            "train texts, so that a tokenizer of theirs is only that of the same texts"
            f"{' and the same data.rules' if rule else ''}. Train both runs with data.tokenizer=bytes{file}, or leave "
            "model.pretrained out."
        )

    @property
    def facts(self) -> dict[str, Any]:
        return {"vocab_size": self.vocab_size, "max_length": self.shape[0]}

    def example(self, count: int = 1) -> Tensor:
        # ones: with padding alone a model would have nothing to read
        return torch.ones(count, *self.shape, dtype=torch.int64)

    # --- batches

    def lengths(self, inputs: Tensor) -> Tensor:
        """Return int64 (N,), the tokens of each text."""
        return (inputs != PADDING).sum(1)

    def batch(self, inputs: Tensor, indices: Tensor, params: AugmentParams, rows: slice) -> Tensor:
        """Return int64 (B, T'), T' the longest text of the batch."""
        return self._cut(inputs.index_select(0, indices[rows]))

    def plain(self, inputs: Tensor, rows: slice | Tensor) -> Tensor:
        """Return int64 (B, T'), T' the longest text of the batch."""
        return self._cut(inputs[rows])

    def _cut(self, tokens: Tensor) -> Tensor:
        # before the transfer, and in the narrow type of the split
        return self.transfer.to_device(self.shortened(tokens)).long()

    # --- prediction and export

    def tell_unknown(self, name: str, samples: Tensor) -> None:
        tell_unknown_of_run(name, self.tokenizer, samples)

    def problem(self, text: str) -> str | None:
        return text_problem(text)

    def given(self, inputs: Any) -> Iterator[Tensor]:
        """Accept a text, a list, an array or a column of texts, or token numbers (N, T)."""
        texts = texts_in(inputs)
        if texts is None:
            yield self.required(tensor_of(inputs, "texts, or token numbers"))
            return
        for place, text in enumerate(texts):
            if why := self.problem(text):
                raise ConfigError(f"predict: text {place} {why}.")
        for _, samples in self._named("predict", [({}, text) for text in texts]):
            yield samples

    def required(self, samples: Tensor) -> Tensor:
        fits = samples.dim() == 2 and not samples.is_floating_point() and 1 <= samples.shape[1] <= self.shape[0]
        if not fits:
            raise ConfigError(
                f"predict takes texts, or token numbers (N, T), T at most {self.shape[0]}; got {samples.dtype} "
                f"{tuple(samples.shape)}."
            )
        size = self.vocab_size
        if len(samples) and not 0 <= int(samples.min()) <= int(samples.max()) < size:
            raise ConfigError(f"predict takes token numbers from 0 to {size - 1}.")
        if problem := padding_problem(samples):
            raise ConfigError(f"predict: {self.unit} {problem[0]} {problem[1]}.")
        return samples

    def read_files(
        self, paths: Sequence[str], options: Mapping[str, Any], problems: list[str]
    ) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
        """Yield {'file': path, 'row': number from 1, 'line': number from 1} for each text of the files."""
        from effbench.data.text.files import read_texts, text_files

        for path in text_files(paths):
            try:
                texts = read_texts(path, self._options)
            except DataError as error:
                problems.append(str(error))
                continue
            if not texts:
                problems.append(f"{path} holds no text. Each line of it, or row of a table, is one.")
            good = []
            for row, line, text in texts:
                if why := self.problem(text):
                    problems.append(f"{path} line {line} {why}")
                else:
                    good.append(({"file": str(path), "row": row, "line": line}, text))
            yield from self._named(for_terminal(str(path)), good)

    def read_texts(self, texts: Sequence[str]) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
        """Yield {'text': text} for each text."""
        for text in texts:
            if why := self.problem(text):
                raise ConfigError(f"text={shown(text[:80])} {why}. Write a sentence.")
        yield from self._named("predict", [({"text": text}, text) for text in texts])

    def _named(
        self, name: str, texts: Sequence[tuple[dict[str, Any], str]]
    ) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
        """Yield (facts that name each text, the samples), some at a time; then say what was cut and what is unknown.

        Args:
            name: of the texts, for the lines.
            texts: (facts, text) of each.
        """
        # some at a time: as padded rows, many short texts take far more memory than their letters
        encoder = Encoder(self)
        for start in range(0, len(texts), TEXTS):
            part = texts[start : start + TEXTS]
            yield [facts for facts, _ in part], encoder.samples([text for _, text in part])
        encoder.tell(name)

    def encoded(self, texts: Sequence[str]) -> tuple[Tensor, int]:
        """Return (token numbers (N, T), how many of the texts were cut to T tokens)."""
        return encoded(self.tokenizer, texts, self.shape[0])

    def shortened(self, samples: Tensor) -> Tensor:
        """Return token numbers (B, T'), T' the longest text of the batch."""
        longest = int(self.lengths(samples).max()) if len(samples) else 1
        return samples[:, :longest].contiguous()

    def portable(self, samples: Tensor) -> Tensor:
        return samples.long()

    def random_portable(self, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(1, self.vocab_size, (count, *self.shape), generator=generator)

    def export_facts(self) -> dict[str, Any]:
        return {
            "input": {"name": "texts", "shape": ["N", *self.shape], "dtype": "int64"},
            "preprocessing": {
                "tokenizer": {**self.tokenizer.record(), "rule": self.tokenizer.rule},
                "padding": PADDING,
                "padding_side": "right",
                "truncation": "the first tokens are kept",
            },
            "normalisation_inside": None,
        }


def _tokenizer_of(recorded: Mapping[str, Any]) -> Tokenizer | None:
    """Return the tokenizer of a run's record of its data; None if it holds none, or none that can be read here."""
    try:
        return restored_tokenizer(recorded.get("tokenizer"))
    except (ValueError, MissingExtraError):
        return None


class Encoder:
    """Encodes texts for `predict`, and counts those that are cut, and tokens that the vocabulary lacks.

    Args:
        modality: of the run.
    """

    def __init__(self, modality: Texts):
        self._modality, self._unknown = modality, UnknownTokens(modality.tokenizer)
        self._texts = self._cut = 0

    def samples(self, texts: Sequence[str]) -> Tensor:
        """Return token numbers (N, T)."""
        tokens, cut = self._modality.encoded(texts)
        self._texts += len(texts)
        self._cut += cut
        return self._unknown.add(tokens)

    def tell(self, name: str) -> None:
        """Log what was counted. name: of the texts."""
        if self._cut:
            length, kept, key = self._modality.shape[0], self._modality.kept, self._modality.size_key
            log.info(
                f"{name}: {self._cut:,} of {counted(self._texts, 'text')} cut to the {kept} {length} tokens, which are "
                f"what the model reads ({key})"
            )
        self._unknown.tell(name)


def texts_in(inputs: Any) -> list[str] | None:
    """Return the texts that `run.predict` was given: one, a list, an array or a column of a table; None for numbers.

    Raises ConfigError if some items are texts and others are not.
    """
    # numpy's and pandas' kinds: objects and texts
    kind = getattr(getattr(inputs, "dtype", None), "kind", None)
    items = inputs.tolist() if kind in ("O", "U", "T") else inputs
    items = [items] if isinstance(items, str) else items
    if not isinstance(items, list | tuple) or not any(isinstance(item, str) for item in items):
        return None
    for place, item in enumerate(items):
        if not isinstance(item, str):
            raise ConfigError(f"predict: item {place} must be a text, as others are; got {shown(item)[:80]}.")
    return list(items)
