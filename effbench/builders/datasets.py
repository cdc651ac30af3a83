"""The dataset, what is learnt from it, and its batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from effbench.automatic import number, settled
from effbench.builders.devices import memory_format
from effbench.builders.factories import call
from effbench.cache_dir import expanded
from effbench.config.schema import Config
from effbench.data.batches import EvalBatches, Shard, TrainBatches
from effbench.data.modality import Modality, Settings
from effbench.data.preview import preview_of
from effbench.data.slow import is_slow_to_read
from effbench.data.splits import Split, Splits, representative_sample
from effbench.errors import ConfigError
from effbench.target_allowlist import resolve
from effbench.training.distributed import DistributedContext

_SPLITS = """Such as:
  from effbench.data.splits import Split, Splits, digest
  train = Split(images, labels)  # uint8 (N, C, H, W), int64 (N,)
  return Splits("mine", train, val=None, test=None, classes=("cat", "dog"), sha256=digest(images, labels))"""


def takes_time(config: Config) -> bool:
    """Return True if the dataset is one that may take minutes to read (`@slow_to_read`)."""
    return is_slow_to_read(resolve("data", config.data.target, config.allow_targets))


def splits(config: Config) -> Splits:
    """The dataset, read or decoded."""
    options = {key: _in_full(value) for key, value in config.data.options.items()}
    built = call("data", config.data.target, config, options)
    if not isinstance(built, Splits):
        raise ConfigError(
            f"data._target_ {config.data.target!r} must return Splits; got {type(built).__name__}. {_SPLITS}"
        )
    return built


def _in_full(value: Any) -> Any:
    """A path below the home folder, written ~/…, for datasets that would take ~ for a name; the rest as it is."""
    return str(expanded(value)) if isinstance(value, str) and (value == "~" or value.startswith("~/")) else value


def preview(config: Config) -> Modality | None:
    """Return the modality of the dataset before it is read, if its function declares it (`@previewed`)."""
    found = preview_of(resolve("data", config.data.target, config.allow_targets))
    return None if found is None else found(config.data.options, settings(config))


def modality(config: Config, data: Splits, on: torch.device) -> Modality:
    """What is learnt from the train split, such as the statistics that normalise it."""
    if config.device.channels_last and len(data.shape) != 3:
        raise ConfigError(
            f"device.channels_last=true is for images; {data.name} holds {data.modality.unit}s of "
            f"{data.modality.layout} {data.shape}. Leave it out."
        )
    augment = settled(config, len(data.train), data.modality, data.shape).augment.model_dump()
    return data.modality.fit(data, settings(config, on, augment if data.modality.augments else {}))


def restored_modality(config: Config, recorded: Mapping[str, Any], on: torch.device | None = None) -> Modality:
    """That of a trained run, for evaluation. recorded: the `data` of its summary.

    Raises ValueError where the record lacks something, ConfigError where its class may not be built.
    """
    name = recorded.get("modality") or _path(Splits.modality)
    kind = resolve("data", name, config.allow_targets)
    if not (isinstance(kind, type) and issubclass(kind, Modality)):
        raise ConfigError(f"data.modality {name!r} is no subclass of effbench.data.modality.Modality.")
    return kind.restored(recorded, settings(config, on))


def settings(config: Config, on: torch.device | None = None, augment: Mapping[str, Any] | None = None) -> Settings:
    """What the config says to a modality; without `augment`, for evaluation alone."""
    return Settings(on or torch.device("cpu"), memory_format(config), augment or {}, config.data.options)


def eval_batches(
    config: Config, split: Split, kind: Modality, ranks: DistributedContext, limit: float | None = None
) -> EvalBatches:
    """One pass over `split`, or over a sample of all its classes: `limit` batches, or that fraction of the samples.

    The sample depends on the split and its own size alone, not on the number of processes.
    """
    batch_size = config.data.eval_batch_size
    count = limit * batch_size if isinstance(limit, int) else _limit(limit, len(split))
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
    section = config.data
    if ranks.world_size > 1 and config.trainer.on_oom == "halve":
        raise ConfigError("trainer.on_oom=halve works in one process; under torchrun use trainer.on_oom=raise.")
    batch_size = number(section.batch_size)
    if batch_size < ranks.world_size:
        raise ConfigError(f"data.batch_size must be at least the {ranks.world_size} processes; got {batch_size}.")

    def batches(limit_steps: int | None) -> TrainBatches:
        return TrainBatches(
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
            limit_steps=limit_steps,
        )

    whole = batches(None)
    limit = _limit(config.trainer.limit_train_batches, whole.steps_per_epoch)
    return whole if limit is None else batches(limit)


def validation_batches(config: Config, data: Splits, kind: Modality, ranks: DistributedContext) -> EvalBatches | None:
    if data.val is None:
        return None
    return eval_batches(config, data.val, kind, ranks, config.trainer.limit_val_batches)


def _limit(limit: float | None, available: int) -> int | None:
    """A count as it is, a fraction of what is available rounded (at least 1), None for all."""
    if limit is None or isinstance(limit, int):
        return limit
    return max(1, round(limit * available))


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
