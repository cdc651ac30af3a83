"""Early stopping: stop a run whose monitored metric no longer improves (Prechelt 1998, 'Early stopping, but when?')."""

from __future__ import annotations

from typing import Any, Protocol

from effbench.training.state import TrainState


class StoppingRule(Protocol):
    """Stops a run by its metrics."""

    def check(self, state: TrainState) -> None:
        """Called after each validation; state.metrics holds its values."""

    def stop_if_due(self, state: TrainState) -> None:
        """Stop the run if the checks require it; also called for a run that is resumed after its last validation."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class NoEarlyStopping:
    def check(self, state: TrainState) -> None:
        pass

    def stop_if_due(self, state: TrainState) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class EarlyStopping:
    """Stops a run after `patience` checks without improvement.

    Args:
        monitor: the metric, such as 'val/loss'.
        mode: 'min' or 'max'.
        patience: checks without improvement.
        min_delta: smallest change that counts as an improvement.
        stopping_threshold: stop as soon as the metric reaches it; None: never.
        warmup: optimizer steps during which the learning rate rises; checks without improvement are not counted then.
    """

    def __init__(
        self,
        monitor: str,
        mode: str,
        patience: int,
        min_delta: float,
        stopping_threshold: float | None,
        warmup: int = 0,
    ):
        self.monitor, self.patience, self.min_delta, self.warmup = monitor, patience, min_delta, warmup
        self._sign = 1.0 if mode == "max" else -1.0
        self._threshold = stopping_threshold
        self.best: float | None = None
        self.waited = 0

    def check(self, state: TrainState) -> None:
        if self.monitor not in state.metrics:
            return  # it is train/*, and every step so far was skipped
        value = state.metrics[self.monitor]
        if self.best is None or self._sign * (value - self.best) > self.min_delta:
            self.best, self.waited = value, 0
        elif state.step >= self.warmup:
            self.waited += 1
        self.stop_if_due(state)

    def stop_if_due(self, state: TrainState) -> None:
        if self.best is None:
            return
        value = state.metrics[self.monitor]
        if self._threshold is not None and self._sign * (value - self._threshold) >= 0:
            state.stop(f"{self.monitor} reached {value:.4g} (threshold {self._threshold:g})", "stopped_early")
        elif self.waited >= max(self.patience, 1):
            state.stop(f"{self.monitor} has not improved on {self.best:.4g} for {self.waited} checks", "stopped_early")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]
