"""Optimizer steps for many float32 CPU tensors in one compiled pass over memory (csrc/optimizer_steps.c)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from effbench.cpu.library import library
from effbench.cpu.tensors import CPU_FLOAT32, PLAIN_TYPES, Columns, call_in_one_pass, fit_one_pass, kind_of, layout_of

Rows = list[tuple[Tensor, ...]]


def divide(parameters: Sequence[Tensor], states: Sequence[Sequence[Tensor]]) -> tuple[Columns, Rows]:
    """Divide tensors into those that one compiled pass can update and the others.

    Args:
        parameters: each has a gradient. Complex ones are returned as real views with a last dimension of 2.
        states: one sequence for each kind of state, with one tensor a parameter.

    Returns:
        (columns for the compiled pass: parameters, gradients, states; the other tensors, one row a parameter).
    """
    columns = [list(parameters), [gradient_of(parameter) for parameter in parameters], *map(list, states)]
    if any(map(torch.is_complex, parameters)):
        columns[1] = [gradient.resolve_conj() for gradient in columns[1]]
        # views: C updates the memory of the complex parameter itself
        columns = [[torch.view_as_real(t) if t.is_complex() else t for t in column] for column in columns]
    # conjugation and sign may be flags, not values in memory (torch's lazy conj and neg): C reads memory
    if any(map(Tensor.is_neg, columns[1])):
        columns[1] = [gradient.resolve_neg() for gradient in columns[1]]
    if library() is None:
        return [[] for _ in columns], list(zip(*columns, strict=True))
    if fit_one_pass(columns):  # as a rule: one check for all, because a check of each row costs a part of the step
        return columns, []
    taken: Rows = []
    others: Rows = []
    for row in zip(*columns, strict=True):
        fitting = _fitting(row)
        if fitting is None:
            others.append(row)
        else:
            taken.append(fitting)
    return [list(column) for column in zip(*taken, strict=True)] or [[] for _ in columns], others


def gradient_of(parameter: Tensor) -> Tensor:
    """Return the parameter's gradient, which must exist."""
    gradient = parameter.grad
    assert gradient is not None
    return gradient


def _fitting(row: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Return the row with its gradient in the parameter's layout; None if C cannot update it.

    It can if they are float32 CPU tensors of one shape, and parameter and states have one layout without gaps.
    """
    parameter, gradient, *states = row
    if any(
        type(tensor) not in PLAIN_TYPES or kind_of(tensor) != CPU_FLOAT32 or tensor.shape != parameter.shape
        for tensor in row
    ):
        return None
    layout = layout_of(parameter)
    if layout is None or not all(tensor.is_contiguous(memory_format=layout) for tensor in states):
        return None
    # only the gradient is copied: it is read, and the others are written
    return parameter, gradient.contiguous(memory_format=layout), *states


def lion(columns: Columns, lr: float, betas: Sequence[float], weight_decay: float, maximize: bool) -> None:
    """Apply one Lion step in place.

    Args:
        columns: parameters, gradients and exp_avg, as `divide` returns them.
        lr: learning rate.
        betas: (b1, b2).
        weight_decay: decoupled decay.
        maximize: maximize the objective instead of minimizing it.
    """
    b1, b2 = betas
    numbers = (-1.0 if maximize else 1.0, 1 - lr * weight_decay, lr, b1, 1 - b1, b2, 1 - b2)
    call_in_one_pass("lion", columns, numbers)
    increment_version(columns[0])  # C wrote past autograd: it must notice if a saved parameter is used later


def adan(
    columns: Columns,
    t: float,
    lr: float,
    betas: Sequence[float],
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    """Apply Adan step t in place (the 'paper' variant).

    Args:
        columns: parameters, gradients, prev_grad, m, v and n, as `divide` returns them.
        t: number of this step, from 1.
        lr: learning rate.
        betas: (b1, b2, b3).
        eps: added to the denominator.
        weight_decay: proximal decay.
        maximize: maximize the objective instead of minimizing it.
    """
    b1, b2, b3 = betas
    # divisions once here, products for every element in C
    scales = (1 / (1 - b1**t), b2 / (1 - b2**t), (1 - b3**t) ** -0.5)
    numbers = (-1.0 if maximize else 1.0, float(t > 1), lr, 1 - b1, 1 - b2, b2, b3, 1 - b3, *scales, eps)
    call_in_one_pass("adan", columns, (*numbers, 1 / (1 + lr * weight_decay)))
    increment_version(columns[0])  # C wrote past autograd: it must notice if a saved parameter is used later
