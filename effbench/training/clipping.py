"""Gradient clipping, by norm or by value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from effbench.cpu.library import library
from effbench.cpu.tensors import call_in_one_pass, fit_one_pass


class Clipping(Protocol):
    """Changes the gradients in place; called before each optimizer step."""

    def __call__(self) -> None: ...


class NoClipping:
    def __call__(self) -> None:
        pass


class ClipNorm:
    """Scales all gradients down together if their L2 norm exceeds `limit` (arXiv:1211.5063).

    Compiled if possible (effbench/cpu/csrc/clip.c): torch's took 1.7 ms of a step of MobileNetV3-small of 39 ms (batch
    64, AMD EPYC, 2 threads, median of 50).
    """

    def __init__(self, parameters: Sequence[Tensor], limit: float):
        self._parameters, self._limit = list(parameters), limit

    def __call__(self) -> None:
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if fit_one_pass([gradients]) and library() is not None:
            call_in_one_pass("clip_norm", [gradients], [self._limit])
            increment_version(gradients)
        else:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._limit)


class ClipValue:
    """Clamps every element of every gradient to [-limit, limit]."""

    def __init__(self, parameters: Sequence[Tensor], limit: float):
        self._parameters, self._limit = list(parameters), limit

    def __call__(self) -> None:
        torch.nn.utils.clip_grad_value_(self._parameters, self._limit)


def choose_clipping(parameters: Sequence[Tensor], limit: float | None, algorithm: str) -> Clipping:
    """Return the clipping of a config.

    Args:
        parameters: whose gradients are clipped.
        limit: trainer.gradient_clip_val; None: no clipping.
        algorithm: trainer.gradient_clip_algorithm: 'norm' or 'value'.
    """
    if limit is None:
        return NoClipping()
    return ClipNorm(parameters, limit) if algorithm == "norm" else ClipValue(parameters, limit)
