"""What is minimised: cross-entropy summed over samples, so that accumulation cannot change the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effbench.errors import ConfigError


@dataclass(frozen=True)
class Objective:
    """Cross-entropy in nats with label smoothing (arXiv:1512.00567, section 7) and class weights.

    class_weights: float (K,) or None. The mean over a step divides by the weight of its samples, as
    torch.nn.CrossEntropyLoss does, but over the whole step: all micro-batches, all ranks.
    """

    label_smoothing: float = 0.0
    class_weights: Tensor | None = None

    def summed(self, logits_BK: Tensor, targets: Tensor) -> Tensor:
        """The sum over the batch. targets: int64 (B,) or float (B, K)."""
        return F.cross_entropy(
            logits_BK, targets, self.class_weights, reduction="sum", label_smoothing=self.label_smoothing
        )

    def divisor(self, samples: int, class_mass_K: Tensor | None) -> float:
        """What turns the step's sum into its mean. class_mass_K: how much of each class the step holds."""
        if self.class_weights is None or class_mass_K is None:
            return float(samples)
        # A step of weightless classes alone: a zero gradient rather than 0/0.
        return float((class_mass_K * self.class_weights.cpu()).sum()) or 1.0

    def weight(self, targets: Tensor) -> Tensor | None:
        """float64 (): the class weights of a batch's samples together; None without class weights."""
        if self.class_weights is None:
            return None
        if targets.dim() == 1:
            return self.class_weights[targets].sum(dtype=torch.float64)
        return (targets.sum(0, dtype=torch.float64) * self.class_weights).sum()

    @property
    def needs_class_mass(self) -> bool:
        return self.class_weights is not None


def class_weights(choice: Sequence[float] | str | None, labels: Tensor, num_classes: int) -> Tensor | None:
    """float (K,): the given weights, or for 'balanced' N / (K * count), 0 for a class without samples."""
    if choice is None:
        return None
    if choice == "balanced":
        counts = torch.bincount(labels, minlength=num_classes).double()
        weights = len(labels) / (num_classes * counts)
        return torch.where(counts > 0, weights, 0.0).float()
    if len(choice) != num_classes:
        raise ConfigError(
            f"loss.class_weights must hold one number for each of the {num_classes} classes; got {len(choice)}."
        )
    weights = torch.tensor(choice, dtype=torch.float32)
    if not weights.isfinite().all() or not weights[labels.unique()].any():
        raise ConfigError(
            f"loss.class_weights must be finite, and above 0 for some class of the train split; got {list(choice)}."
        )
    return weights


class L1Penalty:
    """Adds the gradient of strength * sum |w|: strength * sign(w), in true gradient units."""

    def __init__(self, parameters: Sequence[Tensor], strength: float):
        self._parameters, self._strength = list(parameters), strength

    @torch.no_grad()
    def add_gradients(self) -> None:
        if self._strength == 0:
            return
        live = [parameter for parameter in self._parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in live if parameter.grad is not None]
        torch._foreach_add_(gradients, torch._foreach_sign(live), alpha=self._strength)


def logits_of(outputs: Any) -> Tensor:
    """What a model gives in training mode, where some give more than in eval mode: auxiliary heads, a dict."""
    if isinstance(outputs, Tensor):
        return outputs
    raise ConfigError(
        f"the model returns a {type(outputs).__name__} in training; it must return the logits alone, a tensor (N, K). "
        "Turn its auxiliary heads off (aux_logits=false), or wrap it in a model of your own."
    )
