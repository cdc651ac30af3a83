"""Where the layers of ours may stand in for torch's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.jit._trace import is_tracing

from effbench.kernels.tensors import FLOAT32, KIND


def is_recorded() -> bool:
    """Whether a graph is made of what is computed: sizes must not be looked at then, nor layers replaced."""
    return torch.compiler.is_compiling() or is_tracing()


def is_plain(x: Tensor) -> bool:
    """Whether torch would compute with x in float32 on the CPU at once: no graph, transform, mode or autocast asks for
    its own operations."""
    if is_recorded() or type(x) is not Tensor or KIND(x) != FLOAT32 or torch.is_autocast_enabled("cpu"):
        return False
    if x.is_neg() or x.is_nested or x._is_zerotensor():  # which memory alone does not tell
        return False
    watched = torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack()
    return not watched and forward_ad._current_level < 0
