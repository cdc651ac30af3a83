"""The section "Deployment" of a run's page, from bench.json: what it says, and files that are damaged or hostile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from effbench.bench.table import print_record
from effbench.report.deployment import deployment, latency_figure, sentences
from tests.report.pages import summary, write_run


def interval(estimate: float, spread: float = 1.1) -> dict[str, float]:
    return {"estimate": estimate, "low": estimate / spread, "high": estimate * spread, "n": 3}


def batches(seconds: float) -> dict[str, Any]:
    found = {}
    for size in (1, 8):
        latency = dict.fromkeys(("mean", "p50", "p90", "p95"), interval(seconds * size))
        found[str(size)] = {
            "latency_s": {**latency, "p99": None}, "samples_per_s": interval(1 / seconds), "load_s": 0.5,
            "peak_bytes": 10**8, "others_seen": 0.25, "calls": 300,
        }  # fmt: skip
    return found


def record(**changed: Any) -> dict[str, Any]:
    lost = {"estimate": 0.0, "low": -0.5, "high": 0.5, "n": 512}
    ok = {"status": "ok", "reason": None, "bytes": 10**6, "metrics": {"acc": 0.8}, "lost": lost, "notes": []}
    gain = {**interval(4.0), "n": 3}
    verdict = {
        "scenario": "single_stream", "winner": "onnxruntime", "best": "onnxruntime", "batch_size": 1,
        "not_distinguished": [], "margin": 0.0, "reference": "eager", "gain": gain,
    }  # fmt: skip
    tie = {**verdict, "scenario": "offline", "winner": None, "not_distinguished": ["eager"], "batch_size": 8}
    return {
        "schema_version": 1, "model": {"name": "mlp"}, "unit": "image", "split": "val", "no_accuracy": None,
        "options": {"threads": 1, "batch_sizes": [1, 8], "max_drop": 0.5},
        "arms": [
            {"backend": "eager", **ok, "batches": batches(0.004)},
            {"backend": "onnxruntime", **ok, "batches": batches(0.001)},
            {"backend": "openvino_bf16", "status": "failed", "reason": "no arithmetic in bfloat16"},
        ],
        "control": {"backend": "eager", "bound": 0.05, "ratio": {"1": interval(1.01)}}, "drift": 1.02, "margin": 0.0,
        "doubts": [], "verdicts": {"single_stream": verdict, "offline": tie}, "environment": {"cpu": "a processor"},
        **changed,
    }  # fmt: skip


def written(folder: Path, content: Any) -> Path:
    (folder / "bench.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_the_section_has_a_row_a_backend_and_reasons_below(tmp_path: Path) -> None:
    found, problem = deployment(written(tmp_path, record()))
    assert problem == ""
    assert found is not None
    assert [row[:2] for row in found["rows"]] == [["eager", "4.00 ms"], ["onnxruntime", "1.00 ms"]]
    assert found["rows"][1][-2:] == ["80.00 %", "+0.00"]
    assert found["notes"][0] == "openvino_bf16: no arithmetic in bfloat16"
    titles = [each["panel"]["title"] for each in found["figures"]]
    assert titles == ["ms an image, by powers of ten", "val accuracy against latency"]  # both have one file


def test_a_metric_that_a_backend_has_not_is_left_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = record(sample_shape=[3])
    changed["arms"][1] = {**changed["arms"][1], "metrics": {"loss": 0.5}}
    for arm in changed["arms"]:
        arm["parity"] = {"relative": 0.0, "agreement": 1.0}
    changed["options"]["rounds"] = 3
    found, problem = deployment(written(tmp_path, changed))
    assert problem == ""
    assert found is not None
    assert [row[-2] for row in found["rows"]] == ["80.00 %", ""]
    monkeypatch.setenv("COLUMNS", "80")
    print_record(changed)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines if "+0.00" in line] == ["80.00", "-"]


def test_sentences_name_the_winner_or_say_why_there_is_none() -> None:
    first, second, *_ = sentences(record())
    assert first.startswith("Least latency at batch 1 (single stream): onnxruntime, 4.00 times as fast as eager")
    assert "distinguished" not in first
    assert "cannot be distinguished from eager" in second
    doubtful = sentences(record(doubts=["the same backend measured twice differs by 30 % at batch 1"], margin=0.3))
    assert any("no winner is named that leads by less than 30 %" in text for text in doubtful)
    without = sentences(record(no_accuracy="the weights are untrained"))
    assert any("Accuracy is not reported: the weights are untrained" in text for text in without)


def test_a_backend_over_the_bound_is_said_to_be_left_out() -> None:
    changed = record()
    changed["arms"][1]["lost"]["estimate"] = 0.6
    # both arms share the planted mapping
    changed["arms"][0]["lost"] = {"estimate": 0.0, "low": 0.0, "high": 0.0, "n": 512}
    [text] = [text for text in sentences(changed) if text.startswith("Left out")]
    assert text.endswith("onnxruntime.")


def test_the_control_is_told_with_its_ratio() -> None:
    said = "Control: eager was measured twice; ratio 1.010 [0.918, 1.111] at batch 1. Largest change of a fixed"
    assert any(text.startswith(said) for text in sentences(record()))
    failed = record()
    failed["control"]["ratio"] = {}
    assert any("Control: eager could not be measured a second time." in text for text in sentences(failed))


@pytest.mark.parametrize(("of", "head"), [("accuracy", "points lost"), ("answers", "answers changed %")])
def test_what_has_no_accuracy_loses_no_points(
    of: str, head: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = record(sample_shape=[3])
    for arm in changed["arms"]:
        arm |= {"lost_of": of, "parity": {"relative": 0.0, "agreement": 1.0}}
    changed["arms"][1]["lost"] = {"estimate": 0.6, "low": 0.0, "high": 1.0, "n": 512}
    changed["options"]["rounds"] = 3
    found, _ = deployment(written(tmp_path, changed))
    assert found is not None
    assert found["heads"][-1] == head
    [left_out] = [text for text in sentences(changed) if text.startswith("Left out")]
    assert ("at most 0.5 points" in left_out) is (of == "accuracy")
    assert ("at most 0.5 % of the answers" in left_out) is (of == "answers")
    print_record(changed)
    assert ("changed %" in capsys.readouterr().out) is (of == "answers")


def test_the_figure_has_a_line_for_each_measured_backend() -> None:
    found = latency_figure(record())
    assert found is not None
    assert [line.label for line in found.panel.lines] == ["eager", "onnxruntime"]
    one = record()
    for arm in one["arms"][:2]:
        del arm["batches"]["8"]
    assert latency_figure(one) is None


def checkpoint(run: Path, name: str, **digests: str) -> None:
    folder = run / "checkpoints" / name
    folder.mkdir(parents=True)
    files = {f"{file}.safetensors": digest for file, digest in digests.items()}
    (folder / "manifest.json").write_text(json.dumps({"format": 2, "step": 4, "sha256": files}))


@pytest.mark.parametrize(
    ("facts", "other"),
    [
        ({"weights_sha256": "a1"}, False),
        ({"weights_sha256": "b2"}, True),
        ({}, False),  # of an older effbench
        ({"weights_sha256": "b2", "checkpoint": {"name": "gone", "step": 4}}, False),
        ({"weights_sha256": "b2", "checkpoint": {"name": "../checkpoints/best", "step": 4}}, False),
    ],
)
def test_numbers_of_weights_that_are_gone_say_so(facts: dict[str, Any], other: bool, tmp_path: Path) -> None:
    """The averaged weights are those that the run answers with."""
    (tmp_path / "bench").mkdir()
    checkpoint(tmp_path, "step-00000009", model="x0", ema="a1")
    (tmp_path / "checkpoints" / "best").symlink_to("step-00000009")
    content = record(**{"checkpoint": {"name": "best", "step": 4}, **facts})
    found, problem = deployment(written(tmp_path / "bench", content))
    assert problem == ""
    assert found is not None
    text = "These numbers are of step 4, and checkpoint best has other weights now. Measure again: effbench bench"
    assert (f"{text} {tmp_path}" in found["notes"]) is other
    assert len([note for note in found["notes"] if note.startswith("These numbers")]) == int(other)


@pytest.mark.parametrize(
    ("facts", "other"),
    [
        ({"data": {"name": "fashion", "sha256": "ab"}}, False),
        ({"data": {"name": "photos", "sha256": "cd"}}, True),
        ({}, False),  # of an older effbench
    ],
)
def test_metrics_of_other_data_say_so(facts: dict[str, Any], other: bool, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", summary())
    (run / "bench").mkdir()
    found, problem = deployment(written(run / "bench", record(**facts)))
    assert problem == ""
    assert found is not None
    said = "Metrics, and what is lost, are of other data (photos) than the run's. For the run's own, measure again:"
    assert (f"{said} effbench bench {run}" in found["notes"]) is other
    assert len([note for note in found["notes"] if "other data" in note]) == int(other)


def test_without_bench_json_there_is_no_section(tmp_path: Path) -> None:
    assert deployment(tmp_path) == (None, "")


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", "3", '{"schema_version": 1}', '{"schema_version": 9}', "[" * 100_000,
        record(arms=3), record(arms=[3]), record(verdicts=None), record(options={}), record(model=None),
        record(drift="x"), record(arms=[{"backend": "a", "status": "ok", "batches": {"1": {}}}]),
    ],
    ids=range(13),
)  # fmt: skip
def test_a_damaged_record_is_a_problem_and_no_traceback(content: Any, tmp_path: Path) -> None:
    found, problem = deployment(written(tmp_path, content))
    assert found is None
    assert "bench.json" in problem


@pytest.mark.parametrize("value", [0.0, -1.0, 1e400, 10**400, float("nan"), None, "x"])
def test_impossible_times_are_damage(value: Any, tmp_path: Path) -> None:
    changed = record()
    changed["arms"][0]["batches"]["8"]["latency_s"] = {"mean": {"estimate": value, "low": value, "high": value}}
    text = json.dumps(changed)
    found, problem = deployment(written(tmp_path, text))
    assert found is None
    assert "bench.json" in problem


def test_a_link_to_another_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "private.json").write_text(json.dumps(record()))
    (tmp_path / "bench.json").symlink_to(tmp_path / "private.json")
    found, problem = deployment(tmp_path)
    assert found is None
    assert "link" in problem
