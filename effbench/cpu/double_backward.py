"""Differentiable fallback of the compiled backward passes, for create_graph=True and is_grads_batched=True."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from effbench.cpu.eligibility import is_plain_cpu_float32


def needs_differentiable_backward(gradient: Tensor) -> bool:
    """Return True if the backward pass is recorded (create_graph), or its gradient cannot be read by C."""
    batched = torch._C._functorch.is_legacy_batchedtensor(gradient)  # from is_grads_batched
    return torch.is_grad_enabled() or batched or not is_plain_cpu_float32(gradient)


def differentiable_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor | None], needed: Sequence[bool], gradient: Tensor
) -> list[Tensor | None]:
    """Return gradients of function(*inputs), recorded by autograd if it is enabled.

    Args:
        function: the layer in torch's differentiable operations.
        inputs: arguments of the function; None is passed on.
        needed: for each input, whether it needs a gradient; the others get None.
        gradient: gradient of the function's output.
    """
    # a view of each input: if one tensor is passed twice, each place needs its own gradient, not the sum
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        views = [tensor.view_as(tensor) if tensor is not None and need else tensor
                 for tensor, need in zip(inputs, needed, strict=True)]  # fmt: skip
        out = function(*views)
    wanted = [view for view, need in zip(views, needed, strict=True) if view is not None and need]
    # in order, without those that are not needed: None stands at their places
    found = iter(torch.autograd.grad(out, wanted, gradient, create_graph=torch.is_grad_enabled()))
    return [next(found) if need else None for need in needed]
