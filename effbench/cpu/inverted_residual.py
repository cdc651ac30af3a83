"""torchvision's inverted residual blocks, each computed by one C function in a training step on a CPU."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torchvision.models import mobilenetv2, mobilenetv3
from torchvision.ops.misc import SqueezeExcitation

from effbench.cpu.batch_norm import ACTIVATIONS, CpuBatchNorm2d, FusedSequential, has_hooks
from effbench.cpu.depthwise import CpuDepthwiseConv2d, is_centred_depthwise
from effbench.cpu.eligibility import Accelerated, is_plain_cpu_float32
from effbench.cpu.inverted_residual_function import HARDSIGMOID, SIGMOID, Block, block_of, inverted_residual
from effbench.cpu.library import library
from effbench.cpu.pointwise import CpuPointwiseConv2d, is_pointwise

_SEQUENTIAL_FORWARDS = (nn.Sequential.forward, FusedSequential.forward)
_GATES = {nn.Hardsigmoid: HARDSIGMOID, nn.Sigmoid: SIGMOID}
# A block is recognised by its layers, one letter each: convolution, norm, activation, squeeze-and-excitation.
_LETTERS: dict[type[nn.Module], str] = {
    **dict.fromkeys((nn.Conv2d, CpuPointwiseConv2d, CpuDepthwiseConv2d), "C"),
    CpuBatchNorm2d: "N",
    **dict.fromkeys(ACTIVATIONS, "A"),
    SqueezeExcitation: "S",
}
_BLOCK = re.compile("(?P<expand>CNA?)?(?P<depthwise>CNA?)(?P<squeeze>S)?(?P<project>CNA?)")


class InvertedResidualV2(mobilenetv2.InvertedResidual, Accelerated):  # type: ignore[misc]
    """MobileNetV2's block with a faster training step."""

    def forward(self, x: Tensor) -> Tensor:
        out = _in_one_call(self.conv, self.use_res_connect, x)
        return super().forward(x) if out is None else out


class InvertedResidualV3(mobilenetv3.InvertedResidual, Accelerated):  # type: ignore[misc]
    """MobileNetV3's block with a faster training step."""

    def forward(self, input: Tensor) -> Tensor:
        out = _in_one_call(self.block, self.use_res_connect, input)
        return super().forward(input) if out is None else out


BLOCKS: dict[type[nn.Module], type[nn.Module]] = {
    mobilenetv2.InvertedResidual: InvertedResidualV2,
    mobilenetv3.InvertedResidual: InvertedResidualV3,
}


def _in_one_call(layers: nn.Sequential, residual: bool, x: Tensor) -> Tensor | None:
    """Return the block's output; None if torch must run the layers one by one."""
    if not torch.is_grad_enabled() or not is_plain_cpu_float32(x) or library() is None:
        return None
    if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last) or _has_any_global_hook():
        return None
    # anew in each call: hooks, modes and layers may change at any time, and the block may be a user's copy
    flat = _flatten(layers)
    spans = _spans("".join([_LETTERS.get(type(layer), "?") for layer in flat])) if flat else None
    if not flat or not spans:
        return None
    expand, depthwise, squeeze, project = (flat[start:end] for start, end in spans)
    block = _block(expand, depthwise, squeeze, project, residual, x)
    if block is None:
        return None

    # in the order of the C struct Weights
    convs = [[layer[0].weight, layer[1].weight, layer[1].bias] if layer else [None] * 3
             for layer in (expand, depthwise, project)]  # fmt: skip
    excite: list[Tensor | None] = [None] * 4
    if squeeze:
        reduce, restore = squeeze[0].fc1, squeeze[0].fc2
        excite = [reduce.weight, reduce.bias, restore.weight, restore.bias]
    weights: list[Tensor | None] = [*convs[0], *convs[1], *excite, *convs[2]]
    if not block.takes(weights) or not any(weight.requires_grad for weight in weights if weight is not None):
        return None  # if all are frozen, torch skips unused gradients

    running: list[Tensor | None] = []
    for layer in (expand, depthwise, project):
        running += [layer[1].running_mean, layer[1].running_var] if layer else [None, None]
        if layer and layer[1].num_batches_tracked is not None:
            layer[1].num_batches_tracked.add_(1)
    return inverted_residual(block, x, weights, running)


def _flatten(layer: nn.Module) -> list[Any] | None:
    """Return the layers in execution order, with Sequentials expanded; None if one has a hook."""
    if has_hooks(layer):
        return None
    if type(layer).forward not in _SEQUENTIAL_FORWARDS:
        # squeeze-and-excitation has layers inside
        return None if any(map(has_hooks, layer.children())) else [layer]
    flat: list[Any] = []
    for child in layer:  # type: ignore[attr-defined]
        found = _flatten(child)
        if found is None:
            return None
        flat += found
    return flat


@lru_cache
def _spans(letters: str) -> list[tuple[int, int]] | None:
    """Return the ranges of expand, depthwise, squeeze and project, (-1, -1) if absent; None for other blocks."""
    match = _BLOCK.fullmatch(letters)
    names = ("expand", "depthwise", "squeeze", "project")
    return None if match is None else [match.span(name) for name in names]


def _block(
    expand: list[Any], depthwise: list[Any], squeeze: list[Any], project: list[Any], residual: bool, x: Tensor
) -> Block | None:
    """Return the block of these layers; None if one of them differs from what the C function computes."""
    conv, shape = depthwise[0], (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
    if conv.bias is not None or not is_centred_depthwise(conv):
        return None
    for layer in (expand, project):
        if layer and (layer[0].bias is not None or not is_pointwise(layer[0]) or layer[0].stride != (1, 1)):
            return None
    squeezed = gate = 0
    if squeeze:
        # the usual one: average pooling, two 1 x 1 convolutions with bias, ReLU and a known gate
        excite = squeeze[0]
        inner = (excite.fc1, excite.fc2)
        usual = all(type(each) is CpuPointwiseConv2d and each.bias is not None for each in inner)
        usual = usual and type(excite.avgpool) is nn.AdaptiveAvgPool2d and excite.avgpool.output_size == 1
        if not usual or type(excite.activation) is not nn.ReLU or type(excite.scale_activation) not in _GATES:
            return None
        squeezed, gate = excite.fc1.out_channels, _GATES[type(excite.scale_activation)]

    expanded, out_channels = conv.out_channels, project[0].out_channels
    channels = ((expand, expanded), (depthwise, expanded), (project, out_channels))
    if not all(layer[1].fits(count) for layer, count in channels if layer):
        return None
    # (eps, momentum, activation); empty if the block has no such layer
    norms = [(layer[1].eps, layer[1].momentum, ACTIVATIONS[type(layer[2])] if len(layer) == 3 else 0) if layer else ()
             for layer in (expand, depthwise, project)]  # fmt: skip
    block = block_of(
        shape, expanded, squeezed, out_channels, conv.kernel_size[0], conv.stride[0], gate, residual, *norms
    )
    images, _, height, width = block.out_shape
    # torch raises an error for one value a channel, and for shapes that cannot be added or do not fit
    if images * height * width < 2 or (residual and block.out_shape != shape):
        return None
    return block if expand or expanded == x.shape[1] else None
