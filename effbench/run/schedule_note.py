"""Notes on schedules: one that has no effect in this run or does not fit the optimizer, and one that time cut off."""

from __future__ import annotations

import torch

from effbench import build
from effbench.config.schema import Config
from effbench.errors import ConfigError
from effbench.schedulers import Constant, Plateau, Schedule
from effbench.training.early_stopping import EarlyStopping
from effbench.training.ema import averages_itself
from effbench.training.schedule import TorchSchedule
from effbench.training.trainer import TIME_OVER, Trainer
from effbench.units import counted

_TRIED = 2000  # most steps for which a torch scheduler is stepped
_ASKED = 500  # steps at which an effbench schedule is evaluated
_CUT = 0.05  # of the highest learning rate: how much lower a schedule that was not cut off must end


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


def cut_note(config: Config, trainer: Trainer) -> str | None:
    """Return a note if trainer.max_time cut the schedule off, and one laid out for the steps taken would end lower."""
    state, schedule, limits = trainer.state, trainer.schedule, trainer.limits
    # Plateau follows validations, and of torch's schedulers the highest rate is unknown.
    if state.stop_reason != TIME_OVER or not isinstance(schedule, Schedule) or schedule.watches_metric:
        return None
    per_epoch = trainer.train.steps_per_epoch
    steps, epochs = limits.total_steps(per_epoch), max(1, state.step // per_epoch)
    key, fitting, length = (
        ("max_steps", state.step, state.step) if limits.epochs is None else ("max_epochs", epochs, epochs * per_epoch)
    )
    try:
        other = build.schedule(config, torch.optim.SGD([torch.zeros(1)], lr=1.0), length, per_epoch)
    except ConfigError:  # its warm-up is longer
        return None
    assert isinstance(other, Schedule)  # as the run's own is
    highest = max(schedule.factor(steps * place // _ASKED) for place in range(_ASKED))
    # of the last step taken; a skipped one does not advance the schedule
    reached = schedule.factor(max(0, schedule.last_epoch - 1))
    if highest <= 0 or (reached - other.factor(max(0, length - 1))) / highest < _CUT:
        return None
    planned = counted(steps, "step") if limits.epochs is None else f"{steps / per_epoch:.3g} epochs"
    return (
        f"at the end of trainer.max_time the learning rate was still {100 * reached / highest:.0f} % of its highest: "
        f"the schedule was laid out for {planned}. Next time set trainer.{key}={fitting}, which fits, or "
        "scheduler=constant"
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
