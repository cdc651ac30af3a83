"""Averages of the weights, which are evaluated and saved instead of the weights in training."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from effbench.training.snapshots import load_weights


class WeightAverage:
    """The weights that are validated, saved and tested, in `model`."""

    model: nn.Module

    def update(self) -> None:
        """Called after each optimizer step."""

    def synchronize(self) -> None:
        """Called before `model` is read: update it to the last step."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state for a checkpoint; {} if the model in training is all there is."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load a state of `state_dict`, or {} of a run without average."""


@dataclass(eq=False)
class NoEma(WeightAverage):
    """No average: the weights in training."""

    model: nn.Module


class Ema(WeightAverage):
    """average += (1 - d) * (weights - average) after each step, with d = min(decay, (1 + t) / (10 + t)).

    The warm-up of d (TensorFlow's ExponentialMovingAverage with num_updates) reduces the effect of the random initial
    weights. Buffers are copied; batch norm's statistics are recomputed for these weights before they are evaluated or
    saved (effbench/training/batch_norm_statistics.py).
    """

    def __init__(self, model: nn.Module, decay: float):
        self._source, self._decay = model, decay
        self.model = copy.deepcopy(model).requires_grad_(False)
        # A tensor, not an int, because the state goes into a safetensors file.
        self._steps = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def update(self) -> None:
        self._steps += 1
        steps = int(self._steps)
        decay = min(self._decay, (1 + steps) / (10 + steps))
        averages: list[Tensor] = list(self.model.parameters())
        weights: list[Tensor] = list(self._source.parameters())
        # One call for all parameters: on a GPU a call for each would cost a kernel launch each.
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.model.buffers(), self._source.buffers(), strict=True):
            average.copy_(buffer)

    def state_dict(self) -> dict[str, Tensor]:
        # the names of the model's own weights: a reader of weights takes either file
        return {"_ema_steps": self._steps, **self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load a state; an empty one, of a run without average, starts at the model's weights."""
        if not state:
            self._steps.zero_()
            load_weights(self.model, dict(self._source.state_dict()))
            return
        rest = dict(state)
        self._steps = rest.pop("_ema_steps").clone()  # update() changes it in place; the caller's state must stay
        load_weights(self.model, rest)


class OptimizerAverage(WeightAverage):
    """The average that an optimizer keeps itself: schedulefree's classes, and others with train() and eval().

    optimizer.eval() puts the averaged weights into the model, optimizer.train() removes them. In between they are
    copied to `model`, which is validated, saved and tested as with ema=on. The training weights are restored from a
    copy, because train() after eval() rounds: the number of validations and saves would change the last digits of a
    run.
    """

    def __init__(self, source: nn.Module, optimizer: Optimizer):
        self._source = source
        self._optimizer = cast(Any, optimizer)  # torch's Optimizer declares no train() and eval()
        self.model = copy.deepcopy(source).requires_grad_(False)
        self._is_current = False
        self._optimizer.train()

    def update(self) -> None:
        self._is_current = False

    @torch.no_grad()
    def synchronize(self) -> None:
        if self._is_current:  # validation and save after the same step: switch once
            return
        # Parameters only: the optimizer does not change buffers.
        kept = [parameter.clone() for parameter in self._source.parameters()]
        self._optimizer.eval()
        for average, weight in zip(self.model.parameters(), self._source.parameters(), strict=True):
            average.copy_(weight)
        for mine, buffer in zip(self.model.buffers(), self._source.buffers(), strict=True):
            mine.copy_(buffer)
        self._optimizer.train()
        for parameter, before in zip(self._source.parameters(), kept, strict=True):
            parameter.copy_(before)
        self._is_current = True

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load a state; an empty one is of a run whose optimizer kept no average."""
        if state:
            # A checkpoint of a run with ema=on also holds the average's step count, which this one does not need.
            load_weights(self.model, {name: tensor for name, tensor in state.items() if name != "_ema_steps"})
        self._is_current = bool(state)


def averages_itself(optimizer: Optimizer) -> bool:
    """Return True if the optimizer has train() and eval(), as schedulefree's classes do."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))
