"""What pages and terminals say of compression.json: never faster or slower than the interval allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from effbench.report.before_after import before_after, sentences


def interval(low: float, high: float) -> dict[str, float]:
    return {"estimate": (low + high) / 2, "low": low, "high": high, "n": 5}


def record(**ratios: tuple[float, float]) -> dict[str, Any]:
    """A compression with ratios (low, high) of the latency, by backend."""
    arms = [
        {
            "side": side, "backend": name, "status": "ok", "reason": None, "bytes": 4000 if side == "before" else 1000,
            "batches": {"1": {"latency_s": {"p50": interval(0.001, 0.003), "p99": None}}},
        }
        for side in ("before", "after")
        for name in ratios
    ]  # fmt: skip
    metrics = {"loss": 0.5, "acc": 0.9}
    return {
        "schema_version": 1, "method": "quantize", "options": {"scheme": "auto", "max_drop": 1.8333333333},
        "source": {"run": "../run"}, "file": None, "channels": None, "details": {},
        "before": {"metrics": metrics, "parameters": 5000, "macs": 6000, "zeros": 0},
        "after": {"metrics": {"loss": 0.6, "acc": 0.895}, "parameters": 5000, "macs": 6000, "zeros": None},
        "test": {"split": "test", "samples": 200, "lost": interval(-1.0, 2.0), "lost_of": "accuracy"},
        "speed": {
            "arms": arms, "batch_sizes": [1], "margin": 0.0, "doubts": [], "fastest_ratio": interval(0.5, 0.7),
            "pairs": [{"backend": k, "batch_size": 1, "ratio": interval(*v)} for k, v in ratios.items()],
            "fastest": {"before": next(iter(ratios)), "after": list(ratios)[-1]},
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "margin", "text"),
    [
        (1.1, 1.3, 0.0, "onnxruntime: slower than fp32 on this CPU: 1.20 [1.10, 1.30]"),
        (0.4, 0.6, 0.0, "onnxruntime: 2.00 times as fast: 0.50 [0.40, 0.60]"),
        (0.9, 1.1, 0.0, "onnxruntime: cannot be distinguished from fp32 on this CPU: 1.00"),
        (1.1, 1.3, 0.2, "onnxruntime: cannot be distinguished"),  # the control alone differs by more
        (0.7, 0.9, 0.2, "onnxruntime: cannot be distinguished"),
    ],
)
def test_a_speed_is_claimed_only_where_the_interval_tells(low: float, high: float, margin: float, text: str) -> None:
    found = record(onnxruntime=(low, high))
    found["speed"]["margin"] = margin
    assert any(sentence.startswith(text) for sentence in sentences(found))


def test_what_is_lost_is_told_with_its_interval() -> None:
    assert sentences(record(onnxruntime=(0.5, 0.6)))[0] == (
        "Lost: +0.50 points of test accuracy [-1.00, +2.00], paired on 200 samples."
    )


def test_backends_that_lose_more_than_others_are_named() -> None:
    found = record(onnxruntime=(0.5, 0.6))
    assert not any("Not counted" in sentence for sentence in sentences(found))  # an older record
    found["speed"]["left_out"] = ["after openvino_f32"]
    assert "Not counted as fastest, because others lose less accuracy: after openvino_f32." in sentences(found)


def test_a_metric_that_one_side_has_not_is_a_dash(tmp_path: Path) -> None:
    found = record(onnxruntime=(0.5, 0.6))
    del found["after"]["metrics"]["acc"]
    (tmp_path / "compression.json").write_text(json.dumps(found))
    section, problem = before_after(tmp_path)
    assert (problem, section is None) == ("", False)
    assert section is not None
    assert ["test accuracy", "90.00 %", "-"] in section["rows"]


def test_layers_in_float32_are_named() -> None:
    found = record(onnxruntime=(0.5, 0.6))
    found["details"] = {"scheme": "static", "calibration": 32, "layers": 5, "floating": ["head"]}
    assert "Scheme static, ranges from 32 training samples; 1 of 5 layers stay in float32: head." in sentences(found)
    found["details"] = {"scheme": "dynamic", "calibration": None, "layers": 5, "floating": []}
    said = "Scheme dynamic; all 5 products, embeddings and LSTMs in 8 bits; convolutions stay in float32."
    assert said in sentences(found)


def test_the_fastest_backends_are_compared_where_they_differ() -> None:
    assert not any("Fastest" in text for text in sentences(record(onnxruntime=(0.5, 0.6))))
    found = sentences(record(openvino_f32=(0.9, 1.0), onnxruntime=(0.5, 0.6)))
    assert "Fastest before: openvino_f32; fastest after: onnxruntime, 0.60 [0.50, 0.70] of its time." in found


def test_a_page_shows_before_beside_after(tmp_path: Path) -> None:
    (tmp_path / "compression.json").write_text(json.dumps(record(onnxruntime=(0.5, 0.6))))
    found, problem = before_after(tmp_path)
    assert (found is not None, problem) == (True, "")
    assert found is not None
    assert found["lead"] == "method=quantize, scheme=auto, max_drop=1.833; of ../run"
    rows = {row[0]: row[1:] for row in found["rows"]}
    assert rows["test accuracy"] == ["90.00 %", "89.50 %"]
    assert rows["file for onnxruntime"] == ["4 kB", "1 kB"]
    assert rows["p50, batch 1, onnxruntime"] == ["2.00 ms", "2.00 ms"]
    assert "of them zero" not in rows


def test_a_run_that_was_not_compressed_has_no_section(tmp_path: Path) -> None:
    assert before_after(tmp_path) == (None, "")


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"schema_version": 1, "method": "quantize"}', '{"schema_version": 9}']
)
def test_a_damaged_record_is_a_remark(text: str, tmp_path: Path) -> None:
    (tmp_path / "compression.json").write_text(text)
    found, problem = before_after(tmp_path)
    assert found is None
    assert "compression.json" in problem


def test_numbers_of_weights_before_further_training_are_said(tmp_path: Path) -> None:
    kept = {**record(onnxruntime=(0.5, 0.6)), "checkpoint": "step-00000009"}
    (tmp_path / "compression.json").write_text(json.dumps(kept))
    (tmp_path / "checkpoints").mkdir()
    best = tmp_path / "checkpoints" / "best"
    for name, said in (("step-00000009", False), ("step-00000012", True)):
        best.unlink(missing_ok=True)
        best.symlink_to(name)
        section, wrong = before_after(tmp_path)
        assert section is not None
        assert not wrong
        found = [note for note in section["notes"] if "trained further" in note]
        assert bool(found) == said
    assert found == [
        "These numbers are of step-00000009; the run was trained further, and its best is step-00000012 now."
    ]


def test_data_that_changed_since_the_training_are_a_doubt() -> None:
    found = record(onnxruntime=(0.5, 0.6))
    assert not any("another sha256" in line for line in sentences(found))
    found["test"]["same_data"] = False
    assert any("the data have changed since the training" in line for line in sentences(found))
