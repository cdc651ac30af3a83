"""A model that has learnt nothing is named: one answer for all, or the largest class's share."""

from __future__ import annotations

import pytest
import torch

from effbench.tasks.class_counts import ClassCounts

CLASSES = ("cat", "dog", "owl")


def complaint(predicted: list[int], labels: list[int]) -> str | None:
    counts = ClassCounts()
    for answer, label in zip(predicted, labels, strict=True):
        counts.add(torch.eye(3)[[answer]], torch.tensor([label]))
    right = sum(map(int.__eq__, predicted, labels))
    return counts.complaint("val", {"acc": right / len(labels)}, CLASSES)


def of_many(predicted: list[int], labels: list[int]) -> str | None:
    """`complaint` of enough images that a share is no chance."""
    return complaint(predicted * 10, labels * 10)


@pytest.mark.row(54)
def test_one_predicted_class_for_every_image_is_reported():
    assert "val: the model predicts 'dog' for all of the 40 images" in (of_many([1, 1, 1, 1], [0, 1, 1, 2]) or "")


@pytest.mark.row(54)
@pytest.mark.parametrize("predicted", [[1, 1, 0, 0], [0, 2, 1, 1]])
def test_the_share_of_the_largest_class_is_no_result(predicted):
    assert "no better than always predicting 'dog', the largest class (20 of 40 images)" in (
        of_many(predicted, [2, 1, 0, 1]) or ""
    )


def test_a_model_that_predicts_several_classes_is_not_reported():
    assert of_many([0, 1, 1, 1], [0, 1, 1, 2]) is None


def test_a_dataset_of_one_class_is_not_reported():
    assert of_many([1, 1], [1, 1]) is None


def test_predictions_of_other_weights_do_not_count():
    """The values are those of the best weights, the predictions those of the last."""
    counts = ClassCounts()
    counts.add(torch.eye(3)[[1] * 40], torch.tensor([0, 1, 1, 2] * 10))
    assert "predicts 'dog' for all" in (counts.complaint("val", {"acc": 0.9}, CLASSES) or "")
    assert counts.complaint("val", {"acc": 0.9}, CLASSES, seen=False) is None
    assert "no better than always" in (counts.complaint("val", {"acc": 0.5}, CLASSES, seen=False) or "")
    assert counts.complaint("val", {}, CLASSES, seen=False) is None


def test_without_an_evaluation_nothing_is_reported():
    assert ClassCounts().complaint("val", {"acc": 0.5}, CLASSES) is None


def test_too_few_images_are_not_reported():
    assert complaint([1, 1, 1, 1], [0, 1, 1, 2]) is None
    assert "predicts 'dog' for all of the 12 images" in (complaint([1] * 12, [0, 1, 1, 2] * 3) or "")
    assert complaint([1, 1, 0, 0] * 3, [2, 1, 0, 1] * 3) is None
