"""Tokenizers: text -> token numbers. Number 0 is padding in all of them; they are fitted to the train split only."""

from __future__ import annotations

import json
import lzma
import re
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self
from unicodedata import category

from pydantic import Field

from effbench.cache_dir import expanded, is_folder
from effbench.config.options import Rule
from effbench.data.rules import RULES
from effbench.data.text.tokenizer_parts import check_growth, check_own_parts
from effbench.errors import ConfigError, DataError, MissingExtraError, shown, unknown_name
from effbench.escaping import for_terminal
from effbench.guarded import TEXT_BYTES, read_text
from effbench.special_tokens import PADDING, UNKNOWN
from effbench.strict_json import json_text

_FIRST_WORD = re.compile(r"\w+|[^\w\s]")  # a run of letters and digits, or one other character
_JOINERS = "\u200c\u200d"  # zero-width signs within words of Persian and Indian scripts


class Tokenizer(ABC):
    """Turns a text into token numbers from 1; 0 is left for padding.

    Attributes:
        name: value of data.tokenizer.
        recorded: its name in records, where that is another.
        rule: how a text becomes token numbers, for users of an exported file.
        unknown: number of all tokens that are not in the vocabulary; None: every text has its tokens.
        keeps_text: tokens decode to the text that they are of, unknown ones excepted.
        vocab_size: token numbers, padding included.
    """

    name: ClassVar[str]
    recorded: ClassVar[str] = ""
    rule: ClassVar[str]
    unknown: int | None = None
    keeps_text: ClassVar[bool] = True
    vocab_size: int

    @classmethod
    @abstractmethod
    def fit(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Fit to the texts of the train split.

        Args:
            texts: of the train split.
            vocab_size: most token numbers; the most frequent tokens get one.
        """

    @abstractmethod
    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Return the token numbers of a text.

        Args:
            text: any text. A caller refuses lone surrogates, which no encoding holds.
            limit: most tokens that the caller needs; more may be returned.
        """

    @abstractmethod
    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of token numbers; padding is left out."""

    @abstractmethod
    def token_bytes(self) -> list[int]:
        """Return the UTF-8 bytes of each token number: 0 for padding, and 1, which is the least, for an unknown one."""

    def record(self) -> dict[str, Any]:
        """Return plain values from which `restored` makes the same tokenizer."""
        return {"name": self.name}

    def numbers(self) -> dict[str, Any]:
        """Return plain values that are equal for tokenizers whose numbers stand for the same tokens."""
        return self.record()

    @classmethod
    @abstractmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the tokenizer of a record. Raises ValueError if it is incomplete."""


class Bytes(Tokenizer):
    """UTF-8 bytes: token number = byte + 1. Nothing is fitted, and no text is unknown."""

    name = "bytes"
    rule = "each byte of the text in UTF-8, plus 1"
    vocab_size = 257

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int) -> Self:
        del texts, vocab_size
        return cls()

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        # a character has at least one byte: no more characters than tokens are needed of a long text
        return [byte + 1 for byte in text[:limit].encode()]

    def decode(self, tokens: Iterable[int]) -> str:
        # a text cut within a character ends with the replacement character
        return bytes(token - 1 for token in tokens if token != PADDING).decode("utf-8", "replace")

    def token_bytes(self) -> list[int]:
        return [0, *[1] * 256]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        del record
        return cls()


class _Listed(Tokenizer):
    """Base of tokenizers with a list of tokens: number 2 is the first of the list.

    Args:
        tokens: without padding and unknown, in order of their numbers.
    """

    unknown = UNKNOWN
    joint: ClassVar[str]  # between tokens, when they are decoded

    def __init__(self, tokens: Sequence[str]):
        self.tokens = tuple(tokens)
        self.vocab_size = len(self.tokens) + 2
        self._numbers = {token: number for number, token in enumerate(self.tokens, start=UNKNOWN + 1)}

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int) -> Self:
        counts = Counter(chain.from_iterable(map(cls.split, texts)))
        # by count, then by the token: equal counts must not depend on the order of the texts
        ranked = sorted(counts, key=lambda token: (-counts[token], token))
        return cls(ranked[: vocab_size - 2])

    @staticmethod
    @abstractmethod
    def split(text: str) -> Iterable[str]:
        """Return the tokens of a text, in order."""

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        return [self._numbers.get(token, UNKNOWN) for token in islice(self.split(text), limit)]

    def decode(self, tokens: Iterable[int]) -> str:
        own = ("", "\N{REPLACEMENT CHARACTER}", *self.tokens)
        return self.joint.join(own[token] for token in tokens if token != PADDING)

    def token_bytes(self) -> list[int]:
        return [0, 1, *(len(token.encode()) for token in self.tokens)]

    def record(self) -> dict[str, Any]:
        return {"name": self.recorded or self.name, "tokens": list(self.tokens)}

    def numbers(self) -> dict[str, Any]:
        return {**self.record(), "name": self.name}  # the same for words of all rules

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        tokens = record.get("tokens")
        # the record comes from a run's folder, which may be a stranger's
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise ValueError("data.tokenizer.tokens must be a list of texts")
        if len(set(tokens)) != len(tokens):
            raise ValueError("data.tokenizer.tokens lists a token twice")
        if not all(map(_is_unicode, tokens)):
            raise ValueError("data.tokenizer.tokens holds a lone surrogate, which is no Unicode text")
        return cls(tokens)


class Characters(_Listed):
    """Unicode characters of the train split."""

    name, joint = "chars", ""
    rule = "each Unicode character: its place in `tokens`, from 2; 1 if it is not there"

    @staticmethod
    def split(text: str) -> Iterable[str]:
        return text


class Words(_Listed):
    """Words in lower case with their combining marks, and single punctuation marks. Spaces are not tokens.

    Python's \\w lacks the marks that UTS #18 counts to it: vowel signs of Hindi would end a word.
    """

    name, joint, recorded = "words", " ", "words_2"
    keeps_text = False
    rule = (
        r"the text in lower case; each match of the regular expression \w[\wM]*|[^\w\s]M* (Unicode), where M are the "
        "characters of the categories Mn, Mc and Me, U+200C and U+200D: its place in `tokens`, from 2; 1 if it is not "
        "there"
    )

    @staticmethod
    def split(text: str) -> Iterable[str]:
        return (match.group() for match in _marked_word().finditer(text.lower()))


class FirstWords(Words):
    """Words as data.rules=1 has them: a combining mark is a token of its own."""

    recorded = "words"
    rule = (
        f"the text in lower case; each match of the regular expression {_FIRST_WORD.pattern} (Unicode): its place in "
        "`tokens`, from 2; 1 if it is not there"
    )

    @staticmethod
    def split(text: str) -> Iterable[str]:
        return (match.group() for match in _FIRST_WORD.finditer(text.lower()))


@cache
def _marked_word() -> re.Pattern[str]:
    """Return the expression of a word with its marks, or of another character with its marks."""
    planes = chain(range(0x300, 0x20000), range(0xE0000, 0xE1000))  # those of Unicode that have marks
    marks = "".join(letter for letter in map(chr, planes) if category(letter).startswith("M")) + _JOINERS
    return re.compile(rf"\w[\w{marks}]*|[^\w\s][{marks}]*")


class BytePairs(Tokenizer):
    """Byte pair encoding (arXiv:1508.07909) over UTF-8 bytes, by the package `tokenizers`. No text is unknown.

    Args:
        content: JSON of tokenizers.Tokenizer.
    """

    name = "bpe"
    rule = "tokenizers.Tokenizer.from_str(content).encode(text).ids, of the package tokenizers"
    most_unmade: ClassVar[float] = 0  # share of the longer tokens that no merge makes; more of them: merges are missing

    def __init__(self, content: str):
        library = _library()
        self.content = content
        with _panics_as(ValueError, ""):
            self._own = library.Tokenizer.from_str(content)
        # a text may hold the word [PAD]: it must not become the number of padding
        self._own.encode_special_tokens = True
        # a text is cut and padded elsewhere, and the same in every batch
        self._own.no_truncation()
        self._own.no_padding()
        numbers = sorted(self._own.get_vocab().values())
        # of a file, numbers may be left out: a model needs a row for the largest
        self.vocab_size = numbers[-1] + 1 if numbers else 1
        if self.vocab_size > _MOST_NUMBERS:
            raise ValueError(f"its largest token number is {numbers[-1]:,}, of at most {_MOST_NUMBERS:,}")
        if len(set(numbers)) < len(numbers):
            raise ValueError("it gives two tokens the same number")
        self._check_merges(json.loads(content))
        # as the library read it: a file may name its parts in older ways
        self._check_parts(json.loads(self._own.to_str()))

    def _check_parts(self, whole: Mapping[str, Any]) -> None:
        """Raise ValueError if a part of a record is none that `fit` makes: it could make a text longer without end."""
        check_own_parts(whole)

    def _check_merges(self, whole: Mapping[str, Any]) -> None:
        """Raise ValueError if merges are missing, or left out at random: texts would silently have other tokens."""
        model = whole["model"]
        if model.get("dropout"):
            raise ValueError(f"its model.dropout is {model['dropout']}: a text would have other tokens each time")
        if model.get("merges") is None:
            return
        made = {"".join(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]}
        made |= {str(added.get("content")) for added in whole.get("added_tokens") or ()}
        long = [token for token in model["vocab"] if len(token) > 1]
        unmade = sum(token not in made for token in long)
        if unmade > self.most_unmade * len(long):
            raise ValueError(f"merges are missing: {unmade:,} of its {len(long):,} long tokens are made by none")

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int) -> Self:
        library = _library()
        own = library.Tokenizer(library.models.BPE())
        # No prefix space: 'a' at the start of a text and within it are different tokens, as the text has them.
        own.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        own.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=["[PAD]"],  # gets number 0
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),  # all 256 bytes, also those not in train
            show_progress=False,
        )
        own.train_from_iterator(texts, trainer)
        return cls(own.to_str())

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        # A token may be long: no safe cut of the text follows from the limit.
        del limit
        with _panics_as(DataError, f"data.tokenizer={self.name} cannot encode {shown(text[:100])}"):
            numbers: list[int] = self._own.encode(text).ids
        return numbers

    def decode(self, tokens: Iterable[int]) -> str:
        text: str = self._own.decode([token for token in tokens if token != PADDING])
        return text

    def token_bytes(self) -> list[int]:
        # ByteLevel writes each byte of a token as one character
        sizes = [0] * self.vocab_size
        for token, number in self._own.get_vocab().items():
            sizes[number] = 0 if number == PADDING else len(token)
        return sizes

    def record(self) -> dict[str, Any]:
        return {"name": self.name, "content": self.content}

    def numbers(self) -> dict[str, Any]:
        # as the library writes it now: a file may be written in another way, or be set to cut and pad texts
        return {"content": json.loads(self._own.to_str())}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        content = record.get("content")
        if not isinstance(content, str):
            raise ValueError("data.tokenizer.content must be the JSON of a tokenizer")
        try:
            return cls(content)
        except MissingExtraError:
            raise
        except Exception as error:  # the library raises Exception itself
            raise ValueError(f"data.tokenizer.content is no tokenizer ({error})") from error


class Given(BytePairs):
    """A tokenizer.json of the package `tokenizers`, such as that of a pretrained model. Nothing is fitted.

    The record holds it compressed: the vocabulary of a published model has megabytes.
    """

    name = "file"
    rule = (
        "tokenizers.Tokenizer.from_str(json).encode(text).ids, of the package tokenizers, with encode_special_tokens; "
        "json is `content` after base64 and xz"
    )
    keeps_text = False  # most normalise it
    most_unmade = 0.5  # published models have some, for single bytes and words of their own

    def __init__(self, content: str):
        super().__init__(content)
        model = json.loads(content)["model"]
        token = model.get("unk_token")  # unk_id: of Unigram models, such as DeBERTa-v3's
        self.unknown = model.get("unk_id") if token is None else self._own.token_to_id(token)

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int) -> Self:
        del texts, vocab_size
        raise ConfigError(
            "data.tokenizer: a tokenizer.json is read and not fitted, which these data do not provide for."
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the tokenizer of a file. Raises DataError if it is none, or does not fit."""
        name = for_terminal(str(path))
        try:
            content = read_text(path, _MOST_JSON)
        except ConfigError as error:
            raise DataError(f"data.tokenizer: {for_terminal(str(error))} {_WRITE_IT}") from error
        try:
            found = cls(content)
        except MissingExtraError:
            raise
        except Exception as error:  # the library raises Exception itself
            raise DataError(f"data.tokenizer: {name} is no whole tokenizer.json ({error}). {_WRITE_IT}") from error
        first = found._own.id_to_token(PADDING)
        if first is None or "pad" not in first.lower():
            raise DataError(
                f"data.tokenizer: number {PADDING} of {name} is {first!r}; it must be the padding token, as in the "
                "tokenizers of BERT and DeBERTa."
            )
        if len(found.record()["content"]) > _MOST_RECORDED:
            raise DataError(f"data.tokenizer: {name} is too large for a run's record, even compressed.")
        return found

    def record(self) -> dict[str, Any]:
        packed = lzma.compress(self.content.encode(), preset=6)
        return {"name": self.name, "content": b64encode(packed).decode()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        return super().from_record({"content": cls.content_of(record)})

    @classmethod
    def content_of(cls, record: Mapping[str, Any]) -> str:
        """Return the JSON that a record holds. Raises ValueError if it holds none."""
        try:
            # a record may be a stranger's: a small one must not fill the memory
            packed = b64decode(str(record.get("content")), validate=True)
            unpacker = lzma.LZMADecompressor()
            text = unpacker.decompress(packed, max_length=_MOST_JSON).decode()
        except (ValueError, lzma.LZMAError) as error:
            raise ValueError(f"data.tokenizer.content is no tokenizer ({error})") from error
        if not unpacker.eof or unpacker.unused_data:
            raise ValueError("data.tokenizer.content is no tokenizer (it is cut, too large, or more than one)")
        return text

    def _check_parts(self, whole: Mapping[str, Any]) -> None:
        check_growth(whole)


_WRITE_IT = (
    "Fetch it again; for a folder of transformers without it, "
    "transformers.AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes tokenizer.json."
)
_MOST_RECORDED = TEXT_BYTES - 100_000  # bytes; the rest of a summary is for its other parts
_MOST_JSON = 100_000_000  # characters
_MOST_NUMBERS = 5_000_000  # token numbers; published models have 30,000 to 300,000
TOKENIZERS: dict[str, type[Tokenizer]] = {kind.name: kind for kind in (Bytes, Characters, Words, BytePairs)}
LEAST_VOCAB = {"bytes": 257, "chars": 3, "words": 3, "bpe": 257}  # padding and unknown, and one token or all bytes


def tokenizer_class(name: object) -> type[Tokenizer]:
    """Return the class of data.tokenizer=NAME, or FILE. Raises ConfigError for an unknown name."""
    if tokenizer_file(name) is not None:
        return Given
    if not isinstance(name, str) or name not in TOKENIZERS:
        raise ConfigError(unknown_name("data.tokenizer", str(name), list(TOKENIZERS)))
    return TOKENIZERS[name]


def tokenizer_file(name: object) -> Path | None:
    """Return the tokenizer.json that data.tokenizer names, by itself or by its folder; None for other tokenizers."""
    if not isinstance(name, str) or not (name.endswith(".json") or "/" in name):
        return None
    path = expanded(name)
    return path / "tokenizer.json" if is_folder(path) else path


def fitted_tokenizer(
    name: str, texts: Iterable[str], vocab_size: int, rules: int = RULES, outputs: Sequence[str] = ()
) -> Tokenizer:
    """Return the tokenizer of data.tokenizer, fitted to texts or read from its file.

    Args:
        name: bytes, chars, words, bpe, or the path of a tokenizer.json or of its folder.
        texts: of the train split.
        vocab_size: most token numbers of a fitted one.
        rules: see effbench/data/rules.py.
        outputs: names of the classes, which a run's record holds too.

    Raises:
        DataError: the file is no tokenizer, or the tokens are too long for a run's record.
    """
    path = tokenizer_file(name)
    if path is not None:
        return Given.read(path)
    kind = tokenizer_class(name)
    found = (FirstWords if kind is Words and rules < RULES else kind).fit(texts, vocab_size)
    check_recorded(name, found, outputs)
    return found


def check_recorded(name: str, tokenizer: Tokenizer, outputs: Sequence[str] = ()) -> None:
    """Raise DataError if a run's record would be too large to be read again: before training, not after it.

    Args:
        name: data.tokenizer.
        tokenizer: fitted.
        outputs: names of a model's outputs, classes or token numbers: the record lists them too.
    """
    # the bytes of summary.json: indented, and a letter has up to four
    content = {"data": {"tokenizer": tokenizer.record(), "classes": list(outputs)}}
    size = len(json_text(content).encode("utf-8", "backslashreplace"))
    if size > _MOST_RECORDED:
        raise DataError(
            f"data.tokenizer={name}: its {tokenizer.vocab_size:,} tokens take {size:,} bytes in a run's record, "
            f"which has room for {_MOST_RECORDED:,}. Lower data.vocab_size, or take data.tokenizer=bytes, "
            "which has no list of tokens."
        )


def check_vocab_size(name: str, vocab_size: object) -> int:
    """Return data.vocab_size, at least what the tokenizer `name` needs. Raises ConfigError."""
    least = LEAST_VOCAB.get(name, 1)  # that of a file is what it is
    text = f"a whole number of at least {least} for data.tokenizer={name}"
    rule = Rule[int](Annotated[int, Field(ge=least)], text)
    return rule.check(vocab_size, "data.vocab_size", remedy="8192 is usual.")


def restored_tokenizer(record: object) -> Tokenizer:
    """Return the tokenizer of a run's record. Raises ValueError if it is damaged."""
    name = record.get("name") if isinstance(record, Mapping) else None
    kinds: list[type[Tokenizer]] = [*TOKENIZERS.values(), FirstWords, Given]
    known = {kind.recorded or kind.name: kind for kind in kinds}
    if not isinstance(record, Mapping) or not isinstance(name, str) or name not in known:
        raise ValueError(f"data.tokenizer must name one of {', '.join(known)}")
    return known[name].from_record(record)


def plain_record(record: object) -> object:
    """Return a tokenizer's record without compression, to compare: other versions of liblzma give a text other bytes.

    A record that cannot be read is returned as it is.
    """
    if isinstance(record, Mapping) and record.get("name") == Given.name:
        try:
            return {"name": Given.name, "json": Given.content_of(record)}
        except ValueError:
            return record
    return record


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


@contextmanager
def _panics_as(kind: type[Exception], what: str) -> Iterator[None]:
    """Turn a panic of the library's Rust code into `kind`: it is no Exception, and would end the program.

    Args:
        kind: class of the exception.
        what: begins its message.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of pyo3_runtime, which cannot be imported
            raise
        raise kind(f"{what}{': ' if what else ''}its settings do not fit each other ({error})") from error


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise MissingExtraError("data.tokenizer=bpe", "text") from error
    return tokenizers
