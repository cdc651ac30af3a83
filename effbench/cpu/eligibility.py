"""Which classes replace torch's for training on a CPU, and where they compute instead of torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.jit._trace import is_tracing as is_jit_tracing

from effbench.cpu.tensors import FLOAT32, KIND


class Accelerated:
    """Base of the classes that stand in for a plain one (models/quick.py), which is their first other base."""


def plain_class(kind: type) -> type:
    """The class that an accelerated one stands in for; any other class itself."""
    return next(base for base in kind.__mro__ if not issubclass(base, Accelerated))


def is_tracing() -> bool:
    """Whether a graph is made of what is computed: sizes must not be looked at then, nor layers replaced."""
    return torch.compiler.is_compiling() or is_jit_tracing()


def is_plain_cpu_float32(x: Tensor) -> bool:
    """Whether torch would compute with x in float32 on the CPU at once: no graph, transform, mode or autocast asks for
    its own operations."""
    if is_tracing() or type(x) is not Tensor or KIND(x) != FLOAT32 or torch.is_autocast_enabled("cpu"):
        return False
    if x.is_neg() or x.is_nested or x._is_zerotensor():  # which memory alone does not tell
        return False
    watched = torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack()
    return not watched and forward_ad._current_level < 0
