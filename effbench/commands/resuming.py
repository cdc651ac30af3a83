"""resume=RUN: the trainer back where the run stood, if config and data still make it the same experiment."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from effbench.config.compare import differing
from effbench.config.schema import Config
from effbench.data.splits import Splits
from effbench.errors import ConfigError
from effbench.kernels import library
from effbench.records import keep_rows_up_to, read_summary, require_writable
from effbench.training.checkpoint import read_manifest, read_newest
from effbench.training.distributed import Ranks
from effbench.training.trainer import Trainer


class Resumption:
    """Of the run in `folder` by `config`, whose `resume` names it."""

    def __init__(self, config: Config, folder: Path, ranks: Ranks):
        self.config, self.folder, self.ranks = config, folder, ranks

    def restore(self, trainer: Trainer, data: Splits) -> bool:
        """Brings the trainer to the newest whole checkpoint; whether the run was over, by this same config."""
        self._check_same_parts()
        if self.ranks.is_main and (self.folder / "checkpoints").is_dir():
            require_writable(self.folder / "checkpoints")
        try:
            path, snapshot, damaged = read_newest(self.folder / "checkpoints")
            same_data = self._check_same_data(path, data)
            trainer.restore(snapshot)
        except (RuntimeError, KeyError, ValueError, ConfigError) as error:
            raise ConfigError(f"resume={self.config.resume}: {error}") from error
        if same_data:
            self._check_same_batches(trainer)
        self._tell_restored(path, damaged)
        self._keep_place_in_epochs(trainer, same_data)
        done = self._status_before() in ("completed", "stopped_early")  # else it was killed before its test
        over = not trainer.steps_left and trainer.meter.empty  # its last validation too
        if done and (over or self._stopped_early_before()):
            return True
        if self.ranks.is_main:
            keep_rows_up_to(self.folder / "metrics.csv", trainer.state.step, trainer.meter.empty)
        return False

    def _keep_place_in_epochs(self, trainer: Trainer, same_data: bool) -> None:
        before, now = trainer.state.steps_per_epoch, trainer.train.steps_per_epoch
        position = trainer.keep_place_in_epochs(same_data)
        if position is not None and self.ranks.is_main:
            _tell(
                f"changed since the checkpoint: steps an epoch from {before} to {now}; the schedule keeps its place in "
                f"epochs, which is step {position} of {trainer.limits.total_steps(now)}"
            )

    def _tell_restored(self, path: Path, damaged: Sequence[str]) -> None:
        if not self.ranks.is_main:
            return
        for complaint in damaged:
            _tell(f"warning: {complaint}")
        if damaged:
            _tell(f"going on from {path}, the newest that is whole")
        for key, before, now in differing(self._config_before(), self.config.to_dict()):
            _tell(f"changed since the checkpoint: {key} from {before} to {now}")
        compiled = read_manifest(path).get("kernels")
        if compiled is not None and compiled != (library() is not None):
            _tell(f"changed since the checkpoint: compiled functions, {_had(compiled)} then, {_had(not compiled)} now: "
                  "last digits will differ, and what dropout drops")  # fmt: skip

    def _check_same_data(self, checkpoint: Path, data: Splits) -> bool:
        """Whether they are the same; other images, not allowed, would quietly make another experiment of it."""
        before = read_manifest(checkpoint).get("data")
        if before in (None, data.sha256) or self.config.checkpoint.allow_changed_data:
            return before in (None, data.sha256)
        raise ConfigError(
            f"the dataset is not the one that {checkpoint} was trained on (its sha256 was {str(before)[:12]}…, now "
            f"{data.sha256[:12]}…). Put the old one back, or go on with this one by checkpoint.allow_changed_data=true."
        )

    def _stopped_early_before(self) -> bool:
        """Whether early stopping ended the run under the rule that still holds."""
        if self._status_before() != "stopped_early":
            return False
        return bool(self._config_before()["early_stopping"] == self.config.to_dict()["early_stopping"])

    def _status_before(self) -> str | None:
        """The status of the run as it was left, None where it was killed."""
        return read_summary(self.folder)["status"] if (self.folder / "summary.json").is_file() else None

    def _check_same_parts(self) -> None:
        """An optimizer takes another's state without a word, and would make nonsense of it."""
        before = self._config_before()
        for group in ("model", "optimizer", "scheduler"):
            was, now = before[group]["_target_"], getattr(self.config, group).target
            if was != now:
                raise ConfigError(
                    f"resume={self.config.resume}: the run was begun with {group} {was}; got {now}. Resume it with "
                    "that, or start a new run."
                )

    def _check_same_batches(self, trainer: Trainer) -> None:
        """In mid-epoch the rest of the epoch must be the one that was begun."""
        if trainer.state.batch == 0:
            return
        before, now = self._config_before(), self.config.to_dict()
        for config in (before, now):
            for key in ("num_workers", "timeout_s", "eval_batch_size"):
                config["data"].pop(key, None)
        keys = ("accumulate_grad_batches", "limit_train_batches")
        changed = [f"trainer.{key}" for key in keys if before["trainer"][key] != now["trainer"][key]]
        changed += [key for key in ("seed", "data", "augment") if before[key] != now[key]]
        if changed:
            raise ConfigError(
                f"resume={self.config.resume}: the run was stopped within an epoch, which must end as it was begun; "
                f"changed: {', '.join(changed)}. First end that epoch without these, by "
                f"trainer.max_epochs={trainer.state.epoch + 1}; then change them."
            )

    def _config_before(self) -> dict[str, Any]:
        path = self.folder / "config.yaml"
        try:
            return dict(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"resume={self.config.resume}: {path} cannot be read: {error}.") from error


def _had(compiled: bool) -> str:
    return "there" if compiled else "missing"


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
