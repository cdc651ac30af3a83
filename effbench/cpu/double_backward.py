"""Gradients by torch's own operations, for those who differentiate them again, or want many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from effbench.cpu.eligibility import is_plain_cpu_float32


def is_for_torch(gradient: Tensor) -> bool:
    """Whether a backward pass must leave a trace (create_graph), or gets what a compiled function cannot read."""
    batched = torch._C._functorch.is_legacy_batchedtensor(gradient)  # by is_grads_batched
    return torch.is_grad_enabled() or batched or not is_plain_cpu_float32(gradient)


def gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], needed: Sequence[bool], gradient: Tensor
) -> list[Tensor | None]:
    """Those of function(*inputs) by the inputs that are needed; they have gradients themselves where torch asks."""
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        own = [tensor.view_as(tensor) if need else tensor for tensor, need in zip(inputs, needed, strict=True)]
        out = function(*own)
    wanted = [tensor for tensor, need in zip(own, needed, strict=True) if need]
    found = iter(torch.autograd.grad(out, wanted, gradient, create_graph=torch.is_grad_enabled()))
    return [next(found) if need else None for need in needed]
