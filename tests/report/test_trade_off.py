"""Deployment of several runs: their records, what no other run beats, machines apart, damaged and hostile records.

White-box: which of two runs is better is asked directly.
"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from effbench.report.html import as_data, view, write_html
from effbench.report.measured import measured
from effbench.report.trade_off import TradeOff, sentences, trade_offs
from effbench.report.trade_off_table import figures_of, table_of, trade_off_csv, trade_off_sheet
from effbench.stats import share_interval
from tests.report.pages import Page, config, read, summary, write_run

ENVIRONMENT = {"cpu": "Z80", "cpu_capability": "AVX2", "bf16": False, "torch": "2.14", "onnxruntime": "1.32"}
SAMPLES = 10_000


def interval(value: float, spread: float = 1.02) -> dict[str, Any]:
    return {"estimate": value, "low": value / spread, "high": value * spread, "n": 5}


def arm(backend: str, p50: float, size: int, spread: float = 1.02) -> dict[str, Any]:
    return {
        "backend": backend, "status": "ok", "bytes": size, "metrics": {"acc": 0.5}, "parity": {"samples": 512},
        "batches": {"1": {"latency_s": {"p50": interval(p50, spread)}}},
    }  # fmt: skip


def bench(p50: float, size: int, spread: float = 1.02, **changes: Any) -> dict[str, Any]:
    """A record in which ONNX Runtime takes `p50` and eager ten times as long."""
    return {
        "schema_version": 1, "options": {"threads": 1}, "margin": 0.0, "environment": ENVIRONMENT,
        "arms": [arm("eager", 10 * p50, 2 * size), arm("onnxruntime", p50, size, spread)],
        "verdicts": {"single_stream": {"best": "onnxruntime"}, "offline": None}, **changes,
    }  # fmt: skip


def compression(before: str, p50: tuple[float, float], size: int, lost: tuple[float, float]) -> dict[str, Any]:
    """A record with p50 before and after, and what was lost, in points."""
    arms = [
        {**arm("onnxruntime", each, size), "side": side} for side, each in zip(("before", "after"), p50, strict=True)
    ]
    points = {"estimate": sum(lost) / 2, "low": lost[0], "high": lost[1], "n": SAMPLES}
    fastest = {"before": "onnxruntime", "after": "onnxruntime"}
    return {
        "schema_version": 1, "method": "quantize", "options": {"scheme": "auto"}, "source": {"run": before},
        "test": {"split": "test", "samples": SAMPLES, "lost": points, "lost_of": "accuracy"},
        "speed": {"arms": arms, "batch_sizes": [1], "threads": 1, "margin": 0.0, "fastest": fastest,
                  "environment": ENVIRONMENT},
    }  # fmt: skip


def run(folder: Path, accuracy: float, lr: float = 0.1, **records: Any) -> Path:
    """A run with this test accuracy; records: bench and compression as in their files."""
    data = {"name": "fashion", "sha256": "ab", "counts": {"train": 5, "val": 5, "test": SAMPLES}}
    metrics = {"test/acc": accuracy, "test/loss": 0.1, "val/acc": 0.5}
    write_run(folder, summary(metrics=metrics, data=data), config(optimizer={"lr": lr}))
    if "bench" in records:
        (folder / "bench").mkdir()
        (folder / "bench" / "bench.json").write_text(json.dumps(records["bench"]))
    if "compression" in records:
        (folder / "compression.json").write_text(json.dumps(records["compression"]))
    return folder


def found(folder: Path) -> TradeOff:
    [one], problems = trade_offs(read(folder))
    assert problems == []
    return one


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A large run, a small one, and one that is slower, larger and worse than the small one."""
    run(tmp_path / "runs" / "large", 0.9, 0.1, bench=bench(0.004, 4_000_000))
    run(tmp_path / "runs" / "small", 0.8, 0.2, bench=bench(0.001, 1_000_000))
    run(tmp_path / "runs" / "poor", 0.7, 0.3, bench=bench(0.002, 2_000_000))
    return tmp_path / "runs"


def test_the_fastest_backend_and_the_test_split_count(three: Path) -> None:
    one = found(three)
    assert [row.run.name for row in one.rows] == ["small", "poor", "large"]
    small = one.rows[0]
    assert (small.found.backend, small.found.p50.estimate, small.found.bytes) == ("onnxruntime", 0.001, 1_000_000)
    assert small.quality == share_interval(8000, SAMPLES)
    assert (one.split, one.metric) == ("test", "acc")


def test_what_no_other_run_beats_is_joined_and_named(three: Path) -> None:
    one = found(three)
    latency, size = one.fronts
    assert (latency.cost, size.cost) == ("latency", "size")
    assert latency.joined == size.joined == ["small", "large"]
    assert {point.arm: point.status for point in latency.points} == {
        "small": "on the front", "poor": "dominated", "large": "on the front",
    }  # fmt: skip
    assert sentences(one)[:2] == [
        "No run beats small or large in both accuracy and latency.",
        "No run beats small or large in both accuracy and size.",
    ]
    drawn = figures_of(one)
    assert len(drawn) == 2
    places = {mark.label: f"{mark.x},{mark.y}" for mark in drawn[0].marks}
    assert drawn[0].guides == [f"{places['small']} {places['large']}"]


def test_overlapping_intervals_are_said_to_be_no_difference(tmp_path: Path) -> None:
    run(tmp_path / "a", 0.800, 0.1, bench=bench(0.0010, 1000))
    run(tmp_path / "b", 0.801, 0.2, bench=bench(0.0011, 2000, spread=1.2))
    one = found(tmp_path)
    latency, size = one.fronts
    assert latency.joined == ["a", "b"]  # by their estimates
    assert [(set(pair[:2]), pair[2]) for pair in latency.undecided] == [({"a", "b"}, ("quality", "latency"))]
    assert [(set(pair[:2]), pair[2]) for pair in size.undecided] == [({"a", "b"}, ("quality",))]
    told = sentences(one)
    assert re.fullmatch(
        "Of these, not distinguished from each other: (a and b|b and a) in accuracy and latency.", told[1]
    )


def test_a_doubtful_measurement_has_wider_intervals(tmp_path: Path) -> None:
    run(tmp_path / "a", 0.9, 0.1, bench=bench(0.0010, 1000))
    run(tmp_path / "b", 0.8, 0.2, bench=bench(0.0012, 2000, margin=0.0))
    assert {point.arm: point.status for point in found(tmp_path).fronts[0].points}["b"] == "dominated"
    run(tmp_path / "c", 0.8, 0.3, bench=bench(0.0012, 2000, margin=0.3))
    one = found(tmp_path)
    assert {point.arm: point.status for point in one.fronts[0].points}["c"] == "perhaps dominated"
    assert any("by up to 30 %" in text for text in sentences(one))


@pytest.mark.parametrize("link", ["best", "last"])  # checkpoint.save_top_k=0 keeps the last one alone
@pytest.mark.parametrize("best", ["step-00000009", "step-00000012"])
def test_what_was_lost_is_not_told_of_later_weights(best: str, link: str, tmp_path: Path) -> None:
    """A pruned run may be trained further; its latency and size stay."""
    record = {**compression("../dense", (0.004, 0.001), 1000, (0.02, 0.18)), "checkpoint": "step-00000009"}
    record["speed"]["arms"][1]["metrics"] = {"acc": 0.5}
    folder = run(tmp_path / "pruned", 0.899, compression=record)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / link).symlink_to(best)
    one, lost, problems = measured([folder])
    same = best == "step-00000009"
    assert (folder in lost, problems) == (same, [])
    [after] = one[folder]
    assert (after.p50.estimate, after.bytes) == (0.001, 1000)
    assert dict(after.metrics) == ({"acc": 0.5} if same else {})


def has_weights(folder: Path, digest: str) -> None:
    """Give a run a best checkpoint whose manifest states this digest."""
    saved = folder / "checkpoints" / "best"
    saved.mkdir(parents=True)
    (saved / "manifest.json").write_text(json.dumps({"sha256": {"model.safetensors": digest}}))


@pytest.mark.parametrize("now", ["ab" * 32, "cd" * 32, ""])
def test_what_was_lost_is_not_told_of_a_run_trained_since(now: str, tmp_path: Path) -> None:
    """The run before was resumed: neither the loss nor its metrics are of the weights that it has."""
    record = compression("../dense", (0.004, 0.001), 1000, (0.02, 0.18))
    record["source"] |= {"checkpoint": {"name": "best", "step": 9}, "weights_sha256": "ab" * 32}
    dense, int8 = run(tmp_path / "dense", 0.90), run(tmp_path / "int8", 0.899, compression=record)
    if now:
        has_weights(dense, now)
    one, lost, problems = measured([dense, int8])
    same = now != "cd" * 32  # without its checkpoints nothing is known
    assert (int8 in lost, problems) == (same, [])
    [before], [after] = one[dense], one[int8]
    assert before.p50.estimate == 0.004
    assert (dict(before.metrics), before.samples) == (({"acc": 0.5}, 512) if same else ({}, 0))
    assert after.metrics == {"acc": 0.5}


@pytest.mark.parametrize("now", ["ab" * 32, "cd" * 32])
def test_metrics_of_bench_are_not_told_of_later_weights(now: str, tmp_path: Path) -> None:
    """Latency and size stay."""
    old = {"checkpoint": {"name": "best", "step": 9}, "weights_sha256": "ab" * 32}
    folder = run(tmp_path / "a", 0.9, bench=bench(0.001, 1000, **old))
    has_weights(folder, now)
    [one] = measured([folder])[0][folder]
    assert (one.p50.estimate, one.bytes) == (0.001, 1000)
    assert dict(one.metrics) == ({"acc": 0.5} if now == "ab" * 32 else {})


@pytest.mark.parametrize("digest", ["ab", "cd"])
def test_metrics_of_bench_are_not_told_of_other_data(digest: str, tmp_path: Path) -> None:
    """Latency and size stay."""
    folder = run(tmp_path / "a", 0.9, bench=bench(0.001, 1000, data={"name": "photos", "sha256": digest}))
    [one] = measured([folder])[0][folder]
    assert (one.p50.estimate, one.bytes) == (0.001, 1000)
    assert (dict(one.metrics), one.samples) == (({"acc": 0.5}, 512) if digest == "ab" else ({}, 0))


def test_a_run_only_compressed_is_measured_by_its_result(tmp_path: Path) -> None:
    run(tmp_path / "dense", 0.90)
    run(tmp_path / "int8", 0.899, compression=compression("../dense", (0.004, 0.001), 1000, (0.02, 0.18)))
    one = found(tmp_path)
    assert [(row.run.name, row.found.p50.estimate) for row in one.rows] == [("int8", 0.001), ("dense", 0.004)]
    # 0.1 points are within both intervals, but not paired by sample
    assert not one.fronts[0].undecided
    assert one._better("dense", "int8") == 1
    (tmp_path / "dense" / "bench").mkdir()
    (tmp_path / "dense" / "bench" / "bench.json").write_text(json.dumps(bench(0.003, 4000)))
    assert found(tmp_path).rows[1].found.p50.estimate == 0.003  # its own record comes first


def test_other_machines_threads_and_versions_have_an_axis_each(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {}, {}, {"options": {"threads": 2}}, {"environment": {**ENVIRONMENT, "cpu": "6502"}},
        {"environment": {**ENVIRONMENT, "onnxruntime": "1.30"}},
    ]  # fmt: skip
    for number, change in enumerate(changes):
        run(
            tmp_path / f"r{number}",
            0.8 + number / 100,
            number,
            bench=bench(0.001 * (number + 1), 1000 + number, **change),
        )
    one = found(tmp_path)
    assert len(one.machines) == 4
    assert [row.machine for row in one.rows if row.run.name in ("r0", "r1")] == [1, 1]
    # a latency front needs two runs on one machine; sizes do not depend on it
    assert [(each.cost, each.machine, len(each.points)) for each in one.fronts] == [
        ("latency", 1, 2),
        ("size", None, 5),
    ]
    [text] = [text for text in sentences(one) if "machines" in text]
    assert text.startswith("Measured on 4 machines, or with other threads or versions; their latencies have axes")
    assert "Z80 (AVX2, no bfloat16), 1 thread, torch 2.14, onnxruntime 1.32" in text
    assert "on" in table_of(one, {})["heads"]


def test_a_run_alone_on_its_machine_is_compared_with_none(tmp_path: Path) -> None:
    other = {"environment": {**ENVIRONMENT, "cpu": "6502"}}
    for number, change in enumerate(({}, {}, other)):
        run(tmp_path / f"r{number}", 0.8, number, bench=bench(0.001 * (number + 1), 1000, **change))
    rows = {row["run"]: row for row in csv.DictReader(io.StringIO(trade_off_csv([found(tmp_path)])))}
    assert [rows[name]["latency_unbeaten"] for name in ("r0", "r1", "r2")] == ["True", "False", ""]
    assert [rows[name]["latency_status"] for name in ("r0", "r2")] == ["on the front", ""]


def test_an_impossible_accuracy_is_named_and_beats_no_run(tmp_path: Path) -> None:
    run(tmp_path / "a", 0.9, 0.1, bench=bench(0.002, 2000))
    run(tmp_path / "b", 0.8, 0.2, bench=bench(0.001, 1000))
    run(tmp_path / "c", 2.0, 0.3, bench=bench(0.0001, 100))
    [one], [(wrong, text)] = trade_offs(read(tmp_path))
    assert set(one.qualities) == {"a", "b"}
    assert (wrong.name, text) == ("c", "test/acc must be a share from 0 to 1; got 2. Evaluate the run again.")


def test_a_record_without_versions_is_named(tmp_path: Path) -> None:
    without = {key: value for key, value in ENVIRONMENT.items() if key != "onnxruntime"}
    run(tmp_path / "old", 0.9, 0.1, bench=bench(0.002, 2000, environment=without))
    run(tmp_path / "new", 0.8, 0.2, bench=bench(0.001, 1000))
    one = found(tmp_path)
    assert len(one.machines) == 1
    assert "The version of the runtime is not in the record of old." in sentences(one)


def test_other_data_metrics_and_single_runs_are_not_compared(tmp_path: Path) -> None:
    run(tmp_path / "a", 0.9, bench=bench(0.002, 2000))
    assert trade_offs(read(tmp_path)) == ([], [])
    other = summary(data={"name": "fashion", "sha256": "other", "counts": {"test": 9}})
    write_run(tmp_path / "b", other)
    (tmp_path / "b" / "bench").mkdir()
    (tmp_path / "b" / "bench" / "bench.json").write_text(json.dumps(bench(0.001, 1000)))
    assert trade_offs(read(tmp_path)) == ([], [])


def test_without_a_test_the_validation_samples_of_bench_count(tmp_path: Path) -> None:
    for name in "ab":
        folder = run(tmp_path / name, 0.9, ord(name), bench=bench(0.001, 1000))
        content = summary(metrics={"val/acc": 0.9}, data={"name": "f", "sha256": "ab", "counts": {"val": 600}})
        (folder / "summary.json").unlink()
        (folder / "summary.json").write_text(json.dumps({"schema_version": 1, **content}))
    one = found(tmp_path)
    assert (one.split, one.rows[0].quality) == ("val", share_interval(256, 512))


def test_a_metric_without_interval_is_compared_by_estimates(tmp_path: Path) -> None:
    for name, value in (("a", 2.0), ("b", 1.0)):
        task = {"name": "regression", "metrics": {"rmse": {"title": "RMSE", "mode": "min"}}}
        data = {"name": "f", "sha256": "ab", "counts": {"test": 50}}
        folder = tmp_path / name
        write_run(folder, summary(metrics={"test/rmse": value}, task=task, data=data), config(optimizer={"lr": value}))
        (folder / "bench").mkdir()
        (folder / "bench" / "bench.json").write_text(json.dumps(bench(value / 1000, 1000)))
    one = found(tmp_path)
    assert [each.joined for each in one.fronts] == [["b"], ["b"]]  # the smaller error
    assert "No interval of the RMSE is known: estimates are compared." in sentences(one)


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", "3", '{"schema_version": 9}', '{"schema_version": 1}', "[" * 100_000,
        bench(0.001, 1000, arms=[]), bench(-1.0, 1000), bench(0.001, -5), bench(0.001, 10**30), bench(1e200, 1),
        bench(0.001, 1000, margin="x"), bench(0.001, 1000, environment=None), bench(0.001, 1000, options={}),
        bench(0.001, 1000, margin=float("nan")), bench(float("nan"), 1000),
    ],
    ids=range(16),
)  # fmt: skip
def test_a_damaged_record_is_a_problem_and_no_traceback(content: Any, tmp_path: Path) -> None:
    folder = run(tmp_path / "bad", 0.9, 0.1, bench={})
    (folder / "bench" / "bench.json").write_text(content if isinstance(content, str) else json.dumps(content))
    run(tmp_path / "a", 0.8, 0.2, bench=bench(0.001, 1000))
    run(tmp_path / "b", 0.7, 0.3, bench=bench(0.002, 2000))
    [one], problems = trade_offs(read(tmp_path))
    assert {row.run.name for row in one.rows} == {"a", "b"}
    assert [run.name for run, _ in problems] == ["bad"]
    assert "bench.json" in problems[0][1]


def test_a_candidate_of_an_interrupted_search_is_no_problem(tmp_path: Path) -> None:
    untested = compression("../before", (0.004, 0.001), 100, (0.0, 0.0))
    del untested["test"]
    run(tmp_path / "it", 0.8, compression=untested)
    assert trade_offs(read(tmp_path)) == ([], [])


def test_a_record_without_a_winner_at_batch_1_is_left_out(tmp_path: Path) -> None:
    run(tmp_path / "a", 0.8, 0.2, bench=bench(0.001, 1000, verdicts={"single_stream": None, "offline": None}))
    run(tmp_path / "b", 0.7, 0.3, bench=bench(0.002, 2000))
    assert trade_offs(read(tmp_path)) == ([], [])


@pytest.mark.slow
def test_the_page_has_a_table_and_figures_of_the_trade_off(three: Path, tmp_path: Path) -> None:
    records = read(three)
    deployed, damaged = trade_offs(records)
    content = view(records, tmp_path / "report.html", (), deployed, damaged)
    write_html(content, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert "Deployment: fashion, test acc against latency and size" in page.text
    assert "No run beats small or large in both accuracy and latency." in page.text
    assert "perhaps dominated" in page.text
    sections = {f"#{attributes['id']}" for _, attributes in page.elements if "id" in attributes}
    assert all(link["href"] in sections for link in page.of("a") if str(link["href"]).startswith("#"))


def test_csv_and_json_have_a_row_a_run(three: Path) -> None:
    records = read(three)
    deployed, _ = trade_offs(records)
    rows = list(csv.DictReader(io.StringIO(trade_off_csv(deployed))))
    first = rows[0]
    assert (first["run"], first["p50_s"], first["bytes"]) == ("small", "0.001", "1000000")
    assert [row["latency_unbeaten"] for row in rows] == ["True", "False", "True"]
    assert [row["size_status"] for row in rows] == ["on the front", "dominated", "on the front"]
    [one] = as_data(records, deployed)["deployments"]
    assert [row["run"] for row in one["rows"]] == ["small", "poor", "large"]
    assert trade_off_sheet(deployed) is not None
    assert trade_off_sheet([]) is None


def test_a_name_that_a_spreadsheet_would_run_is_text(tmp_path: Path) -> None:
    run(tmp_path / "runs" / "=1+1", 0.8, 0.2, bench=bench(0.001, 1000))
    run(tmp_path / "runs" / "b", 0.7, 0.3, bench=bench(0.002, 2000))
    rows = list(csv.DictReader(io.StringIO(trade_off_csv(trade_offs(read(tmp_path / "runs"))[0]))))
    assert rows[0]["run"] == "'=1+1"


def test_many_runs_with_long_names_are_numbered_in_figures(tmp_path: Path) -> None:
    for number in range(30):
        name = f"a-run-with-a-name-too-long-{number:02d}"
        run(tmp_path / name, 0.5 + number / 100, number, bench=bench(0.001 * (number + 1), 1000 + number))
    one = found(tmp_path)
    [latency, _] = figures_of(one)
    assert [mark.label for mark in latency.marks][:2] == ["#1", "#2"]
    assert len(latency.marks) == 24
    assert table_of(one, {})["drawn"] == "Drawn: the first 24 rows."
