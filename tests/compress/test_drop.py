"""What a compressed model loses: points of accuracy, or percent of a loss, which may be 0 or negative.

White-box: the refusal of a quantized file, and how far outputs move, are of numbers that no small model gives.
"""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from effbench.bench import answers as answering
from effbench.compress import drop as dropping
from effbench.compress.drop import PERCENT, POINTS, Judge, _moved, both, left, note_few_samples, risen
from effbench.compress.mixed import Mixed
from effbench.compress.options import QuantizeOptions
from effbench.compress.quantize import Quantized, _check_drop
from effbench.data.splits import Split
from effbench.errors import ThresholdError
from effbench.metrics import Accuracy
from effbench.stats import paired_share_interval
from effbench.tasks.classification import Classification
from effbench.tasks.losses import CrossEntropy, Loss, MeanSquaredError
from effbench.tasks.regression import Regression
from effbench.tasks.task import Task

LOSSES = (-3.0, -1.0, -0.25, 0.25, 1.0, 3.0)


@pytest.mark.parametrize(
    ("before", "after", "percent"),
    [
        (2.0, 3.0, 50), (2.0, 1.0, -50), (-2.0, -1.0, 50), (-2.0, -3.0, -50), (-1.0, 1.0, 200), (1.0, -1.0, -200),
        (0.0, 0.0, 0), (0.0, -1.0, 0), (0.0, 1e-9, math.inf), (0.0, math.nan, math.inf),
    ],
)  # fmt: skip
def test_a_rise_is_in_percent_of_the_size_of_the_loss(before: float, after: float, percent: float) -> None:
    assert risen(before, after) == pytest.approx(percent)
    assert math.isnan(risen(1.0, math.nan))  # which no bound holds


def facts(before: float, after: float) -> dict[str, Any]:
    return {"of": PERCENT, "drop": risen(before, after), "loss_before": before, "loss_after": after}


def test_two_steps_lose_what_the_last_loss_has_risen() -> None:
    """Parts of a loss multiply only where it stays positive: from -2 to -1 and to -0.5 it rises by 75 %."""
    for run, pruned, quantized in itertools.product(LOSSES, repeat=3):
        assert both(facts(run, pruned), facts(pruned, quantized)) == pytest.approx(100 * (quantized - run) / abs(run))


def test_the_second_step_may_lose_what_the_first_has_left() -> None:
    for run, pruned, bound in itertools.product(LOSSES, LOSSES, (0.0, 1.0, 50.0, 400.0)):
        most = left(facts(run, pruned), bound)
        worst = pruned + most / 100 * abs(pruned)  # the largest loss that the second step may end with
        if risen(run, pruned) <= bound:
            assert both(facts(run, pruned), facts(pruned, worst)) == pytest.approx(bound)
        else:
            assert most == 0


def test_points_of_the_same_samples_add_up() -> None:
    first, second = ({"of": POINTS, "drop": lost, "loss_before": 1.0, "loss_after": 2.0} for lost in (0.4, -0.1))
    assert both(first, second) == pytest.approx(0.3)
    assert left(first, 0.5) == pytest.approx(0.1)
    assert left(first, 0.3) == 0
    assert left({**facts(1.0, 0.0), "drop": -100.0}, 0.5) == 0  # of a loss of 0 there is no percentage


# --- of outputs, by tasks of known numbers


class Gap(Loss):
    """The mean of outputs - targets, which may be 0 or negative."""

    targets = ("values",)

    def summed(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).sum()


class ByGap(Regression):
    evaluated_by = Gap()


def judge_of(
    task: Task, reference: Tensor, targets: Tensor, monkeypatch: pytest.MonkeyPatch, asked: list[int] | None = None
) -> Judge:
    """A judge whose run answers `reference` on validation samples with these targets. asked: gets the most samples."""
    modality = SimpleNamespace(targets=lambda labels, rows, _: labels[rows], portable=lambda inputs: inputs, unit="row")
    config = SimpleNamespace(data=SimpleNamespace(eval_batch_size=100))
    classes = ("a",) * reference.shape[-1]
    run: Any = SimpleNamespace(task=task, modality=lambda: modality, shape=(1,), classes=classes, config=config)
    split = Split(torch.zeros(len(targets), 1), targets)

    def tested_split(_: Any, which: str, most: int) -> tuple[str, Split, bool]:
        (asked if asked is not None else []).append(most)
        return which, split, True

    monkeypatch.setattr(dropping, "tested_split", tested_split)
    monkeypatch.setattr(dropping, "answers", lambda *_: reference)
    return Judge(run, "best")


@pytest.mark.parametrize(
    ("before", "after", "percent"), [(2.0, 3.0, 50), (-2.0, -1.0, 50), (-1.0, -2.0, -100), (0.0, 1.0, math.inf)]
)
def test_the_drop_of_a_task_without_accuracy_is_of_its_loss(
    before: float, after: float, percent: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = ByGap(MeanSquaredError(), [], 1)
    targets = torch.tensor([[5.0], [7.0], [-2.0]])
    judge = judge_of(task, targets + before, targets, monkeypatch)
    found = judge.facts(targets + after)
    assert found["drop"] == judge.drop(targets + after) == pytest.approx(percent)
    assert (found["of"], found["loss_before"], found["loss_after"]) == (PERCENT, before, after)


def test_the_drop_of_an_accuracy_of_0_is_a_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = torch.tensor([0, 1, 2, 0])
    right = 4 * torch.eye(3)[targets]
    wrong = right.roll(1, dims=1)
    judge = judge_of(Classification(CrossEntropy(), [Accuracy()], 3), wrong, targets, monkeypatch)
    assert judge.unit == POINTS
    assert judge.drop(wrong) == 0
    half = torch.cat([right[:2], wrong[2:]])
    assert judge.drop(half) == pytest.approx(-50)
    assert judge.facts(half)["loss_after"] == pytest.approx(float(torch.nn.functional.cross_entropy(half, targets)))


def test_outputs_that_are_held_are_of_fewer_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a next-token model with a large vocabulary, 2,000 samples would be gigabytes."""
    asked: list[int] = []
    monkeypatch.setattr(answering, "HELD_VALUES", 120)
    targets = torch.tensor([[5.0], [7.0], [-2.0]])
    task = ByGap(MeanSquaredError(), [], 1)
    for values, most in ((1, 120), (6, 20), (1000, 1)):
        monkeypatch.setattr(task, "output_shape", lambda *_, values=values: (values,))
        judge_of(task, targets, targets, monkeypatch, asked)
        assert asked[-1] == most


def test_how_far_outputs_move_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, outputs = torch.randn(7, 3), torch.randn(7, 3)
    expected = np.sqrt(np.mean((outputs.numpy() - reference.numpy()) ** 2) / np.mean(reference.numpy() ** 2))
    for values in (2**20, 6, 1):
        monkeypatch.setattr(answering, "PART_VALUES", values)
        assert _moved(reference, outputs) == pytest.approx(float(expected), rel=1e-5)
    assert _moved(torch.zeros(2, 2), torch.full((2, 2), 3.0)) == pytest.approx(3.0)


def test_layers_are_ranked_by_few_of_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer of a large model is judged alone."""
    targets = torch.arange(300) % 3
    reference = 4 * torch.eye(3)[targets]
    judge = judge_of(Classification(CrossEntropy(), [Accuracy()], 3), reference, targets, monkeypatch)
    asked: list[int] = []

    def forward(inputs: Tensor) -> Tensor:
        asked.append(len(inputs))
        return torch.ones(len(inputs), 3)

    expected = math.sqrt(float((reference - 1).square().sum() / reference.square().sum()))
    assert judge.moved(forward) == pytest.approx(expected, rel=0.02)  # which classes are in proportion
    assert sum(asked) == 128
    asked.clear()
    judge.lost(forward)
    assert sum(asked) == 300


@pytest.mark.parametrize(
    ("kind", "samples", "max_drop", "told"),
    [
        ("class", 40, 0.5, "one answer of 40 validation samples is 2.5 points of accuracy: with max_drop=0.5 no more"),
        ("class", 40, 2.5, ""),
        ("class", 40, 0.0, ""),  # that is what it says
        ("class", 2000, 0.5, ""),
        ("values", 40, 0.5, ""),
    ],
)
def test_a_bound_below_one_answer_is_told(
    kind: str, samples: int, max_drop: float, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    run: Any = SimpleNamespace(task=SimpleNamespace(kind=kind))
    with caplog.at_level("INFO", logger="effbench"):
        note_few_samples(run, "val", samples, max_drop)
    assert (told in caplog.text) if told else not caplog.text


def test_points_of_accuracy_have_an_interval_and_losses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = torch.tensor([0, 1, 2, 0])
    right = 4 * torch.eye(3)[targets]
    wrong = torch.cat([right[:3], right[3:].roll(1, dims=1)])
    found = judge_of(Classification(CrossEntropy(), [Accuracy()], 3), right, targets, monkeypatch).facts(wrong)
    interval = paired_share_interval(1, 0, 4).times(100)
    assert (found["split"], found["samples"]) == ("val", 4)
    assert (found["drop"], found["low"], found["high"]) == pytest.approx((25.0, interval.low, interval.high))
    values = torch.tensor([[5.0]])
    lossy = judge_of(ByGap(MeanSquaredError(), [], 1), values + 1, values, monkeypatch).facts(values + 2)
    assert (lossy["low"], lossy["high"]) == (None, None)


@pytest.mark.parametrize(
    ("drop", "told"),
    [
        (
            60.0,
            "scheme=static loses 60.00 percent of the loss on 40 validation samples even with 1 of 3 layers in float32",
        ),
        (math.inf, "scheme=static raises the loss from 0, of which there is no percentage, on 40 validation samples"),
    ],
)
@pytest.mark.parametrize(("available", "more"), [(33, True), (None, True), (32, False)])
def test_a_file_that_loses_too_much_is_refused_with_a_remedy(
    available: int | None, more: bool, drop: float, told: str
) -> None:
    made = Quantized(b"", "static", Mixed(drop, drop, 3, ("a",)), 32)
    judge: Any = SimpleNamespace(unit=PERCENT, samples="40 validation samples")
    with pytest.raises(ThresholdError) as refused:
        _check_drop(made, QuantizeOptions(), judge, available)
    text = str(refused.value)
    assert told in text
    # more samples than the run has cannot be taken
    assert ("another scheme, or calibration=128." if more else "another scheme.") in text
    assert ("Allow more with max_drop" in text) is math.isfinite(drop)
