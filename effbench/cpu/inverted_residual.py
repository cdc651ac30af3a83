"""torchvision's inverted residual blocks, each a chain (effbench/cpu/block_program.py) in a training step on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torchvision.models import mobilenetv2, mobilenetv3
from torchvision.ops.misc import SqueezeExcitation

from effbench.cpu.batch_norm import ACTIVATIONS, FusedSequential, OnePassBatchNorm2d, is_watched
from effbench.cpu.block_program import run
from effbench.cpu.block_stages import HARDSIGMOID, SIGMOID, Depthwise, Gate, Mix, Norm, Shape, Stage, rows
from effbench.cpu.depthwise import DepthwiseConv2d, is_centred_depthwise
from effbench.cpu.eligibility import Accelerated, is_plain_cpu_float32
from effbench.cpu.library import library
from effbench.cpu.pointwise import PointwiseConv2d, is_pointwise
from effbench.cpu.tensors import FLOAT32, KIND, OWN

_IN_ORDER = (nn.Sequential.forward, FusedSequential.forward)  # of what runs its children one after the other
_CONVOLUTIONS = (nn.Conv2d, PointwiseConv2d, DepthwiseConv2d)
_GATES = {nn.Hardsigmoid: HARDSIGMOID, nn.Sigmoid: SIGMOID}


class InvertedResidualV2(mobilenetv2.InvertedResidual, Accelerated):  # type: ignore[misc]
    """The block of MobileNetV2 in everything but the time of a training step."""

    def forward(self, x: Tensor) -> Tensor:
        out = _chained(self.conv, self.use_res_connect, x)
        return super().forward(x) if out is None else out


class InvertedResidualV3(mobilenetv3.InvertedResidual, Accelerated):  # type: ignore[misc]
    """The block of MobileNetV3 likewise."""

    def forward(self, input: Tensor) -> Tensor:
        out = _chained(self.block, self.use_res_connect, input)
        return super().forward(input) if out is None else out


BLOCKS: dict[type[nn.Module], type[nn.Module]] = {
    mobilenetv2.InvertedResidual: InvertedResidualV2,
    mobilenetv3.InvertedResidual: InvertedResidualV3,
}


class _Reading:
    """A block's layers as the stages of a chain. shape: of what the next one gets."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.stages: list[Stage] = []
        self.weights: list[Tensor] = []
        self.buffers: list[Tensor] = []
        self.counters: list[Tensor] = []

    def take(self, layers: list[nn.Module]) -> bool:
        """Whether all of them are such stages, a convolution first."""
        for index, layer in enumerate(layers):
            if type(layer) in _CONVOLUTIONS:
                taken = self._convolution(layer)
            elif type(layer) is OnePassBatchNorm2d:
                after = type(layers[index + 1]) if index + 1 < len(layers) else nn.Identity
                taken = self._norm(layer, ACTIVATIONS.get(after, 0))
            elif type(layer) in ACTIVATIONS:
                taken = index > 0 and type(layers[index - 1]) is OnePassBatchNorm2d  # which took it along
            else:
                taken = type(layer) is SqueezeExcitation and self._gate(layer)
            if not taken or not isinstance(self.stages[0], Mix | Depthwise):
                return False
        return True

    def _add(self, stage: Stage, *weights: Any) -> bool:
        """Whether its weights are what their modules say: C is told sizes, and looks at no shape."""
        shapes = stage.weight_shapes(self.shape[1])
        if not all(_is_plain(weight, shape) for weight, shape in zip(weights, shapes, strict=True)):
            return False
        self.stages.append(stage)
        self.weights += weights
        self.shape = stage.out_shape(self.shape)
        return True

    def _convolution(self, conv: Any) -> bool:
        if conv.bias is not None or conv.in_channels != self.shape[1]:
            return False
        if is_centred_depthwise(conv):
            return self._add(Depthwise(conv.kernel_size[0], conv.stride[0]), conv.weight)
        mixes = is_pointwise(conv) and conv.stride == (1, 1)
        return mixes and self._add(Mix(conv.out_channels), conv.weight)

    def _norm(self, norm: Any, activation: int) -> bool:
        if not norm.fits(self.shape[1]) or rows(self.shape) < 2:
            return False
        if not self._add(Norm(norm.eps, norm.momentum, activation), norm.weight, norm.bias):
            return False
        self.buffers += [norm.running_mean, norm.running_var]
        self.counters += [] if norm.num_batches_tracked is None else [norm.num_batches_tracked]
        return True

    def _gate(self, layer: Any) -> bool:
        fc1, fc2, channels = layer.fc1, layer.fc2, self.shape[1]
        if type(layer.activation) is not nn.ReLU or type(layer.scale_activation) not in _GATES:
            return False
        if type(layer.avgpool) is not nn.AdaptiveAvgPool2d or layer.avgpool.output_size != 1:
            return False
        if not (_mixes(fc1, channels) and _mixes(fc2, fc1.out_channels) and fc2.out_channels == channels):
            return False
        gate = Gate(fc1.out_channels, _GATES[type(layer.scale_activation)])
        return self._add(gate, fc1.weight, fc1.bias, fc2.weight, fc2.bias)


def _mixes(conv: Any, channels: int) -> bool:
    return type(conv) is PointwiseConv2d and conv.bias is not None and conv.in_channels == channels


def _chained(layers: nn.Sequential, residual: bool, x: Tensor) -> Tensor | None:
    """The block's output, where it is one that a chain can compute, in a training step that it may take over."""
    if not torch.is_grad_enabled() or not is_plain_cpu_float32(x) or library() is None:
        return None
    if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last) or _has_any_global_hook():
        return None
    flat: list[nn.Module] = []
    reading = _Reading((x.shape[0], x.shape[1], x.shape[2], x.shape[3]))
    if not _flatten(layers, flat) or not flat or not reading.take(flat):
        return None
    if residual and reading.shape != tuple(x.shape):
        return None
    if not any(weight.requires_grad for weight in reading.weights):
        return None  # frozen: torch leaves out what nobody asks for
    for counter in reading.counters:
        counter.add_(1)
    return run(tuple(reading.stages), residual, x, reading.weights, reading.buffers)


def _flatten(layer: nn.Module, flat: list[nn.Module]) -> bool:
    """Adds the layers in the order they are run in; whether no hook looks at one."""
    if is_watched(layer):
        return False
    if type(layer).forward in _IN_ORDER:
        return all(_flatten(child, flat) for child in layer._modules.values() if child is not None)  # also one twice
    flat.append(layer)
    return not any(map(is_watched, layer.children()))


def _is_plain(weight: Tensor, shape: tuple[int, ...]) -> bool:
    own = type(weight) in OWN and KIND(weight) == FLOAT32
    return own and weight.shape == shape and weight.is_contiguous()
