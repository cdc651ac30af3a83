"""torchvision's inverted residual blocks, each a chain (effbench/models/chain.py) in a training step on a CPU."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torchvision.models import mobilenetv2, mobilenetv3
from torchvision.ops.misc import SqueezeExcitation

from effbench.kernels import library
from effbench.kernels.tensors import FLOAT32, KIND
from effbench.models.batch_norm import ACTIVATIONS, OnePassBatchNorm2d, is_watched
from effbench.models.chain import HARDSIGMOID, SIGMOID, Depthwise, Gate, Mix, Norm, Stage, run
from effbench.models.depthwise import is_centred_depthwise
from effbench.models.plain import is_plain
from effbench.models.pointwise import is_pointwise

_GATES = {nn.Hardsigmoid: HARDSIGMOID, nn.Sigmoid: SIGMOID}


class InvertedResidualV2(mobilenetv2.InvertedResidual):
    """The block of MobileNetV2 in everything but the time of a training step; but its gradient has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        out = _chained(self.conv, self.use_res_connect, x)
        return super().forward(x) if out is None else out


class InvertedResidualV3(mobilenetv3.InvertedResidual):
    """The block of MobileNetV3 likewise."""

    def forward(self, input: Tensor) -> Tensor:
        out = _chained(self.block, self.use_res_connect, input)
        return super().forward(input) if out is None else out


BLOCKS: dict[type[nn.Module], type[nn.Module]] = {
    mobilenetv2.InvertedResidual: InvertedResidualV2,
    mobilenetv3.InvertedResidual: InvertedResidualV3,
}


class _Reading:
    """A block's layers as the stages of a chain."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.stages: list[Stage] = []
        self.weights: list[Tensor] = []
        self.buffers: list[Tensor] = []
        self.counters: list[Tensor] = []

    def take(self, layers: list[nn.Module]) -> bool:
        """Whether all of them are such stages, in an order that a chain can take."""
        while layers:
            layer = layers.pop(0)
            if isinstance(layer, nn.Conv2d):
                if not self._convolution(layer):
                    return False
            elif isinstance(layer, OnePassBatchNorm2d):
                taken = layers.pop(0) if layers and type(layers[0]) in ACTIVATIONS else None
                if not self._norm(layer, ACTIVATIONS[type(taken)] if taken is not None else 0):
                    return False
            elif not (type(layer) is SqueezeExcitation and self._gate(layer)):
                return False
        return True

    def _convolution(self, conv: nn.Conv2d) -> bool:
        if conv.bias is not None or conv.in_channels != self.channels:
            return False
        if is_centred_depthwise(conv):
            self.stages.append(Depthwise(conv.kernel_size[0], conv.stride[0]))
        elif is_pointwise(conv) and conv.stride == (1, 1):
            self.stages.append(Mix(conv.out_channels))
        else:
            return False
        self.weights.append(conv.weight)
        self.channels = conv.out_channels
        return True

    def _norm(self, norm: OnePassBatchNorm2d, activation: int) -> bool:
        if not norm.fits(self.channels):
            return False
        self.stages.append(Norm(norm.eps, norm.momentum, activation))
        self.weights += [norm.weight, norm.bias]
        self.buffers += [norm.running_mean, norm.running_var]
        self.counters += [norm.num_batches_tracked]
        return True

    def _gate(self, layer: SqueezeExcitation) -> bool:
        fc1, fc2 = layer.fc1, layer.fc2
        if type(layer.activation) is not nn.ReLU or type(layer.scale_activation) not in _GATES:
            return False
        if not (is_pointwise(fc1) and is_pointwise(fc2)) or fc1.bias is None or fc2.bias is None:
            return False
        if fc1.in_channels != self.channels or fc2.out_channels != self.channels:
            return False
        self.stages.append(Gate(fc1.out_channels, _GATES[type(layer.scale_activation)]))
        self.weights += [fc1.weight, fc1.bias, fc2.weight, fc2.bias]
        return True


def _chained(layers: nn.Sequential, residual: bool, x: Tensor) -> Tensor | None:
    """The block's output, where it is one that a chain can compute, in a training step that it may take over."""
    if not torch.is_grad_enabled() or not is_plain(x) or library() is None:
        return None
    if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return None
    if _has_any_global_hook() or any(map(is_watched, layers.modules())):
        return None
    reading = _Reading(x.shape[1])
    if not reading.take(_flat(layers)) or not all(map(_is_plain_own, chain(reading.weights, reading.buffers))):
        return None
    for counter in reading.counters:
        counter.add_(1)
    return run(tuple(reading.stages), residual, x, reading.weights, reading.buffers)


def _flat(layers: nn.Sequential) -> list[nn.Module]:
    flat: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            flat += _flat(layer)
        else:
            flat.append(layer)
    return flat


def _is_plain_own(tensor: Any) -> bool:
    return KIND(tensor) == FLOAT32 and tensor.is_contiguous()
