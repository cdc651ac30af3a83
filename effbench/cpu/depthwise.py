"""Depthwise convolutions of 5 x 5 and larger with a faster weight gradient on a CPU.

oneDNN computes this weight gradient slowly, one channel at a time. In channels-last memory the channels of a pixel are
adjacent, so we sum products of whole rows of channels over positions: in C (csrc/depthwise.c), or without a compiler as
k * k shifted products, which are faster for small maps if oneDNN has no AVX-512. The forward pass and the input
gradient are torch's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effbench.cpu.double_backward import differentiable_gradients, needs_differentiable_backward
from effbench.cpu.eligibility import Accelerated, is_plain_cpu_float32
from effbench.cpu.library import library, scratch_size
from effbench.cpu.tensors import CPU_FLOAT32, call, kind_of

MIN_KERNEL = 5  # 3 x 3 is fast in oneDNN
MAX_KERNEL = 7  # limit of csrc/depthwise.c
MAX_POSITIONS = 64  # of a map, for shifted products: the k * k passes must fit into the cache


class CpuDepthwiseConv2d(nn.Conv2d, Accelerated):
    """nn.Conv2d with a faster weight gradient; its parameters and state_dict are the same."""

    def forward(self, input: Tensor) -> Tensor:
        if self._applies(input, self.weight):
            out: Tensor = _DepthwiseConvolution.apply(input, self.weight, self.stride[0], int(self.padding[0]))
            return out if self.bias is None else out + self.bias.view(1, -1, 1, 1)
        return super().forward(input)

    def _applies(self, x: Tensor, weight: Tensor) -> bool:
        if not (weight.requires_grad and torch.is_grad_enabled() and is_plain_cpu_float32(x)):
            return False
        if kind_of(weight) != CPU_FLOAT32 or weight.shape != (x.shape[1], 1, *self.kernel_size):
            return False
        # the layer is checked in each call: a user may set its stride or padding at any time
        if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last) or not is_large_depthwise(self):
            return False
        if library() is not None:
            return True
        # shifted products are faster only for small maps, and if oneDNN has no AVX-512
        return torch.backends.cpu.get_cpu_capability() == "AVX2" and x.shape[2] * x.shape[3] <= MAX_POSITIONS


def is_large_depthwise(conv: nn.Conv2d) -> bool:
    """Return True if oneDNN's weight gradient is slow for this layer."""
    return is_centred_depthwise(conv) and conv.kernel_size[0] >= MIN_KERNEL


def is_centred_depthwise(conv: nn.Conv2d) -> bool:
    """Return True for a depthwise, square, undilated convolution with padding k // 2, as in MobileNets."""
    # what csrc/depthwise.c computes; nn.Conv2d holds 'same' as a string, which is not taken
    (kernel, other), stride, padding = conv.kernel_size, conv.stride, conv.padding
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and 3 <= kernel == other <= MAX_KERNEL
        and kernel % 2 == 1
        and stride[0] == stride[1]
        and padding == (kernel // 2, kernel // 2)
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
    )


class _DepthwiseConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return _by_torch(x, weight, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), stride, padding = ctx.saved_tensors, ctx.stride, ctx.padding
        if needs_differentiable_backward(gradient):
            fallback = partial(_by_torch, stride=stride, padding=padding)
            return *differentiable_gradients(fallback, (x, weight), ctx.needs_input_grad[:2], gradient), None, None
        x, gradient = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, gradient))
        for_x: Tensor | None = None
        if ctx.needs_input_grad[0]:
            geometry = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], x.shape[1])
            only_x = [True, False, False]
            for_x = torch.ops.aten.convolution_backward(gradient, x, weight, None, *geometry, only_x)[0]
        for_weight = weight_gradient(x, gradient, weight.shape[-1], stride) if ctx.needs_input_grad[1] else None
        return for_x, for_weight, None, None


def _by_torch(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    return F.conv2d(x, weight, None, stride, padding, 1, x.shape[1])


def weight_gradient(x: Tensor, gradient: Tensor, kernel: int, stride: int) -> Tensor:
    """Return the weight gradient (C, 1, k, k) of a centred depthwise convolution.

    Args:
        x: (N, C, H, W), channels last.
        gradient: gradient of the convolution's output, channels last.
        kernel: k.
        stride: stride of the convolution.
    """
    if library() is None:
        return _shifted_products(x, gradient, kernel, stride)
    count, channels, height, width = x.shape
    found = x.new_empty(channels, 1, kernel, kernel)
    partial_sums = x.new_empty(scratch_size("depthwise_backward_weight", channels, kernel))
    sizes = (count, channels, height, width, *gradient.shape[2:], kernel, stride)
    call("depthwise_backward_weight", x, gradient, partial_sums, found, *sizes)
    return found


def _shifted_products(x: Tensor, gradient: Tensor, kernel: int, stride: int) -> Tensor:
    """For each tap, sum the products of the gradient and the shifted input over images and positions."""
    height, width = gradient.shape[2:]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, kernel // 2, kernel // 2, kernel // 2, kernel // 2))  # N H W C
    g_NHWC = gradient.permute(0, 2, 3, 1)
    taps = []
    for i in range(kernel):
        for j in range(kernel):
            shifted = padded[:, i : i + stride * height : stride, j : j + stride * width : stride]
            # the slice may have a row or column more than the output, if the stride does not divide the size
            taps.append((shifted[:, :height, :width] * g_NHWC).sum((0, 1, 2)))
    return torch.stack(taps, 1).view(-1, 1, kernel, kernel)
