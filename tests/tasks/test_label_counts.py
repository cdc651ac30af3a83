"""A multi-label model that has learnt nothing is named: no label for any sample, or no better than absent labels."""

from __future__ import annotations

import torch

from effbench.config.compose import compose
from effbench.tasks.label_counts import LabelCounts

LABELS = tuple("abcdefghij")
RARE = torch.zeros(40, 10)
RARE[:, 0] = torch.arange(40) % 2  # 5 % of all labels are present
SELDOM = "val: the model predicts no label for any of the 40 texts"


def complaint(predicted: torch.Tensor, present: torch.Tensor = RARE, seen: bool = True) -> str:
    """Of outputs above 0 where `predicted` is 1, in batches of 7."""
    counts = LabelCounts()
    for outputs, targets in zip((predicted - 0.5).split(7), present.split(7), strict=True):
        counts.add(outputs, targets)
    accuracy = float((predicted == present).double().mean())
    return counts.complaint("val", {"label_acc": accuracy, "macro_f1": 0.0}, LABELS, "text", seen) or ""


def test_no_label_for_any_sample_is_reported() -> None:
    assert complaint(torch.zeros(40, 10)).startswith(SELDOM)
    assert "every label for each of the 40 texts" in complaint(torch.ones(40, 10))


def test_the_share_of_absent_labels_is_no_result() -> None:
    found = complaint(1 - RARE)
    assert "val label accuracy 0.00 % is no better than predicting every label absent (95.00 %)" in found
    assert "judge by macro_f1" in found
    assert "every label present (95.00 %)" in complaint(RARE, 1 - RARE)
    # of other weights the accuracy alone counts
    assert "no better than predicting every label absent" in complaint(torch.zeros(40, 10), seen=False)


def test_a_multilabel_model_that_has_learnt_is_not_reported() -> None:
    assert complaint(RARE) == ""
    assert complaint(torch.zeros(9, 10), RARE[:9]) == "", "too few"
    assert complaint(torch.zeros(40, 10), torch.zeros(40, 10)) == "", "which is right"
    assert LabelCounts().complaint("val", {"label_acc": 0.0}, LABELS) is None


def test_checkpoints_of_multilabel_runs_are_ranked_by_macro_f1() -> None:
    """An all-absent model wins by label accuracy where labels are rare."""
    assert compose(["task=multilabel"]).checkpoint.monitor == "val/macro_f1"
