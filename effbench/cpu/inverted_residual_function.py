"""An inverted residual block in training, as one autograd function over csrc/inverted_residual.c.

A training step of a small network on a CPU is dominated by the fixed cost of operations: of MobileNetV3-small's 20 ms
for 64 images of 28 pixels, 12 ms remain for 2 images (AMD EPYC, 2 threads, medians of 21).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effbench.cpu.batch_norm import by_torch as batch_norm_by_torch
from effbench.cpu.double_backward import differentiable_gradients, needs_differentiable_backward
from effbench.cpu.library import library
from effbench.cpu.tensors import call, is_plain

HARDSIGMOID, SIGMOID = 2, 3  # numbers as in csrc/squeeze_excite.c

Shape = tuple[int, int, int, int]  # (N, C, H, W)
Tensors = Sequence[Tensor | None]  # None if the block has no such layer


class Norm(ctypes.Structure):
    """Batch norm and the activation after it (batch_norm.ACTIVATIONS)."""

    _fields_ = [("eps", ctypes.c_double), ("momentum", ctypes.c_double), ("activation", ctypes.c_int64)]


class Block(ctypes.Structure):
    """A block for inputs of one shape: the struct of csrc/kernels.h, and the shapes of its output and weights."""

    # in the order of the C struct: tests of random blocks fail if they differ
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("images", "channels", "height", "width", "expanded", "squeezed")),
        *((name, ctypes.c_int64) for name in ("out_channels", "out_height", "out_width", "kernel", "stride")),
        *((name, ctypes.c_int64) for name in ("expands", "gate", "residual")),
        *((name, Norm) for name in ("expand_norm", "depthwise_norm", "project_norm")),
        *((name, ctypes.c_int64) for name in ("saved_floats", "forward_floats", "backward_floats")),
    ]
    out_shape: Shape
    weight_shapes: tuple[tuple[int, ...] | None, ...]

    def takes(self, weights: Tensors) -> bool:
        """Return True if the weights are plain tensors of the shapes that C expects."""
        return all(
            weight is None if shape is None else weight is not None and is_plain(weight, shape)
            for weight, shape in zip(weights, self.weight_shapes, strict=True)
        )


# cached, because a network's few blocks see the same shapes in every step
@lru_cache(maxsize=1024)
def block_of(
    shape: Shape, expanded: int, squeezed: int, out_channels: int, kernel: int, stride: int, gate: int, residual: bool,
    *norms: tuple[float, ...],
) -> Block:  # fmt: skip
    """Return the block for inputs of a shape.

    Args:
        shape: (N, C, H, W) of the input.
        expanded: channels of the depthwise convolution.
        squeezed: channels within squeeze-and-excitation; 0 without it.
        out_channels: channels of the output.
        kernel: side of the depthwise kernel.
        stride: stride of the depthwise convolution.
        gate: HARDSIGMOID or SIGMOID, in squeeze-and-excitation.
        residual: the input is added to the output.
        norms: fields of three Norms: expand (empty without it), depthwise, project.
    """
    images, channels, height, width = shape
    # of a convolution with padding k // 2, whatever k
    block_out = [(size - 1) // stride + 1 for size in (height, width)]
    sizes = (*shape, expanded, squeezed, out_channels, *block_out, kernel, stride, bool(norms[0]), gate, residual)
    block = Block(*sizes, *(Norm(*norm) for norm in norms))
    compiled = library()
    assert compiled is not None
    # C computes how much memory it needs, as it divides the memory: the two cannot differ
    compiled.inverted_residual_sizes(ctypes.byref(block))
    block.out_shape = (images, out_channels, block_out[0], block_out[1])
    C, S, per_channel = expanded, squeezed, (expanded,)
    block.weight_shapes = (
        *(((C, channels, 1, 1), per_channel, per_channel) if norms[0] else (None,) * 3),
        *((C, 1, kernel, kernel), per_channel, per_channel),
        *(((S, C, 1, 1), (S,), (C, S, 1, 1), per_channel) if S else (None,) * 4),
        *((out_channels, C, 1, 1), (out_channels,), (out_channels,)),
    )
    return block


def inverted_residual(block: Block, x: Tensor, weights: Tensors, running: Tensors) -> Tensor:
    """Return the block's output in training, and update the running statistics.

    Args:
        block: `block_of(x.shape, ...)`.
        x: (N, C, H, W), float32 on the CPU, channels last.
        weights: 13 that `block.takes`: expand convolution, gamma, beta; depthwise convolution, gamma, beta;
            squeeze-and-excitation's two convolutions, each with its bias; project convolution, gamma, beta.
        running: mean and variance of each of the three batch norms.
    """
    out: Tensor = _InvertedResidual.apply(block, running, x, *weights)
    return out


class _InvertedResidual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: Block, running: Tensors, x: Tensor, *weights: Tensor | None) -> Tensor:
        out = torch.empty(block.out_shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        # one tensor for all that the backward pass needs, and one for what it does not
        saved, scratch = x.new_empty(block.saved_floats), x.new_empty(block.forward_floats)
        structs = ctypes.byref(block), _pointers(weights), _pointers(running)
        call("inverted_residual_forward", *structs, x, out, saved, scratch)
        ctx.save_for_backward(x, saved, *weights)
        ctx.block = block
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, saved, *weights), block = ctx.saved_tensors, ctx.block
        if needs_differentiable_backward(gradient):
            fallback = partial(_by_torch, block)
            found = differentiable_gradients(fallback, (x, *weights), ctx.needs_input_grad[2:], gradient)
            return None, None, *found
        # autograd notices changes in place, but not a replaced .data, whose memory C would read as before
        if not block.takes(weights):
            raise RuntimeError("a weight's .data is of another shape, dtype or order than in the forward pass")
        x, gradient = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, gradient))
        scratch, for_x = x.new_empty(block.backward_floats), torch.empty_like(x)
        for_weights = [None if weight is None else torch.empty_like(weight) for weight in weights]
        buffers = (gradient, saved, scratch, for_x, _pointers(for_weights))
        call("inverted_residual_backward", ctypes.byref(block), _pointers(weights), x, *buffers)
        return None, None, for_x, *for_weights


def _by_torch(block: Block, x: Tensor, *weights: Tensor) -> Tensor:
    """Compute the output with torch's differentiable operations, without updating the running statistics."""
    expand, expand_gamma, expand_beta, depthwise, depthwise_gamma, depthwise_beta = weights[:6]
    reduce, reduce_bias, restore, restore_bias, project, project_gamma, project_beta = weights[6:]
    out = x
    if block.expands:
        out = _normalised(F.conv2d(out, expand), expand_gamma, expand_beta, block.expand_norm)
    out = F.conv2d(out, depthwise, stride=block.stride, padding=block.kernel // 2, groups=block.expanded)
    out = _normalised(out, depthwise_gamma, depthwise_beta, block.depthwise_norm)
    if block.squeezed:
        scale = F.conv2d(F.relu(F.conv2d(out.mean((2, 3), keepdim=True), reduce, reduce_bias)), restore, restore_bias)
        out = out * (F.hardsigmoid if block.gate == HARDSIGMOID else torch.sigmoid)(scale)
    out = _normalised(F.conv2d(out, project), project_gamma, project_beta, block.project_norm)
    return out + x if block.residual else out


def _normalised(x: Tensor, gamma: Tensor, beta: Tensor, norm: Norm) -> Tensor:
    return batch_norm_by_torch(x, gamma, beta, norm.eps, norm.activation)


def _pointers(tensors: Tensors) -> ctypes.Array[ctypes.c_void_p]:
    """Return the addresses in memory: the C structs Weights and Running hold pointers alone, in this order."""
    return (ctypes.c_void_p * len(tensors))(*[None if tensor is None else tensor.data_ptr() for tensor in tensors])
