"""Batch norm fused with the following activation in one C function (csrc/batch_norm.c).

On a CPU both are limited by memory bandwidth; the fusion saves one pass over memory. Where it does not apply, torch's
layers run one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from effbench.cpu.double_backward import differentiable_gradients, needs_differentiable_backward
from effbench.cpu.eligibility import Accelerated, is_plain_cpu_float32, plain_class
from effbench.cpu.library import library, scratch_size
from effbench.cpu.tensors import call, is_plain

ACTIVATIONS: dict[type[nn.Module], int] = {nn.ReLU: 1, nn.ReLU6: 2, nn.Hardswish: 3}  # numbers as in csrc/batch_norm.c
_NONE = 0  # no activation
_BY_TORCH: tuple[Callable[[Tensor], Tensor], ...] = (torch.positive, F.relu, F.relu6, F.hardswish)


class CpuBatchNorm2d(nn.BatchNorm2d, Accelerated):
    """nn.BatchNorm2d with a faster training step."""

    def forward(self, input: Tensor) -> Tensor:
        if self.applies(input):
            return self.activated(input, _NONE)
        return super().forward(input)

    def applies(self, x: Tensor) -> bool:
        """Return True if the C function supports a training step on x: plain float32 on the CPU, channels last."""
        if not (torch.is_grad_enabled() and is_plain_cpu_float32(x) and x.dim() == 4 and self.fits(x.shape[1])):
            return False
        # torch raises an error for one value a channel, whose variance is unknown
        if x.numel() <= x.shape[1] or not x.is_contiguous(memory_format=torch.channels_last):
            return False
        return library() is not None

    def fits(self, channels: int) -> bool:
        """Return True if the layer uses batch statistics and has plain float32 tensors for this number of channels."""
        # momentum None means a cumulative average, whose weight changes in every step
        if not (self.training and self.track_running_stats) or self.momentum is None or channels != self.num_features:
            return False
        tensors = (self.weight, self.bias, self.running_mean, self.running_var)
        return self.eps > 0 and all(tensor is not None and is_plain(tensor, (channels,)) for tensor in tensors)

    def activated(self, x: Tensor, activation: int) -> Tensor:
        """Normalise x (N, C, H, W) and apply an activation of ACTIVATIONS, or none (0); requires `applies`."""
        # as torch's layer does it; `applies` makes sure that its value is not read
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        running = (self.running_mean, self.running_var, self.eps, self.momentum)
        out: Tensor = _BatchNorm.apply(x, self.weight, self.bias, running, activation)
        return out


class FusedSequential(nn.Sequential, Accelerated):
    """nn.Sequential that fuses each batch norm with the following activation, unless a hook is attached to either."""

    def forward(self, input: Tensor) -> Tensor:
        layers = list(self)
        while layers:
            layer = layers.pop(0)
            activation = ACTIVATIONS.get(type(layers[0])) if layers else None
            # a hook would see neither the norm's output nor the activation's input
            if (
                isinstance(layer, CpuBatchNorm2d)
                and activation is not None
                and not (_has_any_global_hook() or has_hooks(layer) or has_hooks(layers[0]))
                and layer.applies(input)
            ):
                input = layer.activated(input, activation)
                layers.pop(0)
            else:
                input = layer(input)
        return input

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _new_fused, (plain_class(type(self)),), self.__dict__  # unpickling creates the class if it is missing


_FUSED_CLASSES: dict[type[nn.Module], type[FusedSequential]] = {}


def _fused_class(kind: type[nn.Module]) -> type[FusedSequential]:
    """Return the fusing subclass of nn.Sequential, or of a subclass of it."""
    if kind not in _FUSED_CLASSES:
        # the same name: repr and messages show the user's class
        _FUSED_CLASSES[kind] = type(kind.__name__, (FusedSequential, kind), {})
    return _FUSED_CLASSES[kind]


def _new_fused(kind: type[nn.Module]) -> FusedSequential:
    fused = _fused_class(kind)
    return fused.__new__(fused)


def fuse_bn_activation(model: nn.Module) -> None:
    """Change the classes of the model's batch norms, and of the Sequentials that contain some, in place."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CpuBatchNorm2d
    # a second pass: modules() yields a Sequential before its children
    for module in model.modules():
        holds = isinstance(module, nn.Sequential) and any(type(child) is CpuBatchNorm2d for child in module)
        # a subclass with a forward of its own may do anything with its layers
        if holds and type(module).forward is nn.Sequential.forward:
            module.__class__ = _fused_class(type(module))


def has_hooks(module: nn.Module) -> bool:
    """Return True if a hook, or a `forward` set on the instance, could read or change the module's input or output."""
    return "forward" in module.__dict__ or bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, running: tuple[Tensor, Tensor, float, float], activation: int
    ) -> Tensor:
        mean, var, eps, momentum = running
        channels, rows = x.shape[1], x.numel() // x.shape[1]
        # (4, C): mean, 1 / deviation, scale and shift, all of which the backward pass reads
        statistics, out = x.new_empty(4, channels), torch.empty_like(x)
        sums = x.new_empty(scratch_size("batch_norm", rows, channels), dtype=torch.float64)
        # float(): a user may write momentum=1
        numbers = (rows, channels, float(eps), float(momentum), activation)
        call("batch_norm", x, weight, bias, mean, var, sums, statistics, out, *numbers)
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.eps, ctx.activation = eps, activation
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, statistics = ctx.saved_tensors
        if needs_differentiable_backward(gradient):
            fallback = partial(by_torch, eps=ctx.eps, activation=ctx.activation)
            found = differentiable_gradients(fallback, (x, weight, bias), ctx.needs_input_grad[:3], gradient)
            return *found, None, None
        x, gradient = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, gradient))
        channels, rows = x.shape[1], x.numel() // x.shape[1]
        sums = x.new_empty(scratch_size("batch_norm", rows, channels), dtype=torch.float64)
        means, for_weight, for_bias = (x.new_empty(count * channels) for count in (2, 1, 1))
        for_x = torch.empty_like(x)
        buffers = (statistics, sums, means, for_x, for_weight, for_bias)
        call("batch_norm_backward", x, gradient, *buffers, rows, channels, ctx.activation)
        return for_x, for_weight, for_bias, None, None


def by_torch(x: Tensor, weight: Tensor, bias: Tensor, eps: float, activation: int) -> Tensor:
    """Compute the same output with torch's differentiable operations, without updating the running statistics.

    Args:
        x: (N, C, H, W).
        weight: (C,).
        bias: (C,).
        eps: added to the variance.
        activation: number in ACTIVATIONS, or 0 for none.
    """
    return _BY_TORCH[activation](F.batch_norm(x, None, None, weight, bias, training=True, eps=eps))
