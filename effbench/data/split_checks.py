"""Check what a dataset's function returns: types, shapes and ranges of inputs and targets."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from effbench.errors import DataError


def as_targets(name: str, targets: Any) -> Tensor:
    """Return int64 (N,) for class numbers, or (N, K) or float (N,) for the task to check. Raises DataError."""
    found = as_tensor(f"{name} labels", targets)
    several = found.dim() == 2 or (found.dim() == 1 and found.is_floating_point())
    return found if several and not found.is_complex() else as_labels(name, found)


def as_multi_hot(name: str, targets: Tensor, num_labels: int) -> Tensor:
    """Check multi-label targets.

    Args:
        name: beginning of messages.
        targets: (N, K) of 0 and 1.
        num_labels: K.

    Returns:
        Float32 (N, K).

    Raises:
        DataError: the shape or a value is wrong; the message names the first such sample.
    """
    if targets.dim() != 2 or targets.shape[1] != num_labels:
        raise DataError(
            f"{name} labels must be (N, {num_labels}) of 0 and 1, a column for each of its {num_labels} labels, for "
            f"task=multilabel; got {_kind(targets)}."
        )
    odd = ((targets != 0) & (targets != 1)).any(1).nonzero().flatten()
    if len(odd):
        first = int(odd[0])
        raise DataError(
            f"{name} labels must be 0 or 1 for task=multilabel; sample {first} has {targets[first].tolist()!s:.60} "
            f"({len(odd)} such samples)."
        )
    return targets.to(torch.float32)


def as_values(name: str, targets: Tensor, num_values: int) -> Tensor:
    """Check regression targets.

    Args:
        name: beginning of messages.
        targets: (N, D), or (N,) for D = 1; finite.
        num_values: D.

    Returns:
        Float32 (N, D).

    Raises:
        DataError: the shape or a value is wrong; the message names the first such sample.
    """
    values = targets.to(torch.float32)
    values = values.unsqueeze(1) if values.dim() == 1 else values
    if values.shape[1] != num_values:
        raise DataError(
            f"{name} targets must be (N, {num_values}), one number for each of its {num_values} `classes`, which name "
            f"the values, for task=regression; got {_kind(targets)}. Name each value in `classes`."
        )
    odd = (~values.isfinite()).any(1).nonzero().flatten()
    if len(odd):
        first = int(odd[0])
        raise DataError(
            f"{name} targets must be finite for task=regression; sample {first} has {values[first].tolist()!s:.60} "
            f"({len(odd)} such samples)."
        )
    return values


def as_labels(name: str, labels: Any) -> Tensor:
    """Return int64 (N,) from a tensor, array or list of integers. Raises DataError that begins with `name`."""
    found = as_tensor(f"{name} labels", labels)
    if found.dim() != 1:
        got = f"{_kind(found)}{_first(found)}"
        raise DataError(f"{name} labels must be (N,), one class number a sample; got {got}. {_rank_remedy(found)}")
    if found.is_floating_point() or found.is_complex():
        raise DataError(
            f"{name} labels must be class numbers, int64 (N,); got {_kind(found)}{_first(found)}. Whole numbers: give "
            "labels.long(). Continuous values: task=regression loss=mse."
        )
    return found.to(torch.int64)


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
    from_one = int(labels.min()) == 1 and int(labels.max()) == num_classes
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
    texts = tuple(map(str, classes))
    twice = next((text for text, count in Counter(texts).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{name} classes must differ; {twice!r} is there more than once: {texts!r:.100}.")
    return texts


def check_digest(name: str, sha256: Any) -> None:
    if not isinstance(sha256, str):
        raise DataError(
            f"{name} sha256 must be text that names the content, such as digest(images, labels); got {sha256!r}."
        )


def as_tensor(name: str, values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    try:
        if isinstance(values, list | tuple) and values and hasattr(values[0], "shape"):
            return torch.stack([as_tensor(name, value) for value in values])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the warning that a read-only memory map is not writable
            return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} must be a tensor or an array; got {type(values).__name__} ({error}).") from error


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _first(labels: Tensor) -> str:
    """Describe the first sample that shows the fault: the first label that is not a whole number, if there is one."""
    if labels.dim() == 0 or len(labels) == 0:
        return ""
    rows = labels.reshape(len(labels), -1)
    place = 0
    if labels.is_floating_point():
        odd = (rows != rows.round()).any(1).nonzero().flatten()
        place = int(odd[0]) if len(odd) else 0
    return f", sample {place}: {labels[place].tolist()!s:.60}"


def _rank_remedy(labels: Tensor) -> str:
    if labels.dim() == 2 and labels.shape[1] == 1:
        return "Give labels.squeeze(1)."
    if labels.dim() == 2 and bool(((labels == 0) | (labels == 1)).all()) and bool((labels.sum(1) == 1).all()):
        return "One-hot rows: give labels.argmax(1)."
    return "Several labels a sample: task=multilabel loss=bce. Several numbers: task=regression loss=mse."
