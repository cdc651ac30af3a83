"""Values for settings left at `auto`, from the number and the shape of the train samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from effbench.config.compare import leaves
from effbench.config.monitors import AUTO
from effbench.config.schema import AugmentConfig, Config
from effbench.config.static_compose import composed, group_options, member
from effbench.data.batches import step_sizes
from effbench.data.modality import Modality
from effbench.errors import ConfigError, shown
from effbench.target_allowlist import is_own, resolve

BATCH_SIZES = (64, 32, 16, 8)  # samples; the largest that gives an epoch STEPS_PER_EPOCH steps is used
STEPS_PER_EPOCH = 20
EPOCHS = 12  # of a run; more if this gives fewer than MIN_STEPS steps and fewer than MIN_SEEN samples
MIN_STEPS, MIN_SEEN, MOST_EPOCHS = 2000, 64_000, 300
PATIENCE = 5  # validations
LEAST_PLATEAU = 2  # validations: patience of scheduler=plateau in a run of few epochs


def settled(
    config: Config,
    samples: int,
    modality: type[Modality],
    shape: Sequence[int],
    world_size: int = 1,
    before: Mapping[str, Any] | None = None,
) -> Config:
    """Return `config` with a value for each `auto`, mostly a number.

    Args:
        config: the composed config.
        samples: number of train samples.
        modality: the kind of the samples.
        shape: of one sample.
        world_size: number of processes.
        before: the config that a resumed run was started with. Its values are kept: other values would change its
            epochs.

    Raises:
        ConfigError: an epoch has no step, trainer.min_steps contradicts the length of the run, or the augment group
            was chosen for a modality without augmentation.
    """
    earlier = {key: value for key, value in leaves(before or {}).items() if value != AUTO}
    # The order matters: each number below depends on those above it.
    if config.data.batch_size == AUTO:
        config = _with(config, "data", batch_size=earlier.get("data.batch_size") or batch_size_for(samples, world_size))
    config = _with_augment(config, modality, shape, earlier)
    accumulate, drop_last = config.trainer.accumulate_grad_batches, config.data.drop_last
    steps = len(step_sizes(samples, number(config.data.batch_size), accumulate, drop_last, world_size, modality.unit))

    # Default epochs: at least EPOCHS, at most MOST_EPOCHS, between: MIN_STEPS steps or MIN_SEEN samples. They are
    # counted at the automatic batch size, so that another batch size changes neither epochs nor patience.
    batch_size = batch_size_for(samples, world_size)
    per_epoch = len(step_sizes(samples, batch_size, 1, drop_last, world_size, modality.unit))
    least_steps = min(MIN_STEPS, MIN_SEEN // batch_size)
    usual = max(EPOCHS, min(MOST_EPOCHS, -(-least_steps // per_epoch)))  # -(-a // b) is a / b, rounded up

    config = _with_length(config, steps, usual, earlier)
    if config.early_stopping.patience == AUTO:
        patience = earlier.get("early_stopping.patience")
        if patience is None:
            patience = PATIENCE
            # For a small dataset all epochs, because a short schedule learns most at its end.
            if not config.trainer.is_trial and usual != EPOCHS:
                patience = max(PATIENCE, -(-usual // config.trainer.check_val_every_n_epoch))
        config = _with(config, "early_stopping", patience=patience)
    if config.scheduler.options.get("patience") == AUTO:
        kept = earlier.get("scheduler.patience")
        config = _with(config, "scheduler", patience=_plateau_patience(config, steps) if kept is None else kept)
    if config.task.options.get("standardise") == AUTO:
        kept = earlier.get("task.standardise")
        config = _with(config, "task", standardise=_fits_standardised(config.loss.target) if kept is None else kept)
    return config


def batch_size_for(samples: int, world_size: int = 1) -> int:
    """Return the largest batch size of 8 to 64 that gives 20 steps an epoch; 8 or fewer for small sets."""
    fitting = next((size for size in BATCH_SIZES if samples >= size * STEPS_PER_EPOCH), BATCH_SIZES[-1])
    # Batch norm cannot train on one sample, so each process gets two at least.
    return max(min(fitting, samples), 2 * world_size)


def settings(before: Config, after: Config) -> dict[str, int | str | None]:
    """Return dotted key -> chosen value of each `auto`."""
    asked, now = (leaves(config.model_dump(by_alias=True)) for config in (before, after))
    return {key: now[key] for key, value in asked.items() if value == AUTO != now[key]}


def described(
    chosen: Mapping[str, int | str | None], samples: int, unit: str, validations: float = math.inf
) -> str | None:
    """Return a line on the chosen values that differ from those of a large dataset, or None.

    Args:
        chosen: from `settings`.
        samples: number of train samples.
        unit: the word for a sample.
        validations: of the run. A patience that is as long stops nothing: then it is left out.
    """
    usual = {
        "data.batch_size": BATCH_SIZES[0], "trainer.max_epochs": EPOCHS, "early_stopping.patience": PATIENCE,
        "scheduler.patience": LEAST_PLATEAU,
    }  # fmt: skip
    patience = chosen.get("early_stopping.patience")
    if chosen.get("trainer.max_epochs") is None and isinstance(patience, int) and patience >= validations:
        del usual["early_stopping.patience"]
    unusual = [f"{key}={chosen[key]}" for key, value in usual.items() if chosen.get(key) not in (None, value)]
    return f"auto, for {samples} train {unit}s: {' '.join(unusual)}" if unusual else None


def number(value: int | str | None) -> int:
    """Return a setting that `settled` has made a number."""
    if not isinstance(value, int):
        raise TypeError(f"expected a settled number, got {value!r}")
    return value


def _with_length(config: Config, steps: int, usual: int, earlier: Mapping[str, Any]) -> Config:
    """Set the epochs so that min_steps is reached. limit_train_batches marks a short trial, which stays short.

    steps: of an epoch. usual: default epochs.
    """
    section = config.trainer
    wanted = section.min_steps
    limit = section.limit_train_batches
    if limit is not None:
        steps = min(steps, limit) if isinstance(limit, int) else max(1, round(limit * steps))
    if section.max_epochs == AUTO and section.max_steps is None:
        by_default = EPOCHS if section.is_trial else usual
        least = by_default if wanted == AUTO else -(-number(wanted or 0) // steps)
        # A resumed run does not become shorter than it was.
        epochs = max(EPOCHS, least, earlier.get("trainer.max_epochs") or 0)
        section = section.model_copy(update={"max_epochs": epochs})
    elif section.max_epochs == AUTO:
        section = section.model_copy(update={"max_epochs": None})
    if wanted not in (AUTO, None):
        by_epochs = None if section.max_epochs is None else number(section.max_epochs) * steps
        lengths = {"max_epochs": by_epochs, "max_steps": section.max_steps}
        for key, length in lengths.items():
            if length is not None and length < number(wanted):
                raise ConfigError(
                    f"trainer.min_steps={wanted} contradicts trainer.{key}={getattr(section, key)}, which is {length} "
                    "steps. Leave one of them out; with trainer.max_epochs=auto the epochs follow from "
                    "trainer.min_steps."
                )
    return config.model_copy(update={"trainer": section})


def _plateau_patience(config: Config, steps: int) -> int:
    """Return the validations without improvement after which scheduler=plateau acts.

    steps: of an epoch.
    """
    section = config.trainer
    ends = [] if section.max_epochs is None else [number(section.max_epochs)]
    ends += [] if section.max_steps is None else [-(-section.max_steps // steps)]
    validations = -(-min(ends) // section.check_val_every_n_epoch)
    # Slightly less than half of early stopping's, so that the learning rate falls before the run ends. On a small
    # dataset early stopping waits for all epochs: a tenth of them leaves time for several reductions.
    stopping = number(config.early_stopping.patience)
    return max(0, min((stopping - 1) // 2, max(LEAST_PLATEAU, validations // 10)))


def _with(config: Config, section: str, **values: Any) -> Config:
    part: BaseModel = getattr(config, section)
    return config.model_copy(update={section: part.model_copy(update=values)})


def _fits_standardised(loss: str) -> bool:
    """Return True if a loss (its _target_) makes sense for (target - mean) / deviation, as all of differences do.

    Of a user's class that is unknown: a relative error needs the true values.
    """
    return is_own(loss) or loss.startswith("torch.")


def _with_augment(config: Config, modality: type[Modality], shape: Sequence[int], earlier: Mapping[str, Any]) -> Config:
    """Return the config with numbers for `auto` in the augment group; without it if it is for other samples."""
    if augments(config, modality):
        chosen = {
            key: value if (kept := earlier.get(f"augment.{key}")) is None else kept
            for key, value in modality.automatic_augment(shape).items()
            if config.augment.options.get(key) == AUTO
        }
        return _with(config, "augment", **chosen) if chosen else config

    # The group's default is meant for images, so it is switched off; what a user has chosen is refused.
    off, now = member("augment", "none"), config.augment.model_dump(by_alias=True)
    usual = composed((), group_options())["augment"]
    if now not in (off, usual):
        # The config does not say which words were given: they are those that lead to it from the nearest choice, which
        # is the default if several are equally near.
        choices = {name: member("augment", name) for name in group_options()["augment"]}
        apart = {name: [key for key in now if now[key] != content.get(key)] for name, content in choices.items()}
        nearest = min(apart, key=lambda name: (len(apart[name]), choices[name] != usual))
        words = [] if choices[nearest] == usual else [f"augment={nearest}"]
        words += [f"augment.{key}={shown(now[key], quotes=False)}" for key in apart[nearest]]
        raise ConfigError(
            f"{' '.join(words)}: the augment group is not for {modality.unit}s. Leave it out, or write augment=none."
        )
    return config if now == off else config.model_copy(update={"augment": AugmentConfig.model_validate(off)})


def augments(config: Config, modality: type[Modality]) -> bool:
    """Return True if the augment group is for this modality: its _target_ is of the class that the modality takes."""
    if modality.augmentation is None:
        return False
    kind = resolve("augment", config.augment.target, config.allow_targets)
    return isinstance(kind, type) and issubclass(kind, modality.augmentation)
