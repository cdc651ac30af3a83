"""Torch's learning-rate schedulers, adapted to the training loop."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from torch.optim.lr_scheduler import LRScheduler


class TorchSchedule:
    """Adapter for a torch.optim.lr_scheduler class, with the methods of effbench.schedulers.Schedule.

    It advances on optimizer steps and ignores validations.

    Args:
        scheduler: the scheduler.
        options: its options. If a saved state has other options (a longer run, another learning rate), only its number
            of steps is loaded, because torch's state holds the options and would restore the old ones.
    """

    rise = 0  # how long the learning rate rises is unknown: early stopping counts every check

    def __init__(self, scheduler: LRScheduler, options: Mapping[str, Any] | None = None):
        self._scheduler = scheduler
        self._groups = [dict(group) for group in scheduler.optimizer.param_groups]
        # Equal options with another learning rate are another schedule: its state holds rates.
        first = [{key: group[key] for key in ("initial_lr", "lr") if key in group} for group in self._groups]
        self._made_with = {"options": dict(options or {}), "first": [[float(x) for x in g.values()] for g in first]}
        # The state before the first step, for `move_to`.
        self._fresh = copy.deepcopy(scheduler.state_dict())

    def step(self) -> None:
        self._scheduler.step()

    def move_to(self, step: int) -> None:
        """Take `step` steps from the start: torch's schedulers compute each rate from the one before."""
        self._scheduler.load_state_dict(copy.deepcopy(self._fresh))
        for group, first in zip(self._scheduler.optimizer.param_groups, self._groups, strict=True):
            group.update({key: value for key, value in first.items() if key != "params"})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that the optimizer has not stepped yet
            for _ in range(step):
                self._scheduler.step()

    def observe(self, metric: float) -> None:
        """Ignore validations."""

    def state_dict(self) -> dict[str, Any]:
        return self._scheduler.state_dict() | {"made_with": self._made_with}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rest = {key: value for key, value in state_dict.items() if key != "made_with"}
        if state_dict.get("made_with", self._made_with) == self._made_with:
            self._scheduler.load_state_dict(rest)
            # OneCycleLR and CyclicLR set the momentum in get_lr(), and the restored optimizer has that of the config.
            if getattr(self._scheduler, "cycle_momentum", False):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torch warns outside of step()
                    self._scheduler.get_lr()
        else:
            self.move_to(rest["last_epoch"])
