"""Replace a model's slow layers by CPU-optimised subclasses, in place, and restore them.

Only the training loop uses accelerated models. Tools that inspect classes (fx, TorchScript, quantization) get plain
ones.
"""

from __future__ import annotations

import logging
from collections import Counter

from torch import nn

from effbench.cpu.batch_norm import fuse_bn_activation
from effbench.cpu.depthwise import CpuDepthwiseConv2d, is_large_depthwise
from effbench.cpu.dropout import CpuDropout
from effbench.cpu.eligibility import Accelerated, plain_class
from effbench.cpu.library import unavailable
from effbench.cpu.linear import CpuLinear
from effbench.cpu.pointwise import CpuPointwiseConv2d, is_pointwise

log = logging.getLogger(__name__)

_WITH_BLOCKS = ("torchvision.models.mobilenetv2", "torchvision.models.mobilenetv3")


def accelerate(model: nn.Module) -> None:
    """Replace slow layers by CPU-optimised subclasses, in place; parameters and state_dict do not change."""
    for module in model.modules():
        # exact types: a subclass may compute something else
        if type(module) is nn.Conv2d:
            if is_large_depthwise(module):
                module.__class__ = CpuDepthwiseConv2d
            elif is_pointwise(module):
                module.__class__ = CpuPointwiseConv2d
        elif type(module) is nn.Linear:
            module.__class__ = CpuLinear
        elif type(module) is nn.Dropout:
            module.__class__ = CpuDropout
    fuse_bn_activation(model)

    # by the name of the module, because importing torchvision takes long: most models do not need it
    from_torchvision = [module for module in model.modules() if type(module).__module__ in _WITH_BLOCKS]
    if from_torchvision:
        from effbench.cpu.inverted_residual import BLOCKS

        for module in from_torchvision:
            module.__class__ = BLOCKS.get(type(module), type(module))
    replaced = Counter(type(module).__name__ for module in model.modules() if isinstance(module, Accelerated))
    log.debug(f"layers computed by CPU kernels: {dict(replaced)}; C functions: {unavailable() or 'loaded'}")


def remove_acceleration(model: nn.Module) -> None:
    """Give every module the class that it had before `accelerate`, in place."""
    for module in model.modules():
        if isinstance(module, Accelerated):
            module.__class__ = plain_class(type(module))
