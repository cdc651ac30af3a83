"""Accuracy against latency and size of a run's backends: which of them another one beats, and what cannot be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from effbench.metrics import Display, as_recorded, display_of
from effbench.report.backend_fronts import ShownMetric, backend_fronts
from effbench.report.deployment import deployment
from effbench.report.figures import Figure
from tests.report.pages import config, page_of, summary, write_run
from tests.report.test_deployment import record, written

ACC, MAE = (ShownMetric(name, display_of(name)) for name in ("acc", "mae"))


def arm(
    p50: float, acc: float, size: int = 100, lost: tuple[float, float] | None = None, **more: Any
) -> dict[str, Any]:
    points = None if lost is None else {"estimate": sum(lost) / 2, "low": lost[0], "high": lost[1], "n": 512}
    median = {"estimate": p50, "low": 0.95 * p50, "high": 1.05 * p50, "n": 5}
    latency = {"mean": median, "p50": median, "p99": None}
    batch = {
        "latency_s": latency, "samples_per_s": median, "load_s": 0.5, "peak_bytes": 10**8, "others_seen": None
    }  # fmt: skip
    return {
        "status": "ok", "bytes": size, "metrics": {"loss": 1.0, "acc": acc}, "lost": points, "lost_of": "accuracy",
        "parity": {"samples": 512}, "notes": [], "batches": {"1": batch}, **more,
    }  # fmt: skip


def statuses(found: Figure) -> dict[str, str]:
    return {mark.label: mark.status for mark in found.marks}


def test_a_faster_backend_with_the_same_answers_wins() -> None:
    none = (0.0, 0.0)
    arms = {"eager": arm(0.004, 0.8, lost=none), "onnxruntime": arm(0.001, 0.8, lost=none)}
    [latency] = backend_fronts(arms, ACC, "val", "1")
    assert latency.panel.title == "val accuracy against latency"
    assert statuses(latency)["onnxruntime"] == "on the front"
    assert statuses(latency)["eager"] != "on the front"
    assert len(latency.text) > 0


def test_what_is_lost_by_pairs_decides_and_not_the_estimate() -> None:
    arms = {
        "eager": arm(0.004, 0.8, lost=(0.0, 0.0)),
        "within noise": arm(0.002, 0.798, lost=(-0.4, 0.8)),
        "clearly worse": arm(0.001, 0.75, lost=(3.0, 7.0)),
    }
    found = statuses(backend_fronts(arms, ACC, "val", "1")[0])
    # nobody knows whether eager answers better; the last one is the fastest
    assert found == {"eager": "perhaps dominated", "within noise": "on the front", "clearly worse": "on the front"}


def test_backends_that_read_one_file_are_one_point_of_size() -> None:
    none = (0.0, 0.0)
    arms = {
        "eager": arm(0.004, 0.8, 400, none), "channels_last": arm(0.003, 0.8, 400, none),
        "torch_export": arm(0.003, 0.8, 400, none), "int8": arm(0.001, 0.79, 100, (0.5, 1.5)),
    }  # fmt: skip
    size = backend_fronts(arms, ACC, "val", "1")[1]
    assert sorted(mark.label for mark in size.marks) == ["eager, channels_last and 1 more", "int8"]
    assert set(statuses(size).values()) == {"on the front"}  # one is smaller, the other answers better


def test_what_failed_or_has_no_value_is_left_out() -> None:
    arms = {
        "eager": arm(0.004, 0.8), "onnxruntime": arm(0.001, 0.8),
        "failed": {"status": "failed", "reason": "no"}, "undefined": {**arm(0.001, 0.8), "metrics": {"loss": 1.0}},
        "other batch": {**arm(0.001, 0.8), "batches": {}},
    }  # fmt: skip
    [latency] = backend_fronts(arms, ACC, "val", "1")
    assert set(statuses(latency)) == {"eager", "onnxruntime"}
    assert backend_fronts(arms, None, "val", "1") == []
    assert backend_fronts({"eager": arms["eager"]}, ACC, "val", "1") == []


def test_unpaired_values_are_compared_by_their_intervals() -> None:
    arms = {"before": arm(0.004, 0.8, lost=(0.0, 0.0)), "after": arm(0.002, 0.79, lost=(0.0, 0.0))}
    # 80 and 79 % of 512 samples
    assert statuses(backend_fronts(arms, ACC, "val", "1", paired=False)[0]) == {
        "before": "perhaps dominated",
        "after": "on the front",
    }
    arms["after"] = arm(0.002, 0.6)
    assert statuses(backend_fronts(arms, ACC, "val", "1", paired=False)[0])["before"] == "on the front"


def test_smaller_is_better_for_an_error() -> None:
    arms = {
        "eager": {**arm(0.001, 0), "metrics": {"mae": 2.0}, "lost_of": "answers"},
        "onnxruntime": {**arm(0.004, 0), "metrics": {"mae": 3.0}, "lost_of": "answers"},
    }
    assert statuses(backend_fronts(arms, MAE, "val", "1")[0])["onnxruntime"] == "dominated"


def test_a_metric_of_the_user_s_is_drawn_as_its_record_says(tmp_path: Path) -> None:
    """By its name alone, `errors` would be taken for a metric of which more is better."""
    run = write_run(tmp_path / "run", summary(), config(7))
    (run / "bench").mkdir()
    told = {"task": {"name": "mine", "metrics": as_recorded({"errors": Display("wrong answers", "min", digits=1)})}}
    arms = [
        {"backend": name, **arm(p50, 0, lost=(0.0, 0.0)), "metrics": {"errors": errors}, "lost_of": "answers"}
        for name, p50, errors in (("eager", 0.004, 20.0), ("onnxruntime", 0.001, 40.0))
    ]
    options = {"threads": 1, "batch_sizes": [1], "max_drop": 0.5}
    written(run / "bench", record(arms=arms, options=options, **told))
    section, problem = deployment(run / "bench")
    assert section
    assert not problem
    latency = section["figures"][0]
    assert {mark["label"]: mark["status"] for mark in latency["marks"]} == {
        "eager": "on the front",
        "onnxruntime": "on the front",
    }
    assert latency["panel"]["title"] == "val wrong answers against latency"
    assert [row[-2] for row in section["rows"]] == ["20.0", "40.0"]


def test_the_page_of_one_run_draws_its_backends(tmp_path: Path) -> None:
    run = write_run(tmp_path / "my run", summary(), config(7))
    (run / "bench").mkdir()
    eager, other = arm(0.004, 0.8, 400, (0.0, 0.0)), arm(0.001, 0.79, 300, (0.2, 1.8))
    arms = [{"backend": "eager", **eager}, {"backend": "onnxruntime", **other}]
    written(run / "bench", record(arms=arms, options={"threads": 1, "batch_sizes": [1], "max_drop": 0.5}))
    page = page_of(tmp_path / "report.html", run)
    for text in ("val accuracy against latency", "val accuracy against size", "on the front"):
        assert text in page.text


def test_a_difference_by_rounding_is_none() -> None:
    none = {"lost_of": "answers"}
    arms = {
        "eager": {**arm(0.004, 0), "metrics": {"mae": 2.0000001}, **none},
        "onnxruntime": {**arm(0.001, 0), "metrics": {"mae": 2.0000002}, **none},
    }
    assert statuses(backend_fronts(arms, MAE, "val", "1")[0])["eager"] == "perhaps dominated"


@pytest.mark.parametrize("p50", [0.0, -1.0])
def test_a_latency_that_is_no_time_is_an_error(p50: float) -> None:
    with pytest.raises(ValueError, match="no time"):
        backend_fronts({"eager": arm(p50, 0.8), "onnxruntime": arm(0.001, 0.8)}, ACC, "val", "1")
