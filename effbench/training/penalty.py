"""Around the loss: the L1 penalty on weights, and what a model gives in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from effbench.errors import ConfigError


class L1Penalty:
    """Adds the gradient of strength * sum |w|: strength * sign(w), in true gradient units."""

    def __init__(self, parameters: Sequence[Tensor], strength: float):
        self._parameters, self._strength = list(parameters), strength

    @torch.no_grad()
    def add_gradients(self) -> None:
        if self._strength == 0:
            return
        live = [parameter for parameter in self._parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in live if parameter.grad is not None]
        torch._foreach_add_(gradients, torch._foreach_sign(live), alpha=self._strength)


def logits_of(outputs: Any) -> Tensor:
    """What a model gives in training mode, where some give more than in eval mode: auxiliary heads, a dict."""
    if isinstance(outputs, Tensor):
        return outputs
    raise ConfigError(
        f"the model returns a {type(outputs).__name__} in training; it must return the logits alone, a tensor (N, K). "
        "Turn its auxiliary heads off (aux_logits=false), or wrap it in a model of your own."
    )
