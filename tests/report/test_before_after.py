"""What pages and terminals say of compression.json: never faster or slower than the interval allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from effbench.report.before_after import before_after, card_lines, search_sentences, sentences


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


@pytest.mark.parametrize(
    ("tested", "judged", "doubts"),
    [
        ("test", "val", []),
        ("val", "val", ["what is lost is told of validation samples, which chose the result too"]),
        ("test", "train", ["max_drop=1.83333 was judged on training samples"]),
        ("train", "train", ["what is lost is told of training samples", "max_drop=1.83333 was judged on training"]),
        ("train", None, []),  # an older record
    ],
)
def test_samples_that_chose_the_result_are_a_doubt(tested: str, judged: str | None, doubts: list[str]) -> None:
    found = record(onnxruntime=(0.5, 0.6))
    found["test"]["split"] = tested
    found["validation"] = {"drop": 0.1, "of": "points of accuracy", "split": judged}
    said = [text for text in sentences(found) if text.startswith("Doubt")]
    assert len(said) == len(doubts)
    assert all(text.startswith(f"Doubt: {start}") for text, start in zip(said, doubts, strict=True))


@pytest.mark.parametrize(
    ("measured", "judged", "split"), [("train", "val", "train"), (None, "train", "train"), (None, None, "val")]
)
def test_the_figure_names_the_split_of_its_answers(
    measured: str | None, judged: str | None, split: str, tmp_path: Path
) -> None:
    """Records of before 2026-12 do not say it, but may say of which samples the bound was judged."""
    found = record(onnxruntime=(0.5, 0.6))
    found |= {"validation": {"split": judged, "of": "points of accuracy"}}
    found["speed"] |= {"split": measured}
    for arm in found["speed"]["arms"]:
        arm["metrics"] = {"loss": 0.5, "acc": 0.9}
    (tmp_path / "compression.json").write_text(json.dumps(found))
    section, problem = before_after(tmp_path)
    assert problem == ""
    assert section is not None
    # both have one latency, and so one point against it
    assert [each["panel"]["title"] for each in section["figures"]] == [f"{split} accuracy against size"]


def test_backends_that_lose_more_than_others_are_named() -> None:
    found = record(onnxruntime=(0.5, 0.6))
    assert not any("Not counted" in sentence for sentence in sentences(found))  # an older record
    found = record(onnxruntime=(0.5, 0.6), openvino_f32=(0.3, 0.4))
    for arm, lost in zip(found["speed"]["arms"], (0.0, 0.0, 0.5, 3.0), strict=True):
        arm["lost"] = interval(lost - 1, lost + 1)
    found["speed"]["left_out"] = ["after openvino_f32"]
    said = "Not counted as fastest: after openvino_f32, which loses 2.50 points of accuracy more than another one."
    assert said in sentences(found)


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
    assert "p99, batch 1, onnxruntime" not in rows  # of too few calls there is none
    assert "of them zero" not in rows


def test_a_page_shows_the_slowest_hundredth_of_calls(tmp_path: Path) -> None:
    found = record(onnxruntime=(0.5, 0.6))
    found["speed"]["arms"][1]["batches"]["1"]["latency_s"]["p99"] = interval(0.004, 0.006)
    (tmp_path / "compression.json").write_text(json.dumps(found))
    section, _ = before_after(tmp_path)
    assert section is not None
    assert section["rows"][-1] == ["p99, batch 1, onnxruntime", "", "5.00 ms"]


# --- results of a search


def searched(target: str, value: tuple[float, float], met: bool, before: str = "../run", **test: Any) -> dict[str, Any]:
    """A result of `target=` with the ends of its value, and what it lost of the run."""
    found = record(onnxruntime=(0.5, 0.6))
    found["source"]["run"] = before
    part = {"ms": 1e-3, "MB": 1e6}.get(target.split()[-1], 0.25)
    found["search"] = {
        "target": target, "max_drop": 0.5, "met": met, "value": sum(value) / 2, "value_low": value[0],
        "value_high": value[1], "most": 2 * part if " " in target else part, "seconds": 61.3,
        "candidates": [{}, {}, {}],
        "test": {
            "split": "test", "samples": 200, "lost": interval(1.0, 4.0), "lost_of": "accuracy",
            "before": {"loss": 0.5}, "after": {"loss": 0.75}, **test,
        },
    }  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("target", "value", "met", "said"),
    [
        ("latency/4", (0.2, 0.22), True, "target=latency/4 reached: 0.210 of the run's latency [0.200, 0.220]"),
        ("2 ms", (0.001, 0.0016), True, "target=2 ms reached: 1.3 ms [1, 1.6]"),
        ("2 ms", (0.003, 0.004), False, "target=2 ms not reached; this is the nearest: 3.5 ms [3, 4]"),
        ("2 MB", (1e6, 1e6), True, "target=2 MB reached: 1 MB"),
    ],
)
def test_the_page_of_a_search_says_what_was_reached(
    target: str, value: tuple[float, float], met: bool, said: str
) -> None:
    found = search_sentences(searched(target, value, met))
    assert found[0] == f"{said}, after 3 candidates in 61 s."
    assert not any("distinguished" in text for text in found)
    assert "Beside the run: Lost: +2.50 points of test accuracy [+1.00, +4.00], paired on 200 samples." in found
    assert not any("two steps" in text for text in found)


@pytest.mark.parametrize(("value", "met"), [((0.001, 0.0025), True), ((0.0015, 0.005), False)])
def test_a_target_within_the_interval_is_not_distinguished(value: tuple[float, float], met: bool) -> None:
    found = search_sentences(searched("2 ms", value, met))
    assert "The interval contains the target: the result is not distinguished from it." in found


def test_a_result_of_two_steps_says_what_its_table_compares(tmp_path: Path) -> None:
    found = searched("latency/4", (0.2, 0.22), True, before="before", lost_of="answers")
    (tmp_path / "compression.json").write_text(json.dumps(found))
    section, problem = before_after(tmp_path)
    assert problem == ""
    assert section is not None
    first, loss, steps, *rest = section["notes"]
    assert first.startswith("target=latency/4 reached")
    assert loss == "Beside the run: test loss 0.5000 before, 0.7500 after."
    assert "compare the last step, 8 bits, with the pruned run in before/ and not with the run" in steps
    assert rest[0].startswith("Lost: +0.50 points")  # of the pruned run


def test_a_run_that_was_not_compressed_has_no_section(tmp_path: Path) -> None:
    assert before_after(tmp_path) == (None, "")


def test_a_candidate_of_an_interrupted_search_has_no_section(tmp_path: Path) -> None:
    """It is not tested, and the same command goes on with it."""
    untested = record(onnxruntime=(0.5, 0.6))
    del untested["test"]
    (tmp_path / "compression.json").write_text(json.dumps(untested))
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


# --- model cards


def test_a_card_says_how_a_run_was_compressed_and_what_it_lost(tmp_path: Path) -> None:
    found = record(onnxruntime=(0.5, 0.6))
    found["details"] = {"scheme": "static", "calibration": 32, "layers": 5, "floating": []}
    options = {"ratio": 0.5, "lr": None, "distill": True}
    earlier = {"method": "structured", "options": options, "source": {"run": "../dense"}}
    about = {"checkpoint": {"name": "best", "step": 9}, "weights_sha256": "ab12", "compression": earlier}
    found["source"] |= about
    (tmp_path / "compression.json").write_text(json.dumps(found))
    assert card_lines(tmp_path) == [
        "Made by effbench compress: method=quantize, scheme=auto, max_drop=1.833.",
        "Of the run run, checkpoint best (step 9), sha256 of its weights ab12.",
        "That run was compressed before: method=structured, ratio=0.5, distill=true.",
        "Scheme static, ranges from 32 training samples; all 5 layers in 8 bits.",
        "Lost: +0.50 points of test accuracy [-1.00, +2.00], paired on 200 samples.",
    ]


def test_a_card_tells_the_loss_of_all_steps_of_a_search(tmp_path: Path) -> None:
    (tmp_path / "compression.json").write_text(json.dumps(searched("2 MB", (1e6, 1e6), True, before="before")))
    assert card_lines(tmp_path)[-1].startswith("Of both steps together: Lost: +2.50 points")


def test_a_card_tells_no_loss_of_weights_that_are_gone(tmp_path: Path) -> None:
    kept = {**record(onnxruntime=(0.5, 0.6)), "checkpoint": "step-00000009"}
    (tmp_path / "compression.json").write_text(json.dumps(kept))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best").symlink_to("step-00000012")
    assert card_lines(tmp_path)[-1] == (
        "It was trained further since (its best checkpoint is step-00000012): what it lost is not known."
    )


def test_a_card_of_a_run_that_was_not_compressed_says_nothing(tmp_path: Path) -> None:
    assert card_lines(tmp_path) == []
    (tmp_path / "compression.json").write_text('{"schema_version": 1, "method": "quantize"}')
    assert "damaged" in card_lines(tmp_path)[0]
