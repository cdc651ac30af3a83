"""distill=true: the loss is half against the targets, half against the teacher's answers, in closed form."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from effbench.compress.distill import SHARE, TEMPERATURE, Distill
from effbench.errors import ConfigError
from effbench.metrics import MeanAbsoluteError
from effbench.tasks.losses import CrossEntropy, MeanSquaredError, OfTorch
from effbench.tasks.regression import Regression
from effbench.training.callbacks import Context
from tests.training.tiny import At, Rows, copied, data, dense, same, sgd, trainer


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def loss_by_hand(student: np.ndarray, teacher: np.ndarray, targets: np.ndarray) -> float:
    """arXiv:1503.02531, section 2, in float64."""
    hard = -log_softmax(student)[np.arange(len(targets)), targets].sum()
    soft = -(np.exp(log_softmax(teacher / TEMPERATURE)) * log_softmax(student / TEMPERATURE)).sum()
    return float((1 - SHARE) * hard + SHARE * TEMPERATURE**2 * soft)


def test_first_loss_is_the_papers() -> None:
    splits, student, teacher = data(32, 8), dense(0), dense(1)
    first = copy.deepcopy(student)
    rows = Rows()
    one = trainer(splits, student, 1, watch=[Distill(teacher), rows])
    one.intervals.log_steps = 1
    one.fit()
    batch = next(iter(next(iter(trainer(splits, first, 1).train.epoch(0))).micro_batches))
    with torch.no_grad():
        outputs = [model.eval()(batch.inputs).double().numpy() for model in (first, teacher)]
    expected = loss_by_hand(*outputs, batch.targets.numpy()) / len(batch.targets)
    assert rows.rows[0]["train/loss"] == pytest.approx(expected, rel=1e-5)


def test_student_comes_nearer_to_its_teacher_than_without() -> None:
    splits, teacher = data(), dense(1)
    with torch.no_grad():
        teacher.head.weight.mul_(3)  # an opinion of its own, which the labels do not teach
    images = trainer(splits, dense(), 1).train.modality
    inputs = images.plain(splits.val.inputs, slice(0, 40)) if splits.val else None
    distances = []
    for watch in ([], [Distill(teacher)]):
        student = dense(2, hidden=(4,))
        trainer(splits, student, 60, watch=watch).fit()
        with torch.no_grad():
            answers = [model.eval()(inputs).softmax(1) for model in (student, teacher)]
        distances.append(float((answers[0] - answers[1]).abs().mean()))
    assert distances[1] < distances[0]


def test_teacher_stays_as_it_was_and_all_is_put_back() -> None:
    splits, student, teacher = data(), dense(0, dropout=0.3), dense(1, dropout=0.9)
    before, kept = copied(dict(teacher.state_dict())), []
    one = trainer(
        splits, student, 4, watch=[Distill(teacher), At(2, lambda _: kept.append(list(student.state_dict())))]
    )
    forward, own = one.forward, one.task.training_loss
    one.fit()
    assert same(dict(teacher.state_dict()), before)
    assert one.forward is forward
    assert one.task.training_loss == own, "the method of the class"
    assert kept == [list(dense().state_dict())], "checkpoints name the student's weights only"


def test_values_are_distilled_as_targets() -> None:
    """White-box: the callback's loss on given tensors."""
    student, teacher = dense(0), dense(1)
    one = trainer(data(32, 8), student, 1)
    one.task = Regression(MeanSquaredError(), [MeanAbsoluteError()], 4, standardise=False)  # type: ignore[assignment]
    callback = Distill(teacher)
    callback.fit_start(Context(one, None))  # type: ignore[arg-type]
    inputs, targets = torch.randn(5, 1, 8, 8), torch.randn(5, 4)
    outputs = one.forward(inputs)
    loss, _ = one.task.training_loss(outputs, targets)
    expected = SHARE * ((outputs - targets) ** 2 + (outputs - teacher(inputs)) ** 2).mean(1).sum()
    torch.testing.assert_close(loss, expected)


def test_loss_without_probabilities_is_refused() -> None:
    loss: Any = OfTorch(torch.nn.MultiMarginLoss(reduction="none"))
    with pytest.raises(ConfigError, match=r"distill=true needs a loss that takes probabilities"):
        trainer(data(32, 8), dense(0), 1, watch=[Distill(dense(1))], loss=loss).fit()


def test_class_weights_and_smoothing_are_the_runs_own() -> None:
    loss = CrossEntropy(0.1, torch.tensor([1.0, 2.0, 0.5, 1.0]))
    student = dense(0)
    state = trainer(data(), student, 20, optimizer=sgd(student, 0.05), watch=[Distill(dense(1))], loss=loss).fit()
    assert state.status == "completed"
