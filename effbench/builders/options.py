"""What can be refused before any data are read."""

from __future__ import annotations

from effbench.builders.factories import check_booleans, check_names
from effbench.builders.models import check_weights_names
from effbench.builders.optimizers import trial_step
from effbench.builders.schedulers import schedule_parts
from effbench.builders.tasks import task_of
from effbench.config.schema import Config
from effbench.target_allowlist import MODULES, resolve


def check_options(config: Config) -> None:
    """Refuses what needs no data to be refused: options that a part does not have, an optimizer's bad values."""
    for group in MODULES:
        section = getattr(config, group)
        factory = resolve(group, section.target, config.allow_targets)
        check_booleans(group, factory, section.options, config.allow_targets)
        if group not in ("optimizer", "task", "loss"):  # which are built below
            check_names(group, factory, section.options)
    check_weights_names(config)
    task_of(config, num_outputs=1)
    schedule_parts(config, total_steps=1000, steps_per_epoch=100)  # which refuses spans that cannot be read
    if trial_step(config, dims=1) and (problem := trial_step(config, dims=2)):  # one may take matrices only
        raise problem
