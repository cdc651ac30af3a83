"""Conditions under which the CPU replacements of torch's layers are used.

Each replacement is an autograd.Function guarded by these checks; if they fail, torch's layer runs. Operators registered
with torch.library would need no private names here, but are slower for linear layers and dropout, and about as fast for
batch normalisation, whose running statistics the operator measured does not update. Microseconds for a
call on small tensors, for ours / custom_op / Library.define and impl, each with fake tensors and gradients registered:

    batch_norm  forward 68 / 66 / 58   with backward 197 / 206 / 197
    linear      forward 39 / 62 / 56   with backward 176 / 208 / 199
    dropout     forward 31 / 57 / 50   with backward 127 / 161 / 154

(`python -m benchmarks.custom_ops 15`: AMD EPYC, 1 thread, medians of 15 rounds. The operators were measured without
checks of dtype, layout and shapes, which they would still need.)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from effbench.cpu.tensors import CPU_FLOAT32, kind_of


class Accelerated:
    """Base of the classes that replace a plain class (effbench/cpu/accelerate.py), which is their first other base."""


def plain_class(kind: type) -> type:
    """Return the class that an accelerated class replaces; any other class unchanged."""
    # a class comes before its bases in this order, so the first one is the class that was replaced
    return next(base for base in kind.__mro__ if not issubclass(base, Accelerated))


def is_tracing() -> bool:
    """Return True while torch.compile, torch.export or torch.jit.trace records a graph of torch's operations."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return torch.compiler.is_compiling() or tracing


def is_plain_cpu_float32(x: Tensor) -> bool:
    """Return True for an ordinary float32 CPU tensor in an ordinary context.

    The context is ordinary without tracing, functorch transform, dispatch mode, forward-mode AD and autocast.
    """
    if is_tracing() or type(x) is not Tensor or kind_of(x) != CPU_FLOAT32 or torch.is_autocast_enabled("cpu"):
        return False
    if x.is_neg() or x.is_nested or x._is_zerotensor():  # their memory does not hold their values
        return False
    # a functional transform or a dispatch mode (fake tensors, FLOP counters) would miss what C computes
    watched = torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack()
    # within a dual level of forward-mode AD, C would lose the tangents
    return not watched and forward_ad._current_level < 0
