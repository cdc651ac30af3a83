"""Texts that `predict` is given: what is no text is named, what is cut is counted, and little of a file is encoded."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from effbench.data.images.modality import Images
from effbench.data.modality import Settings
from effbench.data.rows.modality import Rows
from effbench.data.text import modality as module
from effbench.data.text.modality import Texts
from effbench.data.text.text_folder import TextFiles
from effbench.data.text.tokenizers import Bytes, Words
from effbench.data.text.windows import Windows
from effbench.errors import ConfigError, DataError

KINDS = [Texts, TextFiles, Windows]


def of_bytes(kind: type[Texts] = Texts, length: int = 8) -> Texts:
    return kind(length, Bytes.vocab_size, Bytes(), Settings())


def answered(modality: Texts, *paths: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return (names of the samples, problems) of files."""
    problems: list[str] = []
    found = modality.read_files([str(path) for path in paths], {}, problems)
    return [name for names, samples in found for name in names[: len(samples)]], problems


# --- what is given in Python


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["good day", float("nan")], "item 1 must be a text, as others are; got nan"),
        (["good day", None], "item 1 must be a text, as others are; got null"),
        ([3, "good day"], "item 0 must be a text"),
        (None, "predict takes texts, or token numbers, as an array.*; got null"),
        ([None], "predict takes texts, or token numbers"),
        ({"good": "day"}, "predict takes texts, or token numbers"),
        (["good day", "\ud800"], "text 1 has a lone surrogate"),
        (["good day", " "], "text 1 is empty"),
        (0.5, "predict takes texts, or token numbers"),
    ],
)
def test_what_is_no_text_is_named(given: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        list(of_bytes().given(given))


def test_a_column_of_texts_is_a_list_of_texts() -> None:
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    texts = ["good day", "Guten Tag"]
    [expected] = of_bytes().given(texts)
    kinds = [
        numpy.array(texts),
        numpy.array(texts, dtype=object),
        pandas.Series(texts),
        pandas.Series(texts, dtype=str),
    ]
    for given in [*kinds, pandas.Series(texts, dtype="category"), tuple(texts)]:
        [found] = of_bytes().given(given)
        assert torch.equal(found, expected)
    with pytest.raises(ConfigError, match=r"item 1 must be a text, as others are; got (nan|null)"):
        list(of_bytes().given(pandas.Series(["good day", None])))


# --- files


@pytest.mark.parametrize("kind", [Texts, Windows])
@pytest.mark.parametrize(
    ("name", "content"), [("a", " "), ("b.txt", ""), ("c.txt", "\n \n"), ("d.csv", "text,label\n")]
)
def test_a_file_without_a_text_is_named(kind: type[Texts], name: str, content: str, tmp_path: Path) -> None:
    path, other = tmp_path / name, tmp_path / "other.txt"
    path.write_text(content)
    other.write_text("good day\n")
    names, problems = answered(of_bytes(kind), path, other)
    assert names == [{"file": str(other), "row": 1, "line": 1}]
    assert problems == [f"{path} holds no text. Each line of it, or row of a table, is one."]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["Guten Tag", "Guten Tag, " * 100])
def test_a_sentence_in_place_of_a_file_is_told_of_text(kind: type[Texts], text: str) -> None:
    with pytest.raises(DataError, match=r'there is no file Guten Tag.*write text="a sentence"'):
        answered(of_bytes(kind), Path(text))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_cannot_be_seen_is_no_sentence(kind: type[Texts], monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("os.stat", closed)  # root may enter every folder
        with pytest.raises(DataError, match=r"^closed/a\.txt cannot be read: Permission denied\.$"):
            answered(of_bytes(kind), Path("closed/a.txt"))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_line_and_the_byte_of_bad_utf_8_are_right(mark: bytes, tmp_path: Path) -> None:
    """With a byte order mark the places of Python's error are those after it."""
    path = tmp_path / "a.csv"
    path.write_bytes(mark + b"text,label\nab\xff,x\n")
    _, [problem] = answered(of_bytes(), path)
    assert f"a.csv line 2 is no utf-8-sig (byte {len(mark) + 13}, 0xff: invalid start byte)" in problem


# --- what is cut


@pytest.mark.parametrize(("kind", "kept"), [(Texts, "first 8 tokens"), (TextFiles, "first 8"), (Windows, "last 8")])
def test_cut_texts_are_counted_once(
    kind: type[Texts], kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "TEXTS", 2)
    texts = ["short", "12345678", "123456789", "short", "short"]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["text", *texts]))
    for name, ask in {
        "predict": lambda: list(of_bytes(kind).given(texts)),
        str(path): lambda: answered(of_bytes(kind), path),
    }.items():
        caplog.clear()
        with caplog.at_level(logging.INFO, "effbench"):
            ask()
        [record] = caplog.records
        assert record.getMessage().startswith(f"{name}: 1 of 5 texts cut to the {kept}")
        assert f"({kind.size_key})" in record.getMessage()
    caplog.clear()
    with caplog.at_level(logging.INFO, "effbench"):
        list(of_bytes(kind).given(texts[:2]))
    assert not caplog.records


def test_the_end_of_a_long_text_is_kept_in_a_window() -> None:
    tokens, cut = of_bytes(Windows).encoded(["0123456789", "ab"])
    assert cut == 1
    assert Bytes().decode(tokens[0].tolist()) == "23456789"
    assert tokens[1].tolist()[2:] == [0] * 6


def test_a_file_is_encoded_a_part_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The unknown tokens of all parts are counted all the same, and told once."""
    monkeypatch.setattr(module, "TEXTS", 2)
    path = tmp_path / "a.txt"
    path.write_text("a b\na b\na x\na b\nx y\n")
    texts = Texts(8, 4, Words.fit(["a b"], 4), Settings())
    encoded, whole = list[int](), texts.encoded
    monkeypatch.setattr(texts, "encoded", lambda part: encoded.append(len(part)) or whole(part), raising=False)
    with caplog.at_level(logging.INFO, "effbench"):
        first, *rest = (list(names) for names, _ in _after(texts.read_files([str(path)], {}, []), encoded))
    assert [name["line"] for name in first] == [1, 2]
    assert [len(names) for names in rest] == [2, 1]
    [record] = caplog.records
    assert "30.0 % of the tokens" in record.getMessage()  # 3 of 10
    assert "none of 1 of the 5 texts" in record.getMessage()


def _after(parts: Any, encoded: list[int]) -> Any:
    """Yield the parts; each is encoded when it is asked for."""
    for number, part in enumerate(parts, start=1):
        assert len(encoded) == number
        yield part


# --- text=


@pytest.mark.parametrize("kind", KINDS)
def test_texts_themselves_are_named_by_their_text(kind: type[Texts]) -> None:
    [(names, samples)] = of_bytes(kind).read_texts(["good day", "Tag"])
    assert names == [{"text": "good day"}, {"text": "Tag"}]
    assert samples.shape == (2, 8)


@pytest.mark.parametrize(("text", "why"), [("", "is empty"), (" ", "is empty"), ("a\udce9", "lone surrogate")])
def test_an_empty_text_is_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"^text='.*' .*{why}"):
        list(of_bytes().read_texts([text]))


@pytest.mark.parametrize("text", ["\n", " "])
def test_white_space_is_a_text_to_continue(text: str) -> None:
    """A line break is the prompt of a run by default."""
    [(_, samples)] = of_bytes(Windows).read_texts([text])
    assert samples[0, :2].tolist() == [ord(text) + 1, 0]
    with pytest.raises(ConfigError, match="holds a NUL character"):
        list(of_bytes(Windows).read_texts(["a\0"]))


def test_a_missing_column_of_a_file_is_told_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("review,stars\ngood,5\n")
    said = f"{path} has no column 'text'. Its first line names: 'review', 'stars'. This run reads the column 'text': "
    assert answered(of_bytes(), path)[1] == [
        f"{said}rename the file's column. If that line is a sample, put a line with the names of the columns above it."
    ]


def test_runs_on_other_samples_have_no_texts() -> None:
    for other in (Images.blank((1, 8, 8)), Rows.blank((3,))):
        with pytest.raises(ConfigError, match=rf"text= is for runs on texts, and this one is on {other.unit}s"):
            other.read_texts(["good day"])
