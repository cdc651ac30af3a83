"""A note for a schedule that cannot change the learning rate in this run, or does not fit the optimizer."""

from __future__ import annotations

import torch

from effbench import build
from effbench.config.schema import Config
from effbench.schedulers import Constant, Plateau, Schedule
from effbench.training.early_stopping import EarlyStopping
from effbench.training.ema import averages_itself
from effbench.training.schedule import TorchSchedule
from effbench.training.trainer import Trainer
from effbench.units import counted

_TRIED = 2000  # most steps for which a torch scheduler is stepped
_ASKED = 500  # steps at which an effbench schedule is evaluated


def schedule_note(config: Config, trainer: Trainer) -> str | None:
    """Return the note; None if the schedule has an effect and fits the optimizer, or is constant by choice."""
    per_epoch = trainer.train.steps_per_epoch
    steps = trainer.limits.total_steps(per_epoch)
    # A second schedule over a dummy parameter: the run's own must not be stepped.
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = build.schedule(config, optimizer, steps, per_epoch)
    if averages_itself(trainer.optimizer) and not isinstance(schedule, Constant):
        return (
            f"optimizer {config.optimizer.label} averages the weights instead of lowering the learning rate, and "
            f"scheduler {config.scheduler.label} lowers it, too: use scheduler=constant scheduler.warmup=5%"
        )
    if isinstance(schedule, Plateau):
        return _plateau(schedule, trainer)
    if isinstance(schedule, Schedule):
        if 0 < steps <= schedule.warmup:
            warmup = counted(schedule.warmup, "step")
            return f"scheduler.warmup takes {warmup}, the run {steps}: it ends before the warm-up does"
        # Evenly spaced steps after the warm-up: a long run has too many to ask for all.
        first = schedule.warmup
        places = {first + (steps - 1 - first) * place // _ASKED for place in range(_ASKED + 1)}
        rates = {schedule.factor(place) for place in places}
    elif isinstance(schedule, TorchSchedule) and steps <= _TRIED:
        # torch's schedulers compute each rate from the one before, so every step is taken.
        rates = set()
        for _ in range(steps):
            rates.add(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            schedule.step()
    else:
        return None
    if len(rates) > 1 or isinstance(schedule, Constant):
        return None
    return (
        f"scheduler {config.scheduler.label} leaves the learning rate as it is in all of this run's "
        f"{counted(steps, 'step')}: "
        "shorten its spans ('33%' of the run), or train longer"
    )


def _plateau(schedule: Plateau, trainer: Trainer) -> str | None:
    """Return the note for a Plateau whose patience is longer than the run, or than early stopping's patience."""
    stopping, needed = trainer.early_stopping, schedule.patience + 1
    if (
        isinstance(stopping, EarlyStopping)
        and stopping.monitor == trainer.plateau_metric
        and max(stopping.patience, 1) <= needed
    ):
        return (
            f"scheduler.patience={schedule.patience} acts after {needed} validations in a row without improvement, "
            f"but early_stopping.patience={stopping.patience} ends the run by then: lower the first"
        )
    every = trainer.intervals.validate_epochs * trainer.train.steps_per_epoch
    steps = trainer.limits.total_steps(trainer.train.steps_per_epoch)
    validations = -(-steps // every) - schedule.warmup // every
    if validations < needed + 2:  # plus a first best validation, and one after the reduction
        return (
            f"scheduler.patience={schedule.patience} takes more validations than the {max(validations, 0)} of this run "
            "after the warm-up: the learning rate will not be reduced; lower it, or train longer"
        )
    return None
