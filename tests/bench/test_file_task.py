"""A file whose run is not there: what counts as the same answer, by the kind of targets in its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from effbench.bench.answers import judged
from effbench.bench.file_task import task_of_record
from effbench.bench.sources import Source, file_source
from effbench.bench.table import print_record
from effbench.export.opening import Opened
from tests.report.test_deployment import record

HEIGHTS_N1 = torch.tensor([[150.0], [160.0], [170.0], [180.0]])  # their deviation is 11.2
LOGITS_NK = 4 * torch.eye(3)[[0, 1, 2, 0]]
SCALE = {"target_mean": [165.0], "target_std": [100.0]}


def about(targets: Any, *sides: int, **changes: Any) -> dict[str, Any]:
    """What is read of a file's record."""
    return {
        "format": "onnx", "file": "model.onnx", "run": "/nowhere", "model": {}, "checkpoint": {"name": "best"},
        "input": {"name": "rows", "dtype": "float32", "shape": ["N", 3]},
        "output": {"name": "logits", "shape": ["N", *sides]}, "task": {"name": "some", "targets": targets}, **changes,
    }  # fmt: skip


def lone(tmp_path: Path, content: dict[str, Any]) -> Source:
    return file_source(Opened(tmp_path / "some" / "model.onnx", content, lambda inputs: inputs), {}, (), 4)


def moved(outputs: torch.Tensor, by: float, *place: int) -> torch.Tensor:
    changed = outputs.clone()
    changed[place] += by
    return changed


@pytest.mark.parametrize(
    ("targets", "reference", "got", "same"),
    [
        ("values", HEIGHTS_N1, moved(HEIGHTS_N1, 0.02, 2), 0.75),
        ("values", HEIGHTS_N1, moved(HEIGHTS_N1, 0.005, 2), 1.0),
        ("labels", LOGITS_NK, moved(LOGITS_NK - 1, 2.0, 0, 1), 0.75),  # not the largest one
        ("class", LOGITS_NK, moved(LOGITS_NK, 3.0, 0, 1), 1.0),
        ("class", LOGITS_NK, moved(LOGITS_NK, 5.0, 0, 1), 0.75),
        ("tokens", LOGITS_NK.reshape(2, 2, 3), moved(LOGITS_NK.reshape(2, 2, 3), 5.0, 0, 1, 0), 0.5),
    ],
)
def test_answers_of_a_lone_file_are_those_of_its_targets(
    targets: str, reference: torch.Tensor, got: torch.Tensor, same: float, tmp_path: Path
) -> None:
    if targets == "labels":
        reference = reference - 1  # an output above 0 is a label
    source = lone(tmp_path, about(targets, *reference.shape[1:]))
    found = judged(source, reference, got)
    assert found["parity"]["agreement"] == same
    assert (found["metrics"], found["lost"]) == (None, None)


@pytest.mark.parametrize(("by", "same"), [(0.05, 1.0), (0.2, 0.75)])
def test_numbers_of_a_lone_file_have_the_runs_deviation(by: float, same: float, tmp_path: Path) -> None:
    """A thousandth of the train targets' deviation of 100: the measured samples are random ones."""
    source = lone(tmp_path, about("values", 1, rescaling_inside=SCALE))
    assert judged(source, HEIGHTS_N1, moved(HEIGHTS_N1, by, 2))["parity"]["agreement"] == same


@pytest.mark.parametrize(
    "content",
    [
        about(None, 1),  # a task of the user's
        about("values", 1) | {"task": None},  # of an older effbench
        about(["values"], 1), about("sounds", 1), about("tokens", 3), about("class", 2, 3),
    ],
    ids=range(6),
)  # fmt: skip
def test_a_record_without_targets_tells_no_same_answers(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = lone(tmp_path, content)
    assert source.task is None
    found = judged(source, HEIGHTS_N1, HEIGHTS_N1 + 1)
    assert found["parity"]["agreement"] is None
    shown = record(sample_shape=[3], no_accuracy=source.no_accuracy)
    shown["options"]["rounds"] = 3
    for arm in shown["arms"]:
        arm |= {"metrics": None, "lost": None, "parity": found["parity"]}
    monkeypatch.setenv("COLUMNS", "80")
    print_record(shown)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines if "e-03" in line] == ["-", "-"]


@pytest.mark.parametrize("scale", [[], {}, {**SCALE, "target_std": [0.0]}, {**SCALE, "target_mean": "x"}])
def test_a_damaged_scale_in_a_record_is_passed_over(scale: Any) -> None:
    task = task_of_record(about("values", 1, rescaling_inside=scale))
    assert task is not None
    assert task.record() == {}
