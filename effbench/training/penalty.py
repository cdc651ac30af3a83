"""The L1 penalty on weights, and the check of a model's output in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from effbench.errors import ConfigError


@dataclass(eq=False)
class L1Penalty:
    """Adds strength * sign(w), the gradient of strength * sum |w|, to the unscaled gradients."""

    parameters: Sequence[Tensor]
    strength: float

    @torch.no_grad()
    def add_gradients(self) -> None:
        if self.strength == 0:
            return
        # A parameter without a gradient took no part in the step: the optimizer leaves it alone, so must the penalty.
        live = [parameter for parameter in self.parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in live if parameter.grad is not None]
        # The penalty is not part of the loss: a logged loss stays comparable, and no graph of all weights is kept.
        torch._foreach_add_(gradients, torch._foreach_sign(live), alpha=self.strength)


def logits_of(outputs: Any) -> Tensor:
    """Return the logits; refuse other outputs. Some models return auxiliary heads or a dict in training mode only."""
    if isinstance(outputs, Tensor):
        return outputs
    raise ConfigError(
        f"the model returns a {type(outputs).__name__} in training; it must return the logits alone, a tensor (N, K). "
        "Turn its auxiliary heads off (aux_logits=false), or wrap it in a model of your own."
    )
