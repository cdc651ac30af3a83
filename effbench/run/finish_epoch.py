"""The overrides with which a run that was stopped within an epoch trains to that epoch's end, and those to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from effbench.builders.schedulers import schedule_parts
from effbench.config.schema import Config
from effbench.errors import shown
from effbench.training.trainer import Trainer


def words_to_finish(config: Config, trainer: Trainer) -> tuple[list[str], list[str]]:
    """Return the overrides that end the run with the epoch that was begun, without changing its learning rates.

    Args:
        config: of the run, with numbers for `auto`.
        trainer: the restored trainer, within an epoch.

    Returns:
        (overrides that end the run there; overrides that give it its own end back).
    """
    state, limits = trainer.state, trainer.limits
    # Of the epoch that was begun: the new config may have another number of steps. 0: a record that does not hold it.
    per_epoch = state.steps_per_epoch or trainer.train.steps_per_epoch
    end = state.step + per_epoch - state.batch
    section = config.trainer
    # key -> (value for the rest of this epoch, value afterwards)
    values: dict[str, tuple[Any, Any]] = {"trainer.max_epochs": (state.epoch + 1, section.max_epochs)}
    short = replace(limits, epochs=state.epoch + 1)
    if limits.steps is not None and limits.steps < end:
        values["trainer.max_steps"] = None, section.max_steps
        short = replace(short, steps=None)
    steps = limits.total_steps(per_epoch), short.total_steps(per_epoch)
    # min_steps is compared with the length of the run, which is refused if it is shorter.
    if isinstance(section.min_steps, int) and section.min_steps > steps[1]:
        values["trainer.min_steps"] = None, section.min_steps

    # A span such as '5%' or 'total' is a share of the run: in the shorter run it would be fewer steps, and the learning
    # rate would fall to its end within this epoch. So the schedule keeps the steps that it has in the whole run.
    whole, shortened = (schedule_parts(config, total, per_epoch)[1] for total in steps)
    spans = {key: value for key, value in whole.items() if value != shortened[key]}
    written = {f"scheduler.{key}": (value, config.scheduler.options[key]) for key, value in spans.items()}
    if limits.steps_left(state, per_epoch) <= end - state.step:
        # The run has no later epoch, so its own end would leave nothing to resume.
        after = ["a larger trainer.max_epochs", *_overrides({key: pair[1] for key, pair in written.items()})]
    else:
        after = _overrides({key: pair[1] for key, pair in (values | written).items() if pair[0] != pair[1]})
    return _overrides({key: pair[0] for key, pair in (values | written).items() if pair[0] != pair[1]}), after


def _overrides(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={shown(value, quotes=False)}" for key, value in values.items()]
