"""Acceleration of training on a CPU: modules change to a subclass of ours that computes faster, and back.

Only the loop trains on accelerated models; tools that look at classes (fx, TorchScript, quantization) get plain ones.
"""

from __future__ import annotations

from torch import nn

from effbench.models.batch_norm import join
from effbench.models.depthwise import DepthwiseConv2d, is_large_depthwise
from effbench.models.dropout import Dropout
from effbench.models.plain import Accelerated, plain_class
from effbench.models.pointwise import PointwiseConv2d, is_pointwise
from effbench.models.products import Linear

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


def remove_acceleration(model: nn.Module) -> None:
    """Gives every module the class back that it had before `accelerate`, in place."""
    for module in model.modules():
        if isinstance(module, Accelerated):
            module.__class__ = plain_class(type(module))


def _chain(model: nn.Module) -> None:
    """torchvision's inverted residual blocks; it is imported only where a model has some."""
    from_torchvision = [m for m in model.modules() if type(m).__module__ in _WITH_BLOCKS]
    if from_torchvision:
        from effbench.models.inverted_residual import BLOCKS

        for module in from_torchvision:
            module.__class__ = BLOCKS.get(type(module), type(module))
