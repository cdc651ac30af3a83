"""Texts with tokens that the run's vocabulary lacks: counted, said, and warned of from a fifth on."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import pytest
import torch

import effbench
from effbench.data.text.encoding import encoded, tell_unknown, tell_unknown_of_run, unknown_share
from effbench.data.text.text_file import text_file
from effbench.data.text.tokenizers import Bytes, Given, Words
from effbench.errors import DataError

SHORT = ["device=cpu", "device.threads=1", "trainer.max_steps=2", "trainer.limit_test_batches=0"]


def test_the_share_is_that_of_a_count_by_hand() -> None:
    tokenizer = Words.fit(["a b c"], 10)
    tokens, _ = encoded(tokenizer, ["a b x y", "c"], 8)
    assert unknown_share(tokenizer, tokens) == 2 / 5  # padding is no token
    assert unknown_share(Bytes(), torch.ones(2, 3)) == 0.0  # their number 1 is a byte
    assert unknown_share(tokenizer, torch.zeros(0, 8)) == 0.0


@pytest.mark.parametrize(
    ("shares", "level", "said"),
    [
        ({"train": 0.19, "val": 0.004}, None, ""),
        ({"train": 0.1, "val": 0.05}, logging.INFO, "val 5.0 %"),
        ({"train": 0.25, "val": 0.0}, logging.WARNING, "train 25.0 %"),
        ({"train": 0.0, "test": 0.2}, logging.WARNING, "test 20.0 %"),
    ],
)
def test_a_fifth_of_unknown_tokens_is_a_warning(
    shares: dict[str, float], level: int | None, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "effbench"):
        tell_unknown("mine", shares, "write more")
    assert [record.levelno for record in caplog.records] == ([] if level is None else [level])
    assert said in caplog.text


def test_texts_of_which_nothing_is_known_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = Words.fit(["a b c"], 10)
    known = "a b c " * 10
    tokens, _ = encoded(tokenizer, [known, known, "x y"], 64)
    with caplog.at_level(logging.INFO, "effbench"):
        tell_unknown_of_run("mine.csv", tokenizer, tokens)
    assert "3.2 % of the tokens" in caplog.text  # 2 of 62
    assert "none of 1 of the 3 texts" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING


def test_a_text_without_a_token_is_refused_and_named(tmp_path: Path) -> None:
    """Padding alone: a model would give NaN, or the answer for nothing."""
    library = pytest.importorskip("tokenizers")
    own = library.Tokenizer(library.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]"))
    own.pre_tokenizer = library.pre_tokenizers.Whitespace()
    own.normalizer = library.normalizers.Replace("*", "")
    own.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Given.read(tmp_path / "tokenizer.json")
    assert tokenizer.unknown == 1
    assert unknown_share(tokenizer, encoded(tokenizer, ["a b a b"], 8)[0]) == 0.5
    with pytest.raises(DataError, match=r"the tokenizer leaves nothing of the text '\*\*'"):
        encoded(tokenizer, ["a", "**"], 8)


def test_the_unknown_number_of_a_unigram_file_is_read(tmp_path: Path) -> None:
    """As of DeBERTa-v3, whose [UNK] is not number 1."""
    library = pytest.importorskip("tokenizers")
    own = library.Tokenizer(library.models.Unigram([("[PAD]", 0.0), ("[CLS]", 0.0), ("a", -1.0), ("[UNK]", 0.0)], 3))
    own.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Given.read(tmp_path / "tokenizer.json")
    assert tokenizer.unknown == 3
    assert tokenizer.encode("ab") == [2, 3]


def _csv(path: Path, texts: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text", "label"), *((text, "ab"[n % 2]) for n, text in enumerate(texts))])
    return path


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["chars", "words", "bytes", "bpe"])
def test_a_run_says_how_much_of_other_texts_it_knows(
    tokenizer: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if tokenizer == "bpe":
        pytest.importorskip("tokenizers")
    mine = _csv(tmp_path / "mine.csv", [f"the word {number} of mine" for number in range(40)])
    other = _csv(tmp_path / "other.csv", [f"мир книга {number}" for number in range(10)])
    words = [
        f"data.file={mine}",
        f"data.tokenizer={tokenizer}",
        "data.vocab_size=300",
        "model=ngrams",
        "model.buckets=99",
    ]
    run = effbench.train(["data=text_csv", *words, *SHORT], folder=tmp_path / "run")
    asks = {
        "data.file": lambda: effbench.evaluate_run(run.folder, data_overrides={"file": str(other)}),
        str(other): lambda: effbench.predict_files(run.folder, other),
        "predict": lambda: run.predict(["мир"]),
    }
    for name, ask in asks.items():
        caplog.clear()
        with caplog.at_level(logging.INFO, "effbench"):
            ask()
        said = [record for record in caplog.records if "not in the run's vocabulary" in record.getMessage()]
        assert len(said) == (tokenizer in ("chars", "words"))
        assert all(record.levelno == logging.WARNING and record.getMessage().startswith(name) for record in said)


@pytest.mark.slow
def test_a_next_token_run_meets_characters_it_never_saw(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The last tenth of the text and of the one before are in another alphabet."""
    file, other = tmp_path / "a.txt", tmp_path / "b.txt"
    file.write_text("in the beginning " * 40 + "ἐν ἀρχῇ ἦν ὁ λόγος " * 9, encoding="utf-8")
    other.write_text("в начале " * 30, encoding="utf-8")
    small = ["model.dim=16", "model.depth=1", "model.heads=2", "data.context=16", "data.tokenizer=chars"]
    with caplog.at_level(logging.INFO, "effbench"):
        run = effbench.train(
            ["data=text_file", f"data.file={file}", *small, "task.length=5", *SHORT], folder=tmp_path / "run"
        )
    facts = text_file(str(file), context=16, tokenizer="chars").facts
    told = [record for record in caplog.records if "not in the vocabulary" in record.getMessage()]
    assert {record.levelno for record in told} == {logging.WARNING}
    assert f"val {100 * facts['unknown_tokens']['val']:.1f} %" in told[0].getMessage()
    assert json.loads((run.folder / "summary.json").read_text())["metrics"]["val/loss"] > 0
    for ask in (
        lambda: effbench.evaluate_run(run.folder, data_overrides={"file": str(other)}),
        lambda: effbench.predict_files(run.folder, other, options={"length": 3}),
        lambda: run.continued("мир", length=3),
    ):
        caplog.clear()
        with caplog.at_level(logging.INFO, "effbench"):
            ask()
        assert any("not in the run's vocabulary" in record.getMessage() for record in caplog.records)
