"""Chains of layers in training, each as one function that is compiled as a whole (effbench/cpu/csrc/tape.c).

A step of a small network on a CPU is bound by what every operation costs before it computes anything: of
MobileNetV3-small's 20 ms for 64 images of 28 pixels 12 were there for 2 images, too (AMD EPYC, 2 threads, medians
of 21).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from effbench.cpu.block_stages import Ahead, Back, Page, Shape, Stage, rows
from effbench.cpu.double_backward import gradients, is_for_torch
from effbench.cpu.tape import Op, Room, operand

_X, _OUT, _KEPT, _SCRATCH, _WEIGHTS = range(5)  # addresses in the forward pass; the buffers come last
_GRADIENT, _FOR_X, _SAME_WEIGHTS = 1, 4, 5  # in the backward pass; the weights' gradients come last


def run(
    stages: tuple[Stage, ...], residual: bool, x: Tensor, weights: Sequence[Tensor], buffers: Sequence[Tensor]
) -> Tensor:
    """What the stages, of which the first is a convolution, make of x (N, C, H, W), plus x itself where `residual`.

    All float32 on the CPU: x channels last, the others without gaps and in the order of the stages.
    """
    out: Tensor = _Chain.apply(_plan(stages, residual, tuple(x.shape)), buffers, x, *weights)
    return out


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _BlockProgram, buffers: Sequence[Tensor], x: Tensor, *weights: Tensor) -> Tensor:
        out = torch.empty(plan.out_shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        kept, scratch = x.new_empty(plan.kept.floats), x.new_empty(plan.ahead.floats)
        plan.ahead.tape.play((x, out, kept, scratch, *weights, *buffers))
        ctx.save_for_backward(x, kept, *weights)
        ctx.plan, ctx.kinds = plan, list(map(_kind, weights))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, kept, *weights), plan = ctx.saved_tensors, ctx.plan
        if is_for_torch(gradient):
            return None, None, *gradients(plan.by_torch, (x, *weights), ctx.needs_input_grad[2:], gradient)
        if list(map(_kind, weights)) != ctx.kinds:
            raise RuntimeError("a weight's .data is of another shape, dtype or order than in the forward pass")
        x, gradient = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, gradient))
        scratch, for_x = x.new_empty(plan.back.floats), torch.empty_like(x)
        for_weights = [torch.empty_like(weight) for weight in weights]
        plan.back.tape.play((x, gradient, kept, scratch, for_x, *weights, *for_weights))
        return None, None, for_x, *for_weights


class _BlockProgram:
    """The tapes of a chain for inputs of one shape."""

    def __init__(self, stages: tuple[Stage, ...], residual: bool, shape: Shape):
        self._stages, self._residual = stages, residual
        self.ahead, self.back, self.kept = Page(_SCRATCH), Page(_SCRATCH), Room(_KEPT)
        steps = self._write_ahead(stages, shape)
        self.out_shape = steps[-1].out_shape
        self._write_back(stages, steps)
        if residual:
            count = [rows(shape) * shape[1]]
            self.ahead.add(Op.ADD, [operand(_OUT), operand(_X)], count)
            self.back.add(Op.ADD, [operand(_FOR_X), operand(_GRADIENT)], count)

    def by_torch(self, x: Tensor, *weights: Tensor) -> Tensor:
        """What the chain computes, by torch's operations; running statistics stay as they are."""
        left, out = iter(weights), x
        for stage in self._stages:
            out = stage.by_torch(out, *islice(left, stage.weights))
        return out + x if self._residual else out

    def _write_ahead(self, stages: tuple[Stage, ...], shape: Shape) -> list[Ahead]:
        steps: list[Ahead] = []
        source = operand(_X)
        weights = _numbers(_WEIGHTS, [stage.weights for stage in stages])
        buffers = _numbers(_WEIGHTS + sum(map(len, weights)), [stage.buffers for stage in stages])
        for stage, own, own_buffers in zip(stages, weights, buffers, strict=True):
            out_shape = stage.out_shape(shape)
            last = len(steps) + 1 == len(stages)
            out = operand(_OUT) if last else self.kept.take(rows(out_shape) * out_shape[1])
            steps.append(Ahead(source, shape, out, out_shape, own, own_buffers, self.kept, []))
            stage.forward(self.ahead, steps[-1])
            source, shape = out, out_shape
        return steps

    def _write_back(self, stages: tuple[Stage, ...], steps: list[Ahead]) -> None:
        """Gradients of what lies between the stages take turns in two parts of the scratch."""
        largest = max(rows(step.shape) * step.shape[1] for step in steps)
        turns = [self.back.reserve(largest) for _ in range(2)]
        weights = _numbers(_SAME_WEIGHTS, [stage.weights for stage in stages])
        gradients = _numbers(_SAME_WEIGHTS + sum(map(len, weights)), [stage.weights for stage in stages])
        gradient = operand(_GRADIENT)
        for stage, step, own, found in reversed(list(zip(stages, steps, weights, gradients, strict=True))):
            stays = stage.in_place and gradient in turns  # what came from outside is not written over
            to = gradient if stays else turns[gradient == turns[0]]
            to = operand(_FOR_X) if step is steps[0] else to
            stage.backward(self.back, Back(step, gradient, to, own, found))
            gradient = to


_plan = lru_cache(maxsize=1024)(_BlockProgram)


def _kind(weight: Tensor) -> tuple[Any, ...]:
    return weight.shape, weight.dtype, weight.stride()


def _numbers(first: int, counts: Sequence[int]) -> list[list[int]]:
    """Operands of consecutive addresses, so many each."""
    found = []
    for count in counts:
        found.append([operand(first + index) for index in range(count)])
        first += count
    return found
