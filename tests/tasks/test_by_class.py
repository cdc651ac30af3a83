"""What `effbench eval` counts by class equals scikit-learn's, over batches, and the metrics that are means of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effbench.cli.eval import HELP
from effbench.data.batches import Batch
from effbench.metrics import Accuracy, BalancedAccuracy, LabelMacroF1, MacroF1, MeanAbsoluteError
from effbench.tasks import by_class
from effbench.tasks.classification import Classification
from effbench.tasks.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from effbench.tasks.multilabel import Multilabel
from effbench.tasks.next_token import NextToken
from effbench.tasks.regression import Regression
from effbench.tasks.task import Task
from effbench.training.distributed import DistributedContext
from effbench.training.evaluation import evaluate
from effbench.training.precision import choose_precision

K = 6
NAMES = [f"class {number}" for number in range(K)]

ROOT = Path(__file__).parents[2]


def evaluated(task: Task, outputs: Tensor, targets: Tensor) -> tuple[dict[str, float], dict[str, Any]]:
    """(metrics, counts by class) of outputs, in batches of 100."""
    counts, parts = task.breakdown(), zip(outputs.split(100), targets.split(100), strict=True)
    batches = [Batch(inputs, labels) for inputs, labels in parts]
    precision, _ = choose_precision("32-true", torch.device("cpu"))
    values = evaluate(nn.Identity(), batches, precision, DistributedContext(), task, counts)
    return values, counts.by_class(NAMES[: outputs.shape[-1]])


def rows_of(found: list[dict[str, Any]]) -> np.ndarray:
    """Precision, recall, F1 and samples of each class, nan for 0/0."""
    return np.array([[row[key] for row in found] for key in ("precision", "recall", "f1", "samples")], dtype=float)


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor]:
    """Logits and classes of 730 samples: class 3 is never predicted, 4 has no samples, 5 has neither."""
    generator = torch.Generator().manual_seed(1)
    outputs, targets = torch.randn(730, K, generator=generator), torch.randint(4, (730,), generator=generator)
    outputs[:, [3, 5]] = -9.0
    outputs[torch.arange(730), targets.clamp(max=2)] += 1.5  # it has learnt something
    return outputs, targets


def test_classes_and_confusion_are_scikit_learns(drawn: tuple[Tensor, Tensor]) -> None:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    outputs, targets = drawn
    metrics = [Accuracy(), MacroF1(), BalancedAccuracy()]
    values, found = evaluated(Classification(CrossEntropy(), metrics, K), outputs, targets)
    true, predicted, every = targets.numpy(), outputs.argmax(1).numpy(), range(K)
    assert found["confusion"] == confusion_matrix(true, predicted, labels=every).tolist()
    expected = precision_recall_fscore_support(true, predicted, labels=every, zero_division=np.nan)
    np.testing.assert_allclose(rows_of(found["per_class"]), np.array(expected, dtype=float), rtol=1e-12)
    assert [row["class"] for row in found["per_class"]] == NAMES
    assert [row["predictions"] for row in found["per_class"]] == np.bincount(predicted, minlength=K).tolist()
    assert found["per_class"][5] == {
        "class": "class 5", "precision": None, "recall": None, "f1": None, "samples": 0, "predictions": 0
    }  # fmt: skip
    _, recall, f1, _ = rows_of(found["per_class"])
    assert (np.nanmean(f1), np.nanmean(recall)) == pytest.approx((values["macro_f1"], values["balanced_acc"]))
    assert np.trace(found["confusion"]) / 730 == pytest.approx(values["acc"])


def test_of_very_many_classes_there_is_no_confusion_matrix(
    drawn: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Classification(CrossEntropy(), [], K)
    whole = evaluated(task, *drawn)[1]
    monkeypatch.setattr(by_class, "MOST_CLASSES", K - 1)
    assert evaluated(task, *drawn)[1] == {"per_class": whole["per_class"], "confusion": None}


def test_the_most_classes_of_a_matrix_are_stated() -> None:
    assert f"no confusions, for more than {by_class.MOST_CLASSES} classes" in HELP
    assert f"for more than {by_class.MOST_CLASSES} classes" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_labels_are_scikit_learns() -> None:
    from sklearn.metrics import precision_recall_fscore_support

    generator = torch.Generator().manual_seed(2)
    targets = torch.randint(2, (330, 4), generator=generator).float()
    outputs = torch.randn(330, 4, generator=generator) + targets
    targets[:, 2], outputs[:, 2], outputs[:, 3] = 0.0, -1.0, -1.0  # neither, and never predicted
    values, found = evaluated(Multilabel(BinaryCrossEntropy(), [LabelMacroF1()], 4), outputs, targets)
    assert found.keys() == {"per_label"}
    expected = precision_recall_fscore_support(targets.numpy(), (outputs > 0).numpy(), zero_division=0.0)
    np.testing.assert_allclose(np.nan_to_num(rows_of(found["per_label"])), np.array(expected, dtype=float))
    assert [row["precision"] for row in found["per_label"]][2:] == [None, None]
    # of 0/0 all three are None, and the metric counts an F1 of 0; the last label has samples
    assert [row["f1"] for row in found["per_label"]][2:] == [None, 0.0]
    assert np.nan_to_num(rows_of(found["per_label"])[2]).mean() == pytest.approx(values["macro_f1"])


def test_without_samples_there_is_nothing_by_class() -> None:
    assert Classification.breakdown().by_class(NAMES) == Multilabel.breakdown().by_class(NAMES) == {}


def test_tasks_without_classes_tell_nothing_by_class() -> None:
    regression = Regression(MeanSquaredError(), [MeanAbsoluteError()], 2)
    assert evaluated(regression, torch.zeros(5, 2), torch.ones(5, 2))[1] == {}
    tokens = NextToken(CrossEntropy(), [Accuracy()], K, length=0)
    assert evaluated(tokens, torch.zeros(5, 3, K), torch.ones(5, 3).long())[1] == {}
