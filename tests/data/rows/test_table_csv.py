"""Tables: columns become features, missing values are stated, and files to predict are read the same way."""

from __future__ import annotations

import csv
import itertools
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from effbench.data.modality import Settings
from effbench.data.preview import preview_of
from effbench.data.rows.columns import Columns, listing
from effbench.data.rows.table_csv import Tables, other_table, table_csv
from effbench.errors import ConfigError, DataError
from effbench.run.resume import fitted_to

HEADER = ("id", "age", "colour", "flat", "label")


def rows(count: int = 60) -> list[tuple[str, ...]]:
    """Every seventh age is missing; 'blue' occurs only at the end."""
    return [
        (str(n), "" if n % 7 == 0 else str(n / 2), "blue" if n >= 58 else ("red", "green")[n % 2], "3", "ab"[n % 2])
        for n in range(count)
    ]


def write(path: Path, content=None, header=HEADER) -> str:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows() if content is None else content)
    return str(path)


def test_numbers_categories_and_missing_cells_become_features(tmp_path, caplog):
    with caplog.at_level("INFO"):
        data = table_csv(write(tmp_path / "a.csv"), ignore=["id"], val_fraction=0, test_fraction=0)
    assert data.facts["features"] == ["age", "age is missing", "colour=blue", "colour=green", "colour=red", "flat"]
    ages = [float(row[1]) for row in rows() if row[1]]
    missing = [not row[1] for row in rows()]
    expected = np.array([float(row[1]) if row[1] else np.mean(ages) for row in rows()], dtype=np.float32)
    np.testing.assert_allclose(data.train.inputs[:, 0], expected, rtol=1e-6)
    assert data.train.inputs[:, 1].tolist() == [float(each) for each in missing]
    for place, colour in enumerate(("blue", "green", "red"), start=2):
        assert data.train.inputs[:, place].tolist() == [float(row[2] == colour) for row in rows()]
    assert data.facts["missing"] == {"train": {"age": sum(missing)}}
    assert f"missing or unknown cells: age {sum(missing)}" in caplog.text
    assert "1 feature has one value in train: flat" in caplog.text
    assert data.classes == ("a", "b")


def test_columns_are_fitted_to_train_alone(tmp_path):
    path = write(tmp_path / "a.csv")
    data = table_csv(path, ignore=["id"], val_fraction=0.2, test_fraction=0.2, equal_rows_together=False)
    [age] = [column for column in data.facts["columns"] if column["name"] == "age"]
    known = data.train.inputs[data.train.inputs[:, 1] == 0][:, 0]
    assert age["fill"] == pytest.approx(float(known.mean()), rel=1e-5)
    assert (len(data.train), len(data.val), len(data.test)) == (36, 12, 12)
    assert data.train.labels.bincount().tolist() == [18, 18]


def test_predicted_tables_get_the_same_features(tmp_path, caplog):
    path = write(tmp_path / "a.csv")
    data = table_csv(path, ignore=["id"], val_fraction=0, test_fraction=0)
    record = json.loads(json.dumps({**data.facts, "shape": list(data.shape), "mean": [0.0] * 6, "std": [1.0] * 6}))
    kind = Tables.restored(record, Settings())
    problems: list[str] = []
    [(names, got)] = kind.read_files([path], {}, problems)
    assert torch.equal(got, data.train.inputs)
    assert names[1] == {"file": path, "row": 2}
    # columns in another order, and a category that train lacks
    other = write(tmp_path / "b.csv", [("violet", "3", "", "x")], ("colour", "flat", "age", "more"))
    with caplog.at_level("INFO"):
        [(_, got)] = kind.read_files([other], {}, problems)
    assert got[0, 1:].tolist() == [1.0, 0.0, 0.0, 0.0, 3.0]
    assert "colour 1" in caplog.text
    bad = write(tmp_path / "c.csv", [("old", "red", "3")], ("age", "colour", "flat"))
    assert list(kind.read_files([bad], {}, problems)) == []
    assert "line 2: 'old' in the column 'age' is no finite number" in problems[0]
    assert list(kind.read_files([write(tmp_path / "d.csv", [])], {}, problems)) == []
    assert problems[1].endswith("d.csv holds no rows.")


def test_named_cells_count_as_empty_ones(tmp_path):
    marked = [tuple({"": " NA", "red": "-9"}.get(cell, cell) for cell in row[:-1]) + row[-1:] for row in rows()]
    emptied = [tuple("" if cell == "red" else cell for cell in row) for row in rows()]
    path = write(tmp_path / "a.csv", marked)
    options = {"ignore": ["id"], "val_fraction": 0, "test_fraction": 0}
    data = table_csv(path, missing=["NA", -9], **options)
    expected = table_csv(write(tmp_path / "b.csv", emptied), **options)
    assert torch.equal(data.train.inputs, expected.train.inputs)
    assert data.facts["columns"] == expected.facts["columns"]
    record = {**data.facts, "shape": list(data.shape), "mean": [0.0] * 5, "std": [1.0] * 5}
    kind = Tables.restored(record, Settings(data={"missing": ["NA", -9]}))
    [(_, got)] = kind.read_files([path], {}, [])
    assert torch.equal(got, data.train.inputs)
    assert table_csv(path, missing=["NA", -9.0], **options).sha256 == data.sha256  # a number is compared as such
    with pytest.raises(DataError, match=r"'NA' in the column 'age' is no .*train with data.missing=\[NA\]"):
        table_csv(path, **options)


def test_a_name_that_no_cell_has_is_told(tmp_path, caplog):
    table_csv(write(tmp_path / "a.csv"), ignore=["id"], missing=["N/A"])
    assert "a.csv: no cell of a feature is one of data.missing=['N/A']" in caplog.text


def test_a_cell_of_the_label_is_never_taken_for_missing(tmp_path):
    path = write(tmp_path / "a.csv", [(str(n), ("NA", "b")[n % 2]) for n in range(40)], ("x", "label"))
    assert table_csv(path, missing=["NA"]).classes == ("NA", "b")


@pytest.mark.process
@pytest.mark.parametrize(
    ("key", "name", "expected"),
    [
        ("data.ignore", "id", "data.ignore=[id]"),
        ("data.ignore", "2020", "\"data.ignore=['2020']\""),
        ("data.missing", "NaN", "\"data.missing=['NaN']\""),
        ("data.ignore", "it's", None),
        ("data.ignore", "größe", "\"data.ignore=['größe']\""),
        ("data.ignore", "cost $US", None),
        ("data.ignore", '5" pipe', None),
        ("data.missing", "`x`", None),
        ("data.missing", "a\\", None),
    ],
)
def test_suggested_overrides_mean_what_they_say(key, name, expected):
    found = listing(key, name)
    assert expected in (None, found)
    word = subprocess.run(["bash", "-c", f"printf %s {found}"], capture_output=True, text=True, check=True).stdout
    [override] = OverridesParser.create().parse_overrides([word])
    assert override.value() == [name]


def test_a_file_given_to_predict_is_read_as_in_training(tmp_path):
    """Of run.predict("file"); categories and missing cells included, which features alone could not tell."""
    path = write(tmp_path / "a.csv")
    data = table_csv(path, ignore=["id"], val_fraction=0, test_fraction=0)
    kind = Tables.restored({**data.facts, "shape": list(data.shape), "mean": [0.0] * 6, "std": [1.0] * 6}, Settings())
    [got] = kind.given(path)
    assert torch.equal(got, data.train.inputs)
    [got] = kind.given([tmp_path / "a.csv"])
    assert torch.equal(got, data.train.inputs)
    [got] = kind.given(data.train.inputs[:3].numpy())
    assert torch.equal(got, data.train.inputs[:3])


def test_another_tables_columns_are_refused(tmp_path):
    data = table_csv(write(tmp_path / "a.csv"), ignore=["id"])
    recorded = {"columns": data.facts["columns"], "shape": list(data.shape)}
    Tables.check_same(recorded, data)
    with pytest.raises(ConfigError, match="the table's columns are not the run's"):
        Tables.check_same(recorded, table_csv(write(tmp_path / "a.csv"), ignore=["id"], split_seed=4))


def summary_of(data) -> dict:
    counts = {which: len(split) for which, split in data.named().items()}
    return {"columns": data.facts["columns"], "counts": counts, "sha256": data.sha256, "classes": list(data.classes)}


def test_another_table_gets_the_features_of_the_run(tmp_path, caplog):
    """Means, categories and classes are of the run's train split; rows of the other table are all kept, in order."""
    before = {"file": write(tmp_path / "a.csv"), "ignore": ["id"], "missing": ["?"]}
    data = table_csv(**before)
    header = ("flat", "label", "colour", "age", "new")
    others = [("3", "b", "red", "7", "x"), ("4", "a", "pink", "?", "x"), ("3", "b", "green", "", "y")]
    now = {**before, "file": write(tmp_path / "b.csv", others, header)}
    with caplog.at_level("INFO"):
        which, split = other_table(before, now, summary_of(data), "")
    [mean] = [column["fill"] for column in data.facts["columns"] if column["name"] == "age"]
    assert which == "test"
    assert split.labels.tolist() == [1, 0, 1]
    by_name = dict(zip(data.facts["features"], split.inputs.T.tolist(), strict=True))
    assert by_name["age"] == pytest.approx([7, mean, mean])
    assert by_name["age is missing"] == [0, 1, 1]
    assert (by_name["colour=red"], by_name["colour=green"], by_name["flat"]) == ([1, 0, 0], [0, 0, 1], [3, 4, 3])
    assert "note: data.file is not the run's file: all 3 rows of it are evaluated" in caplog.text
    assert "data.file: missing or unknown cells: age 2, colour 1" in caplog.text


def test_the_run_s_own_table_by_another_path_is_known(tmp_path):
    """Read as another table, all of it would be the test: most of it was trained on."""
    before = {"file": write(tmp_path / "a.csv"), "ignore": ["id"]}
    summary = summary_of(table_csv(**before))
    for which in ("", "val"):
        assert other_table(before, {**before, "file": write(tmp_path / "b.csv")}, summary, which) is None
    assert other_table(before, {**before, "split_seed": 3}, summary, "") is None
    more = write(tmp_path / "c.csv", [*rows(), rows()[0]])
    assert len(other_table(before, {**before, "file": more}, summary, "test")[1]) == 61


@pytest.mark.parametrize(
    ("cells", "changed", "which", "said"),
    [
        (("1", "red", "3", "a"), {}, "tset", "split 'tset' is not one of"),
        (("1", "red", "3", "a"), {}, "val", "measured whole. Leave out split=val.$"),
        (("1", "red", "3", "a"), {"categorical": ["flat"]}, "", "data.categorical must stay as in training"),
        (("1", "red", "3", "odd"), {}, "", "data.file has the label 'odd', which train does not have"),
        (("1", "red", "3", ""), {}, "", "b.csv line 2: the label is empty"),
        (("old", "red", "3", "a"), {}, "", "b.csv line 2: 'old' in the column 'age' is no finite number"),
        (("1", "red", "3", "a"), {"label_column": "kind"}, "", "Write data.label_column=NAME"),
    ],
)
def test_another_table_that_does_not_fit_is_refused(tmp_path, cells, changed, which, said):
    before = {"file": write(tmp_path / "a.csv"), "ignore": ["id"], "categorical": []}
    other = write(tmp_path / "b.csv", [cells], HEADER[1:])
    with pytest.raises(ConfigError, match=said):
        other_table(before, {**before, "file": other, **changed}, summary_of(table_csv(**before)), which)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("column", ["colour", "label"])
def test_a_nul_in_a_cell_is_named_by_its_line(tmp_path, suffix, column):
    """As in a text: it would become a category, or a class, of the run's record."""
    table = [dict(zip(HEADER, row, strict=True)) for row in rows()]
    table[4][column] += "\0"
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        pyarrow = pytest.importorskip("pyarrow")
        parquet.write_table(pyarrow.Table.from_pylist(table), path)
    with pytest.raises(DataError, match=f"line 5: the column '{column}' holds a NUL character"):
        table_csv(str(path), val_fraction=0, test_fraction=0)


def repeating(count: int = 90) -> list[tuple[str, ...]]:
    """Every third row repeats the one before, once with other digits of the same number."""
    return [(f"{n - n % 3 // 2}{'.0' * (n % 3 == 2)}", "xy"[n % 2], "ab"[n // 2 % 2]) for n in range(count)]


def test_rows_with_equal_features_stay_in_one_split(tmp_path, caplog):
    content = [(x, "same", label) for x, _, label in repeating()]
    with caplog.at_level("INFO"):
        data = table_csv(write(tmp_path / "a.csv", content, ("x", "y", "label")))
    seen = [set(map(tuple, split.inputs.tolist())) for split in data.named().values()]
    assert len(seen) == 3
    assert not any(one & other for one, other in itertools.combinations(seen, 2))
    assert sum(map(len, data.named().values())) == 90
    assert "a.csv: 30 of 90 rows repeat the features of another; equal rows are kept in one split" in caplog.text


def test_equal_rows_may_be_drawn_each_by_itself(tmp_path, caplog):
    path = write(tmp_path / "a.csv", [(str(n % 2), "ab"[n % 3 == 0]) for n in range(60)], ("x", "label"))
    with pytest.raises(DataError, match=r"2 different ones, and equal rows stay .*data.equal_rows_together=false"):
        table_csv(path)
    caplog.clear()
    with caplog.at_level("INFO"):
        data = table_csv(path, equal_rows_together=False)
    assert {which: len(split) for which, split in data.named().items()} == {"train": 42, "val": 6, "test": 12}
    assert not any("repeat" in message for message in caplog.messages)


def test_a_table_without_equal_rows_is_drawn_as_before(tmp_path):
    path = write(tmp_path / "a.csv")
    together, apart = (table_csv(path, equal_rows_together=each) for each in (True, False))
    assert together.sha256 == apart.sha256


def test_rows_that_look_equal_stay_in_one_split(tmp_path):
    """White space and Unicode form aside, as texts do; by rules 1 each form is a row of its own."""
    names = [(f"Bär {n}", f"Ba\u0308r  {n}") for n in range(60)]
    content = [(form, str(n), "ab"[n % 2]) for n, both in enumerate(names) for form in both]
    path = write(tmp_path / "a.csv", content, ("name", "x", "label"))
    apart = {}
    for rules in (1, 2):
        data = table_csv(path, rules=rules)
        seen = [set(split.inputs[:, -1].tolist()) for split in data.named().values()]
        apart[rules] = sum(map(len, seen)) - 60
    assert apart[2] == 0 < apart[1]


@pytest.mark.parametrize("together", [True, False])
def test_equal_rows_with_two_labels_are_counted(tmp_path, caplog, together):
    content = [(str(n), "ab"[n % 2]) for n in range(40)] + [("4.0", "b"), ("6", "b"), ("8", "a")]
    table_csv(write(tmp_path / "a.csv", content, ("x", "label")), equal_rows_together=together)
    [said] = [message for message in caplog.messages if "different labels" in message]
    assert said.startswith("a.csv: 2 rows occur with different labels, such as line 42 with 'a' and 'b': ")


def test_no_class_of_rows_is_drawn_away_with_another(tmp_path, caplog):
    """Its rows are equal to some of class a, which decides where they are drawn to."""
    content = [(str(n), "ab"[n % 2]) for n in range(40)] + [("4", "c"), ("6", "c")]
    path = write(tmp_path / "a.csv", content, ("x", "label"))
    lost = 0
    for seed in range(20):
        options = {"split_seed": seed, "val_fraction": 0.3, "test_fraction": 0.3}
        data = table_csv(path, **options)
        assert set(data.train.labels.tolist()) == {0, 1, 2}
        seen = [set(split.inputs.flatten().tolist()) for split in data.named().values()]
        assert sum(map(len, seen)) == len(set.union(*seen)) == 40
        caplog.clear()
        before = table_csv(path, rules=1, **options)  # runs of before keep their splits, and are told
        lost += 2 not in before.train.labels.tolist()
        assert ("no row of train has the label 'c'" in caplog.text) == (2 not in before.train.labels.tolist())
    assert lost


def test_many_small_classes_of_rows_keep_the_fractions(tmp_path):
    content = [(str(n), f"class {n % 150}") for n in range(300)]
    data = table_csv(write(tmp_path / "a.csv", content, ("x", "label")))
    assert {which: len(split) for which, split in data.named().items()} == {"train": 210, "val": 30, "test": 60}
    assert set(data.train.labels.tolist()) == set(range(150))


@pytest.mark.parametrize("size", [7, 40])
def test_a_table_of_larger_classes_keeps_its_splits(tmp_path, size):
    path = write(tmp_path / "a.csv", [(str(n), "abcde"[n % 5]) for n in range(5 * size)], ("x", "label"))
    assert table_csv(path).sha256 == table_csv(path, rules=1).sha256


# --- numbers that are too large for float32

DATES = [f"2024{month:02d}{day:02d}" for month in (1, 2) for day in range(1, 29)]


def test_large_numbers_keep_their_differences(tmp_path, caplog):
    """float32 holds 20240101 to within 1: every second date would become the one beside it."""
    content = [(date, "" if n % 9 == 5 else str(n), "ab"[n % 2]) for n, date in enumerate(DATES)]
    path = write(tmp_path / "a.csv", content, ("date", "n", "label"))
    with caplog.at_level("INFO"):
        data = table_csv(path, val_fraction=0, test_fraction=0)
    kind = Tables.fit(data, Settings())
    exact = np.array(DATES, dtype=np.float64)
    got = kind.plain(data.train.inputs, slice(None))[:, 0].numpy()
    np.testing.assert_allclose(got, (exact - exact.mean()) / exact.std(), rtol=0, atol=1e-6)
    assert "the numbers of the column 'date' to within 1 only: their differences from" in caplog.text
    # what a run records gives the same numbers, also to a file of other dates
    record = json.loads(json.dumps({**data.facts, **kind.record(), "shape": list(data.shape)}))
    restored = Tables.restored(record, Settings())
    other = write(tmp_path / "b.csv", [("20240103", "1"), ("", "2")], ("date", "n"))
    [(_, read)] = restored.read_files([other], {}, [])
    expected = (np.array([20240103, exact.mean()]) - exact.mean()) / exact.std()
    np.testing.assert_allclose(restored.normalise(read)[:, 0].numpy(), expected, rtol=0, atol=1e-6)
    # the other column is as it was: exports and records of ordinary tables do not change
    assert [sorted(column) for column in data.facts["columns"]] == [
        ["categories", "centre", "fill", "name", "tells_missing"], ["categories", "fill", "name", "tells_missing"],
    ]  # fmt: skip


def test_a_run_of_before_reads_large_numbers_as_it_did(tmp_path, caplog):
    content = [(date, "ab"[n % 2]) for n, date in enumerate(DATES)]
    path = write(tmp_path / "a.csv", content, ("date", "label"))
    data = table_csv(path, rules=1, val_fraction=0, test_fraction=0)
    assert data.train.inputs[:, 0].tolist() == np.array(DATES, dtype=np.float32).tolist()
    assert "which is much of their differences: this run was begun so" in caplog.text
    assert all("centre" not in column for column in data.facts["columns"])
    record = {**data.facts, "shape": [1], "mean": [0.0], "std": [1.0]}
    [(_, got)] = Tables.restored(record, Settings()).read_files([path], {}, [])
    assert torch.equal(got, data.train.inputs)


@pytest.mark.parametrize(
    ("cells", "coarse"),
    [
        ([f"{1_700_000_000 + n}" for n in range(40)], True),
        ([f"{1_700_000_000 + 86_400 * n}" for n in range(400)], False),  # a year of days: 64 s of it are no matter
        (["20240101"] * 40, False),
        ([f"{n}.25" for n in range(40)], False),
        ([f"{200_000 + 1000 * n}" for n in range(40)], False),
    ],
)
def test_only_numbers_that_lose_much_are_centred(tmp_path, cells, coarse, caplog):
    path = write(tmp_path / "a.csv", [(cell, str(n), "ab"[n % 2]) for n, cell in enumerate(cells)], ("x", "y", "label"))
    data = table_csv(path, val_fraction=0, test_fraction=0, ignore=["y"])
    assert ("centre" in data.facts["columns"][0]) == coarse
    caplog.clear()
    options = {"label_column": "x", "targets": "values", "ignore": ["label"]}
    table_csv(path, **options)
    assert ("float32 holds the numbers of 'x' to within" in caplog.text) == coarse


def test_an_export_s_record_is_enough_to_make_features(tmp_path):
    """By the words of `rule`, and nothing else: fills of missing numbers, categories, and what is subtracted."""
    content = [("" if n % 7 == 3 else date, ("red ", "blue", "NA")[n % 3], "ab"[n % 2]) for n, date in enumerate(DATES)]
    path = write(tmp_path / "a.csv", content, ("date", "colour", "label"))
    options = {"missing": ["NA"], "val_fraction": 0, "test_fraction": 0}
    data = table_csv(path, **options)
    kind = Tables.fit(data, Settings(data=options))
    about = json.loads(json.dumps(kind.export_facts()))["preprocessing"]
    assert about["features"] == data.facts["features"]
    assert "`fill` where the cell is empty" in about["rule"]

    def features(cells: dict[str, str]) -> list[float]:
        row = []
        for column in about["columns"]:
            cell = cells[column["name"]].strip()
            cell = "" if cell in about["missing"] else cell
            if column["categories"] is not None:
                row += [float(cell == category) for category in column["categories"]]
                continue
            row.append((float(cell) if cell else column["fill"]) - column.get("centre", 0))
            row += [float(not cell)] * column["tells_missing"]
        return row

    rows = [features({"date": date, "colour": colour}) for date, colour, _ in content]
    np.testing.assert_array_equal(np.array(rows, dtype=np.float32), data.train.inputs.numpy())


def test_a_semicolon_divides_columns_where_no_comma_does(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x;colour;label\n" + "".join(f"{n}.5;red, green;{'ab'[n % 2]}\n" for n in range(30)))
    data = table_csv(str(path))
    assert data.facts["features"] == ["x", "colour=red, green"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([f"{n},5" for n in range(40)], "'0,5' has a comma. For numbers write a decimal point"),
        (
            [f"c-{n}" for n in range(40)],
            r"28 different texts in 28 rows of train, .* \(.data.ignore=\['my x'\].\)",
        ),
        (
            [str(n) if n % 5 < 2 else "NA" for n in range(40)],
            r"of 28 cells in train are numbers, others .* such as 'NA'.* write data.missing=\[NA\]",
        ),
    ],
)
def test_a_column_that_holds_no_categories_is_doubted(tmp_path, caplog, cells, message):
    path = write(tmp_path / "a.csv", [(cell, "ab"[n % 2]) for n, cell in enumerate(cells)], ("my x", "label"))
    table_csv(path, equal_rows_together=False)
    assert re.search(f"a.csv: the column 'my x' is taken for categories.*{message}", caplog.text)
    caplog.clear()
    table_csv(path, equal_rows_together=False, categorical=["my x"])
    assert "taken for" not in caplog.text


@pytest.mark.parametrize("first", [0, 1, 1001])
def test_a_column_that_numbers_the_rows_is_doubted(tmp_path, caplog, first):
    content = [(str(first + n), str(n * n), "ab"[n % 2]) for n in range(40)]
    path = write(tmp_path / "a.csv", content, ("id", "x", "label"))
    table_csv(path)
    [said] = [message for message in caplog.messages if "numbers the rows" in message]
    assert "a.csv: the column 'id' numbers the rows. Leave it out: data.ignore=[id]" in said
    caplog.clear()
    table_csv(path, ignore=["id"])
    assert "numbers the rows" not in caplog.text


def test_classes_of_one_row_are_named(tmp_path, caplog):
    content = [(str(n), "ab"[n % 2]) for n in range(40)] + [("98", "c")]
    with caplog.at_level("INFO"):
        table_csv(write(tmp_path / "a.csv", content, ("x", "label")))
    assert "a.csv: the class 'c' has one row, which is in train alone" in caplog.text


def test_too_few_rows_for_a_split_are_named(tmp_path, caplog):
    path = write(tmp_path / "a.csv", [("1", "10"), ("2", "20")], ("x", "y"))
    table_csv(path, label_column="y", targets="values")
    assert "too few rows to draw val from: 2, and one stays in train" in caplog.text
    assert "data.val_fraction=0 early_stopping=off checkpoint.save_top_k=0" in caplog.text


def test_numbers_to_predict(tmp_path):
    content = [(str(n), str(n * 1.5)) for n in range(20)]
    data = table_csv(write(tmp_path / "a.csv", content, ("x", "y")), label_column="y", targets="values")
    assert data.train.labels.dtype == torch.float32
    torch.testing.assert_close(data.train.labels, data.train.inputs[:, 0] * 1.5)
    assert data.classes == ("y",)


def test_numeric_categories_can_be_named(tmp_path):
    path = write(tmp_path / "a.csv")
    data = table_csv(path, ignore=["id", "age", "colour"], categorical=["flat"], val_fraction=0, test_fraction=0)
    assert data.facts["features"] == ["flat=3"]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("old", "line 3: 'old' in the column 'age' is no finite number .* data.categorical=.age"),
        ("nan", "line 3: 'nan' in the column 'age'"),
        ("1e300", "line 3: '1e300' in the column 'age'"),
    ],
)
def test_a_text_among_numbers_is_named_by_line(tmp_path, cell, message):
    content = rows()
    content[1] = ("1", cell, *content[1][2:])
    with pytest.raises(DataError, match=message):
        table_csv(write(tmp_path / "a.csv", content), val_fraction=0, test_fraction=0)


@pytest.mark.parametrize(
    ("content", "header", "message"),
    [
        ([("a",), ("b",)], ("label",), "has no column beside 'label'"),
        ([("1", "a")] * 9, ("x", "label"), "has one class, 'a'"),
        ([], ("x", "label"), "a.csv holds no rows"),
        ([("1", "a"), ("2", "b")], ("x", "label"), "2 classes in 2 rows: the column 'label' has hardly two rows of"),
        ([("", "ab"[n % 2]) for n in range(9)], ("", "label"), r"the column '' is empty. .* .data.ignore=\[''\]"),
        ([(str(n), str(n)) for n in range(9)], ("x", "label"), "seems to hold numbers. For numbers write data.targets"),
        ([("1", ""), ("2", "a"), ("3", "b")], ("x", "label"), "line 2: the label is empty"),
        ([("", "ab"[n % 2]) for n in range(9)], ("x", "label"), "the column 'x' is empty"),
        ([(f"name {n}", "ab"[n % 2]) for n in range(1500)], ("x", "label"), "data.ignore=.x"),
    ],
)
def test_tables_that_cannot_be_learnt_are_named(tmp_path, content, header, message):
    with pytest.raises(DataError, match=message):
        table_csv(write(tmp_path / "a.csv", content, header), val_fraction=0, test_fraction=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": None}, "data=table_csv needs data.file"),
        ({"label_column": "lable"}, "data.label_column: the column 'lable' .* Did you mean 'label'"),
        ({"ignore": ["ids"]}, r"data.ignore: the column 'ids' .* the first line of .*a\.csv"),
        ({"equal_rows_together": "yes"}, "data.equal_rows_together must be true or false; got 'yes'"),
        ({"missing": "NA"}, r"data.missing must be a list of texts.*got 'NA'"),
        ({"missing": [float("nan")]}, "'NaN' and 'null' need their quotes.*; got .nan"),
        ({"missing": [True]}, "data.missing must be a list of texts and numbers"),
        ({"categorical": ["color"]}, "data.categorical: the column 'color' .* Did you mean 'colour'"),
        ({"targets": "value"}, "data.targets 'value'"),
        ({"test_fraction": 1.0}, "data.test_fraction"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        table_csv(**{"file": write(tmp_path / "a.csv"), **options})


def test_preview_knows_the_width_that_only_the_file_tells(tmp_path):
    preview = preview_of(table_csv)
    options = {"file": write(tmp_path / "a.csv"), "ignore": ["id"]}
    kind = preview(options, Settings())
    assert type(kind) is Tables
    assert kind.shape == table_csv(**options).shape == (6,)
    assert preview({"file": None}, Settings()).shape == (16,)  # any width: the file is missing


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        [3],
        [{"name": "x"}],
        [{"name": 3, "categories": None}],
        [{"name": "x", "categories": None, "fill": "a"}],
        [{"name": "x", "categories": None, "tells_missing": 10**9}],
        [{"name": "x", "categories": [3]}],
        [{"name": "x", "categories": None, "fill": 10**400}],
    ],
)
def test_a_damaged_record_is_refused(record):
    with pytest.raises(ValueError, match="data.columns"):
        Columns.restored(record)


def test_other_categories_of_equal_number_have_another_identity(tmp_path):
    """The shapes of a run's weights would fit both."""
    other = [(*row[:2], row[2].replace("red", "pink"), *row[3:]) for row in rows()]
    paths = write(tmp_path / "a.csv"), write(tmp_path / "b.csv", other)
    one, two = (table_csv(path, ignore=["id"], val_fraction=0, test_fraction=0) for path in paths)
    assert one.shape == two.shape
    assert fitted_to(one) != fitted_to(two)
    more = write(tmp_path / "c.csv", [*rows(), ("99", "12", "red", "3", "a")])
    assert fitted_to(one) == fitted_to(table_csv(more, ignore=["id"], val_fraction=0, test_fraction=0))


def test_the_splits_of_a_table_are_drawn(tmp_path):
    assert table_csv(write(tmp_path / "a.csv"), ignore=["id"], val_fraction=0).drawn == ("test",)
