"""Linear layers by kernels of our own (effbench/cpu/csrc/mix.c), where torch would take MKL and that holds back.

On another maker's processor MKL leaves AVX-512 alone: it took 1.5 to 2.7 times as long as ours there, forward and for
the input's gradient (AMD EPYC, 2 threads, 13 shapes from 38 million multiplications on, medians of 7; once 7 times).
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effbench.cpu.double_backward import is_for_torch
from effbench.cpu.eligibility import Accelerated, is_plain_cpu_float32, is_tracing
from effbench.cpu.library import library
from effbench.cpu.tensors import FLOAT32, KIND, OWN

LEAST = 2**22  # multiplications: below, torch's shorter way to MKL weighs more
FEWEST = 32  # rows: for fewer, arranging the weights would take longer than multiplying
_PANEL = 48  # columns of gemm.c's panels, at most


class Linear(nn.Linear, Accelerated):
    """nn.Linear in everything but the time it takes."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear: x (..., I), weight (O, I), bias (O) -> (..., O)."""
    if not _pays(x, weight, bias):
        return nn.functional.linear(x, weight, bias)
    rows = x if x.dim() == 2 else x.view(-1, x.shape[-1])
    out: Tensor = (_Product.apply if torch.is_grad_enabled() else _product)(rows, weight, bias)
    return out if x.dim() == 2 else out.view(*x.shape[:-1], -1)


def packed_floats(inputs: int, outputs: int) -> int:
    """Scratch of gemm.c's `mix`."""
    return inputs * -(-outputs // _PANEL) * _PANEL


def _pays(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if type(x) is not Tensor or is_tracing() or x.numel() * weight.shape[0] < LEAST:
        return False
    if x.dim() < 2 or weight.dim() != 2 or x.shape[-1] != weight.shape[1] or x.numel() < FEWEST * x.shape[-1]:
        return False
    own = (weight,) if bias is None else (weight, bias)
    if any(type(tensor) not in OWN or KIND(tensor) != FLOAT32 for tensor in own):
        return False
    return (
        is_plain_cpu_float32(x)
        and x.is_contiguous()
        and weight.is_contiguous()
        and mkl_is_held_back()
        and library() is not None
    )


@cache
def mkl_is_held_back() -> bool:
    """Whether torch multiplies matrices by MKL, with AVX-512 at hand that is not Intel's."""
    try:
        foreign = "GenuineIntel" not in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return foreign and torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), needs = ctx.saved_tensors, ctx.needs_input_grad
        fits = KIND(weight) == FLOAT32 and weight.is_contiguous() and weight.shape == (gradient.shape[-1], x.shape[-1])
        if not fits or is_for_torch(gradient):  # its .data may have been replaced since
            for_x, for_weight = gradient @ weight, gradient.mT @ x
        else:
            gradient = gradient.contiguous()
            for_x = _input_gradient(gradient, x, weight) if needs[0] else None
            for_weight = _weight_gradient(gradient, x, weight) if needs[1] else None
        return for_x, for_weight, gradient.sum(-2) if needs[2] else None


def _input_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    found = torch.empty_like(x)
    _call("unmix", (gradient, weight, found), x, weight)
    return found


def _weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    found = torch.empty_like(weight)
    turned = torch.empty_like(weight if weight.shape[1] < _PANEL else weight[:0])  # for few columns alone
    _call("mix_gradient", (x, gradient, turned, found), x, weight)
    return found


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    packed, out = x.new_empty(packed_floats(weight.shape[1], weight.shape[0])), x.new_empty(x.shape[0], weight.shape[0])
    _call("mix", (x, weight, packed, out), x, weight)
    return out if bias is None else out.add_(bias)


def _call(name: str, tensors: tuple[Tensor, ...], x: Tensor, weight: Tensor) -> None:
    addresses = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
    sizes = map(ctypes.c_int64, (x.shape[0], weight.shape[1], weight.shape[0]))
    getattr(library(), name)(*addresses, *sizes, ctypes.c_int(torch.get_num_threads()))
