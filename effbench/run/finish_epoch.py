"""The overrides with which a run that was stopped within an epoch trains to that epoch's end, and those to go on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from effbench.builders.schedulers import schedule_parts
from effbench.config.schema import Config
from effbench.errors import shown
from effbench.training.trainer import Trainer


def words_to_finish(config: Config, trainer: Trainer) -> tuple[str, str, str]:
    """Return the overrides that end the run with the epoch that was begun, without changing its learning rates.

    Args:
        config: of the run, with numbers for `auto`.
        trainer: the restored trainer, within an epoch.

    Returns:
        (overrides that end the run there; overrides that give it its own end back, or one epoch more if it has no
        later one; a sentence on what this changes, or ''). Overrides are in shell quoting; '' if none is needed.
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
    note, every, has_later = "", section.check_val_every_n_epoch, limits.steps_left(state, per_epoch) > end - state.step
    if not has_later:
        # The run has no later epoch, so its own end would leave nothing to resume.
        longer = {"trainer.max_epochs": state.epoch + 2} | ({} if limits.steps is None else {"trainer.max_steps": None})
        after = _overrides(longer | {key: pair[1] for key, pair in written.items()})
    else:
        after = _overrides({key: pair[1] for key, pair in (values | written).items() if pair[0] != pair[1]})
    ending = _overrides({key: pair[0] for key, pair in (values | written).items() if pair[0] != pair[1]})
    if has_later and (state.epoch + 1) % every:
        # A run ends with a validation, wherever that is.
        note = (
            f" The end of this epoch is then validated, although trainer.check_val_every_n_epoch={every}: early "
            "stopping, scheduler=plateau and the best checkpoint count this validation too."
        )
    return ending, after, note


def _overrides(values: Mapping[str, Any]) -> str:
    return shlex.join(f"{key}={shown(value, quotes=False)}" for key, value in values.items())
