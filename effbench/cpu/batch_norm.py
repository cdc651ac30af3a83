"""Batch normalisation, with the activation after it, in one compiled function (effbench/cpu/csrc/batch_norm.c).

On a CPU the two are bound by memory, and here the activation takes no pass over it of its own. Where this does not
apply, torch's own run one after the other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from effbench.cpu.double_backward import gradients, is_for_torch
from effbench.cpu.eligibility import Accelerated, is_plain_cpu_float32, plain_class
from effbench.cpu.library import library
from effbench.cpu.tensors import FLOAT32, KIND, OWN

ACTIVATIONS: dict[type[nn.Module], int] = {nn.ReLU: 1, nn.ReLU6: 2, nn.Hardswish: 3}
_NONE = 0
_BY_TORCH: tuple[Callable[[Tensor], Tensor], ...] = (torch.positive, F.relu, F.relu6, F.hardswish)
_ROWS = 128  # of a block in the compiled function
_ALONE = 2**14  # elements under which a second thread costs more than it takes off


class OnePassBatchNorm2d(nn.BatchNorm2d, Accelerated):
    """nn.BatchNorm2d in everything but the time of a training step."""

    def forward(self, input: Tensor) -> Tensor:
        if self.applies(input):
            return self.activated(input, _NONE)
        return super().forward(input)

    def applies(self, x: Tensor) -> bool:
        """Whether this is a training step on the CPU in float32, channels last, that torch would take too."""
        if not (torch.is_grad_enabled() and is_plain_cpu_float32(x) and x.dim() == 4 and self.fits(x.shape[1])):
            return False
        if x.numel() <= x.shape[1] or not x.is_contiguous(memory_format=torch.channels_last):
            return False
        return library() is not None

    def fits(self, channels: int) -> bool:
        """Whether it learns from a batch of so many channels in the usual way, with weights and buffers in float32."""
        if not (self.training and self.track_running_stats) or self.momentum is None or channels != self.num_features:
            return False
        own = (self.weight, self.bias, self.running_mean, self.running_var)
        return self.eps > 0 and all(tensor is not None and _is_own(tensor, channels) for tensor in own)

    def activated(self, x: Tensor, activation: int) -> Tensor:
        """What one of ACTIVATIONS, or none, makes of the normalised x, where `applies`."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        running = (self.running_mean, self.running_var, self.eps, self.momentum)
        out: Tensor = _BatchNorm.apply(x, self.weight, self.bias, running, activation)
        return out


class FusedSequential(nn.Sequential, Accelerated):
    """nn.Sequential whose batch normalisations take along the activation after them, where no hook looks between."""

    def forward(self, input: Tensor) -> Tensor:
        layers = list(self)
        while layers:
            layer = layers.pop(0)
            activation = _activation(layer, layers[0]) if layers else None
            if activation and isinstance(layer, OnePassBatchNorm2d) and layer.applies(input):
                input = layer.activated(input, activation)
                layers.pop(0)
            else:
                input = layer(input)
        return input

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _blank, (plain_class(type(self)),), self.__dict__  # its class is made where it is needed


_MADE: dict[type[nn.Module], type[FusedSequential]] = {}


def _joining(kind: type[nn.Module]) -> type[FusedSequential]:
    """The subclass of a kind of nn.Sequential that joins."""
    if kind not in _MADE:
        _MADE[kind] = type(kind.__name__, (FusedSequential, kind), {})
    return _MADE[kind]


def _blank(kind: type[nn.Module]) -> FusedSequential:
    made = _joining(kind)
    return made.__new__(made)


def join(model: nn.Module) -> None:
    """Makes the model's batch normalisations, and the Sequentials that hold some, classes of the above, in place."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = OnePassBatchNorm2d
    for module in model.modules():
        holds = isinstance(module, nn.Sequential) and any(type(child) is OnePassBatchNorm2d for child in module)
        if holds and type(module).forward is nn.Sequential.forward:
            module.__class__ = _joining(type(module))


def _activation(layer: nn.Module, after: nn.Module) -> int | None:
    """Which one a normalisation, if the layer is one, can take along."""
    if not isinstance(layer, OnePassBatchNorm2d) or type(after) not in ACTIVATIONS:
        return None
    watched = _has_any_global_hook() or is_watched(layer) or is_watched(after)
    return None if watched else ACTIVATIONS[type(after)]


def is_watched(module: nn.Module) -> bool:
    """Whether a hook, or a forward of its own, has to do with what goes in or comes out."""
    return "forward" in module.__dict__ or bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _is_own(tensor: Tensor, features: int) -> bool:
    kind = type(tensor) in OWN and KIND(tensor) == FLOAT32
    return kind and tensor.shape == (features,) and tensor.is_contiguous()


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, running: tuple[Tensor, Tensor, float, float], act: int
    ) -> Tensor:
        mean, var, eps, momentum = running
        statistics, out = x.new_empty(4, x.shape[1]), torch.empty_like(x)
        _call("batch_norm", (x, weight, bias, mean, var, _sums(x), statistics, out), x, (eps, momentum), act)
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.eps, ctx.act = eps, act
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, statistics = ctx.saved_tensors
        if is_for_torch(gradient):
            again = partial(by_torch, eps=ctx.eps, activation=ctx.act)
            return *gradients(again, (x, weight, bias), ctx.needs_input_grad[:3], gradient), None, None
        x, gradient = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, gradient))
        factors, for_weight, for_bias = (x.new_empty(rows * x.shape[1]) for rows in (2, 1, 1))
        for_x = torch.empty_like(x)
        passed = (x, gradient, statistics, _sums(x), factors, for_x, for_weight, for_bias)
        _call("batch_norm_backward", passed, x, (), ctx.act)
        return for_x, for_weight, for_bias, None, None


def by_torch(x: Tensor, weight: Tensor, bias: Tensor, eps: float, activation: int) -> Tensor:
    """What the compiled function computes, by torch's operations; the running statistics stay as they are."""
    return _BY_TORCH[activation](F.batch_norm(x, None, None, weight, bias, training=True, eps=eps))


def _sums(x: Tensor) -> Tensor:
    channels = x.shape[1]
    return x.new_empty(-(-x.numel() // (channels * _ROWS)) * 2 * channels, dtype=torch.float64)


def _call(name: str, tensors: tuple[Tensor, ...], x: Tensor, numbers: tuple[float, ...], act: int) -> None:
    channels, threads = x.shape[1], torch.get_num_threads() if x.numel() > _ALONE else 1
    getattr(library(), name)(
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        ctypes.c_int64(x.numel() // channels),
        ctypes.c_int64(channels),
        *map(ctypes.c_float, numbers),
        ctypes.c_int(act),
        ctypes.c_int(threads),
    )
