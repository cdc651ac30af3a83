"""nn.Linear with our SGEMM (csrc/gemm.c) where torch would use MKL and MKL does not use AVX-512, as on AMD.

There MKL took 1.5 to 2.7 times as long for the forward pass and the input gradient (AMD EPYC, 2 threads, 13 shapes of
at least 38 million multiplications, medians of 7; in one case 7 times).
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effbench.cpu.double_backward import needs_differentiable_backward
from effbench.cpu.eligibility import Accelerated, is_plain_cpu_float32, is_tracing
from effbench.cpu.library import library, scratch_size
from effbench.cpu.tensors import CPU_FLOAT32, PLAIN_TYPES, kind_of

MIN_MULTIPLICATIONS = 2**22  # below, the Python function costs more than the kernel gains
MIN_ROWS = 32  # for fewer, packing the weights takes longer than multiplying


class CpuLinear(nn.Linear, Accelerated):
    """nn.Linear that is faster on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute F.linear.

    Args:
        x: (..., I).
        weight: (O, I).
        bias: (O,), or None.

    Returns:
        (..., O).
    """
    if not _pays(x, weight, bias):
        return nn.functional.linear(x, weight, bias)
    rows = x if x.dim() == 2 else x.view(-1, x.shape[-1])
    out: Tensor = (_Linear.apply if torch.is_grad_enabled() else _product)(rows, weight, bias)
    return out if x.dim() == 2 else out.view(*x.shape[:-1], -1)


def _pays(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if type(x) is not Tensor or is_tracing() or x.numel() * weight.shape[0] < MIN_MULTIPLICATIONS:
        return False
    if x.dim() < 2 or weight.dim() != 2 or x.shape[-1] != weight.shape[1] or x.numel() < MIN_ROWS * x.shape[-1]:
        return False
    parameters = (weight,) if bias is None else (weight, bias)
    if any(type(tensor) not in PLAIN_TYPES or kind_of(tensor) != CPU_FLOAT32 for tensor in parameters):
        return False
    return (
        is_plain_cpu_float32(x)
        and x.is_contiguous()
        and weight.is_contiguous()
        and mkl_is_slow()
        and library() is not None
    )


@cache
def mkl_is_slow() -> bool:
    """Return True if torch multiplies matrices with MKL on a processor with AVX-512 that is not from Intel."""
    try:
        foreign = "GenuineIntel" not in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return foreign and torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), needs = ctx.saved_tensors, ctx.needs_input_grad
        fits = kind_of(weight) == CPU_FLOAT32 and weight.is_contiguous()
        fits = fits and weight.shape == (gradient.shape[-1], x.shape[-1])  # the weight's .data may have been replaced
        if not fits or needs_differentiable_backward(gradient):
            for_x, for_weight = gradient @ weight, gradient.mT @ x
        else:
            gradient = gradient.contiguous()
            for_x = _input_gradient(gradient, x, weight) if needs[0] else None
            for_weight = _weight_gradient(gradient, x, weight) if needs[1] else None
        return for_x, for_weight, gradient.sum(-2) if needs[2] else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    packed, out = x.new_empty(_scratch_size("conv1x1", weight)), x.new_empty(x.shape[0], weight.shape[0])
    _call("conv1x1", (x, weight, packed, out), x, weight)
    return out if bias is None else out.add_(bias)


def _input_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    found = torch.empty_like(x)
    _call("conv1x1_backward_input", (gradient, weight, found), x, weight)
    return found


def _weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    transposed, found = x.new_empty(_scratch_size("conv1x1_backward_weight", weight)), torch.empty_like(weight)
    _call("conv1x1_backward_weight", (x, gradient, transposed, found), x, weight)
    return found


def _scratch_size(kernel: str, weight: Tensor) -> int:
    return scratch_size(kernel, weight.shape[1], weight.shape[0])


def _call(name: str, tensors: tuple[Tensor, ...], x: Tensor, weight: Tensor) -> None:
    addresses = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
    sizes = map(ctypes.c_int64, (x.shape[0], weight.shape[1], weight.shape[0]))
    getattr(library(), name)(*addresses, *sizes, ctypes.c_int(torch.get_num_threads()))
