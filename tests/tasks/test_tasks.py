"""Tasks: their losses against torch's, what targets they take, what they answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from effbench.builders.tasks import check_loss
from effbench.config.compose import compose
from effbench.data.splits import Split, Splits
from effbench.errors import ConfigError, DataError
from effbench.metrics import Accuracy, LabelAccuracy, MeanAbsoluteError, Metric
from effbench.tasks.classification import Classification
from effbench.tasks.losses import (
    TORCH_TARGETS,
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    Loss,
    MeanSquaredError,
    OfTorch,
)
from effbench.tasks.multilabel import Multilabel
from effbench.tasks.regression import Regression
from effbench.tasks.task import Task

B, K = 9, 4
GENERATOR = torch.Generator().manual_seed(0)
OUTPUTS = torch.randn(B, K, generator=GENERATOR).mul_(2)
CLASS = torch.randint(0, K, (B,), generator=GENERATOR)
LABELS = (torch.rand(B, K, generator=GENERATOR) < 0.5).float()
VALUES = torch.randn(B, K, generator=GENERATOR)


def classification(loss: Loss | None = None) -> Task:
    return Classification(loss or CrossEntropy(), [Accuracy()], K)


def multilabel(loss: Loss | None = None) -> Task:
    return Multilabel(loss or BinaryCrossEntropy(), [LabelAccuracy()], K)


def regression(loss: Loss | None = None) -> Task:
    return Regression(loss or MeanSquaredError(), [MeanAbsoluteError()], K)


@pytest.mark.parametrize(
    ("task", "targets", "theirs"),
    [
        (classification(), CLASS, nn.CrossEntropyLoss()),
        (multilabel(), LABELS, nn.BCEWithLogitsLoss()),
        (regression(), VALUES, nn.MSELoss()),
    ],
    ids=["classification", "multilabel", "regression"],
)
def test_the_plain_loss_of_a_mean_is_torchs(task: Task, targets: Tensor, theirs: nn.Module) -> None:
    torch.testing.assert_close(task.plain_loss(OUTPUTS, targets) / B, theirs(OUTPUTS, targets))
    torch.testing.assert_close(
        task.loss.summed(OUTPUTS, targets) / task.loss.divisor(B, None), theirs(OUTPUTS, targets)
    )


def test_bce_with_a_positive_weight_is_torchs() -> None:
    theirs = nn.BCEWithLogitsLoss(pos_weight=torch.full((K,), 3.0))
    torch.testing.assert_close(BinaryCrossEntropy(3.0).summed(OUTPUTS, LABELS) / B, theirs(OUTPUTS, LABELS))


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0, 0.0])], ids=["plain", "weighted"])
def test_focal_equals_its_float64_formula_and_ce_at_gamma_0(weights: Tensor | None) -> None:
    p = OUTPUTS.double().softmax(1).gather(1, CLASS.unsqueeze(1)).squeeze(1)
    alpha = torch.ones(B) if weights is None else weights[CLASS]
    expected = -(alpha * (1 - p) ** 2 * p.log()).sum()
    focal = Focal(2.0, weights).summed(OUTPUTS, CLASS)
    torch.testing.assert_close(focal.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        Focal(0.0, weights).summed(OUTPUTS, CLASS), CrossEntropy(0.0, weights).summed(OUTPUTS, CLASS)
    )
    one_hot = torch.eye(K)[CLASS]
    torch.testing.assert_close(Focal(2.0, weights).summed(OUTPUTS, one_hot), focal)


def test_torch_loss_is_mean_over_outputs_summed_over_samples() -> None:
    ours = OfTorch(nn.SmoothL1Loss(reduction="none"))
    torch.testing.assert_close(ours.summed(OUTPUTS, VALUES) / B, nn.SmoothL1Loss()(OUTPUTS, VALUES))
    of_classes = OfTorch(nn.CrossEntropyLoss(reduction="none"))
    torch.testing.assert_close(of_classes.summed(OUTPUTS, CLASS) / B, nn.CrossEntropyLoss()(OUTPUTS, CLASS))


@pytest.mark.parametrize("kind", TORCH_TARGETS)
def test_a_torch_loss_leads_to_the_targets_that_it_is_for(kind: type[nn.Module]) -> None:
    word = TORCH_TARGETS[kind][0]
    task, targets = {
        "class": (classification(), CLASS),
        "labels": (multilabel(), LABELS),
        "values": (regression(), VALUES),
    }[word]
    outputs = torch.zeros(B, K, requires_grad=True)
    optimizer = torch.optim.Adam([outputs], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        OfTorch(kind(reduction="none")).summed(outputs, targets).backward()
        optimizer.step()
    metric = task.metrics[0]
    value = metric.value(metric.sums(outputs.detach(), targets).tolist(), B)
    assert value == pytest.approx({"class": 1.0, "labels": 1.0, "values": 0.0}[word], abs=0.02)


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["loss._target_=torch.nn.NLLLoss"], "torch.nn.CrossEntropyLoss"),
        (["loss._target_=torch.nn.NLLLoss2d"], "torch.nn.CrossEntropyLoss"),
        (["loss._target_=torch.nn.PoissonNLLLoss", "task=regression"], "torch.nn.MSELoss"),
        (["loss._target_=torch.nn.TripletMarginLoss"], "a subclass of effbench.tasks.losses.Loss"),
        (["loss._target_=torch.nn.BCELoss", "task=multilabel"], "torch.nn.BCEWithLogitsLoss"),
        (["loss._target_=torch.nn.SoftMarginLoss", "task=multilabel"], "torch.nn.MultiLabelSoftMarginLoss"),
        (["loss._target_=torch.nn.MSELoss"], "loss=cross_entropy"),
        (["loss._target_=torch.nn.CrossEntropyLoss", "task=multilabel"], "loss=bce"),
        (["loss._target_=torch.nn.BCEWithLogitsLoss", "task=regression"], "loss=mse"),
    ],
)
def test_a_torch_loss_that_does_not_fit_is_refused_at_once(words: list[str], remedy: str) -> None:
    config = compose(words)
    with pytest.raises(ConfigError, match=f"Write {remedy}"):
        check_loss(config)


def test_a_subclass_of_a_torch_loss_may_take_any_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    class Brier(nn.MSELoss):
        """Squared error of the probabilities: it makes class numbers into (B, K) itself."""

    monkeypatch.setattr(nn, "Brier", Brier, raising=False)
    monkeypatch.setattr(Brier, "__module__", nn.MSELoss.__module__)
    check_loss(compose(["loss._target_=torch.nn.Brier"]))


@pytest.mark.parametrize(
    ("kind", "loss", "metric"),
    [
        (Classification, MeanSquaredError(), Accuracy()),
        (Multilabel, CrossEntropy(), LabelAccuracy()),
        (Regression, MeanSquaredError(), Accuracy()),
    ],
)
def test_a_loss_or_metric_for_other_targets_is_refused(kind: type[Task], loss: Loss, metric: Metric) -> None:
    with pytest.raises(ConfigError, match=r"is for targets of kind .* Write loss="):
        kind(loss, [metric], K)


def dataset(targets: object, columns: int = K) -> Splits:
    images = torch.zeros(B, 1, 2, 2, dtype=torch.uint8)
    return Splits("toy", Split(images, targets), None, None, tuple("abcdefgh"[:columns]), "0" * 64)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "targets", "dtype"),
    [
        (classification(), CLASS.to(torch.int16), torch.int64),
        (multilabel(), LABELS.bool(), torch.float32),
        (multilabel(), LABELS.long(), torch.float32),
        (regression(), VALUES.double(), torch.float32),
    ],
)
def test_targets_are_converted_to_the_dtype_of_the_task(task: Task, targets: Tensor, dtype: torch.dtype) -> None:
    made = task.checked(dataset(targets)).train.labels
    assert made.dtype == dtype
    torch.testing.assert_close(made.double(), targets.double())


def test_regression_targets_of_one_value_become_a_column() -> None:
    task = Regression(MeanSquaredError(), [MeanAbsoluteError()], 1)
    assert task.checked(dataset(torch.rand(B), 1)).train.labels.shape == (B, 1)


@pytest.mark.row(65)
@pytest.mark.parametrize(
    ("task", "targets", "said"),
    [
        (classification(), VALUES, "float32 .*task=multilabel|labels must be"),
        (multilabel(), CLASS, r"must be \(N, 4\) of 0 and 1"),
        (multilabel(), LABELS * 2, "must be 0 or 1 for task=multilabel; sample"),
        (multilabel(), LABELS[:, :3], "one column for each name in `classes`"),
        (regression(), VALUES.clone().fill_(float("nan")), "must be finite for task=regression; sample 0"),
        (regression(), VALUES[:, :2], r"must be \(N, 4\)"),
    ],
)
def test_targets_of_another_task_are_refused_at_data_load(task: Task, targets: Tensor, said: str) -> None:
    with pytest.raises(DataError, match=rf"^toy train .*({said})"):
        task.checked(dataset(targets))


def test_answers_and_their_description() -> None:
    names = ("a", "b", "c", "d")
    probabilities = classification().answers(OUTPUTS)
    torch.testing.assert_close(probabilities, OUTPUTS.softmax(1))
    top = classification().described(probabilities[0].tolist(), names, 2)
    assert [entry["class"] for entry in top["top_k"]] == [names[i] for i in OUTPUTS[0].topk(2).indices]
    there = multilabel().described(multilabel().answers(OUTPUTS)[0].tolist(), names, 2)
    assert there["labels"] == [name for name, output in zip(names, OUTPUTS[0], strict=True) if output > 0]
    assert regression().described([1.0, 2.0, 3.0, 4.0], names, 2) == {
        "values": {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    }


def test_the_same_answer_is_the_same_class_or_the_same_labels() -> None:
    a, b = torch.tensor([[1.0, 0.9999, -1.0]]), torch.tensor([[0.9999, 1.0, 1.0]])
    assert classification().same_answer(a, b, 1e-3).item()
    assert not classification().same_answer(a, b, 1e-6).item()
    assert not multilabel().same_answer(a, b, 1e-3).item()
    assert multilabel().same_answer(a[:, :2], b[:, :2], 0.0).item()
    assert regression().same_answer(a, b, 0.0).item()
