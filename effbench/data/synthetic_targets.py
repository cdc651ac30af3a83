"""Targets of synthetic datasets, derived from the class of a sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from effbench.errors import ConfigError, unknown_name

TARGETS = ("class", "labels", "values")


def targets_by_class(kind: str, num_classes: int) -> Tensor | None:
    """Return float (K, K), the targets of each class; None if they are class numbers.

    Args:
        kind: of class k, 'class': k; 'labels': k and the next one; 'values': cos(2 pi (k - j) / K) at column j.
        num_classes: K.

    Raises:
        ConfigError: there is no such kind.
    """
    if kind not in TARGETS:
        raise ConfigError(unknown_name("data.targets", kind, TARGETS))
    if kind == "class":
        return None
    columns = torch.arange(num_classes)
    apart_KK = (columns.unsqueeze(1) - columns) % num_classes  # class k, column j: (k - j) mod K
    if kind == "labels":
        return ((apart_KK == 0) | (apart_KK == num_classes - 1)).float()
    # periodic: the last class is as near to the first as to the one before it
    return torch.cos(2 * math.pi / num_classes * apart_KK)
