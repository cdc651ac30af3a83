"""Folders of texts: classes and splits as in image folders, files as in text_csv."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from effbench.data.images.image_folder import image_folder
from effbench.data.modality import Settings
from effbench.data.text.text_csv import text_csv
from effbench.data.text.text_folder import TextFiles, other_folder, text_folder
from effbench.data.text.tokenizers import Bytes
from effbench.errors import ConfigError, DataError

WHOLE = {"val_fraction": 0, "test_fraction": 0}


def fill(root: Path, *splits: str, count: int = 10, classes: str = "ab", suffix: str = ".txt") -> Path:
    for split in splits or ("",):
        for label in classes:
            folder = root / split / label
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                (folder / f"{number}{suffix}").write_text(f"{split} {label} {number}")
    return root


def decoded(split) -> list[str]:
    return [Bytes().decode(row) for row in split.inputs.tolist()]


def recorded(data) -> dict:
    facts = {"tokenizer": data.facts["tokenizer"], "sha256": data.sha256}
    return {**facts, "shape": list(data.shape), "classes": list(data.classes)}


def test_classes_are_divided_as_a_csv_of_the_same_texts(tmp_path):
    data = text_folder(fill(tmp_path / "set"), val_fraction=0.2, test_fraction=0.2)
    rows = [{"text": f" {label} {number}", "label": label} for label in "ab" for number in range(10)]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    other = text_csv(str(tmp_path / "a.jsonl"), val_fraction=0.2, test_fraction=0.2)
    assert data.sha256 == other.sha256
    assert (data.name, data.classes) == ("text_folder/set", ("a", "b"))
    assert {which: len(split) for which, split in data.named().items()} == {"train": 12, "val": 4, "test": 4}


def test_folders_of_splits_are_used_and_a_missing_val_is_drawn(tmp_path):
    data = text_folder(fill(tmp_path / "set", "Training", "test_set"))
    assert {which: len(split) for which, split in data.named().items()} == {"train": 18, "val": 2, "test": 20}
    assert all(text.startswith("test_set") for text in decoded(data.test))
    assert text_folder(fill(tmp_path / "other", "train", "valid")).test is None


def test_hidden_names_links_and_other_suffixes(tmp_path, caplog):
    root = fill(tmp_path / "set", count=2)
    (root / "a" / ".hidden.txt").write_text("hidden")
    (root / "a" / "deeper").mkdir()
    (root / "a" / "deeper" / "x.MD").write_text("deep")
    (root / "a" / "picture.png").write_text("no text")
    (root / "a" / "README").write_text("no suffix")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked.txt").write_text("linked")
    (root / "b" / "link").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "loop").symlink_to(root)
    with caplog.at_level("INFO"):
        data = text_folder(root, **WHOLE)
    assert sorted(decoded(data.train)) == [" a 0", " a 1", " b 0", " b 1", "deep", "linked"]
    assert "skipped 2 files that are no texts by their suffix: 1 without a suffix, 1 .png" in caplog.text
    assert data.facts["skipped_files"] == {".png": 1, "": 1}
    assert "no suffix" in decoded(text_folder(root, suffixes=["", ".txt"], **WHOLE).train)


def test_pipes_and_devices_are_not_read(tmp_path):
    """Reading one would never end."""
    root = fill(tmp_path / "set", count=2)
    os.mkfifo(root / "a" / "pipe.txt")
    (root / "b" / "zero.txt").symlink_to("/dev/zero")
    assert text_folder(root, **WHOLE).facts["skipped_files"] == {".txt": 2}


def test_equal_texts_stay_in_one_split(tmp_path):
    root = fill(tmp_path / "set")
    for label in "ab":
        for number in range(10, 20):
            (root / label / f"{number}.txt").write_text(f" {label} {number - 10}")
    data = text_folder(root, val_fraction=0.2, test_fraction=0.2)
    seen = [set(decoded(split)) for split in data.named().values()]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 20


LAYOUTS = {
    "one class": (("a/x",), "holds one class, 'a'"),
    "no class": (("x",), "holds no class folders"),
    "classes differ": (("train/a/x", "train/b/x", "val/a/x", "val/c/x"), "must have the same classes"),
    "ambiguous": (("train/x", "test/x", "cats/x"), "which are splits, which are classes"),
    "no train": (("val/a/x", "val/b/x", "test/a/x", "test/b/x"), "and no train"),
    "empty class": (("a/x", "b/x", "c/odd.log"), "without a"),
    "few": (("a/x", "b/x", "b/y"), "too few for one in each of"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_refused_as_of_images(tmp_path, name):
    files, message = LAYOUTS[name]
    for reader, suffix in ((text_folder, ".txt"), (image_folder, ".png")):
        for number, file in enumerate(files):
            path = tmp_path / suffix[1:] / (file if "." in file else f"{file}{suffix}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"text {number}")
        with pytest.raises(DataError, match=message):
            reader(tmp_path / suffix[1:], val_fraction=0.3, test_fraction=0.3)


def test_files_that_are_no_texts_are_named(tmp_path):
    root = fill(tmp_path / "set")
    (root / "a" / "latin.txt").write_bytes("ähnlich".encode("latin-1"))
    (root / "a" / "empty.txt").write_text("")
    (root / "b" / "space.txt").write_text(" \n")
    (root / "b" / "gone.txt").symlink_to("nowhere")
    (root / "b" / "nul.txt").write_bytes(b"one\ntwo\0")
    with pytest.raises(DataError) as caught:
        text_folder(root)
    said = str(caught.value)
    assert "5 of 25 files are no texts" in said
    assert "nul.txt line 2 holds a NUL character" in said
    assert "latin.txt line 1 is no utf-8-sig (byte 0, 0xe4" in said
    assert "a/empty.txt is empty" in said
    assert "b/space.txt is empty" in said
    assert "gone.txt cannot be read (No such file or directory)" in said


def test_long_texts_and_other_encodings_are_read(tmp_path):
    root = fill(tmp_path / "set", count=1)
    (root / "a" / "long.txt").write_text("y" * 1_000_000)
    (root / "b" / "latin.txt").write_bytes("ä".encode("latin-1"))
    data = text_folder(root, encoding="latin-1", **WHOLE)
    assert decoded(data.train) == [" a 0", "y" * 256, " b 0", "ä"]
    assert data.facts["truncated"] == {"train": 1}


def test_a_class_of_few_files_is_in_each_split_all_the_same(tmp_path, caplog):
    """The rule of folders, which refuse a split without a class: 12 classes of 4 files make large splits."""
    data = text_folder(fill(tmp_path / "set", count=4, classes="abcdefghijkl"))
    assert {which: len(split) for which, split in data.named().items()} == {"train": 24, "val": 12, "test": 12}
    assert "test has 12 of 48 texts, far more than data.test_fraction=0.1 asks for" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": None}, r"data=text_folder needs data.root=DIR, a folder of DIR/CLASS/\*.txt"),
        ({"root": "/nowhere"}, "data.root=/nowhere does not exist"),
        ({"suffixes": []}, "data.suffixes must be endings with one dot"),
        ({"suffixes": ["txt"]}, r"data.suffixes must be endings with one dot.*got \['txt'\]"),
        ({"suffixes": ".txt"}, "data.suffixes must be a list of names"),
        ({"encoding": "klingon"}, "data.encoding: unknown encoding"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        text_folder(**{"root": fill(tmp_path / "set"), **options})


# --- other folders and files


def test_another_folder_is_read_with_the_runs_tokenizer(tmp_path, caplog):
    options = {"root": str(fill(tmp_path / "set")), "tokenizer": "words"}
    data = text_folder(**options)
    record, words = recorded(data), data.facts["tokenizer"]["tokens"]
    other = fill(tmp_path / "new", count=1, classes="b")
    assert other_folder(options, options, record, "") is None
    with caplog.at_level("INFO"):
        which, split = other_folder(options, {**options, "root": str(other)}, record, "")
    assert (which, split.labels.tolist()) == ("test", [1])
    assert split.inputs[0, :2].tolist() == [2 + words.index("b"), 2 + words.index("0")]
    assert "is not the run's dataset: 1 of its texts are evaluated" in caplog.text
    with pytest.raises(DataError, match="'c' is no class of the run's"):
        other_folder(options, {**options, "root": str(fill(tmp_path / "odd", classes="ac"))}, record, "")


def test_the_runs_own_folder_may_move(tmp_path):
    options = {"root": str(fill(tmp_path / "set"))}
    record = recorded(text_folder(**options))
    (tmp_path / "set").rename(tmp_path / "moved")
    assert other_folder(options, {"root": str(tmp_path / "moved")}, record, "") is None


def test_predict_takes_a_file_for_one_text(tmp_path):
    data = text_folder(fill(tmp_path / "set"))
    kind = TextFiles.restored(recorded(data), Settings(data={"suffixes": [".txt"]}))
    (tmp_path / "a.csv").write_text("text\nfrom a table\n")
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    problems: list[str] = []
    (tmp_path / "empty.txt").write_text("")
    paths = [str(tmp_path / name) for name in ("lines.txt", "a.csv", "empty.txt", "set/a")]
    found = list(kind.read_files(paths, {}, problems))
    texts = {Bytes().decode(row) for _, tokens in found for row in tokens.tolist()}
    names = [name for names, _ in found for name in names]
    assert texts == {"one\ntwo\n", "from a table", *(f" a {number}" for number in range(10))}
    assert {"file": paths[0], "row": 1, "line": 1} in names
    assert {"file": paths[1], "row": 1, "line": 2} in names
    assert problems == [f"{paths[2]} is empty"]
    with pytest.raises(DataError, match="there is no file"):
        list(kind.read_files([str(tmp_path / "none")], {}, problems))


def test_predict_answers_in_the_order_of_the_files(tmp_path):
    """A table between files of texts came before all of them."""
    data = text_folder(fill(tmp_path / "set"))
    kind = TextFiles.restored(recorded(data), Settings(data={"suffixes": [".txt"]}))
    (tmp_path / "a.csv").write_text("text\nfirst\nsecond\n")
    (tmp_path / "z.txt").write_text("z")
    asked = [str(tmp_path / name) for name in ("z.txt", "a.csv", "set/b", "z.txt")]
    read = list(kind.read_files(asked, {}, []))
    names = [name["file"] for names, _ in read for name in names]
    inside = sorted(map(str, (tmp_path / "set" / "b").iterdir()))
    assert names == [asked[0], asked[1], asked[1], *inside, asked[3]]
    texts = [Bytes().decode(row) for _, tokens in read for row in tokens.tolist()]
    assert texts == ["z", "first", "second", *(Path(file).read_text() for file in inside), "z"]


def test_predict_counts_unknown_tokens_of_files(tmp_path, caplog):
    data = text_folder(fill(tmp_path / "set"), tokenizer="words")
    kind = TextFiles.restored(recorded(data), Settings(data={"suffixes": [".txt"]}))
    other = tmp_path / "other"
    other.mkdir()
    (other / "1.txt").write_text("a b zebra")
    (other / "2.txt").write_text("мир")
    with caplog.at_level("INFO"):
        list(kind.read_files([str(other)], {}, []))
    assert (
        "predict: 50.0 % of the tokens are not in the run's vocabulary, and none of 1 of the 2 texts is" in caplog.text
    )
    (other / "3.txt").write_bytes(b"a\0b")
    problems: list[str] = []
    list(kind.read_files([str(other)], {}, problems))
    assert len(problems) == 1
    assert "3.txt line 1 holds a NUL character" in problems[0]
