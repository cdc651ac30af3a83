"""resume=RUN: restore the trainer, if config and data still define the same experiment."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench.config.compare import differing
from effbench.config.schema import Config
from effbench.config.versions import upgraded
from effbench.cpu.library import library
from effbench.data.splits import Splits, digest
from effbench.errors import ConfigError
from effbench.records import FINISHED, read_summary, require_writable
from effbench.run.history import Sessions
from effbench.run.load import recorded_config
from effbench.training.checkpoint import read_manifest, read_newest
from effbench.training.distributed import DistributedContext
from effbench.training.snapshots import keep_place_in_epochs, restore
from effbench.training.trainer import Trainer

log = logging.getLogger(__name__)

NOT_DECISIVE = ("data.num_workers", "data.timeout_s", "data.eval_batch_size", "data.root", "data.cache_dir")


class Resumption:
    """Resume the run in `folder`.

    Args:
        config: config of the new session; its `resume` names the run.
        folder: folder of the run.
        ranks: the processes that train together.
    """

    def __init__(self, config: Config, folder: Path, ranks: DistributedContext):
        self.config, self.folder, self.ranks = config, folder, ranks
        self._before: dict[str, Any] = {}  # config of the session that wrote the checkpoint
        self._checkpoint = folder  # the restored checkpoint, once there is one
        self._same_data = True
        self._damaged: Sequence[str] = ()  # messages about newer checkpoints that are damaged

    def restore(self, trainer: Trainer, data: Splits) -> None:
        """Load the newest intact checkpoint into the trainer. The folder is not changed.

        Args:
            trainer: a new trainer of the same config.
            data: the dataset.

        Raises:
            ConfigError: config or data do not belong to the same experiment, or there is no checkpoint.
            EffbenchError: all checkpoints are damaged.
        """
        self._before = recorded_config(self.folder)
        self._check_same_parts()
        if self.ranks.is_main and (self.folder / "checkpoints").is_dir():
            require_writable(self.folder / "checkpoints")
        try:
            self._checkpoint, snapshot, self._damaged = read_newest(self.folder / "checkpoints")
            manifest = read_manifest(self._checkpoint)
            settings = manifest.get("settings")
            self._before = upgraded(settings, f"{self._checkpoint / 'manifest.json'}") if settings else self._before
            self._check_same_parts()
            self._same_data = manifest.get("data") in (None, data.sha256)
            self._check_same_data(manifest, data)
            restore(trainer, snapshot)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError, ConfigError) as error:
            raise ConfigError(f"resume={self.config.resume}: {error}") from error
        if self._same_data:
            self._check_same_batches(trainer, manifest.get("train") == fingerprint(data))
        log.debug(f"restored {self._checkpoint}, step {trainer.state.step}")

    def is_over(self, trainer: Trainer) -> bool:
        """Return True if the restored run is complete, including its test."""
        done = self._status_before() in FINISHED  # else it was killed before its test ended
        over = not trainer.steps_left and trainer.meter.empty  # an empty meter: the last validation was done too
        return done and (over or self._stopped_early_before())

    def go_on(self, trainer: Trainer, sessions: Sessions) -> None:
        """Continue the record of sessions from the restored one, and log what has changed since."""
        sessions.follow(self._checkpoint, self._before)
        self._log_changes()
        self._keep_place_in_epochs(trainer)

    def log_over(self) -> None:
        if not self.ranks.is_main:
            return
        for key, before, now in differing(self._before, self.config.to_dict()):
            log.warning(f"not applied: {key}={now}; the weights were trained with {before}")
        log.info(f"{self.folder} is finished; nothing is left to do")

    def _keep_place_in_epochs(self, trainer: Trainer) -> None:
        before, now = trainer.state.steps_per_epoch, trainer.train.steps_per_epoch
        position = keep_place_in_epochs(trainer, self._same_data)
        if position is not None and self.ranks.is_main:
            log.info(
                f"changed since the checkpoint: steps an epoch from {before} to {now}; the schedule keeps its place in "
                f"epochs, which is step {position} of {trainer.limits.total_steps(now)}"
            )

    def _log_changes(self) -> None:
        if not self.ranks.is_main:
            return
        for complaint in self._damaged:
            log.warning(complaint)
        if self._damaged:
            log.info(f"going on from {self._checkpoint}, the newest that is whole")
        for key, before, now in differing(self._before, self.config.to_dict()):
            log.info(f"changed since the checkpoint: {key} from {before} to {now}")
        compiled = read_manifest(self._checkpoint).get("kernels")
        if compiled is not None and compiled != (library() is not None):
            log.info(
                f"changed since the checkpoint: compiled functions, {_had(compiled)} then, {_had(not compiled)} now: "
                "last digits will differ, and what dropout drops"
            )

    def _check_same_data(self, manifest: Mapping[str, Any], data: Splits) -> None:
        """Refuse other samples unless they are allowed: they would silently make another experiment."""
        if self._same_data or self.config.checkpoint.allow_changed_data:
            return
        raise ConfigError(
            f"the dataset is not the one that {self._checkpoint} was trained on (its sha256 was "
            f"{str(manifest['data'])[:12]}…, now {data.sha256[:12]}…). Put the old one back, or go on with this one by "
            "checkpoint.allow_changed_data=true."
        )

    def _stopped_early_before(self) -> bool:
        """Return True if early stopping ended the run and its rule is unchanged."""
        if self._status_before() != "stopped_early":
            return False
        return bool(self._before["early_stopping"] == self.config.to_dict()["early_stopping"])

    def _status_before(self) -> str | None:
        """Return the run's recorded status; None if it was killed."""
        return read_summary(self.folder)["status"] if (self.folder / "summary.json").is_file() else None

    def _check_same_parts(self) -> None:
        """Refuse another model, optimizer or scheduler class: an optimizer accepts another one's state silently."""
        before = self._before
        for group in ("model", "optimizer", "scheduler"):
            was, now = before[group]["_target_"], getattr(self.config, group).target
            if was != now:
                raise ConfigError(
                    f"resume={self.config.resume}: the run was begun with {group} {was}; got {now}. Resume it with "
                    "that, or start a new run."
                )

    def _check_same_batches(self, trainer: Trainer, same_samples: bool) -> None:
        """Refuse changes of the batches within an epoch: the rest of it must be the one that was begun.

        Args:
            trainer: the restored trainer.
            same_samples: True if the train split is known to be the same, wherever its files are. Checkpoints of older
                versions do not record it.
        """
        if trainer.state.batch == 0:
            return
        decisive: tuple[str, ...] = (
            "seed",
            "augment.",
            "task.",  # a new metric would lack the sums of the epoch's first steps
            "trainer.accumulate_grad_batches",
            "trainer.limit_train_batches",
        )
        decisive += ("data.batch_size", "data.drop_last") if same_samples else ("data.",)
        changed = [
            key
            for key, _, _ in differing(self._before, self.config.to_dict())
            if key.startswith(decisive) and key not in NOT_DECISIVE
        ]
        if changed:
            limits = [f"trainer.max_epochs={trainer.state.epoch + 1}"]
            limits += ["trainer.max_steps=null"] if self.config.trainer.max_steps is not None else []
            raise ConfigError(
                f"resume={self.config.resume}: the run was stopped within an epoch, which must end as it was begun; "
                f"changed: {', '.join(changed)}. First end that epoch without these, by {' '.join(limits)}; "
                "then change them."
            )


def fingerprint(data: Splits) -> str:
    """Return the sha256 (hex) of the train split's labels and of about 64 of its samples."""
    inputs = data.train.inputs
    return digest(data.train.labels, inputs[:: max(1, len(inputs) // 64)])


def _had(compiled: bool) -> str:
    return "there" if compiled else "missing"
