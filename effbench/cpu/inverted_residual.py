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
    flat = _flatten(layers)
    spans = _spans("".join([_LETTERS.get(type(layer), "?") for layer in flat])) if flat else None
    if not flat or not spans:
        return None
    expand, depthwise, squeeze, project = (flat[start:end] for start, end in spans)
    block = _block(expand, depthwise, squeeze, project, residual, x)
    if block is None:
        return None
    weights = [
        *_conv_norm_weights(expand), *_conv_norm_weights(depthwise),
        *_squeeze_weights(squeeze), *_conv_norm_weights(project),
    ]  # fmt: skip
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
    if conv.bias is not None or not is_centred_depthwise(conv) or (squeeze and not _is_usual(squeeze[0])):
        return None
    if any(layer and not _is_plain_pointwise(layer[0]) for layer in (expand, project)):
        return None
    expanded, out_channels = conv.out_channels, project[0].out_channels
    channels = ((expand, expanded), (depthwise, expanded), (project, out_channels))
    if not all(layer[1].fits(count) for layer, count in channels if layer):
        return None
    block = block_of(
        shape, expanded, squeeze[0].fc1.out_channels if squeeze else 0, out_channels, conv.kernel_size[0],
        conv.stride[0], _GATES[type(squeeze[0].scale_activation)] if squeeze else 0, residual,
        _norm(expand), _norm(depthwise), _norm(project),
    )  # fmt: skip
    images, _, height, width = block.out_shape
    if images * height * width < 2 or (residual and block.out_shape != shape):
        return None
    return block if expand or expanded == x.shape[1] else None


def _is_plain_pointwise(conv: Any) -> bool:
    return conv.bias is None and is_pointwise(conv) and conv.stride == (1, 1)


def _is_usual(layer: Any) -> bool:
    """Check squeeze-and-excitation: average pooling, two 1 x 1 convolutions with bias, ReLU and a known gate."""
    convolutions = all(type(conv) is CpuPointwiseConv2d and conv.bias is not None for conv in (layer.fc1, layer.fc2))
    pools = type(layer.avgpool) is nn.AdaptiveAvgPool2d and layer.avgpool.output_size == 1
    return convolutions and pools and type(layer.activation) is nn.ReLU and type(layer.scale_activation) in _GATES


def _norm(layer: list[Any]) -> tuple[float, ...]:
    """Return a Norm's fields; empty if the block has no such layer."""
    if not layer:
        return ()
    return layer[1].eps, layer[1].momentum, ACTIVATIONS[type(layer[2])] if len(layer) == 3 else 0


def _conv_norm_weights(layer: list[Any]) -> list[Tensor | None]:
    return [layer[0].weight, layer[1].weight, layer[1].bias] if layer else [None] * 3


def _squeeze_weights(layer: list[Any]) -> list[Tensor | None]:
    return [layer[0].fc1.weight, layer[0].fc1.bias, layer[0].fc2.weight, layer[0].fc2.bias] if layer else [None] * 4
