"""Build the learning rate schedule."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from effbench.builders.factories import construct
from effbench.config.monitors import AUTO
from effbench.config.schema import Config
from effbench.errors import ConfigError
from effbench.schedulers import Schedule
from effbench.target_allowlist import is_own, resolve
from effbench.training.schedule import TorchSchedule
from effbench.units import steps_from

# Optimizer steps of two made-up runs and of an epoch of theirs: so long that 0.01 % is a step, too.
_TRIED = ((10**9, 10**6), (3 * 10**9, 2 * 10**6))


def schedule(config: Config, over: Optimizer, total_steps: int, steps_per_epoch: int) -> Schedule | TorchSchedule:
    """Build the schedule. Options written as spans ('5%', '2 epochs', 'total') become steps.

    Args:
        config: a checked config.
        over: the optimizer.
        total_steps: optimizer steps of the run.
        steps_per_epoch: optimizer steps of an epoch.

    Raises:
        ConfigError: the class is no schedule, or refuses its options.
    """
    kind, options = schedule_parts(config, total_steps, steps_per_epoch)
    # torch's schedulers set the optimizer's first learning rate in their constructor, so `over` must be complete.
    built = construct("scheduler", config.scheduler.target, kind, {**options, "optimizer": over})
    if isinstance(built, Schedule):
        return built
    # A class of torch's that is adapted gets no validations: observe() would never be called.
    if hasattr(built, "observe"):
        raise ConfigError(
            f"scheduler._target_ {config.scheduler.target!r} has observe(), but is no effbench schedule. Derive it "
            "from effbench.schedulers.Schedule, or from a class of torch.optim.lr_scheduler without observe()."
        )
    return TorchSchedule(built, options)


def check_schedule(config: Config) -> None:
    """Refuse options with which the schedule could be built in no run, whatever its length.

    A class of the user's is built with the run's own optimizer only: its constructor may do anything.

    Raises:
        ConfigError: the class is no LRScheduler, a span cannot be read, or a value is out of range.
    """
    found = dict[str, ConfigError]()
    target = config.scheduler.target
    for total_steps, steps_per_epoch in _TRIED:
        kind, options = schedule_parts(config, total_steps, steps_per_epoch)  # refuses unreadable spans
        if not (is_own(target) or target.startswith("torch.")):
            return
        if options.get("patience") == AUTO:  # follows from the data
            options["patience"] = 1
        over = torch.optim.SGD([torch.zeros(1)], lr=1.0, momentum=0.9)  # torch's cyclic ones set a momentum
        try:
            construct("scheduler", target, kind, {**options, "optimizer": over})
        except ConfigError as error:
            found[str(error)] = error
        else:
            return
    # A message that changes with the length is about the length, which only the data give.
    if len(found) == 1:
        raise next(iter(found.values()))


def watches_metric(config: Config) -> bool:
    """Return True if the learning rate depends on validation results, as in Plateau."""
    return bool(getattr(resolve("scheduler", config.scheduler.target, config.allow_targets), "watches_metric", False))


def schedule_parts(
    config: Config, total_steps: int, steps_per_epoch: int
) -> tuple[Callable[..., LRScheduler], dict[str, Any]]:
    """Return the scheduler's class, and its options with spans converted to steps.

    A text is a span, unless the parameter is declared as text.

    Args:
        config: a checked config.
        total_steps: optimizer steps of the run.
        steps_per_epoch: optimizer steps of an epoch.

    Raises:
        ConfigError: the class is no LRScheduler, or a span cannot be read.
    """
    section = config.scheduler
    kind = resolve("scheduler", section.target, config.allow_targets)
    # Its step() takes a metric, and the loop steps a schedule after each optimizer step, without one.
    if kind is ReduceLROnPlateau:
        raise ConfigError("torch's ReduceLROnPlateau steps on metrics; effbench's own is scheduler=plateau.")
    if not (inspect.isclass(kind) and issubclass(kind, LRScheduler)):
        raise ConfigError(f"scheduler._target_ {section.target!r} is not a torch LRScheduler.")
    words = inspect.signature(kind).parameters
    # Such as CyclicLR's mode='triangular': a text that is no span. Annotations are texts under `from __future__`.
    texts = {key for key, word in words.items() if isinstance(word.default, str) or word.annotation in (str, "str")}
    options = {
        key: steps_from(value, f"scheduler.{key}", total_steps, steps_per_epoch)
        if isinstance(value, str) and key not in texts and value != AUTO
        else value
        for key, value in section.options.items()
    }
    return kind, options
