"""Targets from columns: classes, labels and numbers of text_csv and table_csv, and tasks that do not fit them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from effbench.data.rows.table_csv import table_csv
from effbench.data.splits import Splits
from effbench.data.target_columns import TargetColumns
from effbench.data.text.text_csv import other_texts, text_csv
from effbench.errors import ConfigError, DataError
from effbench.metrics import shipped
from effbench.tasks.classification import Classification
from effbench.tasks.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from effbench.tasks.multilabel import Multilabel
from effbench.tasks.regression import Regression
from effbench.tasks.task import Task

HEADER = ("text", "number", "listed", "angry", "sad", "label")
ROWS = [
    (f"text {n}", n / 2, ("", "b; a", "c")[n % 3], n % 2, ("true", "FALSE")[n % 2], "xy"[n % 2]) for n in range(30)
]  # fmt: skip
TASKS: dict[str, Task] = {
    "class": Classification(CrossEntropy(), [shipped("class")["acc"]()], 2),
    "labels": Multilabel(BinaryCrossEntropy(), [], 3),
    "values": Regression(MeanSquaredError(), [], 1),
}
COLUMNS = {"class": "label", "labels": "listed", "values": "number"}


def write(path: Path, rows=ROWS, header=HEADER) -> str:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return str(path)


def read(reader, path: str, kind: str, columns=None, **options) -> Splits:
    # without the texts, few rows differ
    others = {"ignore": ["text"], "equal_rows_together": False} if reader is table_csv else {}
    return reader(path, label_column=columns or COLUMNS[kind], targets=kind, **others, **options)


@pytest.mark.parametrize("reader", [text_csv, table_csv])
def test_numbers_that_are_asked_for_as_classes_are_named(tmp_path, reader):
    with pytest.raises(DataError, match=r"30 classes in 30 rows: the column 'number' .* data.targets=values"):
        read(reader, write(tmp_path / "a.csv"), "class", "number")


@pytest.mark.parametrize("reader", [text_csv, table_csv])
def test_a_number_with_a_comma_is_told_how_to_write(tmp_path, reader):
    path = write(tmp_path / "a.csv", [(f"text {n}", f"{n},5") for n in range(9)], ("text", "number"))
    with pytest.raises(DataError, match=r"line 2: '0,5' in the column 'number' .* Write numbers as 1234.5"):
        reader(path, label_column="number", targets="values")


WHOLE = {"val_fraction": 0, "test_fraction": 0}


@pytest.mark.parametrize("reader", [text_csv, table_csv])
def test_listed_labels_become_columns_of_0_and_1(tmp_path, reader):
    data = read(reader, write(tmp_path / "a.csv"), "labels", **WHOLE)
    assert data.classes == ("a", "b", "c")
    assert data.train.labels.tolist() == [([0, 0, 0], [1, 1, 0], [0, 0, 1])[n % 3] for n in range(30)]


@pytest.mark.parametrize("reader", [text_csv, table_csv])
def test_several_columns_hold_a_label_each(tmp_path, reader):
    data = read(reader, write(tmp_path / "a.csv"), "labels", ["angry", "sad"], **WHOLE)
    assert data.classes == ("angry", "sad")
    assert data.train.labels.tolist() == [[n % 2, 1 - n % 2] for n in range(30)]


@pytest.mark.parametrize("reader", [text_csv, table_csv])
def test_columns_of_numbers_are_values(tmp_path, reader):
    path = write(tmp_path / "a.csv")
    one = read(reader, path, "values", **WHOLE)
    assert (one.classes, one.train.labels.dtype) == (("number",), torch.float32)
    assert one.train.labels.tolist() == [n / 2 for n in range(30)]
    two = read(reader, path, "values", ["number", "angry"], **WHOLE)
    assert two.train.labels.tolist() == [[n / 2, n % 2] for n in range(30)]


@pytest.mark.parametrize("reader", [text_csv, table_csv])
@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("task", TASKS)
def test_each_task_takes_its_targets_and_names_others(tmp_path, reader, kind, task):
    data = read(reader, write(tmp_path / "a.csv"), kind)
    # of each of two classes at least one, or of the whole
    of_classes, of_whole = ([20, 4, 6], [21, 3, 6]) if reader is table_csv else ([22, 4, 4], [24, 3, 3])
    assert [len(split) for split in data.named().values()] == (of_classes if kind == "class" else of_whole)
    if kind == task:
        checked = TASKS[task].checked(data)
        assert checked.train.labels.shape == (
            (len(data.train),) if kind == "class" else (len(data.train), len(data.classes))
        )
    elif (kind, task) == ("labels", "values"):  # 0 and 1 are numbers, too
        assert TASKS[task].checked(data)
    else:
        with pytest.raises(DataError, match=r"task=(multilabel|regression)"):
            TASKS[task].checked(data)


def test_a_label_of_drawn_texts_alone_is_still_an_output(tmp_path):
    rows = [(f"text {n}", f"own {n}") for n in range(20)]
    data = text_csv(write(tmp_path / "a.csv", rows, ("text", "label")), targets="labels")
    assert len(data.classes) == 20
    assert [int(split.labels.sum()) for split in data.named().values()] == [16, 2, 2]


@pytest.mark.parametrize(
    ("columns", "kind", "row", "said"),
    [
        ("number", "values", ("x", "much", "", 1, 1, "x"), "'much' in the column 'number' is no finite number"),
        ("number", "values", ("x", "1e40", "", 1, 1, "x"), "'1e40' in the column 'number' is no finite number"),
        ("number", "values", ("x", "", "", 1, 1, "x"), "the column 'number' is empty"),
        (["angry", "sad"], "labels", ("x", 1, "", 1, 2, "x"), "'2' in the column 'sad' is not 0 or 1"),
        (["angry", "sad"], "labels", ("x", 1, "", "", 1, "x"), "the column 'angry' is empty"),
    ],
)
@pytest.mark.parametrize("reader", [text_csv, table_csv])
def test_a_cell_that_is_no_target_is_named_by_line(tmp_path, reader, columns, kind, row, said):
    with pytest.raises(DataError, match=f"line 32: {said}"):
        read(reader, write(tmp_path / "a.csv", [*ROWS, row]), kind, columns)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"columns": []}, r"data.label_column must be a name, or a list of names"),
        ({"columns": ["a", 3]}, r"data.label_column must be a name, or a list of names"),
        ({"columns": ["a", "b"]}, "data.label_column must be one column for data.targets=class"),
        ({"columns": ["a", "a"], "kind": "values"}, "data.label_column must name each column once"),
        ({"kind": "label"}, "data.targets 'label' is not one of: class, labels, values"),
        ({"separator": " "}, "data.label_separator must be a sign"),
    ],
)
def test_bad_options_are_named(arguments, said):
    with pytest.raises(ConfigError, match=said):
        TargetColumns(**arguments)


def test_other_files_have_the_runs_labels(tmp_path):
    options = {"file": write(tmp_path / "a.csv"), "targets": "labels", "label_column": "listed"}
    data = text_csv(**options)
    recorded = {"tokenizer": data.facts["tokenizer"], "shape": [256], "classes": list(data.classes)}
    other = {**options, "file": write(tmp_path / "b.csv", ROWS[1:2])}
    assert other_texts(options, other, recorded, "")[1].labels.tolist() == [[1, 1, 0]]
    odd = {**options, "file": write(tmp_path / "c.csv", [("x", 1, "d", 0, 0, "x")])}
    with pytest.raises(DataError, match="data.file has the label 'd', which train does not have"):
        other_texts(options, odd, recorded, "")
