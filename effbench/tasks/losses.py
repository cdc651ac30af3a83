"""Losses, summed over samples, so that accumulation, ranks and a short last batch do not change the mean.

To add your own loss, write one class and one YAML in conf/loss or --config-dir/loss. The class is a subclass of Loss,
or a loss of torch.nn (such as torch.nn.SmoothL1Loss), whose mean over outputs is summed over samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effbench.config.options import NON_NEGATIVE, POSITIVE
from effbench.errors import ConfigError


class Loss:
    """Base of the losses, which training minimises.

    Attributes:
        targets: kinds of targets that the loss takes (see effbench/tasks/task.py).
        needs_class_mass: `divisor` needs the amount of each class.
    """

    targets: ClassVar[tuple[str, ...]] = ("class", "labels", "values", "tokens")
    needs_class_mass: bool = False

    def summed(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the differentiable sum over the batch. outputs, targets: as the task's `rows` returns them."""
        raise NotImplementedError

    def weight(self, targets: Tensor) -> Tensor | None:
        """Return the weight of a batch in the mean, float64 (); None if it is the number of samples."""
        del targets
        return None

    def divisor(self, samples: int, class_mass_K: Tensor | None) -> float:
        """Return the number that a step's sum is divided by.

        Args:
            samples: samples (of tokens: targets) of the step, over all micro-batches and ranks.
            class_mass_K: amount of each class in the step; given only if `needs_class_mass`.
        """
        del class_mass_K
        return float(samples)

    def to(self, device: torch.device) -> Self:
        """Move the loss's tensors and modules to the device, and return the loss."""
        for name, value in dict(vars(self)).items():
            if isinstance(value, Tensor | nn.Module):
                # a module moves in place, a tensor does not: keep what is returned
                setattr(self, name, value.to(device))
        return self


def checked_sum(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return `loss.summed(outputs, targets)`. Raises ConfigError unless it is a number with a gradient.

    Args:
        loss: may be the user's.
        outputs: as `summed` takes them.
        targets: likewise.
    """
    summed: Any = loss.summed(outputs, targets)
    if isinstance(summed, Tensor) and summed.dim() == 0 and (summed.requires_grad or not outputs.requires_grad):
        return summed
    got = type(summed).__name__
    if isinstance(summed, Tensor):
        got = f"a tensor {tuple(summed.shape)}{'' if summed.requires_grad else ' without one'}"
    raise ConfigError(
        f"loss ({type(loss).__name__}): summed must return the sum over the batch, a tensor () with a gradient; got "
        f"{got}."
    )


class _OfClasses(Loss):
    """Losses over classes. With class weights, a step's mean divides by the weight of its samples, as in torch."""

    targets = ("class", "tokens")

    def __init__(self, class_weights: Tensor | None):
        self.class_weights = class_weights
        self.needs_class_mass = class_weights is not None

    def weight(self, targets: Tensor) -> Tensor | None:
        if self.class_weights is None:
            return None
        if targets.dim() == 1:
            return self.class_weights[targets].sum(dtype=torch.float64)
        return (targets.sum(0, dtype=torch.float64) * self.class_weights).sum()  # mixed labels: (B, K) shares

    def divisor(self, samples: int, class_mass_K: Tensor | None) -> float:
        if self.class_weights is None or class_mass_K is None:
            return float(samples)
        # If all classes of a step have weight 0, the gradient is zero, not 0/0.
        return float((class_mass_K * self.class_weights.cpu()).sum()) or 1.0


class CrossEntropy(_OfClasses):
    """Cross-entropy in nats with label smoothing (arXiv:1512.00567, section 7) and class weights.

    Args:
        label_smoothing: fraction of the target's mass that is spread evenly, in [0, 1).
        class_weights: float (K,), or None.
    """

    def __init__(self, label_smoothing: float = 0.0, class_weights: Tensor | None = None):
        super().__init__(class_weights)
        self.label_smoothing = label_smoothing

    def summed(self, outputs: Tensor, targets: Tensor) -> Tensor:
        # torch spreads the mass over all K classes, the target's own included, as the paper does. With reduction='sum'
        # it does not divide by the class weights: `divisor` does, for the whole step.
        return F.cross_entropy(
            outputs, targets, self.class_weights, reduction="sum", label_smoothing=self.label_smoothing
        )


class Focal(_OfClasses):
    """Focal loss in nats: -(1 - p)^gamma log p, with p the probability of the class (arXiv:1708.02002, equation 5).

    Args:
        gamma: >= 0. A larger value reduces the weight of samples that are already right; 0 is cross-entropy.
        class_weights: float (K,), the paper's alpha, or None.

    Raises:
        ConfigError: gamma is not a number >= 0.
    """

    def __init__(self, gamma: float = 2.0, class_weights: Tensor | None = None):
        super().__init__(class_weights)
        self.gamma: float = NON_NEGATIVE.check(gamma, "loss.gamma", remedy="2 is usual.")

    def summed(self, outputs: Tensor, targets: Tensor) -> Tensor:
        log_p_BK = F.log_softmax(outputs, dim=1)  # finite where softmax underflows to 0, whose logarithm is -inf
        shares_BK = F.one_hot(targets, outputs.shape[1]) if targets.dim() == 1 else targets
        rest_BK = 1 - log_p_BK.exp()
        if 0 < self.gamma < 1:
            # The power's slope is infinite at 0, where rounding puts a sure sample: its gradient would be NaN.
            rest_BK = torch.expm1(log_p_BK).neg().clamp_min(torch.finfo(log_p_BK.dtype).tiny)
        terms_BK = -(rest_BK**self.gamma) * log_p_BK * shares_BK
        return (terms_BK if self.class_weights is None else terms_BK * self.class_weights).sum()


class BinaryCrossEntropy(Loss):
    """Binary cross-entropy in nats; the loss of a sample is the mean over its labels.

    Args:
        pos_weight: weight of a present label relative to an absent one, > 0.

    Raises:
        ConfigError: pos_weight is not a number > 0.
    """

    targets = ("labels",)

    def __init__(self, pos_weight: float = 1.0):
        self.pos_weight: float = POSITIVE.check(pos_weight, "loss.pos_weight", remedy="1 weighs both equally.")

    def summed(self, outputs: Tensor, targets: Tensor) -> Tensor:
        # made on the device of the outputs: a copy from the host would synchronize a GPU
        weight = outputs.new_full((outputs.shape[1],), self.pos_weight)
        terms_BK = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none", pos_weight=weight)
        # the mean over labels: loss and gradients do not grow with their number
        return terms_BK.mean(1).sum()


class MeanSquaredError(Loss):
    """Squared error in the squared unit of the targets; the loss of a sample is the mean over its values."""

    targets = ("values",)

    def summed(self, outputs: Tensor, targets: Tensor) -> Tensor:
        # the mean over D, as torch's own mean over all elements; then the sum over samples
        return F.mse_loss(outputs, targets, reduction="none").mean(1).sum()


# Kinds of targets of torch's losses. With another kind some compute a number that looks right: MSELoss spreads class
# numbers (B,) over outputs (B, K) where B == K, and CrossEntropyLoss reads labels (B, K) as shares of the classes.
TORCH_TARGETS: Mapping[type[nn.Module], tuple[str, ...]] = {
    nn.CrossEntropyLoss: ("class", "tokens"), nn.MultiMarginLoss: ("class",),
    nn.BCEWithLogitsLoss: ("labels",), nn.MultiLabelSoftMarginLoss: ("labels",),
    nn.MSELoss: ("values",), nn.L1Loss: ("values",), nn.SmoothL1Loss: ("values",), nn.HuberLoss: ("values",),
}  # fmt: skip
_NO_LOGITS = "takes {}, and the outputs of a model are logits. Write torch.nn.{}."
_NO_SIGNS = "takes targets of {}, and labels are 0 and 1. Write torch.nn.MultiLabelSoftMarginLoss."
_TAKES_MORE = "takes more than outputs and targets. Write a subclass of effbench.tasks.losses.Loss that adds it."
# torch's losses that fit no task -> why, and what to write instead.
UNFIT: Mapping[type[nn.Module], str] = {
    **dict.fromkeys((nn.NLLLoss, nn.NLLLoss2d), _NO_LOGITS.format("log-probabilities", "CrossEntropyLoss")),
    nn.KLDivLoss: _NO_LOGITS.format("log-probabilities", "CrossEntropyLoss"),
    nn.BCELoss: _NO_LOGITS.format("probabilities", "BCEWithLogitsLoss, with task=multilabel"),
    nn.SoftMarginLoss: _NO_SIGNS.format("-1 and 1"),
    nn.HingeEmbeddingLoss: _NO_SIGNS.format("-1 and 1"),
    nn.MultiLabelMarginLoss: _NO_SIGNS.format("class numbers, filled up with -1"),
    # its outputs are logarithms of rates, and a task's answer would be the logarithm
    nn.PoissonNLLLoss: "takes logarithms of rates, and a task answers with the outputs. Write torch.nn.MSELoss.",
    **dict.fromkeys(
        (
            nn.CTCLoss, nn.GaussianNLLLoss, nn.TripletMarginLoss, nn.TripletMarginWithDistanceLoss,
            nn.MarginRankingLoss, nn.CosineEmbeddingLoss,
        ), _TAKES_MORE,
    ),
}  # fmt: skip


# Torch's losses with an option in the unit of the targets -> its name, and the power of that unit that the loss has.
_WIDTHS: Mapping[type[nn.Module], tuple[str, int]] = {nn.HuberLoss: ("delta", 2), nn.SmoothL1Loss: ("beta", 1)}


@dataclass(eq=False)
class OfTorch(Loss):
    """A loss of torch.nn, constructed with reduction='none'."""

    module: nn.Module

    @property
    def width(self) -> str | None:
        """Name of the loss's option in the unit of the targets, such as Huber's delta; None if it has none."""
        # of exactly torch's class: a subclass of the user's may have another form
        return _WIDTHS[type(self.module)][0] if type(self.module) in _WIDTHS else None

    def summed(self, outputs: Tensor, targets: Tensor) -> Tensor:
        terms = self._terms(outputs, targets)
        return terms.flatten(1).mean(1).sum() if terms.dim() > 1 else terms.sum()

    def summed_in_unit(self, outputs: Tensor, targets: Tensor, unit_D: Tensor) -> Tensor:
        """Return the sum of a loss with a `width` in the unit of the targets (Huber: squared), as `summed` counts it.

        Args:
            outputs: in multiples of `unit_D`, as is the loss's `width`.
            targets: likewise.
            unit_D: (D,), one such multiple in the unit of each target.
        """
        _, power = _WIDTHS[type(self.module)]
        return (self._terms(outputs, targets) * unit_D**power).mean(1).sum()

    def _terms(self, outputs: Tensor, targets: Tensor) -> Tensor:
        # Terms are (B, K) for element-wise losses, averaged so that K does not scale gradients, and (B,) for losses
        # over classes
        terms: Tensor = self.module(outputs, targets)
        if terms.shape[:1] != outputs.shape[:1]:
            raise ConfigError(
                f"loss ({type(self.module).__name__}) must give one value a sample, as with reduction='none'; got "
                f"values of shape {tuple(terms.shape)} for {len(outputs)} samples. Leave out options that add them up, "
                "such as size_average and reduce, or write a subclass of effbench.tasks.losses.Loss."
            )
        return terms


def class_weights(choice: Sequence[float] | str | None, labels: Tensor, num_classes: int) -> Tensor | None:
    """Return class weights, float (K,), or None.

    Args:
        choice: None, one number a class, or 'balanced': N / (K * count), and 0 for a class without samples.
        labels: int64 (N,), the train split's.
        num_classes: K.

    Raises:
        ConfigError: another number of weights than classes, a weight that is not finite, or no class with a weight
            above 0.
    """
    if choice is None:
        return None
    if choice == "balanced":  # as in scikit-learn: each class gets the same total weight
        counts = torch.bincount(labels, minlength=num_classes).double()
        weights = len(labels) / (num_classes * counts)
        return torch.where(counts > 0, weights, 0.0).float()
    if len(choice) != num_classes:
        raise ConfigError(
            f"loss.class_weights must hold one number for each of the {num_classes} classes; got {len(choice)}."
        )
    weights = torch.tensor(choice, dtype=torch.float32)
    # with weight 0 for all classes that occur, every step would be 0/0
    if not weights.isfinite().all() or not weights[labels.unique()].any():
        raise ConfigError(
            f"loss.class_weights must be finite, and above 0 for some class of the train split; got {list(choice)}."
        )
    return weights
