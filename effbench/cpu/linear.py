"""nn.Linear with our SGEMM (csrc/gemm.c) where torch would use MKL and MKL does not use AVX-512, as on AMD.

There MKL took 1.5 to 2.7 times as long for the forward pass and the input gradient (AMD EPYC, 2 threads, 13 shapes of
at least 38 million multiplications, medians of 7; in one case 7 times).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effbench.cpu.double_backward import needs_differentiable_backward
from effbench.cpu.eligibility import Accelerated, is_plain_cpu_float32, is_tracing
from effbench.cpu.library import library, scratch_size
from effbench.cpu.tensors import CPU_FLOAT32, PLAIN_TYPES, call, kind_of

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
    # without gradients there is nothing to record
    out: Tensor = (_Linear.apply if torch.is_grad_enabled() else _product)(rows, weight, bias)
    return out if x.dim() == 2 else out.view(*x.shape[:-1], -1)


def _pays(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    # from the cheapest check to the dearest: small layers are called often, and gain nothing here
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
    # MKL chooses its code by the maker: elsewhere than on Intel's it does not use AVX-512
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
        for_x: Tensor | None = None
        for_weight: Tensor | None = None
        if not fits or needs_differentiable_backward(gradient):
            for_x, for_weight = gradient @ weight, gradient.mT @ x
        else:
            gradient = gradient.contiguous()
            rows, inputs, outputs = x.shape[0], weight.shape[1], weight.shape[0]
            if needs[0]:
                for_x = torch.empty_like(x)
                call("conv1x1_backward_input", gradient, weight, for_x, rows, inputs, outputs)
            if needs[1]:
                transposed = x.new_empty(scratch_size("conv1x1_backward_weight", inputs, outputs))
                for_weight = torch.empty_like(weight)
                call("conv1x1_backward_weight", x, gradient, transposed, for_weight, rows, inputs, outputs)
        return for_x, for_weight, gradient.sum(-2) if needs[2] else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x (R, I) weight^T + bias: a matrix product is a 1 x 1 convolution of R pixels."""
    rows, inputs, outputs = x.shape[0], weight.shape[1], weight.shape[0]
    packed, out = x.new_empty(scratch_size("conv1x1", inputs, outputs)), x.new_empty(rows, outputs)
    call("conv1x1", x, weight, packed, out, rows, inputs, outputs)
    return out if bias is None else out.add_(bias)
