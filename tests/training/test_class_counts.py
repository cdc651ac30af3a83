"""A model that has learnt nothing is named: one answer for all, or the largest class's share."""

from __future__ import annotations

import pytest
import torch

from effbench.training.class_counts import ClassCounts

CLASSES = ("cat", "dog", "owl")


def complaint(predicted: list[int], labels: list[int]) -> str | None:
    counts = ClassCounts()
    for answer, label in zip(predicted, labels, strict=True):
        counts.add(torch.eye(3)[[answer]], torch.tensor([label]))
    right = sum(map(int.__eq__, predicted, labels))
    return counts.complaint("val", right / len(labels), CLASSES)


@pytest.mark.row(54)
def test_one_answer_for_every_image_is_named():
    assert "val: the model answers 'dog' for all of the 4 images" in (complaint([1, 1, 1, 1], [0, 1, 1, 2]) or "")


@pytest.mark.row(54)
@pytest.mark.parametrize("predicted", [[1, 1, 0, 0], [0, 2, 1, 1]])
def test_the_share_of_the_largest_class_is_no_result(predicted):
    assert "no better than always answering 'dog', the largest class (2 of 4 images)" in (
        complaint(predicted, [2, 1, 0, 1]) or ""
    )


def test_a_model_that_tells_classes_apart_is_left_alone():
    assert complaint([0, 1, 1, 1], [0, 1, 1, 2]) is None


def test_where_there_is_one_class_there_is_nothing_to_say():
    assert complaint([1, 1], [1, 1]) is None


def test_without_an_evaluation_there_is_nothing_to_say():
    assert ClassCounts().complaint("val", 0.5, CLASSES) is None
