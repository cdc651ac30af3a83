"""Batch normalisation and the activation after it in one compiled function (effbench/kernels/batch_norm.c).

On a CPU the two are bound by memory: torch reads a layer's output five times in a forward pass and writes it twice,
this reads it twice and writes it once; backward likewise. Everywhere else they are torch's own, one after the other.
"""

from __future__ import annotations

import ctypes
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.jit._trace import is_tracing

from effbench.kernels import library

ACTIVATIONS: dict[type[nn.Module], int] = {nn.Identity: 0, nn.ReLU: 1, nn.ReLU6: 2, nn.Hardswish: 3}
_ROWS = 128  # of a block in the compiled function
_ALONE = 2**14  # elements under which a second thread costs more than it takes off


class BatchNormAct2d(nn.BatchNorm2d):
    """nn.BatchNorm2d and then `act`; its parameters, buffers and state_dict are nn.BatchNorm2d's."""

    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        if self._applies(input):
            return self._in_one(input)
        activated: Tensor = self.act(super().forward(input))
        return activated

    def _applies(self, x: Tensor) -> bool:
        """In a training step on the CPU in float32, channels last, as torch would take it."""
        if not (self.training and torch.is_grad_enabled()) or torch.compiler.is_compiling() or is_tracing():
            return False
        if x.device.type != "cpu" or x.dtype is not torch.float32 or torch.is_autocast_enabled("cpu"):
            return False
        own = (self.weight, self.bias, self.running_mean, self.running_var)
        if any(tensor is None or tensor.dtype is not torch.float32 for tensor in own) or self.momentum is None:
            return False
        if x.dim() != 4 or x.shape[1] != self.num_features or x.numel() <= x.shape[1]:
            return False
        return x.is_contiguous(memory_format=torch.channels_last) and library() is not None

    def _in_one(self, x: Tensor) -> Tensor:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        running = (self.running_mean, self.running_var, self.eps, self.momentum)
        out: Tensor = _BatchNormAct.apply(x, self.weight, self.bias, running, ACTIVATIONS[type(self.act)])
        return out


def join(model: nn.Module) -> None:
    """Makes the model's batch normalisations BatchNormAct2d, in place.

    Each takes along the activation that comes right after it in a Sequential, where an Identity stays behind.
    """
    for container in list(model.modules()):
        plain = type(container).forward is nn.Sequential.forward
        children = list(container.named_children())
        for (_, norm), (name, act) in zip(children, [*children[1:], ("", None)], strict=False):
            if type(norm) is nn.BatchNorm2d:
                norm.__class__ = BatchNormAct2d
                follows = plain and type(act) in ACTIVATIONS
                cast(BatchNormAct2d, norm).act = cast(nn.Module, act) if follows else nn.Identity()
                if follows:
                    setattr(container, name, nn.Identity())


class _BatchNormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, running: tuple[Tensor, Tensor, float, float], act: int
    ) -> Tensor:
        mean, var, eps, momentum = running
        channels = x.shape[1]
        statistics, out = x.new_empty(4, channels), torch.empty_like(x)
        _call("batch_norm", (x, weight, bias, mean, var, _sums(x), statistics, out), x, (eps, momentum), act)
        ctx.save_for_backward(x, statistics)
        ctx.act = act
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, statistics = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        factors, for_weight, for_bias = (x.new_empty(rows * x.shape[1]) for rows in (2, 1, 1))
        for_x = torch.empty_like(x)
        passed = (x, gradient, statistics, _sums(x), factors, for_x, for_weight, for_bias)
        _call("batch_norm_backward", passed, x, (), ctx.act)
        return for_x, for_weight, for_bias, None, None


def _sums(x: Tensor) -> Tensor:
    channels = x.shape[1]
    return torch.empty(-(-x.numel() // (channels * _ROWS)) * 2 * channels, dtype=torch.float64)


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
