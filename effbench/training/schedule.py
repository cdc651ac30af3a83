"""What the loop asks of a learning-rate schedule, and torch's own schedulers made to answer."""

from __future__ import annotations

from typing import Any, Protocol

from torch.optim.lr_scheduler import LRScheduler


class Schedule(Protocol):
    """`step` after each optimizer step, `observe` with the monitored metric after each validation."""

    def step(self) -> None: ...

    def observe(self, metric: float) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class TorchSchedule:
    """A plain torch.optim.lr_scheduler class, advanced on optimizer steps; validations do not concern it."""

    def __init__(self, scheduler: LRScheduler):
        self._scheduler = scheduler

    def step(self) -> None:
        self._scheduler.step()

    def observe(self, metric: float) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return self._scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._scheduler.load_state_dict(state_dict)
