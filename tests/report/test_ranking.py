"""What is ranked together, and what is said of it."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from effbench.report.ranking import Table, tables
from tests.report.pages import config, read, summary, write_run


def ranked(folder: Path) -> list[Table]:
    return tables(read(folder))


def sweep(folder: Path, values: dict[str, list[float]]) -> None:
    """A run a value, of optimizers by their learning rates."""
    for lr, column in values.items():
        for seed, value in enumerate(column):
            write_run(folder / f"{lr}_{seed}", summary(value), config(seed, optimizer={"lr": float(lr)}))


def test_seeds_of_a_config_are_a_row_with_mean_and_sample_std(tmp_path: Path) -> None:
    values = {"0.1": [0.5, 0.6, 0.8], "0.2": [0.7, 0.71, 0.72]}
    sweep(tmp_path, values)
    [table] = ranked(tmp_path)
    assert [(row["rank"], row["config optimizer.lr"], row["n"]) for row in table.rows] == [(1, "0.2", 3), (2, "0.1", 3)]
    for row, column in zip(table.rows, (values["0.2"], values["0.1"]), strict=True):
        assert row["value"] == pytest.approx(sum(column) / 3)
        assert row["value±"] == pytest.approx((sum((x - sum(column) / 3) ** 2 for x in column) / 2) ** 0.5)
    cells = dict(zip([column.head for column in table.columns], table.cells(table.rows[0]), strict=True))
    assert cells["best val/acc"] == "71.00 ± 1.00 %"
    assert cells["training"] == "2.0 s"
    assert cells["n"] == "3"
    assert "last val acc" not in cells


def test_a_loss_ranks_the_lowest_first(tmp_path: Path) -> None:
    for name, value in (("a", 0.9), ("b", 0.2), ("c", 0.5)):
        write_run(tmp_path / name, summary(value, "val/loss"), config(optimizer={"lr": value}))
    [table] = ranked(tmp_path)
    assert [row["value"] for row in table.rows] == [0.2, 0.5, 0.9]
    assert "best val/loss" in [column.head for column in table.columns]


def test_runs_that_cannot_be_compared_are_ranked_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a", summary(0.9))
    write_run(tmp_path / "b", summary(0.8), config(optimizer={"lr": 9}))
    write_run(tmp_path / "c", summary(0.1, "val/loss"))
    write_run(tmp_path / "d", summary(0.7, data={"name": "fashion", "sha256": "other images"}))
    write_run(tmp_path / "e", summary(best=None))
    found = ranked(tmp_path)
    assert [(table.metric, len(table.rows), table.rows[0]["rank"]) for table in found] == [
        ("val/acc", 2, 1), ("val/loss", 1, 1), ("val/acc", 1, 1), (None, 1, None),
    ]  # fmt: skip
    assert "Without ranks" in found[-1].notes[0]


def test_metrics_of_one_name_and_other_modes_are_ranked_apart(tmp_path: Path) -> None:
    """A metric of the user, named acc, of which lower values are better, beside the shipped one."""
    own = {"metrics": {"acc": {"title": "misses", "mode": "min"}}}
    for number, value in enumerate((0.9, 0.2)):
        write_run(tmp_path / f"own{number}", summary(value, task=own), config(optimizer={"lr": number}))
        write_run(tmp_path / f"shipped{number}", summary(value), config(optimizer={"lr": number + 2}))
    found = {table.data: [row["value"] for row in table.rows] for table in ranked(tmp_path)}
    assert found == {
        "fashion (val/acc: lower is better)": [0.2, 0.9],
        "fashion (val/acc: higher is better)": [0.9, 0.2],
    }


@pytest.mark.parametrize(
    "section",
    [{"trainer": {"limit_val_batches": 1}}, {"data": {"val_fraction": 0.4}}, {"data": {"split_seed": 7}}],
    ids=str,
)
def test_runs_validated_on_other_images_are_ranked_apart(section: dict[str, Any], tmp_path: Path) -> None:
    write_run(tmp_path / "a", summary(0.8), config())
    write_run(tmp_path / "b", summary(0.7), config(seed=1))
    write_run(tmp_path / "c", summary(1.0), config(**section))
    found = ranked(tmp_path)
    assert [len(table.groups[0].runs) for table in found] == [2, 1]
    [(group, options)] = section.items()
    [(key, value)] = options.items()
    assert [table.data for table in found] == ["fashion", f"fashion ({group}.{key}={value})"]


@pytest.mark.parametrize("status", ["failed", "diverged", "interrupted"])
def test_unfinished_seeds_are_counted_but_not_ranked(status: str, tmp_path: Path) -> None:
    sweep(tmp_path, {"0.1": [0.5, 0.6]})
    write_run(tmp_path / "x", summary(0.99, status=status), config(2, optimizer={"lr": 0.1}))
    write_run(tmp_path / "again", summary(0.99, status=status), config(1, optimizer={"lr": 0.1}))  # finished later
    [table] = ranked(tmp_path)
    assert [run.name for group in table.groups for run in group.runs] == ["0.1_0", "0.1_1"]
    assert table.cells(table.rows[0])[table.columns.index(next(c for c in table.columns if c.name == "n"))] == "2 of 3"


def test_a_seed_that_ran_twice_is_no_second_seed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, summary(0.5 if name == "a" else 0.7), config(0))
    [table] = ranked(tmp_path)
    assert table.rows[0]["value"] == pytest.approx(0.6)
    assert table.rows[0]["value±"] is None
    assert "2 with 1 seed" in table.cells(table.rows[0])


def test_a_seed_that_ran_more_often_weighs_no_more(tmp_path: Path) -> None:
    for name, value, seed in (("a", 0.5, 0), ("b", 0.5, 0), ("c", 0.5, 0), ("d", 0.7, 1)):
        write_run(tmp_path / name, summary(value), config(seed))
    [table] = ranked(tmp_path)
    assert table.rows[0]["value"] == pytest.approx(0.6)
    assert table.rows[0]["value±"] == pytest.approx(0.2 / 2**0.5)


def test_columns_are_the_keys_that_differ_and_no_others(tmp_path: Path) -> None:
    write_run(tmp_path / "a", summary(), config(optimizer={"_target_": "x.AdamW", "lr": 0.1, "eps": 1}))
    lion = {"model": {"name": "mlp", "optimizer": "Lion"}}
    write_run(tmp_path / "b", summary(**lion), config(5, optimizer={"_target_": "x.Lion", "lr": 0.2}, a=float("nan")))
    write_run(tmp_path / "c", summary(**lion), config(6, optimizer={"_target_": "x.Lion", "lr": 0.3}, a=float("nan")))
    [table] = ranked(tmp_path)
    assert table.keys == ["optimizer.lr"]  # of two runs with Lion
    assert [column.name for column in table.columns][-1] == "config a"  # happens to follow; eps is Lion's own
    assert "config optimizer.eps" not in [column.name for column in table.columns]


def test_two_targets_of_one_name_are_distinguished(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_run(tmp_path / name, summary(), config(model={"_target_": f"{name}.create"}))
    [table] = ranked(tmp_path)
    assert table.keys == ["model._target_"]


def test_keys_beyond_the_columns_are_named(tmp_path: Path) -> None:
    for value in (1, 2):
        write_run(tmp_path / str(value), summary(), config(extra={f"k{index}": value for index in range(12)}))
    [table] = ranked(tmp_path)
    assert table.keys == [f"extra.k{index}" for index in range(4)]
    heads = [column.name for column in table.columns]
    assert heads[-4:] == [f"config extra.k{index}" for index in range(4, 8)]
    assert any(note.startswith("4 more config keys differ: extra.k8, ") for note in table.notes)


NOTES: dict[str, tuple[dict[str, list[float]], str | None]] = {
    "one seed each": ({"0.1": [0.5], "0.2": [0.9]}, "One seed a config"),
    "within": ({"0.1": [0.5, 0.6], "0.2": [0.56, 0.57]}, "do not tell them apart"),
    "apart": ({"0.1": [0.5, 0.51], "0.2": [0.9, 0.91]}, None),
    "alone": ({"0.1": [0.5, 0.51]}, None),
}


@pytest.mark.parametrize("case", NOTES)
def test_the_ranking_states_its_uncertainty(case: str, tmp_path: Path) -> None:
    values, expected = NOTES[case]
    sweep(tmp_path, values)
    [table] = ranked(tmp_path)
    assert [expected in note for note in table.notes] == ([True] if expected else [])


@pytest.mark.parametrize("fact", ["cpu", "kernels"])
def test_times_of_different_machines_are_not_compared_silently(fact: str, tmp_path: Path) -> None:
    for name in ("Z80", "6502"):
        write_run(tmp_path / name, summary(environment={fact: name}))
    [table] = ranked(tmp_path)
    assert any("different machines" in note for note in table.notes)


def test_a_run_without_its_config_is_ranked_as_one_of_its_own(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_run(tmp_path / name, summary())
    for name in ("a", "b"):
        (tmp_path / name / "config.yaml").unlink()
    [table] = ranked(tmp_path)
    assert [row["n"] for row in table.rows] == [1, 1, 1]


def test_means_are_those_of_statistics(tmp_path: Path) -> None:
    sweep(tmp_path, {"0.1": [0.1, 0.4, 0.35]})
    [table] = ranked(tmp_path)
    row: Any = table.rows[0]
    assert row["test/acc"] == pytest.approx(statistics.mean([0.09, 0.39, 0.34]))
    assert row["test/acc±"] == pytest.approx(statistics.stdev([0.09, 0.39, 0.34]))


def test_data_of_one_name_are_distinguished_by_their_digests(tmp_path: Path) -> None:
    for name, digest in (("a", "11112222333"), ("b", "44445555666")):
        write_run(tmp_path / name, summary(data={"name": "image_folder/photos", "sha256": digest}))
    write_run(tmp_path / "c", summary(data={"name": "image_folder/scans", "sha256": "77778888"}))
    assert sorted(table.data for table in ranked(tmp_path)) == [
        "image_folder/photos 11112222", "image_folder/photos 44445555", "image_folder/scans",
    ]  # fmt: skip
