"""An exponential moving average of the weights, to evaluate and save in their place."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from effbench.training.checkpoint import load_weights


class NoEma:
    """The weights themselves."""

    def __init__(self, model: nn.Module):
        self.model = model

    def update(self) -> None:
        pass

    def state_dict(self) -> dict[str, Tensor]:
        """Empty: there is nothing beside the model."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


class Ema(NoEma):
    """average += (1 - d) * (weights - average) after each step, d = min(decay, (1 + t) / (10 + t)).

    The warm-up of d (TensorFlow's ExponentialMovingAverage with num_updates) keeps the random initial weights from
    lingering. Buffers are copied; batch norm's statistics are made anew for these weights before they are evaluated or
    saved (effbench/training/batch_norm_statistics.py).
    """

    def __init__(self, model: nn.Module, decay: float):
        self._source, self._decay = model, decay
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._steps = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def update(self) -> None:
        self._steps += 1
        steps = int(self._steps)
        decay = min(self._decay, (1 + steps) / (10 + steps))
        averages: list[Tensor] = list(self.model.parameters())
        weights: list[Tensor] = list(self._source.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.model.buffers(), self._source.buffers(), strict=True):
            average.copy_(buffer)

    def state_dict(self) -> dict[str, Tensor]:
        return {"_ema_steps": self._steps, **self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """An empty state, of a run that kept no average, begins one at the model's weights."""
        if not state:
            self._steps.zero_()
            load_weights(self.model, dict(self._source.state_dict()))
            return
        rest = dict(state)
        self._steps = rest.pop("_ema_steps").clone()
        load_weights(self.model, rest)
