"""Feature rows: checked, standardised by the train split alone, read from CSV files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from effbench.data.batches import EvalBatches, TrainBatches
from effbench.data.modality import Settings
from effbench.data.rows.csv_files import csv_files, read_rows
from effbench.data.rows.modality import Rows
from effbench.data.rows.synthetic import synthetic_rows
from effbench.data.splits import Split, Splits
from effbench.errors import ConfigError, DataError

NAMES = ["a", "b", "c"]


def splits(rows: object, labels: object = (0, 1), **others: object) -> Splits:
    return Splits("toy", Split(rows, torch.tensor(labels)), None, None, ("x", "y"), "", modality=Rows, **others)  # type: ignore[arg-type]


def test_batches_are_standardised_by_the_train_split_alone() -> None:
    data = synthetic_rows(num_train=90, num_val=30, num_test=10, num_features=5)
    train = data.train.inputs.double().numpy()
    rows = Rows.fit(data, Settings())
    read = torch.cat([batch.inputs for batch in EvalBatches(data.val, batch_size=7, modality=rows)])  # type: ignore[arg-type]
    expected = (data.val.inputs.double().numpy() - train.mean(0)) / train.std(0)  # type: ignore[union-attr]
    np.testing.assert_allclose(read.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_train_batches_hold_each_row_once_with_its_target() -> None:
    data = synthetic_rows(num_train=64, num_features=3)
    made = TrainBatches(data.train, batch_size=8, num_classes=4, modality=Rows.blank((3,)), accumulate=2)
    seen = [batch for step in made.epoch(0) for batch in step.micro_batches]
    order = torch.cat([made.step_indices(0, step) for step in range(made.steps_per_epoch)])
    assert sorted(order.tolist()) == list(range(64))
    assert torch.equal(torch.cat([batch.inputs for batch in seen]), data.train.inputs[order])
    assert torch.equal(torch.cat([batch.targets for batch in seen]), data.train.labels[order])


def test_constant_feature_stays_finite() -> None:
    rows = Rows.fit(splits([[1e6, 1.0], [1e6, 3.0]]), Settings())
    assert torch.equal(rows.plain(torch.tensor([[1e6, 3.0]]), slice(0, 1)), torch.tensor([[0.0, 1.0]]))


def test_rows_become_float32_and_float32_stays_the_same_object() -> None:
    rows = torch.rand(2, 3)
    assert splits(rows).train.inputs is rows
    assert splits(np.arange(6).reshape(2, 3)).train.inputs.dtype == torch.float32


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (torch.rand(2), r"numbers \(N, F\) with N labels; got torch.float32 \(2,\) with 2 labels"),
        (torch.rand(3, 2), "with 2 labels"),
        (torch.rand(2, 0), "numbers"),
        ([[1.0, 2.0], [3.0, float("nan")]], r"row 1 has nan in column 1 \(1 such values\)"),
        (torch.tensor([[1e300, 0.0], [0.0, 0.0]], dtype=torch.float64), "row 0 has 1e\\+300 in column 0"),
    ],
    ids=["one dimension", "another number", "no feature", "nan", "too large"],
)
def test_rows_that_cannot_be_trained_on_are_refused(rows: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        splits(rows)


def test_numbers_that_float32_cannot_tell_apart_are_named(caplog: pytest.LogCaptureFixture) -> None:
    exact = torch.stack([torch.arange(200), torch.arange(200) + 1_700_000_000], 1).double()
    Rows.checked("mine train", exact, 200)
    assert "mine train rows: float32 holds the numbers of column 1 to within 64 only" in caplog.text
    caplog.clear()
    Rows.checked("mine train", exact - exact.mean(0), 200)
    assert not caplog.text


def test_record_restores_the_same_normalisation() -> None:
    data = synthetic_rows(num_features=3)
    before = Rows.fit(data, Settings())
    recorded = {**before.record(), "shape": [3], **data.facts}
    after = Rows.restored(recorded, Settings())
    assert (after.names, after.shape) == (["x0", "x1", "x2"], (3,))
    assert torch.equal(after.plain(data.train.inputs, slice(0, 9)), before.plain(data.train.inputs, slice(0, 9)))
    with pytest.raises(ValueError, match="each feature"):
        Rows.restored({**recorded, "shape": [4]}, Settings())


def test_exported_normalisation_is_that_of_training() -> None:
    rows = Rows.fit(synthetic_rows(num_features=4), Settings())
    some = rows.portable_example()
    torch.testing.assert_close(rows.normaliser()(some), rows.normalise(some))


@pytest.mark.parametrize(
    "text",
    [
        "1,2,3\n4,5,6\n",
        "a,b,c\n1,2,3\n\n4,5,6",
        "c;extra;a;b\n3;x;1;2\n6;y;4;5\n",
        "\ufeffb\ta\tc\r\n2\t1\t3\r\n5\t4\t6\r\n",
        "\n\na;b;c\n1;2;3\n4;5;6\n",
    ],
    ids=["plain", "named", "other order, more columns", "tabs and a byte order mark", "blank lines first"],
)
def test_csv_gives_the_features_in_the_runs_order(text: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    assert read_rows(path, 3, NAMES).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("names", [None, NAMES])
def test_first_line_of_column_numbers_is_a_header_and_noted(
    names: list[str] | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("0,1,2\n1,2,3\n4,5,6\n")  # as pandas writes columns without names
    with caplog.at_level("INFO", logger="effbench"):
        assert read_rows(path, 3, names).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert "rows.csv: the first line, 0 to 2, counts as column numbers and not as a row" in caplog.text


@pytest.mark.parametrize(
    ("text", "rows"),
    [("0,1,2\n", [[0, 1, 2]]), ("0.0,1,2\n3,4,5\n", [[0, 1, 2], [3, 4, 5]]), ("0,1\n1,0\n", [[0, 1], [1, 0]])],
    ids=["no rows follow", "not written as whole numbers", "two features"],
)
def test_first_line_that_may_well_be_a_row_is_a_row(text: str, rows: list[list[float]], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    assert read_rows(path, len(rows[0])).tolist() == rows
    assert read_rows(path, len(rows[0]), NAMES[: len(rows[0])]).tolist() == rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2\n", "line 1 has 2 columns; expected 3"),
        ("1,2,3\n4,5\n", "line 2 has 2 columns"),
        ("a,b,c\n1,2,3\n\n1,oops,3\n", "line 4, column 2: 'oops' is no finite number"),
        ("1,2,nan\n", "line 1, column 3: 'nan'"),
        ("1,2,1e39\n", "column 3: '1e39'"),
        ("1,2,1_000\n4,5,6\n", "line 1, column 3: '1_000'"),
        ("1,,3\n4,5,6\n", "line 1, column 2: ''"),
        ("1,2,3\n,,\n4,5,6\n", "line 2, column 1: ''"),
        (",,\n4,5,6\n", "line 1, column 1: ''"),
        ("a,b,d\n1,2,3\n", "no column for 1 of the run's 3 features, such as 'c'. Name the columns as in training"),
        ("a,a,b,c\n1,2,3,4\n", "2 columns with the name 'a', which is one feature of the run. Remove or rename"),
        ("a,b,c\n", "holds no rows"),
        ("", "holds no rows"),
    ],
)
def test_csv_that_does_not_fit_is_named_by_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        read_rows(path, 3, NAMES)


def test_csv_of_other_bytes_and_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.csv").write_bytes(b"\xff\xfe1,2")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_rows(tmp_path / "rows.csv", 2)
    with pytest.raises(DataError, match="there is no file"):
        csv_files([tmp_path / "absent.csv"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.csv file"):
        csv_files([tmp_path / "empty"])
    assert csv_files([tmp_path]) == [tmp_path / "rows.csv"]
    monkeypatch.setattr(Path, "iterdir", lambda folder: os.scandir(folder / "removed meanwhile"))
    with pytest.raises(DataError, match="cannot be read: No such file or directory"):
        csv_files([tmp_path])


@pytest.mark.parametrize("given", [torch.rand(2, 4), torch.rand(2, 3, 1), torch.full((1, 3), float("inf"))])
def test_predict_refuses_other_arrays(given: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="predict takes"):
        list(Rows.blank((3,)).given(given))
