"""Checks of options that need no data."""

from __future__ import annotations

import inspect

from effbench.builders.factories import call, check_booleans, check_lists, check_names, refuse_given
from effbench.builders.models import check_weights_names
from effbench.builders.optimizers import trial_step
from effbench.builders.schedulers import check_schedule
from effbench.builders.tasks import check_loss, task_of
from effbench.config.monitors import AUTO
from effbench.config.schema import Config
from effbench.errors import ConfigError
from effbench.target_allowlist import MODULES, resolve


def check_options(config: Config) -> None:
    """Refuse unknown options, and values that a part's constructor rejects, before data are read."""
    for group in MODULES:
        section = getattr(config, group)
        factory = resolve(group, section.target, config.allow_targets)
        # Before it is called: the module of an augmentation has functions, too.
        if group == "augment" and not inspect.isclass(factory):
            raise ConfigError(f"augment._target_ {section.target!r} must be a class, such as Augment.")
        check_booleans(group, factory, section.options, config.allow_targets)
        if group not in ("optimizer", "task", "loss"):  # these are built below
            check_names(group, factory, section.options)
            check_lists(group, factory, section.options)
    # What the builders add to the options of these groups.
    for group, added in {
        "task": ("loss", "num_outputs", "token_bytes"), "optimizer": ("params",), "scheduler": ("optimizer",),
    }.items():  # fmt: skip
        refuse_given(group, getattr(config, group).options, dict.fromkeys(added, ...))
    check_weights_names(config)
    # `auto` follows from the data; all other values are checked now.
    known = {key: value for key, value in config.augment.options.items() if value != AUTO}
    call("augment", config.augment.target, config, known)
    check_loss(config)
    # The numbers do not matter: what is built here is thrown away.
    task_of(config, num_outputs=1)
    check_schedule(config)
    if trial_step(config, dims=1) and (problem := trial_step(config, dims=2)):  # an optimizer may accept matrices only
        raise problem
