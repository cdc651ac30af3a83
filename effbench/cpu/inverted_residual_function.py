"""An inverted residual block in training as one autograd function over csrc/inverted_residual.c.

A step of a small network on a CPU is bound by what each operation costs before it computes anything: of
MobileNetV3-small's 20 ms for 64 images of 28 pixels, 12 were needed for 2 images, too (AMD EPYC, 2 threads, medians of
21).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from effbench.cpu.batch_norm import by_torch as batch_norm_by_torch
from effbench.cpu.double_backward import differentiable_gradients, needs_differentiable_backward
from effbench.cpu.library import library
from effbench.cpu.tensors import is_plain

HARDSIGMOID, SIGMOID = 2, 3  # as in csrc/squeeze_excite.c

Shape = tuple[int, int, int, int]  # (N, C, H, W)
Tensors = Sequence[Tensor | None]  # None for a layer that the block does not have


class Norm(NamedTuple):
    """Batch normalisation and the activation after it (batch_norm.ACTIVATIONS)."""

    eps: float
    momentum: float
    activation: int


class BlockOptions(NamedTuple):
    """What a block computes. squeezed: 0 without squeeze-and-excitation. gate: HARDSIGMOID or SIGMOID."""

    expanded: int
    squeezed: int
    out_channels: int
    kernel: int
    stride: int
    gate: int
    residual: bool
    expand_norm: Norm | None
    depthwise_norm: Norm
    project_norm: Norm


class _Norm(ctypes.Structure):
    _fields_ = [("eps", ctypes.c_float), ("momentum", ctypes.c_float), ("activation", ctypes.c_int)]


class _Block(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("images", "channels", "height", "width", "expanded", "squeezed")),
        *((name, ctypes.c_int64) for name in ("out_channels", "out_height", "out_width")),
        *((name, ctypes.c_int) for name in ("kernel", "stride", "expands", "gate", "residual")),
        *((name, _Norm) for name in ("expand_norm", "depthwise_norm", "project_norm")),
        *((name, ctypes.c_int64) for name in ("saved_floats", "forward_floats", "backward_floats")),
    ]


class _Weights(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (
            "expand", "expand_gamma", "expand_beta", "depthwise", "depthwise_gamma", "depthwise_beta", "reduce",
            "reduce_bias", "restore", "restore_bias", "project", "project_gamma", "project_beta",
        )
    ]  # fmt: skip


class _Running(ctypes.Structure):
    _fields_ = [
        (f"{layer}_{name}", ctypes.c_void_p) for layer in ("expand", "depthwise", "project") for name in ("mean", "var")
    ]


class Block:
    """A block for inputs of one shape: its C struct, and the shapes of its output and weights."""

    def __init__(self, options: BlockOptions, shape: Shape):
        o, (images, channels, height, width) = options, shape
        out_height, out_width = ((size - 1) // o.stride + 1 for size in (height, width))
        self.options, self.out_shape = o, (images, o.out_channels, out_height, out_width)
        norms = (_Norm(*norm or ()) for norm in (o.expand_norm, o.depthwise_norm, o.project_norm))
        sizes = (images, channels, height, width, o.expanded, o.squeezed, o.out_channels, out_height, out_width)
        self.struct = _Block(*sizes, o.kernel, o.stride, o.expand_norm is not None, o.gate, o.residual, *norms)
        compiled = library()
        assert compiled is not None
        compiled.inverted_residual_sizes(ctypes.byref(self.struct))
        C, S, per_channel = o.expanded, o.squeezed, (o.expanded,)
        self.weight_shapes = (
            *(((C, channels, 1, 1), per_channel, per_channel) if o.expand_norm else (None,) * 3),
            *((C, 1, o.kernel, o.kernel), per_channel, per_channel),
            *(((S, C, 1, 1), (S,), (C, S, 1, 1), per_channel) if S else (None,) * 4),
            *((o.out_channels, C, 1, 1), (o.out_channels,), (o.out_channels,)),
        )

    def takes(self, weights: Tensors) -> bool:
        """Whether the weights are plain and of the shapes that C assumes."""
        return all(
            weight is None if shape is None else weight is not None and is_plain(weight, shape)
            for weight, shape in zip(weights, self.weight_shapes, strict=True)
        )


block_of = lru_cache(maxsize=1024)(Block)


def inverted_residual(block: Block, x: Tensor, weights: Tensors, running: Tensors) -> Tensor:
    """The block's output in training; updates the running statistics.

    Args:
        block: `block_of(options, x.shape)`.
        x: (N, C, H, W), float32 on the CPU, channels last.
        weights: 13 that `block.takes`: expand convolution, gamma, beta; depthwise convolution, gamma, beta;
            squeeze-and-excitation's two convolutions, each with its bias; project convolution, gamma, beta.
        running: mean and variance of each of the three batch normalisations.
    """
    out: Tensor = _InvertedResidual.apply(block, running, x, *weights)
    return out


class _InvertedResidual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: Block, running: Tensors, x: Tensor, *weights: Tensor | None) -> Tensor:
        out = torch.empty(block.out_shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        saved, scratch = x.new_empty(block.struct.saved_floats), x.new_empty(block.struct.forward_floats)
        structs = block.struct, _Weights(*map(_address, weights)), _Running(*map(_address, running))
        _call("inverted_residual_forward", *structs, x, out, saved, scratch)
        ctx.save_for_backward(x, saved, *weights)
        ctx.block = block
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, saved, *weights), block = ctx.saved_tensors, ctx.block
        if needs_differentiable_backward(gradient):
            again = partial(_by_torch, block.options)
            found = differentiable_gradients(again, (x, *weights), ctx.needs_input_grad[2:], gradient)
            return None, None, *found
        if not block.takes(weights):
            raise RuntimeError("a weight's .data is of another shape, dtype or order than in the forward pass")
        x, gradient = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, gradient))
        scratch, for_x = x.new_empty(block.struct.backward_floats), torch.empty_like(x)
        for_weights = [None if weight is None else torch.empty_like(weight) for weight in weights]
        structs = _Weights(*map(_address, weights)), _Weights(*map(_address, for_weights))
        _call("inverted_residual_backward", block.struct, structs[0], x, gradient, saved, scratch, for_x, structs[1])
        return None, None, for_x, *for_weights


def _by_torch(options: BlockOptions, x: Tensor, *weights: Tensor) -> Tensor:
    """The block's output by torch's differentiable operations; leaves the running statistics alone."""
    o = options
    expand, depthwise, (reduce, reduce_bias, restore, restore_bias), project = (
        weights[:3], weights[3:6], weights[6:10], weights[10:],
    )  # fmt: skip
    out = x
    if o.expand_norm:
        out = _normalised(F.conv2d(out, expand[0]), *expand[1:], o.expand_norm)
    out = F.conv2d(out, depthwise[0], stride=o.stride, padding=o.kernel // 2, groups=o.expanded)
    out = _normalised(out, *depthwise[1:], o.depthwise_norm)
    if o.squeezed:
        scale = F.conv2d(F.relu(F.conv2d(out.mean((2, 3), keepdim=True), reduce, reduce_bias)), restore, restore_bias)
        out = out * (F.hardsigmoid if o.gate == HARDSIGMOID else torch.sigmoid)(scale)
    out = _normalised(F.conv2d(out, project[0]), *project[1:], o.project_norm)
    return out + x if o.residual else out


def _normalised(x: Tensor, gamma: Tensor, beta: Tensor, norm: Norm) -> Tensor:
    return batch_norm_by_torch(x, gamma, beta, norm.eps, norm.activation)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _call(name: str, *arguments: Tensor | ctypes.Structure) -> None:
    passed = (
        ctypes.c_void_p(value.data_ptr()) if isinstance(value, Tensor) else ctypes.byref(value) for value in arguments
    )
    getattr(library(), name)(*passed, ctypes.c_int(torch.get_num_threads()))
