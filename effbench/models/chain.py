"""Chains of layers in training, each as one function that is compiled as a whole (effbench/kernels/tape.c).

A step of a small network on a CPU is bound by what every single operation costs before it computes anything. Here an
inverted residual block (arXiv:1801.04381, with squeeze-and-excitation: arXiv:1905.02244) is one operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from effbench.kernels.tape import Op, Room, Tape, operand
from effbench.models.depthwise import PARTS

_NORM_ROWS = 128  # of a block in batch_norm.c
_X, _OUT, _KEPT, _SCRATCH, _REST = range(5)  # addresses, forward; behind them the weights, then the buffers
_GRADIENT, _FOR_X = 1, 4  # addresses, backward, in place of _OUT and of the first weight; after them weights, gradients


@dataclass(frozen=True)
class Mix:
    """A 1 x 1 convolution without bias. Weights: (channels, of the input, 1, 1)."""

    channels: int


@dataclass(frozen=True)
class Depthwise:
    """A depthwise convolution without bias, centred. Weights: (channels, 1, kernel, kernel)."""

    kernel: int
    stride: int


@dataclass(frozen=True)
class Norm:
    """Batch normalisation and an activation (batch_norm.ACTIVATIONS). Weights: scale, shift; buffers: mean, variance."""

    eps: float
    momentum: float
    activation: int


@dataclass(frozen=True)
class Gate:
    """Squeeze-and-excitation. Weights: (squeezed, channels, 1, 1), (squeezed), (channels, squeezed, 1, 1), (channels)."""

    squeezed: int
    activation: int


Stage = Mix | Depthwise | Norm | Gate
RELU, HARDSIGMOID, SIGMOID = 1, 2, 3  # of a Gate
_WEIGHTS = {Mix: 1, Depthwise: 1, Norm: 2, Gate: 4}


def run(stages: tuple[Stage, ...], residual: bool, x: Tensor, weights: list[Tensor], buffers: list[Tensor]) -> Tensor:
    """What the stages, the first a convolution, and x where `residual` adds it, make of x (N, C, H, W).

    All float32 on the CPU, x channels last, the others without gaps and in the order of the stages.
    """
    out: Tensor = _Chain.apply(_plan(stages, residual, tuple(x.shape)), buffers, x, *weights)
    return out


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, buffers: list[Tensor], x: Tensor, *weights: Tensor) -> Tensor:
        out = torch.empty(plan.out, memory_format=torch.channels_last)
        kept, scratch = torch.empty(plan.kept.size), torch.empty(plan.scratch)
        plan.forward.play((x, out, kept, scratch, *weights, *buffers))
        ctx.save_for_backward(x, kept, *weights)
        ctx.plan = plan
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, kept, *weights), plan = ctx.saved_tensors, ctx.plan
        x, gradient = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, gradient))
        scratch, for_x = torch.empty(plan.backward_scratch), torch.empty_like(x)
        for_weights = [torch.empty_like(weight) for weight in weights]
        plan.backward.play((x, gradient, kept, scratch, for_x, *weights, *for_weights))
        return None, None, for_x, *for_weights


@dataclass
class _Step:
    """One stage as it was written down. source, out: operands; shapes: (N, C, H, W); weight, buffer: numbers of its first."""

    stage: Stage
    source: int
    shape: tuple[int, int, int, int]
    out: int
    out_shape: tuple[int, int, int, int]
    weight: int
    buffer: int
    kept: tuple[int, ...] = ()


class _Plan:
    """The tapes of a chain for inputs of one shape, and how much room they need, in floats."""

    def __init__(self, stages: tuple[Stage, ...], residual: bool, shape: tuple[int, int, int, int]):
        self.forward, self.backward, self.kept = Tape(), Tape(), Room(_KEPT)
        self.scratch = self.backward_scratch = 0
        self._weights = sum(_WEIGHTS[type(stage)] for stage in stages)
        steps: list[_Step] = []
        source, weight, buffer = operand(_X), 0, 0
        for index, stage in enumerate(stages):
            out_shape = _out_shape(stage, shape)
            out = self.kept.take(_count(out_shape)) if index + 1 < len(stages) else operand(_OUT)
            steps.append(_Step(stage, source, shape, out, out_shape, weight, buffer))
            _FORWARD[type(stage)](self, steps[-1])
            source, shape = out, out_shape
            weight, buffer = weight + _WEIGHTS[type(stage)], buffer + 2 * isinstance(stage, Norm)
        self.out = shape
        if residual:
            self.forward.add(Op.ADD, [operand(_OUT), operand(_X)], [_count(shape)])
        self._write_backward(steps, residual)

    def _write_backward(self, steps: list[_Step], residual: bool) -> None:
        """Gradients of what lies between stages take turns in two parts of the scratch."""
        room = Room(_SCRATCH)
        turns = [room.take(max(_count(step.shape) for step in steps)) for _ in range(2)]
        self._work = room.size
        gradient = operand(_GRADIENT)
        for step in reversed(steps):
            in_place = isinstance(step.stage, Norm | Gate) and gradient in turns
            other = gradient if in_place else turns[gradient == turns[0]]
            to = operand(_FOR_X) if step is steps[0] else other
            _BACKWARD[type(step.stage)](self, step, gradient, to)
            gradient = to
        if residual:
            self.backward.add(Op.ADD, [operand(_FOR_X), operand(_GRADIENT)], [_count(steps[0].shape)])

    # --- where things lie

    def _weight(self, step: _Step, index: int = 0) -> int:
        return operand(_REST + step.weight + index)

    def _buffer(self, step: _Step, index: int) -> int:
        return operand(_REST + self._weights + step.buffer + index)

    def _backward_weight(self, step: _Step, index: int = 0) -> int:
        return operand(_FOR_X + 1 + step.weight + index)

    def _for_weight(self, step: _Step, index: int = 0) -> int:
        return operand(_FOR_X + 1 + self._weights + step.weight + index)

    def _scratch(self, *floats: int) -> list[int]:
        """Parts that are free again after the operation."""
        room = Room(_SCRATCH)
        parts = [room.take(count) for count in floats]
        self.scratch = max(self.scratch, room.size)
        return parts

    def _backward_scratch(self, *floats: int) -> list[int]:
        room = Room(_SCRATCH, self._work)
        parts = [room.take(count) for count in floats]
        self.backward_scratch = max(self.backward_scratch, room.size)
        return parts

    # --- stages

    def _mix(self, step: _Step) -> None:
        sizes = _mixed(step)
        [packed] = self._scratch(sizes[1] * sizes[2])
        self.forward.add(Op.MIX, [step.source, self._weight(step), packed, step.out], sizes)

    def _mix_back(self, step: _Step, gradient: int, to: int) -> None:
        sizes = _mixed(step)
        [turned] = self._backward_scratch(sizes[1] * sizes[2])
        self.backward.add(Op.MIX_GRADIENT, [step.source, gradient, turned, self._for_weight(step)], sizes)
        self.backward.add(Op.UNMIX, [gradient, self._backward_weight(step), to], sizes)

    def _depthwise(self, step: _Step) -> None:
        [packed] = self._scratch(step.shape[1] * step.stage.kernel**2)
        self.forward.add(Op.DEPTHWISE, [step.source, self._weight(step), packed, step.out], _maps(step))

    def _depthwise_back(self, step: _Step, gradient: int, to: int) -> None:
        taps = step.shape[1] * step.stage.kernel**2
        packed, parts = self._backward_scratch(taps, PARTS * taps)
        self.backward.add(Op.DEPTHWISE_GRADIENT, [step.source, gradient, parts, self._for_weight(step)], _maps(step))
        self.backward.add(Op.UNDEPTHWISE, [gradient, self._backward_weight(step), packed, to], _maps(step))

    def _norm(self, step: _Step) -> None:
        rows, channels = _rows(step.shape), step.shape[1]
        [sums] = self._scratch(_sums(rows, channels))
        step.kept = (self.kept.take(4 * channels),)
        weights = [self._weight(step), self._weight(step, 1), self._buffer(step, 0), self._buffer(step, 1)]
        fractions = [self.forward.number(step.stage.eps), self.forward.number(step.stage.momentum)]
        operands = [step.source, *weights, sums, *step.kept, step.out]
        self.forward.add(Op.NORM, operands, [rows, channels, step.stage.activation, *fractions])

    def _norm_back(self, step: _Step, gradient: int, to: int) -> None:
        rows, channels = _rows(step.shape), step.shape[1]
        sums, factors = self._backward_scratch(_sums(rows, channels), 2 * channels)
        found = [to, self._for_weight(step), self._for_weight(step, 1)]
        operands = [step.source, gradient, *step.kept, sums, factors, *found]
        self.backward.add(Op.NORM_GRADIENT, operands, [rows, channels, step.stage.activation])

    def _gate(self, step: _Step) -> None:
        (N, C, H, W), S, act = step.shape, step.stage.squeezed, step.stage.activation
        [packed] = self._scratch(C * S)
        pooled, squeezed, opened = step.kept = tuple(map(self.kept.take, (N * C, N * S, N * C)))
        w1, b1, w2, b2 = (self._weight(step, index) for index in range(4))
        self.forward.add(Op.POOL, [step.source, pooled], [N, H * W, C])
        self.forward.add(Op.MIX, [pooled, w1, packed, squeezed], [N, C, S])
        self.forward.add(Op.BIAS, [squeezed, b1], [N, S, RELU])
        self.forward.add(Op.MIX, [squeezed, w2, packed, opened], [N, S, C])
        self.forward.add(Op.BIAS, [opened, b2], [N, C, act])
        self.forward.add(Op.GATE, [step.source, opened, step.out], [N, H * W, C])

    def _gate_back(self, step: _Step, gradient: int, to: int) -> None:
        (N, C, H, W), S, act = step.shape, step.stage.squeezed, step.stage.activation
        pooled, squeezed, opened = step.kept
        for_pooled, for_squeezed, for_opened, turned = self._backward_scratch(N * C, N * S, N * C, C * S)
        w1, w2 = self._backward_weight(step, 0), self._backward_weight(step, 2)
        dw1, db1, dw2, db2 = (self._for_weight(step, index) for index in range(4))
        add = self.backward.add
        add(Op.GATE_SUMS, [step.source, gradient, for_opened], [N, H * W, C])
        add(Op.BIAS_GRADIENT, [for_opened, opened, db2], [N, C, act])
        add(Op.MIX_GRADIENT, [squeezed, for_opened, turned, dw2], [N, S, C])
        add(Op.UNMIX, [for_opened, w2, for_squeezed], [N, S, C])
        add(Op.BIAS_GRADIENT, [for_squeezed, squeezed, db1], [N, S, RELU])
        add(Op.MIX_GRADIENT, [pooled, for_squeezed, turned, dw1], [N, C, S])
        add(Op.UNMIX, [for_squeezed, w1, for_pooled], [N, C, S])
        add(Op.GATE_GRADIENT, [gradient, opened, for_pooled, to], [N, H * W, C])


_FORWARD = {Mix: _Plan._mix, Depthwise: _Plan._depthwise, Norm: _Plan._norm, Gate: _Plan._gate}
_BACKWARD = {
    Mix: _Plan._mix_back, Depthwise: _Plan._depthwise_back, Norm: _Plan._norm_back, Gate: _Plan._gate_back,
}  # fmt: skip
_plan = lru_cache(maxsize=1024)(_Plan)


def _out_shape(stage: Stage, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    N, C, H, W = shape
    if isinstance(stage, Mix):
        return N, stage.channels, H, W
    if isinstance(stage, Depthwise):
        return N, C, (H - 1) // stage.stride + 1, (W - 1) // stage.stride + 1
    return shape


def _mixed(step: _Step) -> list[int]:
    return [_rows(step.shape), step.shape[1], step.out_shape[1]]


def _maps(step: _Step) -> list[int]:
    return [*step.shape, *step.out_shape[2:], step.stage.kernel, step.stage.stride]


def _rows(shape: tuple[int, int, int, int]) -> int:
    return shape[0] * shape[2] * shape[3]


def _count(shape: tuple[int, int, int, int]) -> int:
    return _rows(shape) * shape[1]


def _sums(rows: int, channels: int) -> int:
    """Floats that batch_norm.c's sums take, which are float64."""
    return -(-rows // _NORM_ROWS) * 2 * channels * 2
