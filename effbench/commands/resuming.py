"""resume=RUN: the trainer back where the run stood, if config and data still make it the same experiment."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effbench.commands.folders import recorded_config
from effbench.commands.sessions import Sessions
from effbench.config.compare import differing
from effbench.config.names import with_later_keys
from effbench.config.schema import Config
from effbench.data.splits import Splits, digest
from effbench.errors import ConfigError
from effbench.inert import for_terminal
from effbench.kernels import library
from effbench.records import read_summary, require_writable
from effbench.training.checkpoint import read_manifest, read_newest
from effbench.training.distributed import Ranks
from effbench.training.trainer import Trainer

NOT_DECISIVE = ("data.num_workers", "data.timeout_s", "data.eval_batch_size", "data.root", "data.cache_dir")


class Resumption:
    """Of the run in `folder` by `config`, whose `resume` names it."""

    def __init__(self, config: Config, folder: Path, ranks: Ranks, sessions: Sessions):
        self.config, self.folder, self.ranks, self.sessions = config, folder, ranks, sessions
        self._before: dict[str, Any] = {}  # the config that the checkpoint was written under

    def restore(self, trainer: Trainer, data: Splits) -> bool:
        """Brings the trainer to the newest whole checkpoint; whether the run is over. The record stays as it is."""
        self._before = recorded_config(self.folder)
        self._check_same_parts()
        if self.ranks.is_main and (self.folder / "checkpoints").is_dir():
            require_writable(self.folder / "checkpoints")
        try:
            path, snapshot, damaged = read_newest(self.folder / "checkpoints")
            manifest = read_manifest(path)
            self._before = with_later_keys(manifest.get("settings") or self._before)
            self._check_same_parts()
            same_data = self._check_same_data(path, data)
            trainer.restore(snapshot)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError, ConfigError) as error:
            raise ConfigError(f"resume={self.config.resume}: {error}") from error
        if same_data:
            self._check_same_batches(trainer, manifest.get("train") == fingerprint(data))
        done = self._status_before() in ("completed", "stopped_early")  # else it was killed before its test
        over = not trainer.steps_left and trainer.meter.empty  # its last validation too
        if done and (over or self._stopped_early_before()):
            self._tell_over()
            return True
        self.sessions.follow(path, self._before)
        self._tell_restored(path, damaged)
        self._keep_place_in_epochs(trainer, same_data)
        return False

    def _tell_over(self) -> None:
        if not self.ranks.is_main:
            return
        for key, before, now in differing(self._before, self.config.to_dict()):
            _tell(f"not applied: {key}={now}; the weights were trained with {before}")
        _tell(f"{self.folder} is finished; nothing is left to do")

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
        for key, before, now in differing(self._before, self.config.to_dict()):
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

    def _check_same_batches(self, trainer: Trainer, same_images: bool) -> None:
        """In mid-epoch the rest of the epoch must be the one that was begun, wherever the images lie now.

        same_images: whether the train split is known to be the same; a checkpoint of an older version does not tell.
        """
        if trainer.state.batch == 0:
            return
        decisive: tuple[str, ...] = (
            "seed",
            "augment.",
            "trainer.accumulate_grad_batches",
            "trainer.limit_train_batches",
        )
        decisive += ("data.batch_size", "data.drop_last") if same_images else ("data.",)
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
    """sha256 over the train split's labels and some of its images: what its batches are made of."""
    images = data.train.images
    return digest(data.train.labels, images[:: max(1, len(images) // 64)])


def _had(compiled: bool) -> str:
    return "there" if compiled else "missing"


def _tell(line: str) -> None:
    print(for_terminal(line), file=sys.stderr, flush=True)
