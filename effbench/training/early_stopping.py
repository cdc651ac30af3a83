"""Early stopping: stop a run whose monitored metric no longer improves (Prechelt 1998, 'Early stopping, but when?')."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from effbench.training.state import TrainState


class StoppingRule:
    """Stops a run by its metrics."""

    def check(self, state: TrainState) -> None:
        """Called after each validation; state.metrics holds its values."""

    def stop_if_due(self, state: TrainState) -> None:
        """Stop the run if the checks require it; also called for a run that is resumed after its last validation."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state of `state_dict`."""


class NoEarlyStopping(StoppingRule):
    """Never stops a run."""


@dataclass(eq=False)
class EarlyStopping(StoppingRule):
    """Stops a run after `patience` checks without improvement.

    Attributes:
        monitor: the metric, such as 'val/loss'.
        mode: 'min' or 'max'.
        patience: checks without improvement.
        min_delta: smallest change that counts as an improvement.
        stopping_threshold: stop as soon as the metric reaches it; None: never.
        warmup: optimizer steps during which the learning rate rises; checks without improvement are not counted then.
        best: the best value so far; None before the first check.
        waited: checks since then.
    """

    monitor: str
    mode: str
    patience: int
    min_delta: float
    stopping_threshold: float | None
    warmup: int = 0
    best: float | None = field(default=None, init=False)
    waited: int = field(default=0, init=False)

    def check(self, state: TrainState) -> None:
        if self.monitor not in state.metrics:
            return  # the metric is undefined now, or it is train/* and every step was skipped
        value = state.metrics[self.monitor]
        sign = 1 if self.mode == "max" else -1
        # A metric of the user's may begin with NaN: as the best it would hide all later improvements, because every
        # comparison with it is False. A further NaN is no improvement. With > and not >=: at min_delta=0 an equal
        # value is none either.
        if self.best is None or math.isnan(self.best):
            improves = self.best is None or not math.isnan(value)
        else:
            improves = sign * (value - self.best) > self.min_delta
        if improves:
            self.best, self.waited = value, 0
        # while the learning rate still rises, a metric that stays says little
        elif state.step >= self.warmup:
            self.waited += 1
        self.stop_if_due(state)

    def stop_if_due(self, state: TrainState) -> None:
        if self.best is None:
            return
        value, threshold = state.metrics.get(self.monitor), self.stopping_threshold
        sign = 1 if self.mode == "max" else -1
        if threshold is not None and value is not None and sign * (value - threshold) >= 0:
            state.stop(f"{self.monitor} reached {value:.4g} (threshold {threshold:g})", "stopped_early")
        # patience=0 would stop after a check that did improve, so it counts as 1.
        elif self.waited >= max(self.patience, 1):
            state.stop(f"{self.monitor} has not improved on {self.best:.4g} for {self.waited} checks", "stopped_early")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # A run that was started without early stopping has no such state.
        self.best, self.waited = state.get("best"), state.get("waited", 0)
