"""Check what a dataset's function returns: types, shapes and ranges of inputs and targets."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from effbench.errors import DataError


def as_targets(name: str, targets: Any) -> Tensor:
    """Return int64 (N,) for class numbers, or (N, K) or float (N,) for the task to check. Raises DataError."""
    found = as_tensor(f"{name} labels", targets)
    # Only the task knows what these mean; the dataset is checked before the task is built.
    # float (N,) may be values; whole numbers (N,) are classes in every task
    several = found.dim() == 2 or (found.dim() == 1 and found.is_floating_point())
    return found if several and not found.is_complex() else as_labels(name, found)


def as_labels(name: str, labels: Any) -> Tensor:
    """Return int64 (N,) from a tensor, array or list of integers. Raises DataError that begins with `name`."""
    found = as_tensor(f"{name} labels", labels)
    continuous = found.is_floating_point() or found.is_complex()
    if found.dim() == 1 and not continuous:
        return found.to(torch.int64)

    got = kind_of(found)
    if found.dim() > 0 and len(found):
        # The first sample that shows the fault: the first label that is not a whole number, if there is one.
        rows = found.reshape(len(found), -1)
        odd = (rows != rows.round()).any(1).nonzero().flatten() if found.is_floating_point() else rows.new_empty(0)
        place = int(odd[0]) if len(odd) else 0
        # 60 characters: a row of thousands of numbers would hide the message
        got += f", sample {place}: {found[place].tolist()!s:.60}"
    if found.dim() == 1:
        raise DataError(
            f"{name} labels must be class numbers, int64 (N,); got {got}. Numbers to predict: task=regression. "
            "Class numbers stored as floats: give labels.long()."
        )
    remedy = "Several labels a sample: task=multilabel. Several numbers: task=regression."
    if found.dim() == 2 and found.shape[1] == 1:
        remedy = "Give labels.squeeze(1)."
    elif found.dim() == 2 and bool(((found == 0) | (found == 1)).all()) and bool((found.sum(1) == 1).all()):
        remedy = "One-hot rows: give labels.argmax(1)."
    raise DataError(f"{name} labels must be (N,), one class number a sample; got {got}. {remedy}")


def check_range(name: str, labels: Tensor, num_classes: int) -> None:
    """Check that class numbers are in range.

    Args:
        name: beginning of messages.
        labels: int64 (N,).
        num_classes: labels must be in [0, num_classes).

    Raises:
        DataError: a label is out of range; the message names the first such sample.
    """
    outside = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
    if len(outside) == 0:
        return
    first = int(outside[0])
    from_one = int(labels.min()) == 1 and int(labels.max()) == num_classes  # as in Matlab and many CSV files
    remedy = "Count from 0: labels - 1." if from_one else "Labels count from 0 in the order of `classes`."
    raise DataError(
        f"{name} sample {first} has label {int(labels[first])}, outside [0, {num_classes}) of its {num_classes} "
        f"classes ({len(outside)} such samples). {remedy}"
    )


def as_classes(name: str, classes: Any) -> tuple[str, ...]:
    """Return the class names; numbers become text. Raises DataError if names are missing or repeated."""
    if isinstance(classes, str) or not isinstance(classes, Sequence) or len(classes) == 0:
        raise DataError(
            f"{name} classes must be the names in label order, such as ('cat', 'dog'); got {classes!r:.100}."
        )
    # folders 0, 1, ... and YAML give numbers; reports and predictions write names
    texts = tuple(map(str, classes))
    first_with: dict[str, int] = {}
    for number, text in enumerate(texts):
        if text in first_with:
            raise DataError(
                f"{name} classes must differ; numbers {first_with[text]} and {number} (from 0) are named {text!r}. "
                "They name class numbers, or the columns of multi-label and regression targets: rename one, or merge "
                "the two."
            )
        first_with[text] = number
    return texts


def as_tensor(name: str, values: Any) -> Tensor:
    """Return a tensor, or an array, list or list of arrays as one. Raises DataError that begins with `name`."""
    if isinstance(values, Tensor):
        return values
    try:
        if isinstance(values, list | tuple) and values and hasattr(values[0], "shape"):
            # a list of arrays: as_tensor would convert it number by number, in Python
            return torch.stack([as_tensor(name, value) for value in values])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the warning that a read-only memory map is not writable
            return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} must be a tensor or an array; got {type(values).__name__} ({error}).") from error


def kind_of(tensor: Tensor) -> str:
    """Return 'int64 (3, 2)' for messages."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
