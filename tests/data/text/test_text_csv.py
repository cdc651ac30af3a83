"""Files of texts and labels."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from pathlib import Path

import pytest

from effbench.data.table_files import column_names, natural_order, read_columns
from effbench.data.target_columns import TargetColumns
from effbench.data.text.files import read_texts, text_files
from effbench.data.text.modality import Texts
from effbench.data.text.text_csv import other_texts, text_csv
from effbench.data.text.tokenizers import Bytes
from effbench.errors import ConfigError, DataError
from effbench.run.resume import fitted_to
from effbench.special_tokens import UNKNOWN

ROWS = [(f"text {number}, with a comma\nand a line", "good" if number % 3 else "bad") for number in range(60)]


def write(path: Path, rows=ROWS, header=("id", "text", "label"), encoding="utf-8") -> Path:
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(header, (number, *row), strict=True))) for number, row in enumerate(rows)]
        path.write_text("\n".join(lines) + "\n", encoding=encoding)
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = zip(*((number, *row) for number, row in enumerate(rows)), strict=True)
        parquet.write_table(pyarrow.table(dict(zip(header, map(list, columns), strict=True))), path)
    else:
        with path.open("w", newline="", encoding=encoding) as stream:
            writer = csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerow(header)
            writer.writerows((number, *row) for number, row in enumerate(rows))
    return path


def decoded(split) -> list[str]:
    return [Bytes().decode(row) for row in split.inputs.tolist()]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_texts_and_classes(tmp_path, suffix):
    data = text_csv(str(write(tmp_path / f"a.{suffix}")))
    assert data.val is not None
    assert data.test is not None
    found = [
        (text, data.classes[label])
        for split in (data.train, data.val, data.test)
        for text, label in zip(decoded(split), split.labels.tolist(), strict=True)
    ]
    assert sorted(found) == sorted(ROWS)
    assert (len(data.train), len(data.val), len(data.test)) == (48, 6, 6)
    assert data.classes == ("bad", "good")


def test_equal_texts_stay_in_one_split(tmp_path):
    rows = [(f"text {number % 20}", str(number % 2)) for number in range(100)]
    data = text_csv(str(write(tmp_path / "a.csv", rows)), val_fraction=0.2, test_fraction=0.3)
    seen = [set(decoded(split)) for split in data.named().values()]
    assert sum(map(len, seen)) == 20
    assert set.union(*seen) == {f"text {number}" for number in range(20)}


def test_given_files_are_used_and_shared_texts_are_said(tmp_path, caplog):
    other = write(tmp_path / "b.csv", [("text 1", "good"), ROWS[4]])
    data = text_csv(str(write(tmp_path / "a.csv")), test_file=str(other), val_fraction=0)
    assert (len(data.train), data.val, len(data.test)) == (60, None, 2)
    assert "1 texts of test are in train too" in caplog.text


def test_numeric_labels_sort_by_value(tmp_path):
    rows = [(f"text {number}", str(number % 11)) for number in range(110)]
    assert text_csv(str(write(tmp_path / "a.csv", rows))).classes == tuple(map(str, range(11)))


def test_a_label_that_train_lacks_is_named(tmp_path):
    other = write(tmp_path / "b.csv", [("text", "odd")])
    with pytest.raises(DataError, match="test has the label 'odd', which train does not have"):
        text_csv(str(write(tmp_path / "a.csv")), test_file=str(other))


def test_one_class_is_refused(tmp_path):
    with pytest.raises(DataError, match="has one class, 'a'"):
        text_csv(str(write(tmp_path / "a.csv", [("x", "a"), ("y", "a")])))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,label\n\xe4hnlich,a\n", r"line 2 is no utf-8-sig \(byte 11, 0xe4: .*data.encoding=latin-1"),
        (b"text,label\nx,a,b\n", "line 2 has 3 columns; the first line names 2"),
        (b"text,label\nx,a\n ,a\ny,\n", "line 3: the text is empty; line 4: the label is empty"),
        (
            b"words,label\nx,a\n",
            r"has no column 'text'\. Its first line names: 'words', 'label'\. Write data\.text_column=NAME\. If ",
        ),
        (b"text,stars\nx,a\n", r"has no column 'label'\. .* 'stars'\. Write data\.label_column=NAME\. If that line"),
        (b"text,label,text\nx,a,y\n", "has 2 columns 'text'"),
        (b"", "is empty: its first line must name the columns"),
        (b"text,label\n", "holds no rows"),
        (b'text,label\n"x,a\n', "is no CSV"),
    ],
)
def test_bad_csv_is_named_by_line(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        text_csv(str(path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is no JSON"),
        ("[1]", "line 2 must be a JSON object"),
        ('{"text": "x"}', "line 2: the label is empty"),
        ('{"text": ["x"], "label": 1}', "line 2: column 'text' holds a list"),
        ('{"text": "x", "label": {"v": 1}}', "line 2: column 'label' holds an object"),
        ('{"text": "x", "label": NaN}', "line 2"),  # a missing label, not the class nan
    ],
)
def test_bad_json_lines_are_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "x", "label": 1}}\n{line}\n')
    with pytest.raises(DataError, match=message):
        text_csv(str(path))


def test_other_encodings_and_long_cells_are_read(tmp_path):
    rows = [("ähnlich", "a"), ("y" * 1_000_000, "b"), ("z", "b")]
    data = text_csv(str(write(tmp_path / "a.csv", rows, encoding="latin-1")), encoding="latin-1", val_fraction=0,
                    test_fraction=0)  # fmt: skip
    assert decoded(data.train) == ["ähnlich", "y" * 256, "z"]
    assert data.facts["truncated"] == {"train": 1}
    assert csv.field_size_limit() == 131_072


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_nul_in_a_text_is_named_by_its_line(tmp_path, suffix):
    """Of a binary file, or of UTF-16 that is read as another encoding."""
    path = str(write(tmp_path / f"a.{suffix}", [("good", "a"), ("nul \x00 byte", "b")]))
    line = {"csv": 3, "jsonl": 2, "parquet": 2}[suffix]
    with pytest.raises(DataError, match=rf"line {line}.* holds a NUL character.*UTF-16 \(data.encoding\)"):
        text_csv(path)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("targets", ["class", "labels"])
def test_a_nul_in_a_label_is_named_by_its_line(tmp_path, suffix, targets):
    path = str(write(tmp_path / f"a.{suffix}", [("good", "a"), ("bad", "b\0")]))
    with pytest.raises(DataError, match="line 2: the column 'label' holds a NUL character"):
        text_csv(path, targets=targets)


def test_a_lone_surrogate_in_a_label_is_named_by_its_line(tmp_path):
    """JSON may hold one; the run's record of its classes could not be written as UTF-8."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good", "label": "a"}\n{"text": "bad", "label": "b\\ud800"}\n')
    with pytest.raises(DataError, match=r"line 2: the column 'label' has a lone surrogate \(character 2\)"):
        text_csv(str(path))


def test_a_table_in_another_encoding_is_named_as_such(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\nx,a\ny,b\n", encoding="utf-16-le")
    with pytest.raises(DataError, match="a.csv line 1 holds a NUL character"):
        text_csv(str(path))
    assert text_csv(str(path), encoding="utf-16-le", val_fraction=0, test_fraction=0).classes == ("a", "b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": None}, "data=text_csv needs data.file"),
        ({"val_file": 3}, "data.val_file must be a file's path"),
        ({"label_column": "text"}, "are both 'text'"),
        ({"encoding": "klingon"}, "data.encoding: unknown encoding"),
        ({"val_fraction": 2}, "data.val_fraction"),
        ({"rules": 3}, "data.rules must be 1 or 2; got 3"),
        ({"rules": True}, "data.rules must be 1 or 2; got true"),
        ({"val_fraction": 0.7, "test_fraction": 0.7}, "to leave samples to train on"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    path = str(write(tmp_path / "a.csv"))
    with pytest.raises((ConfigError, DataError), match=message):
        text_csv(**{"file": path, **options})


@pytest.mark.parametrize(
    ("columns", "fits"), [(["a", "b"], True), (["x", "y"], True), (["b", "a"], False), (["a"], False), (["x"], False)]
)
def test_numbers_of_another_file_are_taken_in_the_run_s_order(columns: list[str], fits: bool) -> None:
    found = TargetColumns("values", columns)
    if fits:
        found.check_same("data.file", ["a", "b"])
    else:
        with pytest.raises(ConfigError, match="data.label_column of data.file must name 2 columns .* a, b; got"):
            found.check_same("data.file", ["a", "b"])


def test_a_key_that_a_line_lacks_is_a_missing_value(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1, "label": "a"}\n{"x": 2, "label": "b", "age": 3}\n')
    assert column_names(path) == ["x", "label", "age"]
    assert [row["age"] for _, row in read_columns(path, ["age"])] == ["", "3"]
    with pytest.raises(DataError, match=r"a.jsonl has no column 'agee'\. It has: 'age', 'label', 'x'\. .* rename the"):
        read_columns(path, ["agee"])


def test_a_blank_line_above_the_names_is_no_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\n\ntext;label\nx;1\n")
    assert column_names(path) == ["text", "label"]
    assert read_columns(path, ["label"]) == [(4, {"label": "1"})]


def test_rows_that_a_lone_quote_joins_are_doubted(tmp_path, caplog):
    """Of tools that write no quotes around texts, and quotes of dialogue as they are."""
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"I came home.\tpos\nIt was late.\tneg\nI slept."\tpos\n')
    assert len(read_columns(path, ["text"])) == 1
    assert "a.tsv line 4 ends a quoted text with '\\t' and a line break in it" in caplog.text
    caplog.clear()
    path.write_text('text\tlabel\n"two\nlines"\tpos\n')
    read_columns(path, ["text"])
    assert not caplog.text


@pytest.mark.parametrize("changed", [{"max_length": 512}, {"tokenizer": "words"}, {"vocab_size": 9}])
def test_eval_of_another_file_refuses_what_the_model_fixes(tmp_path, changed):
    """It would be read with the run's values, and the user believe otherwise."""
    path, other = str(write(tmp_path / "a.csv")), str(write(tmp_path / "b.csv"))
    before = {"file": path, "tokenizer": "bytes", "max_length": 256, "vocab_size": 8192}
    [key] = changed
    with pytest.raises(ConfigError, match=f"data.{key} must stay as in training"):
        other_texts(before, {**before, "file": other, **changed}, {}, "")


def test_labels_have_one_order_in_every_process():
    """NaN compares with nothing: beside numbers, the order would be that in which a set gives them."""
    labels = ["10", "nan", "2", "b", "inf", "-1"]
    for order in itertools.permutations(labels):
        assert sorted(order, key=natural_order) == ["-1", "2", "10", "inf", "b", "nan"]


def test_bytes_of_parquet_are_decoded(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": pyarrow.array(["caf\u00e9".encode()] * 2, pyarrow.binary())}), path)
    assert read_texts(path, {}) == [(1, 1, "caf\u00e9"), (2, 2, "caf\u00e9")]
    parquet.write_table(pyarrow.table({"text": pyarrow.array([b"\xff"], pyarrow.binary())}), path)
    with pytest.raises(DataError, match=r"row 1: column 'text' holds bytes that are no UTF-8"):
        read_texts(path, {})


def test_missing_files_and_unknown_suffixes_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        text_csv(str(tmp_path / "no.csv"))
    assert str(caught.value) == f"data.file: there is no file {tmp_path / 'no.csv'}. Name it with data.file=PATH."
    relative = rf"data\.file: there is no file {tmp_path / 'no.csv'} \(relative paths start in the folder that you call"
    with pytest.raises(ConfigError, match=relative):
        text_csv("no.csv")
    odd = tmp_path / "a.xlsx"
    odd.write_text("x")
    with pytest.raises(DataError, match="the suffix '.xlsx' is not one of"):
        text_csv(str(odd))


def test_files_of_predict(tmp_path):
    (tmp_path / "b.txt").write_text("one\n\ntwo\n")
    write(tmp_path / "a.csv", [("x", "l")])
    assert [path.name for path in text_files([tmp_path])] == ["a.csv", "b.txt"]
    assert read_texts(tmp_path / "b.txt", {}) == [(1, 1, "one"), (3, 3, "two")]
    (tmp_path / "c.text").write_bytes("one\u2028still\x0cone\r\ntwo".encode())
    assert read_texts(tmp_path / "c.text", {}) == [(1, 1, "one\u2028still\x0cone"), (2, 2, "two")]
    assert read_texts(tmp_path / "a.csv", {}) == [(1, 2, "x")]
    (tmp_path / "pipe").write_text("three")
    assert read_texts(tmp_path / "pipe", {}) == [(1, 1, "three")]
    (tmp_path / "binary.txt").write_bytes(b"one\n\0two\n")
    with pytest.raises(DataError, match="binary.txt line 2 holds a NUL character"):
        read_texts(tmp_path / "binary.txt", {})
    with pytest.raises(DataError, match="there is no file"):
        text_files([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.csv or .* file"):
        text_files([tmp_path / "empty"])


@pytest.mark.parametrize("line", ["[1]", '"text"', "3"])
def test_a_first_line_that_is_no_object_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(DataError, match="line 1 must be a JSON object"):
        column_names(tmp_path / "a.jsonl")


def test_null_and_numbers_in_json_are_texts(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": null, "n": 1.5, "b": true}\n')
    assert read_columns(path, ["text", "n", "b"]) == [(1, {"text": "", "n": "1.5", "b": "true"})]


# --- evaluation of other files


def recorded(data) -> dict:
    about = {"counts": {which: len(split) for which, split in data.named().items()}, "sha256": data.sha256}
    return {
        **about,
        "tokenizer": data.facts["tokenizer"],
        "shape": list(data.shape),
        "classes": list(data.classes),
    }


def test_another_file_is_read_with_the_runs_tokenizer(tmp_path):
    options = {"file": str(write(tmp_path / "a.csv")), "tokenizer": "words"}
    data = text_csv(**options)
    other = str(write(tmp_path / "b.csv", [("line zebra text", "good"), ("and", "bad")]))
    for changed in ({"file": other}, {"test_file": other}):
        which, split = other_texts(options, {**options, **changed}, recorded(data), "")
        assert which == "test"
        words = data.facts["tokenizer"]["tokens"]
        assert split.inputs[:, :4].tolist() == [
            [2 + words.index("line"), UNKNOWN, 2 + words.index("text"), 0],
            [2 + words.index("and"), 0, 0, 0],
        ]
        assert split.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("option", "which", "said"),
    [
        ("file", "tset", "split 'tset' is not one of: test, train, val. Did you mean"),
        ("test_file", "tset", "split 'tset' is not one of"),
        ("file", "val", "measured whole. Leave out split=val, or name the file with data.val_file.$"),
        ("file", "train", "measured whole. Leave out split=train.$"),
    ],
)
def test_another_file_has_no_split_of_another_name(tmp_path, option, which, said):
    """Its figures would be shown under that name."""
    options = {"file": str(write(tmp_path / "a.csv"))}
    other = str(write(tmp_path / "b.csv", ROWS[:9]))
    with pytest.raises(ConfigError, match=said):
        other_texts(options, {**options, option: other}, recorded(text_csv(**options)), which)


def test_the_runs_own_files_are_not_another_source(tmp_path):
    options = {"file": str(write(tmp_path / "a.csv"))}
    data = text_csv(**options)
    assert other_texts(options, {**options, "split_seed": 3}, recorded(data), "") is None
    assert other_texts(options, {**options, "test_file": "b.csv"}, recorded(data), "val") is None


@pytest.mark.parametrize("tokenizer", ["bytes", "words"])
def test_the_runs_own_file_by_another_path_is_known(tmp_path, monkeypatch, tokenizer):
    """Read as another file, all of it would be the test: most of its texts were trained on."""
    monkeypatch.chdir(tmp_path)
    options = {"file": "a.csv", "tokenizer": tokenizer, "vocab_size": 64 if tokenizer == "words" else 8192}
    write(tmp_path / "a.csv")
    (tmp_path / "link.csv").symlink_to("a.csv")
    shutil.copy("a.csv", "copy.csv")
    about = recorded(text_csv(**options))
    for other in ("./a.csv", str(tmp_path / "a.csv"), "link.csv", "copy.csv"):
        assert other_texts(options, {**options, "file": other}, about, "") is None
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")  # where a.csv is not
    assert other_texts(options, {**options, "file": str(tmp_path / "a.csv")}, about, "") is None
    changed = str(write(tmp_path / "b.csv", [("another text", "good"), *ROWS[1:]]))
    found = other_texts(options, {**options, "file": changed}, about, "")
    assert found is not None
    assert len(found[1]) == len(ROWS)


def test_drawn_splits_are_named_and_given_ones_are_not(tmp_path):
    path, other = str(write(tmp_path / "a.csv")), str(write(tmp_path / "b.csv", ROWS[:6]))
    assert text_csv(path).drawn == ("val", "test")
    assert text_csv(path, test_file=other).drawn == ("val",)


def test_another_vocabulary_of_equal_size_has_another_identity(tmp_path):
    path = str(write(tmp_path / "a.csv"))
    other = str(write(tmp_path / "b.csv", [(text.replace("comma", "period"), label) for text, label in ROWS]))
    one, same, two = (text_csv(each, tokenizer="words") for each in (path, path, other))
    assert len(one.facts["tokenizer"]["tokens"]) == len(two.facts["tokenizer"]["tokens"])
    assert fitted_to(one) == fitted_to(same) != fitted_to(two)


def test_a_class_of_another_file_must_be_the_runs(tmp_path):
    options = {"file": str(write(tmp_path / "a.csv"))}
    other = str(write(tmp_path / "b.csv", [("text", "odd")]))
    with pytest.raises(DataError, match="data.file has the label 'odd'"):
        other_texts(options, {"file": other}, recorded(text_csv(**options)), "")


def test_another_vocabulary_is_refused(tmp_path):
    options = {"file": str(write(tmp_path / "a.csv", [(f"text {n} {n % 7}", str(n % 2)) for n in range(60)]))}
    words = text_csv(**options, tokenizer="words")
    Texts.check_same(recorded(words), text_csv(**options, tokenizer="words"))
    with pytest.raises(ConfigError, match="the data's tokenizer is not the run's"):
        Texts.check_same(recorded(words), text_csv(**options, tokenizer="words", split_seed=1))
    with pytest.raises(ConfigError, match=r"texts are \(8,\), the run's model takes \(256,\)"):
        Texts.check_same(recorded(words), text_csv(**options, tokenizer="words", max_length=8))
