"""Linear layers through oneDNN, where torch would take MKL.

On another maker's processor MKL leaves AVX-512 alone: its products took 1.5 to 2.3 times as long as oneDNN's there
(AMD EPYC, 2 threads, 15 shapes of 4 million multiplications and more, medians of 15).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from effbench.kernels.tensors import FLOAT32, KIND
from effbench.models.plain import is_plain

FEW = 128
LEAST = 2**22  # multiplications: below, torch's shorter way to MKL weighs more


class Linear(nn.Linear):
    """nn.Linear in everything but the time it takes; but its gradient has no gradient."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear: x (..., I), weight (O, I), bias (O) -> (..., O)."""
    if not _pays(x, weight):
        return nn.functional.linear(x, weight, bias)
    rows = x if x.dim() == 2 else x.view(-1, x.shape[-1])
    out: Tensor = (_Product.apply if torch.is_grad_enabled() else product)(rows, weight, bias)
    return out if x.dim() == 2 else out.view(*x.shape[:-1], -1)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (R, I), weight (O, I), bias (O) -> (R, O), by oneDNN; autograd does not hear of it."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return out


def weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """(O, I) of x (R, I) and the gradient (R, O): over many rows oneDNN wants the longer side last."""
    if x.shape[0] <= FEW or x.shape[1] >= gradient.shape[1]:
        return product(gradient.t(), x.t())
    return product(x.t(), gradient.t()).t().contiguous()


def has_products() -> bool:
    """Whether this torch has oneDNN's linear layer, and may use it on a processor it was measured on."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch._C._get_mkldnn_enabled()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _pays(x: Tensor, weight: Tensor) -> bool:
    if x.dim() < 2 or x.numel() * weight.shape[0] < LEAST or weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        return False
    return is_plain(x) and x.is_contiguous() and KIND(weight) == FLOAT32 and _mkl_is_held_back() and has_products()


@cache
def _mkl_is_held_back() -> bool:
    try:
        return "GenuineIntel" not in Path("/proc/cpuinfo").read_text() and torch.backends.mkl.is_available()
    except OSError:
        return False


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x = product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        for_weight = weight_gradient(x, gradient) if ctx.needs_input_grad[1] else None
        for_bias = gradient.sum(0) if ctx.needs_input_grad[2] else None
        return for_x, for_weight, for_bias
