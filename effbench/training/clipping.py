"""Gradient clipping, by norm or by value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from effbench.cpu.library import library
from effbench.cpu.tensors import call_in_one_pass, fit_one_pass


class Clipping:
    """Changes the gradients in place; called before each optimizer step."""

    def __call__(self) -> None:
        """Change the gradients of the parameters."""


class NoClipping(Clipping):
    """Leaves the gradients as they are."""


@dataclass(eq=False)
class ClipNorm(Clipping):
    """Scales all gradients down together if their L2 norm exceeds `limit` (arXiv:1211.5063).

    Compiled if possible (effbench/cpu/csrc/clip.c): torch's took 1.7 ms of a step of MobileNetV3-small of 39 ms (batch
    64, AMD EPYC, 2 threads, median of 50).
    """

    parameters: Sequence[Tensor]
    limit: float

    def __call__(self) -> None:
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        # dense float32 on the CPU; anything else is torch's
        if fit_one_pass([gradients]) and library() is not None:
            call_in_one_pass("clip_norm", [gradients], [self.limit])
            # The C function writes through raw pointers: autograd must still notice a change in place.
            increment_version(gradients)
        else:
            # A norm of NaN makes all gradients NaN here and in C: the check before a save finds it in the weights.
            torch.nn.utils.clip_grad_norm_(self.parameters, self.limit)


@dataclass(eq=False)
class ClipValue(Clipping):
    """Clamps every element of every gradient to [-limit, limit]."""

    parameters: Sequence[Tensor]
    limit: float

    def __call__(self) -> None:
        torch.nn.utils.clip_grad_value_(self.parameters, self.limit)


def choose_clipping(parameters: Iterable[Tensor], limit: float | None, algorithm: str) -> Clipping:
    """Return the clipping of a config.

    Args:
        parameters: whose gradients are clipped.
        limit: trainer.gradient_clip_val, in units of the gradient; None: no clipping.
        algorithm: trainer.gradient_clip_algorithm: 'norm' or 'value'.
    """
    if limit is None:
        return NoClipping()
    kept = list(parameters)  # a generator, as model.parameters() is, would be empty from the second step on
    return ClipNorm(kept, limit) if algorithm == "norm" else ClipValue(kept, limit)
