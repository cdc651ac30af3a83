"""Conditions under which the CPU replacements of torch's layers are used."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from effbench.cpu.tensors import CPU_FLOAT32, kind_of


class Accelerated:
    """Base of the classes that replace a plain one (effbench/cpu/accelerate.py), which is their first other base."""


def plain_class(kind: type) -> type:
    """The class that an accelerated one replaces; any other class itself."""
    return next(base for base in kind.__mro__ if not issubclass(base, Accelerated))


def is_tracing() -> bool:
    """Whether torch.compile, torch.export or torch.jit.trace records a graph, which must hold torch's operations."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return torch.compiler.is_compiling() or tracing


def is_plain_cpu_float32(x: Tensor) -> bool:
    """True for an ordinary float32 CPU tensor with no tracing, functorch transform, dispatch mode, forward-mode AD or
    autocast active."""
    if is_tracing() or type(x) is not Tensor or kind_of(x) != CPU_FLOAT32 or torch.is_autocast_enabled("cpu"):
        return False
    if x.is_neg() or x.is_nested or x._is_zerotensor():  # their memory alone does not hold their values
        return False
    watched = torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack()
    return not watched and forward_ad._current_level < 0
