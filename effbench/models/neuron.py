"""One neuron on feature rows: logistic regression, with the gradient of autograd or the one written out here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effbench.errors import ConfigError, unknown_name

GRADIENTS = ("autograd", "manual")


class Neuron(nn.Module):
    """z = w . x + b. For two classes (B, F) -> (B, 2), the logits 0 and z; for one number or label (B, F) -> (B, 1), z.

    The softmax of 0 and z is 1 - p and p with p = 1 / (1 + exp(-z)), and their cross-entropy is the loss of logistic
    regression. With more outputs there is a neuron for each, of classes for each but the first, whose logit stays 0.
    w and b start at 0: the loss is convex, and its minimum does not depend on the start.

    Args:
        num_classes: number of outputs.
        in_features: F.
        gradient: 'autograd', or 'manual' for the backward pass of `ByHand`; both give the same numbers.
        target_kind: 'class', 'labels' or 'values', as in effbench/tasks/task.py.

    Raises:
        ConfigError: there is no such gradient.
    """

    def __init__(self, num_classes: int, in_features: int, gradient: str = "autograd", target_kind: str = "class"):
        super().__init__()
        if gradient not in GRADIENTS:
            raise ConfigError(unknown_name("model.gradient", str(gradient), GRADIENTS))
        self.by_hand = gradient == "manual"
        self.fixed = int(target_kind == "class" and num_classes > 1)  # logits that stay 0
        self.linear = nn.Linear(in_features, num_classes - self.fixed)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x_BF: Tensor) -> Tensor:
        """(B, F) -> (B, num_classes)."""
        # an exporter cannot trace ByHand, and without gradients there is nothing to do by hand
        if self.by_hand and torch.is_grad_enabled():
            z_BK: Tensor = ByHand.apply(x_BF, self.linear.weight, self.linear.bias)
        else:
            z_BK = self.linear(x_BF)
        return F.pad(z_BK, (self.fixed, 0))


class ByHand(torch.autograd.Function):
    """z = x w^T + b for K neurons, and its gradients by the chain rule.

    Of the loss L autograd hands over dL/dz; for the mean cross-entropy of B rows that is (p - y) / B.
    """

    @staticmethod
    def forward(ctx: Any, x_BF: Tensor, weight_KF: Tensor, bias_K: Tensor) -> Tensor:
        """(B, F), (K, F), (K,) -> (B, K)."""
        ctx.save_for_backward(x_BF, weight_KF)
        return x_BF @ weight_KF.T + bias_K

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """dL/dz (B, K) -> dL/dx, dL/dw, dL/db."""
        x_BF, weight_KF = ctx.saved_tensors
        dz_BK = grads[0].to(weight_KF.dtype)  # 16 bits under autocast
        # z_i = sum_f x_if w_f + b: each row adds its dz times its x, and dz alone for the bias
        return dz_BK @ weight_KF, dz_BK.T @ x_BF, dz_BK.sum(0)


def logistic_gradient(x_BF: Tensor, y_B: Tensor, weight_F: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of the mean cross-entropy -y ln p - (1 - y) ln(1 - p) of a neuron: (F,) and ().

    The derivative of the loss to z is p - y: what the neuron says minus what is true. A step of gradient descent is
    `weight -= lr * gradient`.

    Args:
        x_BF: rows.
        y_B: 1 for the second class, 0 for the first.
        weight_F, bias: of the neuron.
    """
    p_B = 1 / (1 + torch.exp(-(x_BF @ weight_F + bias)))
    dz_B = (p_B - y_B) / len(x_BF)
    return x_BF.T @ dz_B, dz_B.sum()
