"""Acceleration of training on a CPU: modules change to a subclass of ours that computes faster, and back.

Only the loop trains on accelerated models; tools that look at classes (fx, TorchScript, quantization) get plain ones.
"""

from __future__ import annotations

import logging
from collections import Counter

from torch import nn

from effbench.cpu.batch_norm import join
from effbench.cpu.depthwise import DepthwiseConv2d, is_large_depthwise
from effbench.cpu.dropout import Dropout
from effbench.cpu.eligibility import Accelerated, plain_class
from effbench.cpu.library import unavailable
from effbench.cpu.linear import Linear
from effbench.cpu.pointwise import PointwiseConv2d, is_pointwise

log = logging.getLogger(__name__)

_WITH_BLOCKS = ("torchvision.models.mobilenetv2", "torchvision.models.mobilenetv3")


def accelerate(model: nn.Module) -> None:
    """Gives the layers that torch is slow at on a CPU a class of ours, in place; parameters and state_dict stay."""
    for module in model.modules():
        if type(module) is nn.Conv2d:
            if is_large_depthwise(module):
                module.__class__ = DepthwiseConv2d
            elif is_pointwise(module):
                module.__class__ = PointwiseConv2d
        elif type(module) is nn.Linear:
            module.__class__ = Linear
        elif type(module) is nn.Dropout:
            module.__class__ = Dropout
    join(model)
    _chain(model)
    replaced = Counter(type(module).__name__ for module in model.modules() if isinstance(module, Accelerated))
    log.debug(f"layers computed by CPU kernels: {dict(replaced)}; C functions: {unavailable() or 'loaded'}")


def remove_acceleration(model: nn.Module) -> None:
    """Gives every module the class back that it had before `accelerate`, in place."""
    for module in model.modules():
        if isinstance(module, Accelerated):
            module.__class__ = plain_class(type(module))


def _chain(model: nn.Module) -> None:
    """torchvision's inverted residual blocks; it is imported only where a model has some."""
    from_torchvision = [m for m in model.modules() if type(m).__module__ in _WITH_BLOCKS]
    if from_torchvision:
        from effbench.cpu.inverted_residual import BLOCKS

        for module in from_torchvision:
            module.__class__ = BLOCKS.get(type(module), type(module))
