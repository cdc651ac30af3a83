"""A damaged tokenizer, in a run's record or in a file of the user's: named by its file, with a remedy, no traceback."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import effbench
from effbench.data.text.tokenizers import BytePairs, Given, restored_tokenizer
from effbench.errors import ConfigError, DataError

tokenizers = pytest.importorskip("tokenizers")
TEXTS = ["the cat sat on the mat and the dog", "the dog sat"] * 5


def _whole() -> dict[str, Any]:
    return dict(json.loads(BytePairs.fit(TEXTS, 300).content))


def _without_merges(whole: dict[str, Any]) -> dict[str, Any]:
    return {**whole, "model": {**whole["model"], "merges": []}}


FILES: dict[str, Callable[[], str]] = {
    "cut": lambda: json.dumps(_whole())[:900],
    "other JSON": lambda: '{"a": 1}',
    "a list": lambda: "[]",
    "empty": lambda: "",
    "NaN": lambda: json.dumps(_whole()).replace('"id": 0', '"id": NaN'),
    "version": lambda: json.dumps({**_whole(), "version": "9.0"}),
    "deep": lambda: "[" * 100_000,
    "no merges": lambda: json.dumps(_without_merges(_whole())),
    "dropout": lambda: json.dumps({**_whole(), "model": {**_whole()["model"], "dropout": 0.1}}),
    "a number of 2^31": lambda: json.dumps(
        {**_whole(), "model": {**_whole()["model"], "vocab": {**_whole()["model"]["vocab"], "zz": 2**31}}}
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_named_with_the_remedy(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(FILES[kind]())
    with pytest.raises(DataError, match=r"tokenizer\.json is no whole tokenizer\.json \(.*\)\. Fetch it again"):
        Given.read(path)


def test_a_pipe_a_huge_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with (tmp_path / "huge.json").open("wb") as stream:
        stream.truncate(200_000_000)  # sparse: it takes no disk
    (tmp_path / "latin.json").write_bytes(b"\xff{}")
    for name, why in (("pipe", "but a pipe"), ("huge", "200 MB"), ("latin", "not UTF-8"), ("none", "no such file")):
        with pytest.raises(DataError, match=rf"{name}\.json cannot be read: .*{why}.* Fetch it again"):
            Given.read(tmp_path / f"{name}.json")


def test_one_missing_merge_of_a_run_s_record_is_seen() -> None:
    """A text would get other tokens than in training, and no error."""
    record = BytePairs.fit(TEXTS, 300).record()
    assert restored_tokenizer(record).encode("the mat")
    whole = json.loads(record["content"])
    whole["model"]["merges"].pop()
    with pytest.raises(ValueError, match="merges are missing: 1 of its"):
        restored_tokenizer({**record, "content": json.dumps(whole)})


def test_truncation_and_padding_of_a_file_are_left_out(tmp_path: Path) -> None:
    """data.max_length cuts, and batches are padded: a file's own padding would be a million tokens a text."""
    own = tokenizers.Tokenizer.from_str(json.dumps(_whole()))
    own.enable_truncation(2)
    own.enable_padding(length=1000)
    own.save(str(tmp_path / "tokenizer.json"))
    assert len(Given.read(tmp_path / "tokenizer.json").encode("the dog sat on")) not in (2, 1000)
    assert len(BytePairs(own.to_str()).encode("the dog sat on")) not in (2, 1000)


def test_a_panic_of_the_library_is_an_error_of_ours() -> None:
    """A PanicException of Rust is no Exception: it would end a notebook's cell with a traceback, or the program."""
    whole = _whole()
    whole["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    with pytest.raises((ValueError, DataError)):
        restored_tokenizer({"name": "bpe", "content": json.dumps(whole)}).encode("the")


def test_a_number_that_is_left_out_still_has_a_row() -> None:
    whole = _whole()
    whole["model"]["vocab"]["zz"] = 400
    whole["model"]["merges"].append(["z", "z"])
    tokenizer = BytePairs(json.dumps(whole))
    assert tokenizer.encode("zz") == [400]
    assert tokenizer.vocab_size == 401


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    rows = "".join(f"{text} {place},{'ab'[place % 2]}\n" for place, text in enumerate(TEXTS * 4))
    (folder / "t.csv").write_text(f"text,label\n{rows}")
    (folder / "o.csv").write_text("text,label\nthe hat,a\nthe rat,b\n")
    (folder / "t.txt").write_text("the cat sat on the mat. " * 30)
    (folder / "o.txt").write_text("the rat sat on the hat. " * 9)
    short = ["device=cpu", "device.threads=1", "trainer.max_steps=2", "trainer.limit_test_batches=0"]
    text = ["data=text_csv", f"data.file={folder / 't.csv'}", "model=text_cnn", "model.channels=4", "model.dim=4"]
    window = ["data=text_file", f"data.file={folder / 't.txt'}", "data.context=8", "model.dim=8", "model.heads=1"]
    words = {
        "words": [*text, "data.tokenizer=words"],
        "bpe": [*text, "data.tokenizer=bpe", "data.vocab_size=280"],
        "windows": [*window, "data.tokenizer=chars", "model.depth=1", "task.length=2"],
    }
    return {name: effbench.train([*each, *short], folder=folder / name).folder for name, each in words.items()}


RECORDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "null": lambda _: None,
    "a text": lambda _: "words",
    "no name": lambda _: {},
    "a list as name": lambda record: {**record, "name": ["words"]},
    "another name": lambda record: {**record, "name": "file"},
    "no content": lambda record: {"name": record["name"]},
    "half": lambda record: {key: value if key == "name" else value[: len(value) // 2] for key, value in record.items()},
    "surrogate": lambda record: {**record, "tokens": ["\ud800"], "content": "\ud800"},
}


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.parametrize("name", ["words", "bpe", "windows"])
def test_a_run_with_a_damaged_tokenizer_is_refused_by_file(name: str, runs: dict[str, Path]) -> None:
    folder = runs[name]
    path = folder / "summary.json"
    whole = path.read_text()
    other = folder.parent / ("o.txt" if name == "windows" else "o.csv")
    asks = [
        lambda: effbench.evaluate_run(folder, data_overrides={"file": str(other)}),
        lambda: effbench.predict_files(folder, other),
    ]
    for ask in asks:
        ask()
    for damage in RECORDS.values():
        summary = json.loads(whole)
        summary["data"]["tokenizer"] = damage(summary["data"]["tokenizer"])
        path.write_text(json.dumps(summary))
        for ask in asks:
            # a vocabulary of another size may be found only when the weights are loaded
            with pytest.raises(ConfigError, match=r"summary\.json|weights do not fit"):
                ask()
    path.write_text(whole)
