"""Weights that are zero stay zero in training, as with the masks of torch.nn.utils.prune."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from effbench.errors import ConfigError
from effbench.training.callbacks import Callback, Context


class KeepZeros(Callback):
    """Keeps the zeros that weights have at the start of a session.

    torch.nn.utils.prune multiplies a weight by its mask in each forward pass, so that neither masked weights nor their
    gradients count. Here the gradients are masked before the optimizer takes its step, and the weights after it: an
    optimizer such as Muon changes weights without a gradient. The names in the state_dict stay, and so do fast layers.

    Args:
        names: parameters, such as 'conv1.weight'.
    """

    def __init__(self, names: Sequence[str]):
        self._names = list(names)
        self._masked: list[tuple[nn.Parameter, Tensor]] = []  # with True where the weight is kept
        self._averaged: list[tuple[nn.Parameter, Tensor]] = []

    def fit_start(self, context: Context) -> None:
        """Read the masks from the weights, which a resumed run has loaded by now. Raises ConfigError."""
        own = dict(context.model.named_parameters())
        if missing := [name for name in self._names if name not in own]:
            raise ConfigError(f"compression.json does not fit the model: zeros names {missing[0]}, which it lacks.")
        masks = {name: own[name].detach() != 0 for name in self._names}
        self._masked = [(own[name], mask) for name, mask in masks.items()]
        averaged = context.trainer.averaged.model
        others = dict(averaged.named_parameters()) if averaged is not context.model else {}
        self._averaged = [(others[name], mask) for name, mask in masks.items() if name in others]

    def before_step(self, context: Context) -> None:
        for weight, mask in self._masked:
            if weight.grad is not None:
                weight.grad.mul_(mask)

    @torch.no_grad()
    def step_end(self, context: Context) -> None:
        for weight, mask in (*self._masked, *self._averaged):
            weight.mul_(mask)
