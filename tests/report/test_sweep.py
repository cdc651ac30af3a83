"""Many runs in one table: who is first, who failed, and why."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from effbench.records import write_summary
from effbench.report.sweep import Job, print_sweep, sweep_rows, write_sweep


def job(number: int, folder: Path, overrides: str = "", **summary: Any) -> Job:
    """A job whose run recorded `summary`; without one, it never began."""
    place = folder / f"{number:03d}"
    if summary:
        place.mkdir()
        write_summary(place, summary)
    return Job(number, [overrides or f"seed={number}"], place)


def best(metric: str, value: float | None, status: str = "completed") -> dict[str, Any]:
    return {
        "status": status,
        "best": {"metric": metric, "value": value, "checkpoint": "step-00000001"},
        "metrics": {"test/acc": 0.5, "test/loss": 1.5},
        "timing": {"training_s": 2.0, "images_per_s": 100.0},
        "model": {"parameters": 1000},
        "memory": {"peak_rss_bytes": 1_000_000},
    }


@pytest.mark.parametrize(
    ("metric", "values", "order"),
    [
        ("val/acc", [0.2, 0.9, 0.5], [1, 2, 0]),
        ("val/loss", [0.2, 0.9, 0.5], [0, 2, 1]),
        ("train/loss", [3.0, -1.0, 0.0], [1, 2, 0]),
        ("val/acc", [0.5, 0.5, 0.6], [2, 0, 1]),  # of equals, the earlier
    ],
)
def test_the_highest_accuracy_or_the_lowest_loss_is_first(
    metric: str, values: list[float], order: list[int], tmp_path: Path
) -> None:
    jobs = [job(number, tmp_path, **best(metric, value)) for number, value in enumerate(values)]
    rows = sweep_rows(jobs)
    assert [row["job"] for row in rows] == order
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert {row["metric"] for row in rows} == {metric}


def test_unfinished_runs_come_last_unranked_with_their_reason(tmp_path: Path) -> None:
    jobs = [
        job(0, tmp_path, status="failed", error="the cable was pulled", metrics={}),
        job(1, tmp_path),
        job(2, tmp_path, **best("val/acc", 0.1)),
        job(3, tmp_path, status="diverged", stop_reason="the loss is nan", metrics={}, best=None),
        job(4, tmp_path, **best("val/acc", 0.9, "interrupted")),
        job(5, tmp_path, **best("val/acc", 0.8, "diverged")),  # until it did
        job(6, tmp_path, **best("val/acc", 0.2, "stopped_early")),
        job(7, tmp_path, status="completed", metrics={}, best=None),  # checkpoint.save_top_k=0
    ]
    rows = sweep_rows(jobs)
    assert [row["job"] for row in rows] == [6, 2, 7, 0, 1, 3, 4, 5]
    assert [row["rank"] for row in rows] == [1, 2, None, None, None, None, None, None]
    assert [row["status"] for row in rows[:3]] == ["stopped_early", "completed", "completed"]
    errors = {row["job"]: row["error"] for row in rows}
    assert errors[0] == "the cable was pulled"
    assert "there is no such folder" in errors[1]
    assert errors[3] == "the loss is nan"
    assert [errors[number] for number in (2, 4, 6, 7)] == [None] * 4


def test_jobs_that_monitor_different_metrics_are_not_ranked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [
        job(0, tmp_path, **best("val/acc", None, "failed")),
        job(1, tmp_path, **best("val/loss", 0.9)),
        job(2, tmp_path, **best("val/acc", 0.25)),
        job(3, tmp_path, **best("val/loss", 0.1)),
    ]
    rows = sweep_rows(jobs)
    assert [(row["job"], row["rank"]) for row in rows] == [(1, None), (2, None), (3, None), (0, None)]
    print_sweep(rows)
    out = capsys.readouterr().out
    assert "val/loss 0.9000" in out
    assert "val/acc 25.00 %" in out
    [reason] = [line for line in out.splitlines() if line.startswith("no ranks:")]
    assert all(part in reason for part in ("val/acc, val/loss", "checkpoint.monitor"))
    assert out.index("no ranks:") > out.index("val/acc 25.00 %")


def test_one_name_for_metrics_of_other_modes_is_not_ranked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"metrics": {"acc": {"title": "misses", "mode": "min"}}}
    rows = sweep_rows([job(0, tmp_path, **best("val/acc", 0.9)), job(1, tmp_path, **best("val/acc", 0.2), task=own)])
    assert [row["rank"] for row in rows] == [None, None]
    print_sweep(rows)
    said = " ".join(capsys.readouterr().out.split())
    assert "different metrics (val/acc, higher is better, val/acc, lower is better)" in said


def test_unfinished_job_with_another_metric_keeps_others_ranked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [job(0, tmp_path, **best("val/loss", 0.9, "interrupted")), job(1, tmp_path, **best("val/acc", 0.25))]
    rows = sweep_rows(jobs)
    assert [(row["job"], row["rank"]) for row in rows] == [(1, 1), (0, None)]
    print_sweep(rows)
    out = capsys.readouterr().out
    assert "best val/acc" in out
    assert "interrupted" in out
    assert "90.00 %" not in out  # 0.9 is no accuracy
    assert "no ranks" not in out


def test_a_best_value_that_is_not_finite_is_no_rank(tmp_path: Path) -> None:
    rows = sweep_rows([job(0, tmp_path, **best("val/loss", float("nan"))), job(1, tmp_path, **best("val/loss", 9.0))])
    assert [(row["job"], row["rank"]) for row in rows] == [(1, 1), (0, None)]


def test_sweep_csv_holds_every_column_of_every_row(tmp_path: Path) -> None:
    overrides = 'model.hidden=[8,16] logger.project="a, b"\nline'
    jobs = [
        job(0, tmp_path, overrides, **best("val/acc", 0.25)),
        job(1, tmp_path, status="failed", error="x\ny", metrics={}),
    ]
    rows = sweep_rows(jobs)
    path = write_sweep(tmp_path, rows)
    assert path == tmp_path / "sweep.csv"
    with path.open(newline="") as stream:
        read = list(csv.DictReader(stream))
    assert ",".join(read[0]) == (
        "rank,job,overrides,status,metric,value,test/acc,test/loss,training_s,images_per_s,parameters,peak_rss_bytes,"
        "error,folder"
    )
    assert read[0]["overrides"] == overrides
    assert (read[0]["rank"], read[0]["value"], read[0]["test/acc"]) == ("1", "0.25", "0.5")
    assert (read[1]["error"], read[1]["rank"], read[1]["value"]) == ("x\ny", "", "")


def test_the_table_names_the_metric_and_lists_reasons_below(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [
        job(0, tmp_path, "optimizer=sgd", **best("val/loss", 0.25)),
        job(1, tmp_path, "optimizer=lion", status="failed", error="the cable was pulled", metrics={}),
    ]
    print_sweep(sweep_rows(jobs))
    out, err = capsys.readouterr()
    assert not err
    assert "best val/loss" in out
    assert "0.2500" in out
    assert "50.00 %" in out
    assert "job 1 failed (optimizer=lion): the cable was pulled" in out
    assert out.index("sgd") < out.index("lion")


def test_words_in_brackets_are_text_not_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [job(0, tmp_path, "model.freeze=[bold]", status="failed", error="[/red] [blink]x", metrics={})]
    print_sweep(sweep_rows(jobs))
    out = capsys.readouterr().out
    assert "[bold]" in out
    assert "[/red] [blink]x" in out


def test_a_sweep_in_which_all_failed_is_still_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_sweep(sweep_rows([job(0, tmp_path)]))
    assert "failed" in capsys.readouterr().out


def test_long_sweep_table_shows_best_jobs_and_counts_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("effbench.report.sweep.MOST_ROWS", 2)
    rows = sweep_rows([job(number, tmp_path, f"x=v{number}", **best("val/acc", number / 10)) for number in range(5)])
    print_sweep(rows)
    shown = capsys.readouterr().out
    assert "v4" in shown
    assert "v3" in shown
    assert "v2" not in shown
    assert "... and 3 more in sweep.csv" in shown
    assert len(write_sweep(tmp_path, rows).read_text().splitlines()) == 1 + 5


def words(optimizer: str, lr: str, hidden: str, seed: int) -> str:
    return f"optimizer={optimizer} optimizer.lr={lr} model.hidden=[{hidden}] trainer.max_epochs=3 seed={seed}"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("hidden", ["8", ",".join(["512"] * 30)], ids=["short", "long"])
def test_the_winner_is_readable_whatever_the_width(
    width: int, hidden: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    grid = [("sgd", "0.1", 0.6), ("lion", "0.0001", 0.9), ("adamw", "0.002", 0.7)]
    jobs = [
        job(3 * number + seed, tmp_path, words(name, lr, hidden, seed), **best("val/acc", value + seed / 100))
        for number, (name, lr, value) in enumerate(grid)
        for seed in range(3)
    ]
    print_sweep(sweep_rows([*jobs, job(9, tmp_path, words("adan", "1e-3", hidden, 0), status="failed", error="no")]))
    table, _, below = capsys.readouterr().out.partition("\n±")
    assert max(map(len, table.splitlines())) <= width
    first = next(line for line in table.splitlines() if line.lstrip().startswith("1 "))
    assert all(text in first for text in ("lion", "0.0001", "91.00 ± 1.00 %"))
    assert table.index("lion") < table.index("adamw") < table.index("sgd") < table.index("adan")
    assert "best run: " + str(tmp_path / "005") in below
    assert ("50.00 ± 0.00 %" in first) == (width == 120 or hidden == "8")


def test_jobs_that_differ_in_their_seed_alone_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [job(seed, tmp_path, f"seed={seed}", **best("val/acc", value)) for seed, value in enumerate((0.5, 0.6, 0.8))]
    failed = job(3, tmp_path, "seed=3", status="failed", error="no", metrics={})
    print_sweep(sweep_rows([*jobs, failed]))
    out = capsys.readouterr().out
    assert "63.33 ± 15.28 %" in out  # the sample's deviation
    assert "3 of 4" in out
    assert f"best run: {tmp_path / '002'}" in out


def test_best_run_is_of_the_best_config_not_the_luckiest_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"a": (0.1, 0.9), "b": (0.7, 0.8)}
    jobs = [
        job(2 * number + seed, tmp_path, f"model={name} seed={seed}", **best("val/acc", values[name][seed]))
        for number, name in enumerate(values)
        for seed in range(2)
    ]
    print_sweep(sweep_rows(jobs))
    out = capsys.readouterr().out
    assert f"best run: {tmp_path / '003'}" in out
    assert "do not tell them apart" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["optimizer=adamw", "optimizer=lion"], True),
        (["optimizer=adamw model=mlp", "optimizer=lion model=mlp"], True),
        (["optimizer=adamw optimizer.lr=0.1", "optimizer=lion optimizer.lr=0.1"], False),
        (["optimizer=adamw model=mlp", "optimizer=adamw model=cnn"], False),
        (["model=mlp", "model=cnn"], False),
    ],
)
def test_a_table_over_untuned_optimizers_says_so(
    words: list[str], told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_sweep(sweep_rows([job(n, tmp_path, each, **best("val/acc", 0.5)) for n, each in enumerate(words)]))
    assert ("not tuned: effbench study tunes each equally" in " ".join(capsys.readouterr().out.split())) == told


def test_values_equal_in_all_jobs_have_no_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_sweep(sweep_rows([job(n, tmp_path, f"optimizer={n}", **best("val/acc", 0.5)) for n in range(2)]))
    head = capsys.readouterr().out.splitlines()[0].split()
    assert not {"status", "params", "n", "peak"} & set(head)
    assert head[:2] == ["rank", "optimizer"]


def test_values_that_hold_spaces_stay_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_sweep(sweep_rows([job(n, tmp_path, f"a=x{n} y b.c=z d", **best("val/acc", 0.5)) for n in range(2)]))
    assert re.search(r"1 +x0 y +z d +50.00 %", capsys.readouterr().out)
