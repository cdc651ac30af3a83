"""The result of one run, as a person reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from effbench.report.result import print_result, result_rows

SUMMARY: dict[str, Any] = {
    "status": "completed",
    "stop_reason": None,
    "metrics": {"test/acc": 0.85551, "test/loss": 0.40625},
    "best": {"metric": "val/loss", "value": 0.41, "checkpoint": "step-00000756"},
    "steps": 1008,
    "epochs": 12.0,
    "timing": {
        "training_s": 103.5, "seconds": {"total": 108.44},
        "images_per_s": 625.4, "images_per_s_excludes_first_steps": 5,
    },
    "model": {"parameters": 1_530_000, "macs": 4_930_000},
    "memory": {"peak_rss_bytes": 681_000_000},
}  # fmt: skip


def test_every_number_has_its_unit() -> None:
    rows = dict(result_rows(SUMMARY))
    assert rows["status"] == "completed"
    assert rows["test accuracy"] == "85.55 %"
    assert rows["test loss"] == "0.4062"
    assert rows["best val/loss"] == "0.4100 (step-00000756)"
    assert rows["steps"] == "1008 (12 epochs)"
    assert dict(result_rows(SUMMARY | {"epochs": 1.0}))["steps"] == "1008 (1 epoch)"
    assert rows["time"] == "103.5 s training, 108.4 s in all"
    assert rows["throughput"] == "625 images/s (without the first 5 steps)"
    assert rows["model"] == "1.53M parameters, 4.93M MACs an image"
    assert rows["peak memory"] == "681 MB"


def test_the_time_of_a_resumed_run_covers_all_sessions() -> None:
    timing = {**SUMMARY["timing"], "elapsed_s": 208.44}  # "seconds" are those of the last session
    assert dict(result_rows({**SUMMARY, "timing": timing}))["time"] == "103.5 s training, 208.4 s in all"


def test_results_that_were_not_measured_are_left_out() -> None:
    timing = {**SUMMARY["timing"], "images_per_s": None}
    rows = dict(result_rows({**SUMMARY, "metrics": {}, "best": None, "timing": timing, "status": "interrupted"}))
    assert not {"test accuracy", "test loss", "throughput"} & set(rows)
    assert not any(name.startswith("best") for name in rows)


def test_a_reason_stands_beside_the_status() -> None:
    rows = dict(result_rows({**SUMMARY, "status": "diverged", "stop_reason": "the loss is nan"}))
    assert rows["status"] == "diverged: the loss is nan"


@pytest.mark.parametrize("name", ["[red]run[/red]", "a[/b]", "x" * 200])
def test_the_folder_is_printed_as_it_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir(parents=True)
    print_result(Path(name), SUMMARY)
    assert capsys.readouterr().out.splitlines()[-1].split(maxsplit=1) == ["folder", name]
    (Path(name) / "curves.png").touch()
    print_result(Path(name), SUMMARY)
    assert f"{name}/curves.png" in capsys.readouterr().out


REFERENCE = {"method": "linear n-grams", "metric": "acc", "value": 0.807, "command": "python -m measure", "n": 1}


@pytest.mark.parametrize(
    ("own", "beside"),
    [(0.64, ", 16.7 points above this run"), (0.82, ", 1.3 points below this run"), (None, "")],
)
def test_a_reference_stands_beside_the_run_s_own_value(own: float | None, beside: str) -> None:
    summary = {**SUMMARY, "metrics": {} if own is None else {"test/acc": own}, "data": {"reference": REFERENCE}}
    rows = dict(result_rows(summary))
    assert rows["linear n-grams"] == f"test accuracy 80.7 %{beside} (python -m measure, n = 1)"


def test_a_reference_is_not_compared_with_a_sample_of_the_test() -> None:
    data = {"reference": REFERENCE, "counts": {"test": 5137}, "evaluated": {"test": 512}}
    assert (
        dict(result_rows({**SUMMARY, "data": data}))["linear n-grams"]
        == "test accuracy 80.7 % (python -m measure, n = 1)"
    )


@pytest.mark.parametrize("data", [{}, {"reference": None}, {"reference": {"method": "linear n-grams"}}])
def test_nothing_is_said_of_a_reference_that_is_not_there(data: dict[str, Any]) -> None:
    assert result_rows({**SUMMARY, "data": data}) == result_rows(SUMMARY)
