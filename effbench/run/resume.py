"""resume=RUN: the trainer back where the run stood, if config and data still make it the same experiment."""

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
from effbench.training.trainer import Trainer

log = logging.getLogger(__name__)

NOT_DECISIVE = ("data.num_workers", "data.timeout_s", "data.eval_batch_size", "data.root", "data.cache_dir")


class Resumption:
    """Of the run in `folder` by `config`, whose `resume` names it."""

    def __init__(self, config: Config, folder: Path, ranks: DistributedContext):
        self.config, self.folder, self.ranks = config, folder, ranks
        self._before: dict[str, Any] = {}  # the config that the checkpoint was written under
        self._checkpoint = folder  # the one restored
        self._same_data = True
        self._damaged: Sequence[str] = ()  # what is wrong with newer checkpoints

    def restore(self, trainer: Trainer, data: Splits) -> None:
        """Brings the trainer to the newest whole checkpoint; the folder stays as it is.

        Raises ConfigError where config and data are not those of one experiment.
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
            trainer.restore(snapshot)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError, ConfigError) as error:
            raise ConfigError(f"resume={self.config.resume}: {error}") from error
        if self._same_data:
            self._check_same_batches(trainer, manifest.get("train") == fingerprint(data))
        log.debug(f"restored {self._checkpoint}, step {trainer.state.step}")

    def is_over(self, trainer: Trainer) -> bool:
        """Whether the restored run has come to its end, its test included."""
        done = self._status_before() in FINISHED  # else it was killed before its test
        over = not trainer.steps_left and trainer.meter.empty  # its last validation too
        return done and (over or self._stopped_early_before())

    def go_on(self, trainer: Trainer, sessions: Sessions) -> None:
        """Makes `sessions` follow the restored ones, and tells what has changed since."""
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
        position = trainer.keep_place_in_epochs(self._same_data)
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
        """Other samples, unless they are allowed, would quietly make another experiment of it."""
        if self._same_data or self.config.checkpoint.allow_changed_data:
            return
        raise ConfigError(
            f"the dataset is not the one that {self._checkpoint} was trained on (its sha256 was "
            f"{str(manifest['data'])[:12]}…, now {data.sha256[:12]}…). Put the old one back, or go on with this one by "
            "checkpoint.allow_changed_data=true."
        )

    def _stopped_early_before(self) -> bool:
        """Whether early stopping ended the run under the rule that still holds."""
        if self._status_before() != "stopped_early":
            return False
        return bool(self._before["early_stopping"] == self.config.to_dict()["early_stopping"])

    def _status_before(self) -> str | None:
        """The status of the run as it was left, None where it was killed."""
        return read_summary(self.folder)["status"] if (self.folder / "summary.json").is_file() else None

    def _check_same_parts(self) -> None:
        """An optimizer takes another's state without a word, and would make nonsense of it."""
        before = self._before
        for group in ("model", "optimizer", "scheduler"):
            was, now = before[group]["_target_"], getattr(self.config, group).target
            if was != now:
                raise ConfigError(
                    f"resume={self.config.resume}: the run was begun with {group} {was}; got {now}. Resume it with "
                    "that, or start a new run."
                )

    def _check_same_batches(self, trainer: Trainer, same_samples: bool) -> None:
        """In mid-epoch the rest of the epoch must be the one that was begun, wherever the data lie now.

        same_samples: whether the train split is known to be the same; a checkpoint of an older version does not tell.
        """
        if trainer.state.batch == 0:
            return
        decisive: tuple[str, ...] = (
            "seed",
            "augment.",
            "task.",  # a metric that is added would have no sums of the epoch's first steps
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
    """sha256 over the train split's labels and some of its samples: what its batches are made of."""
    inputs = data.train.inputs
    return digest(data.train.labels, inputs[:: max(1, len(inputs) // 64)])


def _had(compiled: bool) -> str:
    return "there" if compiled else "missing"
