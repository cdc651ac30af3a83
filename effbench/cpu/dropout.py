"""Dropout that draws one number from torch's generator for each tensor, where torch draws one for each element.

torch draws them sequentially on one thread. Here the number is a seed: csrc/dropout.c computes the mask from it, and
again in the backward pass, so no mask is stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from effbench.cpu.double_backward import needs_differentiable_backward
from effbench.cpu.eligibility import Accelerated, is_plain_cpu_float32
from effbench.cpu.library import library
from effbench.cpu.tensors import call, layout_of

_DRAWS = 2**32  # values of an element's random bits
_MAX_P = 1 - 2**-12  # above, rounding p to a multiple of 2**-32 would affect the mean


class CpuDropout(nn.Dropout, Accelerated):
    """A faster nn.Dropout. For the same seed it drops other elements than torch."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not 0 < self.p <= _MAX_P:
            return super().forward(input)
        if not is_plain_cpu_float32(input) or layout_of(input) is None or library() is None:
            return super().forward(input)
        if self.inplace and input.requires_grad and (input.is_leaf or input._is_view()):  # torch may refuse these
            return super().forward(input)
        # Also without gradients: torch.utils.checkpoint first runs it without, and the second run must drop the same.
        seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_())
        out: Tensor = _Dropout.apply(input, self.p, seed, self.inplace)
        return out


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int, inplace: bool) -> Tensor:
        ctx.p, ctx.seed, ctx.layout = p, seed, layout_of(x)
        # autograd refuses a later use of the old value
        if inplace:
            ctx.mark_dirty(x)
        return _drop(x, x if inplace else torch.empty_like(x), p, seed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        if needs_differentiable_backward(gradient):
            # a product with the mask, which is computed as the dropout of ones
            ones = torch.ones(gradient.shape, dtype=torch.float32, device="cpu").contiguous(memory_format=ctx.layout)
            return gradient * _drop(ones, ones, ctx.p, ctx.seed), None, None, None
        # the input's layout: the mask depends on an element's place in memory
        gradient = gradient.contiguous(memory_format=ctx.layout)
        return _drop(gradient, torch.empty_like(gradient), ctx.p, ctx.seed), None, None, None


def _drop(x: Tensor, out: Tensor, p: float, seed: int) -> Tensor:
    """Write x, dropped and scaled by 1 / (1 - p), to `out`, which has the layout of x or is x."""
    call("dropout", x, out, x.numel(), seed, round(p * _DRAWS), float(1 - p))
    return out
