"""What a backend loses beside the judge, also where the backend that computes as the judge did was not measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from effbench.bench.sources import Source
from effbench.compress.arms import file_arm, more_lost
from effbench.metrics import Accuracy
from effbench.tasks.classification import Classification
from effbench.tasks.losses import CrossEntropy, MeanSquaredError
from effbench.tasks.regression import Regression
from effbench.tasks.task import Task

CLASSES = torch.tensor([0, 1, 2, 0])
RIGHT = 4.0 * torch.eye(3)[CLASSES]
NUMBERS = torch.tensor([[1.0], [2.0], [3.0], [4.0]])


def source_of(task: Task, answers: Tensor, targets: Tensor) -> Source:
    """Samples are the numbers of the answers."""
    model: Any = lambda rows: answers[rows[:, 0]]  # noqa: E731
    return Source({}, torch.arange(len(targets))[:, None], "row", model, targets=targets, task=task)


def result_of(answers: Tensor) -> Any:
    """A quantized run whose file gives these answers."""
    return SimpleNamespace(model=lambda _: lambda rows: answers[rows[:, 0]])


def row(backend: str, lost_of: str, lost: float, loss: float = 1.0) -> dict[str, Any]:
    return {"backend": backend, "lost_of": lost_of, "lost": {"estimate": lost}, "metrics": {"loss": loss}}


@pytest.mark.parametrize("also", [False, True])
def test_a_file_that_has_lost_points_is_where_a_backend_begins(also: bool) -> None:
    """The file has lost 1 answer of 4 and OpenVINO gives 2 wrong ones. also: ONNX Runtime is measured too."""
    wrong = RIGHT.clone()
    wrong[0] = RIGHT[1]
    source = source_of(Classification(CrossEntropy(), [Accuracy()], 3), RIGHT, CLASSES)
    rows = [row("openvino_f32", "accuracy", 50.0), *([row("onnxruntime", "accuracy", 25.0)] if also else [])]
    assert more_lost(rows, "onnxruntime", source, result_of(wrong))["openvino_f32"] == pytest.approx(25)


def test_checkpoints_have_lost_no_points() -> None:
    source = source_of(Classification(CrossEntropy(), [Accuracy()], 3), RIGHT, CLASSES)
    assert more_lost([row("bf16", "accuracy", 25.0)], "eager", source) == {"bf16": pytest.approx(25)}


@pytest.mark.parametrize(("quantized", "more"), [(False, 50), (True, 20)])
def test_the_only_backend_is_compared_with_the_judge(quantized: bool, more: float) -> None:
    """The model's loss is 4, that of the file 5, and with the backend it is 6."""
    source = source_of(Regression(MeanSquaredError(), [], 1), NUMBERS + 2, NUMBERS)
    result = result_of(NUMBERS + 5**0.5) if quantized else None
    found = more_lost([row("openvino_bf16", "answers", 0.0, loss=6.0)], "eager", source, result)
    assert found == {"openvino_bf16": pytest.approx(more, rel=1e-4)}


def test_nothing_is_lost_with_backends_without_answers() -> None:
    failed = {"backend": "bf16", "status": "failed"}
    assert more_lost([failed], "eager", Source({}, torch.zeros(1, 1), "row")) == {}


def test_a_file_whose_backend_crashed_is_nobodys_size() -> None:
    """It had answered before it crashed."""
    ok = {"side": "after", "backend": "torchscript", "status": "ok", "bytes": 9}
    crashed = {"side": "after", "backend": "onnxruntime", "status": "failed", "bytes": 5}
    assert file_arm({"arms": [crashed, ok]}, "after") is ok
    assert file_arm({"arms": [crashed]}, "after") is None
