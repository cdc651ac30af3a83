"""The guard on a tokenizer's size: what it lets through can be read again, in a run's record and in an export's.

White-box: `_MOST_RECORDED` is the limit itself.
"""

from __future__ import annotations

import csv
import json
from itertools import islice, product
from pathlib import Path
from typing import Any

import pytest

import effbench
from effbench.data.text.dataset import text_splits
from effbench.data.text.encoding import TextOptions
from effbench.data.text.kjv import SplitText
from effbench.data.text.tokenizers import Tokenizer, fitted_tokenizer
from effbench.data.text.windows import window_options, window_splits
from effbench.errors import DataError
from effbench.export.opening import read_record
from effbench.records import read_summary, write_summary
from effbench.run.export import export_run
from effbench.run.predict import predict_files

LETTERS = {"latin": "abcdefghij", "russian": "абвгдежзий"}
ROOM = 3_900_000  # bytes of a tokenizer in a record
INDENT, QUOTES, END = 8, 2, 2  # of a token's line


def words(letters: str, count: int, length: int) -> list[str]:
    return ["".join(each) for each in islice(product(letters, repeat=length), count)]


def fitted(letters: str, length: int, spare: int = 0) -> Tokenizer:
    """A tokenizer of as many words as a record has room for, less `spare`."""
    line = INDENT + QUOTES + END + len(letters[0].encode()) * length
    return fitted_tokenizer("words", [" ".join(words(letters, ROOM // line - spare, length))], 500_000)


def export_record(path: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Write the record of a file as an export does, with what all of them have, and return what is read of it."""
    texts = dict.fromkeys(("file", "sha256", "run", "probabilities"), "")
    record = {
        **texts, "schema_version": 2, "format": "onnx", "checkpoint": {}, "model": {},
        "input": {"name": "texts", "shape": ["N", "T"], "dtype": "int64", "lengths": {"least": 1, "most": 8}},
        "output": {"shape": ["N", 2]}, "classes": data["classes"], "data": data,
        "preprocessing": {"tokenizer": data["tokenizer"]},
    }  # fmt: skip
    path.with_name(f"{path.name}.json").write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")
    return read_record(path)


@pytest.mark.slow
@pytest.mark.parametrize("alphabet", LETTERS)
def test_the_largest_tokenizer_can_be_read_again(alphabet: str, tmp_path: Path) -> None:
    tokenizer = fitted(LETTERS[alphabet], 8, spare=10)
    data = {"tokenizer": tokenizer.record(), "classes": ["a", "b"]}
    write_summary(tmp_path, {"status": "completed", "data": data})
    assert 0.99 * ROOM < (tmp_path / "summary.json").stat().st_size < ROOM + 1000
    assert read_summary(tmp_path)["data"] == data
    # both the data and the steps of the preprocessing hold it
    assert export_record(tmp_path / "x.onnx", data)["data"] == data


@pytest.mark.slow
@pytest.mark.parametrize("alphabet", LETTERS)
def test_a_tokenizer_is_measured_as_it_is_written(alphabet: str) -> None:
    """In UTF-8, a line a token: 122,000 Russian words of 10 letters have 2.7 million characters, and 3.9 MB."""
    told = r"data\.tokenizer=words: its .* tokens take 3,90\d,\d+ bytes in a run's record, .* room for 3,900,000\."
    with pytest.raises(DataError, match=told):
        fitted(LETTERS[alphabet], 10, spare=-20)


def test_the_outputs_of_a_next_token_run_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """White-box: the room of a record, for a small text to fill it. Token numbers are also names of outputs."""
    text = SplitText("".join(map(chr, range(0x4E00, 0x4E00 + 900))).encode(), b"", b"", {})
    options = window_options("chars", 8, 2000)
    splits = window_splits("own", text, options)
    size = len(json.dumps({"data": {"tokenizer": splits.facts["tokenizer"]}}, indent=2, ensure_ascii=False).encode())
    monkeypatch.setattr("effbench.data.text.tokenizers._MOST_RECORDED", size + 900 * 10)
    with pytest.raises(DataError, match=r"data\.tokenizer=chars: its 902 tokens take"):
        window_splits("own", text, options)
    monkeypatch.setattr("effbench.data.text.tokenizers._MOST_RECORDED", size + 900 * 20)
    window_splits("own", text, options)


def test_the_names_of_classes_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """White-box: the room of a record, for a small text to fill it."""
    monkeypatch.setattr("effbench.data.text.tokenizers._MOST_RECORDED", 2000)
    options = TextOptions("words", 8, 100)
    text_splits("own", {"train": ["good", "bad"]}, {"train": [0, 1]}, ["a", "b"], options)
    with pytest.raises(DataError, match=r"data\.tokenizer=words: its 4 tokens take .* room for 2,000\."):
        text_splits("own", {"train": ["good", "bad"]}, {"train": [0, 1]}, ["a" * 1000, "b" * 1000], options)


@pytest.mark.proof
@pytest.mark.slow
def test_a_run_of_many_words_is_exported_and_answers(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    many = words(LETTERS["latin"], 110_000, 8)
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        rows = [(" ".join(many[start : start + 500]), start // 500 % 2) for start in range(0, len(many), 500)]
        csv.writer(stream).writerows([("text", "label"), *rows])
    data = ["data=text_csv", f"data.file={tmp_path / 'a.csv'}", "data.tokenizer=words", "data.vocab_size=110000"]
    model = ["model=text_cnn", "model.dim=2", "model.channels=2", "trainer.max_steps=1", "device.threads=1"]
    run = effbench.train(
        [*data, "data.max_length=600", "data.val_fraction=0.01", "data.test_fraction=0.01", *model],
        folder=tmp_path / "run",
    )
    exported = export_run(run.folder)
    assert Path(f"{exported['path']}.json").stat().st_size > 4_000_000
    [row], problems = predict_files(exported["path"], [], texts=[many[3]])
    assert problems == []
    assert row["probability"] == pytest.approx(float(run.predict(many[3]).max()), abs=1e-5)
