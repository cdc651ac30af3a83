"""Build the dataset, its fitted modality, and its batches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from effbench.automatic import augments, number, settled
from effbench.builders.devices import memory_format
from effbench.builders.factories import call
from effbench.cache_dir import expanded
from effbench.config.schema import Config
from effbench.data.batches import EvalBatches, Shard, TrainBatches
from effbench.data.modality import Modality, Settings
from effbench.data.other_source import other_source_reader
from effbench.data.preview import is_slow_to_read, preview_of
from effbench.data.splits import Split, Splits, representative_sample
from effbench.errors import ConfigError
from effbench.target_allowlist import resolve
from effbench.training.distributed import DistributedContext

_SPLITS = """Such as:
  from effbench.data.splits import Split, Splits, digest
  train = Split(images, labels)  # uint8 (N, C, H, W), int64 (N,)
  return Splits("mine", train, val=None, test=None, classes=("cat", "dog"), sha256=digest(images, labels))"""


def takes_time(config: Config) -> bool:
    """Return True if the dataset may take minutes to read (`@previewed(..., slow=True)`)."""
    return is_slow_to_read(resolve("data", config.data.target, config.allow_targets))


def splits(config: Config) -> Splits:
    """Read the dataset. Raises ConfigError if its function does not return Splits."""
    # A path that begins with ~ would be taken for a folder of that name.
    options = {
        key: str(expanded(value)) if isinstance(value, str) and (value == "~" or value.startswith("~/")) else value
        for key, value in config.data.options.items()
    }
    built = call("data", config.data.target, config, options)
    if not isinstance(built, Splits):
        raise ConfigError(
            f"data._target_ {config.data.target!r} must return Splits; got {type(built).__name__}. {_SPLITS}"
        )
    return built


def other_split(before: Config, now: Config, recorded: Mapping[str, Any], which: str) -> tuple[str, Split] | None:
    """Read one split of another source than the run's, if the dataset's function declares how (`@reads_other_source`).

    Args:
        before: config of the run.
        now: config of the evaluation.
        recorded: section `data` of the run's summary.
        which: split to read; '' for the dataset's choice.

    Returns:
        (name of the split, its samples); None if the data are to be read and divided as in training.
    """
    # Only the function that read the run's data knows how its record and its options belong together.
    if before.data.target != now.data.target:
        return None
    read = other_source_reader(resolve("data", now.data.target, now.allow_targets))
    return None if read is None else read(before.data.options, now.data.options, recorded, which)


def preview(config: Config) -> Modality | None:
    """Return the modality of the dataset before it is read, if its function declares one (`@previewed`)."""
    found = preview_of(resolve("data", config.data.target, config.allow_targets))
    return None if found is None else found(config.data.options, settings(config))


def modality(config: Config, data: Splits, on: torch.device) -> Modality:
    """Fit the modality to the train split, such as the statistics for normalisation.

    Args:
        config: a checked config.
        data: the dataset.
        on: device on which batches are prepared.

    Returns:
        The fitted modality.

    Raises:
        ConfigError: device.channels_last is set for data that are not images.
    """
    # torch.channels_last is a memory layout of four dimensions, (N, C, H, W): a sample must have three.
    if config.device.channels_last and len(data.shape) != 3:
        raise ConfigError(
            f"device.channels_last=true is for images; {data.name} holds {data.modality.unit}s of "
            f"{data.modality.layout} {data.shape}. Leave it out."
        )
    augment = None
    if augments(config, data.modality):
        # For an option left at `auto` the augmentation needs the number that this train split gives.
        section = settled(config, len(data.train), data.modality, data.shape).augment
        augment = call("augment", section.target, config, section.options)
    return data.modality.fit(data, settings(config, on, augment))


def restored_modality(config: Config, recorded: Mapping[str, Any], on: torch.device | None = None) -> Modality:
    """Restore the modality of a trained run, for evaluation.

    Args:
        config: config of the run.
        recorded: section `data` of its summary.
        on: device on which batches are prepared; the CPU by default.

    Returns:
        The modality as it was fitted in training.

    Raises:
        ValueError: the record is incomplete.
        ConfigError: the modality's class is not allowed.
    """
    usual = Splits.modality  # of records of effbench 0.1, which knew images only
    name = recorded.get("modality") or f"{usual.__module__}.{usual.__qualname__}"
    # The name comes from a run's folder, which may be a stranger's: resolve() imports allowed modules only.
    kind = resolve("data", name, config.allow_targets)
    if not (isinstance(kind, type) and issubclass(kind, Modality)):
        raise ConfigError(f"data.modality {name!r} is no subclass of effbench.data.modality.Modality.")
    return kind.restored(recorded, settings(config, on))


def settings(config: Config, on: torch.device | None = None, augment: Any = None) -> Settings:
    """Return the settings of a modality.

    Args:
        config: a checked config.
        on: device on which batches are prepared; the CPU by default.
        augment: the augmentation; None for none, as in evaluation.
    """
    return Settings(on or torch.device("cpu"), memory_format(config), augment, config.data.options)


def eval_batches(
    config: Config, split: Split, kind: Modality, ranks: DistributedContext, limit: float | None = None
) -> EvalBatches:
    """Return the batches of one pass over a split, or over a sample that represents all its classes.

    The sample depends only on the split and on the sample's size, not on the number of processes.

    Args:
        config: a checked config.
        split: samples to evaluate.
        kind: fitted modality.
        ranks: processes that share the pass.
        limit: batches (int) or fraction of the samples (float) to evaluate; None for all.
    """
    # Not data.batch_size: it changes memory and speed only, no metric.
    batch_size = config.data.eval_batch_size
    count = limit * batch_size if isinstance(limit, int) else _limit(limit, len(split))
    # Never the first rows: a split may be sorted by class.
    sample = None if count is None or count >= len(split) else representative_sample(split.labels, count)
    return EvalBatches(
        split,
        batch_size=batch_size,
        modality=kind,
        shard=Shard(ranks.rank, ranks.world_size),
        sample=sample,
        num_workers=config.data.num_workers,
        timeout_s=config.data.timeout_s,
    )


def train_batches(config: Config, data: Splits, kind: Modality, ranks: DistributedContext) -> TrainBatches:
    """Return the batches of the train split.

    Args:
        config: config with numbers in place of `auto`.
        data: the dataset.
        kind: fitted modality.
        ranks: processes that share each batch.

    Raises:
        ConfigError: batch size or trainer.on_oom does not work with the number of processes.
    """
    section = config.data
    # A rank that repeats its step alone would leave the others waiting in the exchange of gradients.
    if ranks.world_size > 1 and config.trainer.on_oom == "halve":
        raise ConfigError("trainer.on_oom=halve works in one process; under torchrun use trainer.on_oom=raise.")
    batch_size = number(section.batch_size)
    # Each rank trains on its share of every batch, and no share may be empty.
    if batch_size < ranks.world_size:
        raise ConfigError(f"data.batch_size must be at least the {ranks.world_size} processes; got {batch_size}.")

    batches = partial(
        TrainBatches,
        data.train,
        batch_size=batch_size,
        num_classes=len(data.classes),
        modality=kind,
        accumulate=config.trainer.accumulate_grad_batches,
        seed=config.seed,
        drop_last=section.drop_last,
        num_workers=section.num_workers,
        timeout_s=section.timeout_s,
        shard=Shard(ranks.rank, ranks.world_size),
    )
    # A fraction is of the steps of a whole epoch, which only the batches know (drop_last, accumulation, ranks).
    whole = batches()
    limit = _limit(config.trainer.limit_train_batches, whole.steps_per_epoch)
    return whole if limit is None else batches(limit_steps=limit)


def _limit(limit: float | None, available: int) -> int | None:
    """Return a count unchanged, or a fraction as a rounded count of at least 1; None for all."""
    # 1 is one batch (or step), 1.0 is all of them: the schema keeps the two types apart.
    if limit is None or isinstance(limit, int):
        return limit
    return max(1, round(limit * available))
