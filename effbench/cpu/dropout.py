"""Dropout that draws one number from torch's generator for a tensor, where torch draws one for each element.

On a CPU torch's are drawn one by one, on one thread. Here the draw is a seed, from which the compiled function
(effbench/cpu/csrc/dropout.c) finds the mask, and finds it again for the gradient: none is kept until then.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from effbench.cpu.double_backward import is_for_torch
from effbench.cpu.eligibility import Accelerated, is_plain_cpu_float32
from effbench.cpu.library import library
from effbench.cpu.tensors import layout_of

_DRAWS = 2**32
_MAX_P = 1 - 2**-12  # beyond, rounding p to 1 / 2**32 would be seen in the mean


class Dropout(nn.Dropout, Accelerated):
    """nn.Dropout in everything but the time it takes and which elements a seed of torch's drops."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not 0 < self.p <= _MAX_P or not _applies(input):
            return super().forward(input)
        if self.inplace and input.requires_grad and (input.is_leaf or input._is_view()):  # torch may refuse, in time
            return super().forward(input)
        # Without gradients too: torch.utils.checkpoint has the second pass, with them, drop what the first one did.
        seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_())
        out: Tensor = _Dropped.apply(input, self.p, seed, self.inplace)
        return out


def _applies(x: Tensor) -> bool:
    return is_plain_cpu_float32(x) and layout_of(x) is not None and library() is not None


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int, inplace: bool) -> Tensor:
        ctx.p, ctx.seed, ctx.layout = p, seed, layout_of(x)
        if inplace:
            ctx.mark_dirty(x)
        return _dropped(x, x if inplace else torch.empty_like(x), p, seed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        if is_for_torch(gradient):
            ones = torch.ones(gradient.shape, dtype=torch.float32, device="cpu").contiguous(memory_format=ctx.layout)
            return gradient * _dropped(ones, ones, ctx.p, ctx.seed), None, None, None
        gradient = gradient.contiguous(memory_format=ctx.layout)
        return _dropped(gradient, torch.empty_like(gradient), ctx.p, ctx.seed), None, None, None


def _dropped(x: Tensor, out: Tensor, p: float, seed: int) -> Tensor:
    """out, of x's layout or x itself: x times torch's noise, 0 or 1 / (1 - p)."""
    compiled = library()
    assert compiled is not None
    compiled.dropout(
        ctypes.c_void_p(x.data_ptr()),
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_int64(x.numel()),
        ctypes.c_uint64(seed),
        ctypes.c_uint32(round(p * _DRAWS)),
        ctypes.c_float(1 - p),
        ctypes.c_int(torch.get_num_threads()),
    )
    return out
