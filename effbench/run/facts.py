"""What summary.json says of a session: the entries known at its start, and those that training produced."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import nn

from effbench.config.schema import Config
from effbench.data.modality import Modality
from effbench.data.splits import Splits
from effbench.errors import DataError
from effbench.models import accounting
from effbench.report.environment import environment, git_state, peak_memory, program_state
from effbench.training.meter import WARMUP_STEPS
from effbench.training.trainer import Trainer
from effbench.units import seen_key, throughput_key

log = logging.getLogger(__name__)


def known_at_start(
    config: Config, trainer: Trainer, data: Splits, modality: Modality, chosen: Mapping[str, int | str | None]
) -> dict[str, Any]:
    """Return the entries that are known before the first step.

    Args:
        config: of the run, with numbers for `auto`.
        trainer: before its first step.
        data: the dataset.
        modality: fitted modality.
        chosen: dotted key -> value that `auto` came to.
    """
    counts = accounting.parameters(trainer.model)
    return {
        "model": {
            "name": config.model.label,
            "optimizer": config.optimizer.label,
            "parameters": counts.total,
            "trainable_parameters": counts.trainable,
        },
        "precision": trainer.precision.name,
        "device": str(modality.transfer.device),
        "auto": chosen,
        "processes": trainer.ranks.world_size,
        "task": {**trainer.task.display_record(), **trainer.task.record()},
        "data": {
            "name": data.name,
            "sha256": data.sha256,
            "counts": {which: len(split) for which, split in data.named().items()},
            "modality": f"{data.modality.__module__}.{data.modality.__qualname__}",
            "unit": data.modality.unit,
            **({"counted": data.modality.counted} if data.modality.counted else {}),
            "shape": list(data.shape),
            "classes": list(data.classes),
            **modality.record(),
            **data.facts,
            **({"test_split": data.test_split} if data.test_split else {}),
            **({} if (padding := trainer.train.padding()) is None else {"padding": padding}),
        },
        "environment": environment(),
        "git": git_state(Path.cwd()),  # of the user's work, which may be another checkout than effbench's
        "program": program_state(),
        "argv": sys.argv,
    }


# what effbench writes of every dataset; a modality's own keys come with its record
_RECORDED = ("name", "sha256", "counts", "modality", "unit", "counted", "shape", "classes", "padding")


def check_facts(data: Splits, modality: Modality) -> None:
    """Raise DataError for facts of a dataset with the names of other records, and for what JSON cannot hold."""
    if taken := sorted(data.facts.keys() & {*_RECORDED, *modality.record()}):
        raise DataError(f"{data.name} facts must not hold {', '.join(taken)}, which effbench records. Rename them.")
    try:
        json.dumps(data.facts)
    except (TypeError, ValueError) as error:
        raise DataError(f"{data.name} facts must be texts, numbers, lists and mappings: {error}.") from error


def outcome(trainer: Trainer, test: Mapping[str, float], begun: datetime, warnings: Sequence[str]) -> dict[str, Any]:
    """Return the entries that training produced.

    Args:
        trainer: after its last step.
        test: 'test/<metric>' -> value; empty without a test.
        begun: start of the session.
        warnings: what was suspicious.
    """
    state, checkpoints, modality = trainer.state, trainer.checkpoints, trainer.train.modality
    unit = modality.speed_unit()
    best = None
    if checkpoints is not None and checkpoints.ranking:
        # (value, folder), best first
        value, name = checkpoints.ranking[0]
        best = {"metric": checkpoints.monitor, "value": value, "checkpoint": name}
    return {
        "status": state.status,
        "stop_reason": state.stop_reason,
        "warnings": warnings,
        "metrics": {**state.metrics, **test},
        "best": best,
        # a fraction: a run may end within an epoch, by trainer.max_steps or a signal
        "epochs": state.epoch + state.batch / trainer.train.steps_per_epoch,
        "steps": state.step,
        "skipped_steps": state.skipped,
        "pieces": state.micro_batch_splits,
        seen_key(unit): state.samples_seen * modality.per_sample,
        "timing": {
            "started": begun.astimezone().isoformat(timespec="seconds"),
            "seconds": trainer.clocks.seconds(),
            "training_s": state.training_s,
            "elapsed_s": state.elapsed_s + trainer.clocks.seconds()["total"],  # over all sessions
            throughput_key(unit): trainer.throughput.values(state.samples_seen).get(trainer.throughput.column),
            f"{throughput_key(unit)}_excludes_first_steps": WARMUP_STEPS,
        },
        "memory": peak_memory(),
    }


def macs_counter(model: nn.Module, modality: Modality) -> Callable[[], int | None]:
    """Return a function that counts the MACs of one sample; None for a user's model that cannot be counted.

    The model is copied now: after a training step it may hold state that cannot be copied.
    """

    def attempt(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - an error of the user's model must not fail the run
            log.info(f"note: the model's MACs cannot be counted: {error}")
            return None

    shapes = attempt(lambda: accounting.without_data(model, "meta"))
    return lambda: None if shapes is None else attempt(lambda: accounting.macs(shapes, modality.example()).macs)
