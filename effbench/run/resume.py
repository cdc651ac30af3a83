"""resume=RUN: restore the trainer, if config and data still define the same experiment."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench.config.compare import PLACES, differing
from effbench.config.schema import Config
from effbench.config.versions import upgraded
from effbench.cpu.library import library
from effbench.data.batches import step_sizes
from effbench.data.splits import Splits, digest
from effbench.errors import ConfigError, shown
from effbench.records import FINISHED, read_summary, require_writable, sha256_of_plain
from effbench.run.finish_epoch import words_to_finish
from effbench.run.history import SessionHistory
from effbench.run.load import recorded_config
from effbench.tasks.task import Task
from effbench.training.checkpoint_files import Snapshot, read_manifest, read_newest
from effbench.training.distributed import DistributedContext
from effbench.training.snapshots import keep_place_in_epochs, restore
from effbench.training.trainer import Trainer

log = logging.getLogger(__name__)

_STATE = "It determines which parameters the saved optimizer state is for."
# Settings that a resumed run keeps, and why. An optimizer accepts another class's state without an error, and it finds
# the state of a parameter by its place in the parameter groups.
FIXED = {
    ("model", "_target_"): "",
    ("optimizer", "_target_"): "",
    ("scheduler", "_target_"): "",
    ("model", "freeze"): _STATE,
    ("optimizer", "no_decay"): _STATE,
    ("optimizer", "group_lr"): _STATE,
    ("task", "standardise"): "It determines the unit of the model's outputs.",
}
# Settings that determine the batches of an epoch and the sums of its metrics. A new metric in `task` would lack the
# sums of the epoch's first steps.
DECISIVE = ("seed", "augment.", "task.", "trainer.accumulate_grad_batches", "trainer.limit_train_batches")
NOT_DECISIVE = ("data.num_workers", "data.timeout_s", "data.eval_batch_size", "data.root", "data.cache_dir")
# Keys of `model` that do not change what it computes: a resumed run reads no file of pretrained weights.
NOT_COMPUTED = ("model.pretrained", "model.memory_format")


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
        self._now = config.to_dict()
        self._checkpoint = folder  # the restored checkpoint, once there is one
        self._processes: int | None = None  # of the session that wrote the checkpoint; None if it is not recorded
        self._same_data = True
        self._sha256 = ("", "")  # of the data before and now, the beginnings
        self._damaged: Sequence[str] = ()  # messages about newer checkpoints that are damaged

    def restore(self, trainer: Trainer, data: Splits) -> None:
        """Load the newest intact checkpoint into the trainer. The folder is not changed.

        Args:
            trainer: a new trainer of the same config.
            data: the dataset.

        Raises:
            ConfigError: config or data do not belong to the same experiment, or there is no checkpoint. The message
                names each changed key with both values.
            EffbenchError: all checkpoints are damaged.
        """
        # config.yaml is checked first, because reading a large checkpoint takes a while.
        self._before = recorded_config(self.folder)
        self._check_fixed()
        if self.ranks.is_main and (self.folder / "checkpoints").is_dir():
            require_writable(self.folder / "checkpoints")
        try:
            self._checkpoint, snapshot, self._damaged = read_newest(self.folder / "checkpoints")
            manifest = read_manifest(self._checkpoint)
            # A later session may have changed config.yaml; the manifest has the settings of this checkpoint.
            if settings := manifest.get("settings"):
                self._before = upgraded(settings, f"{self._checkpoint / 'manifest.json'}")
            processes = manifest.get("processes") or self._summary().get("processes")
            self._processes = processes if isinstance(processes, int) and processes > 0 else None
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError, ConfigError) as error:
            raise ConfigError(f"resume={self.config.resume}: {error}") from error

        self._check_fixed()
        self._check_data(manifest, data)
        self._load(manifest, snapshot, trainer, data)
        if self._same_data:
            self._check_same_batches(trainer, data, manifest.get("train") == fingerprint(data))
        log.debug(f"restored {self._checkpoint}, step {trainer.state.step}")

    def _check_data(self, manifest: Mapping[str, Any], data: Splits) -> None:
        """Refuse data that the weights would take for others, and changed data without the user's consent."""
        if key := data.modality.misread(self._before["data"], self._now["data"]):
            was, now = (_text(content["data"].get(key)) for content in (self._before, self._now))
            raise ConfigError(
                f"resume={self.config.resume}: data.{key} must stay as it was: {was}; got {now}. The weights were "
                "trained with its numbers. Leave it out, or start a new run."
            )
        self._same_data = manifest.get("data") in (None, data.sha256)
        if not (self._same_data or self.config.checkpoint.allow_changed_data):
            raise ConfigError(
                f"resume={self.config.resume}: the dataset is not the one that {self._checkpoint} was trained on (its "
                f"sha256 was {str(manifest['data'])[:12]}…, now {data.sha256[:12]}…). Restore the old one, or resume "
                "with this one: checkpoint.allow_changed_data=true."
            )
        self._sha256 = str(manifest.get("data"))[:12], data.sha256[:12]
        self._check_fitted(manifest.get("fitted"), data)

    def _load(self, manifest: Mapping[str, Any], snapshot: Snapshot, trainer: Trainer, data: Splits) -> None:
        """Load the checkpoint into the trainer.

        Args:
            manifest: of the checkpoint.
            snapshot: its content.
            trainer: a new one.
            data: the dataset.
        """
        try:
            self._drop_values_of_others(snapshot, trainer)
            restore(trainer, snapshot)
            if fitted := manifest.get("task"):
                trainer.task.restore(fitted)  # other targets have another unit: the weights answer in that of the first
                if trainer.checkpoints is not None:
                    trainer.checkpoints.identity["task"] = fitted
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError, ConfigError) as error:
            # The error tells shapes or names of tensors; the cause is most likely a changed setting.
            changed = [
                f"{key} from {_text(was)} to {_text(now)}"
                for key, was, now in differing(self._before, self._now)
                if not key.startswith(PLACES)
            ]
            hint = f"\nchanged since the checkpoint: {', '.join(changed)}" if changed else ""
            raise ConfigError(f"resume={self.config.resume}: {error}{hint}") from error
        # after the weights: another number of classes is told by their shapes
        if not self._same_data and manifest.get("classes") not in (None, sha256_of_plain(data.classes)):
            raise ConfigError(
                f"resume={self.config.resume}: the dataset has other {data.modality.outputs}, or in another order, "
                "than the one before, and the weights answer with those. Give data with the same, or start a new run."
            )

    def is_finished(self, trainer: Trainer) -> bool:
        """Return True if the restored run is complete, including its test."""
        summary = self._summary()
        status, reached = summary.get("status"), summary.get("steps")
        if status not in FINISHED:  # it was killed or interrupted before its test ended
            return False
        if not trainer.steps_left and trainer.meter.empty:  # an empty meter: the last validation was done too
            return True
        # Without checkpoint.save_last the newest checkpoint is of the best step, not of the last one.
        keeps_last = self._before["checkpoint"]["save_last"] or self._damaged
        if not keeps_last and isinstance(reached, int) and reached >= trainer.state.step + trainer.steps_left:
            return True
        # Early stopping ended the run, by the rule that still holds.
        return status == "stopped_early" and bool(self._before["early_stopping"] == self._now["early_stopping"])

    def start_session(self, trainer: Trainer, sessions: SessionHistory) -> None:
        """Continue the record of sessions from the restored one, and log what has changed since."""
        sessions.follow(self._checkpoint, self._before)
        steps_before, steps_now = trainer.state.steps_per_epoch, trainer.train.steps_per_epoch
        position = keep_place_in_epochs(trainer, self._same_data)
        if not self._same_data:
            sessions.current["changed"]["data.sha256"] = list(self._sha256)
        if not self.ranks.is_main:
            return

        for complaint in self._damaged:
            log.warning(complaint)
        if not self._same_data:
            was, now = self._sha256
            log.warning(
                f"the dataset has changed since the checkpoint (its sha256 was {was}…, now {now}…): the best "
                "checkpoint and early stopping count from here on, and the test may hold samples that the run was "
                "trained on before"
            )
        if self._damaged:
            log.info(f"resuming from {self._checkpoint}, the newest undamaged checkpoint")
        for key, before, now in differing(self._before, self._now):
            change = f"changed since the checkpoint: {key} from {_text(before)} to {_text(now)}"
            # Weights fit a model with other options if the shapes agree, but another number of attention heads or
            # another activation makes it another function. --quiet must not hide that.
            if key.startswith("model.") and key not in NOT_COMPUTED:
                log.warning(f"{change}; the weights were trained with {_text(before)}")
            else:
                log.info(change)
        if self._processes not in (None, self.ranks.world_size):
            log.info(
                f"changed since the checkpoint: processes from {self._processes} to {self.ranks.world_size}; the "
                "batches stay the same, but each process draws its own dropout and computes its own batch norm"
            )
        compiled = read_manifest(self._checkpoint).get("kernels")
        if compiled is not None and compiled != (library() is not None):
            then, here = ("there", "missing") if compiled else ("missing", "there")
            log.info(
                f"changed since the checkpoint: compiled functions, {then} then, {here} now: "
                "last digits will differ, and what dropout drops"
            )
        if position is not None:
            log.info(
                f"changed since the checkpoint: steps an epoch from {steps_before} to {steps_now}; the schedule keeps "
                f"its place in epochs, which is step {position} of {trainer.limits.total_steps(steps_now)}"
            )

    def log_finished(self) -> None:
        """Log that the run is finished, and which changed settings have no effect for that reason."""
        if not self.ranks.is_main:
            return
        for key, before, now in differing(self._before, self._now):
            log.warning(f"not applied: {key}={_text(now)}; the weights were trained with {_text(before)}")
        log.info(f"{self.folder} is finished; nothing is left to do")

    def _summary(self) -> Mapping[str, Any]:
        """Return summary.json; {} if the run was killed before it wrote one."""
        return read_summary(self.folder) if (self.folder / "summary.json").is_file() else {}

    def _check_fixed(self) -> None:
        """Refuse another model, optimizer or scheduler class, other parameter groups, and another unit of outputs."""
        for (section, key), why in FIXED.items():
            now = self._now[section].get(key)
            was = self._before[section].get(key, now)  # an older record may lack the key
            if key == "group_lr":  # the factors may change, the patterns may not
                was, now = (list(value) if isinstance(value, Mapping) else value for value in (was, now))
            if was != now:
                raise ConfigError(
                    f"resume={self.config.resume}: {section}.{key} must stay as it was: {_text(was)}; got "
                    f"{_text(now)}.{' ' * bool(why)}{why} Leave it out, or start a new run."
                )

    def _check_fitted(self, before: object, data: Splits) -> None:
        """Refuse data whose samples become other numbers than the weights were trained on, though shapes may agree.

        Args:
            before: what the checkpoint recorded; older ones did not.
            data: the dataset.
        """
        older = _digests(data.modality.older_identity(data))
        for name, sha256 in fitted_to(data).items():
            was = before.get(name) if isinstance(before, Mapping) else None
            if was not in (None, sha256, older.get(name)):
                raise ConfigError(
                    f"resume={self.config.resume}: the {name} of {data.name} must stay as in {self._checkpoint}, also "
                    f"with checkpoint.allow_changed_data=true (the sha256 was {str(was)[:12]}…, now {sha256[:12]}…): "
                    "the weights would take the numbers of a sample for others. Restore the old data, or start a new "
                    "run."
                )

    def _drop_values_of_others(self, snapshot: Snapshot, trainer: Trainer) -> None:
        """Remove the best values of a metric that is no longer monitored, or of other data: they do not compare."""
        watched = {"early_stopping": ("monitor", "mode"), "checkpoint": ("monitor", "mode"), "scheduler": ("mode",)}
        changed = set[str]() if self._same_data else set(watched)
        for section, keys in watched.items():
            was, now = ([content[section].get(key) for key in keys] for content in (self._before, self._now))
            # A record of an older version may lack the keys, or hold `auto`: then nothing is known to have changed.
            if was != now and "auto" not in was and None not in was:
                changed.add(section)

        state = snapshot.state
        if "early_stopping" in changed:
            state["stopping"] = {}
        if "checkpoint" in changed:
            state["ranking"], state["ranking_losses"] = [], {}
        if "scheduler" in changed:  # scheduler=plateau
            fresh = trainer.schedule.state_dict()
            state["schedule"] |= {key: fresh[key] for key in ("best", "bad_checks") if key in fresh}

    def _check_same_batches(self, trainer: Trainer, data: Splits, same_samples: bool) -> None:
        """Refuse changes of the batches within an epoch: the rest of it must be the one that was begun.

        Args:
            trainer: the restored trainer.
            data: the dataset.
            same_samples: True if the train split is known to be the same, wherever its files are. Checkpoints of older
                versions do not record it.
        """
        if trainer.state.batch == 0:
            return
        decisive = (*DECISIVE, *(("data.batch_size", "data.drop_last") if same_samples else ("data.",)))
        changed = [
            f"{key} from {_text(before)} to {_text(now)}"
            for key, before, now in differing(self._before, self._now)
            if key.startswith(decisive) and key not in NOT_DECISIVE
        ]
        if changed:
            ending, after, note = words_to_finish(self.config, trainer)
            raise ConfigError(
                f"resume={self.config.resume}: the run was stopped within an epoch, and the rest of that epoch needs "
                f"the same batches; changed: {', '.join(changed)}. First finish the epoch without these changes"
                f"{f', with {ending}' if ending else ''}; then resume with them{f' and {after}' if after else ''}."
                f"{note}"
            )

        # An incomplete last batch is left out if it has fewer than two samples a process (data.drop_last=false).
        train, count = trainer.train, self._processes or self.ranks.world_size
        sizes = step_sizes(
            len(data.train), train.batch_size, train.accumulate, self.config.data.drop_last, count, train.modality.unit
        )
        now = [train.samples_in(step) for step in range(train.steps_per_epoch)]
        if sizes[: trainer.state.steps_per_epoch] != now:
            ending, after, note = words_to_finish(self.config, trainer)
            here = self.ranks.world_size
            raise ConfigError(
                f"resume={self.config.resume}: the run was stopped within an epoch of {count} processes, and the rest "
                f"of that epoch needs the same batches; with {here} its last step has other samples "
                f"(data.drop_last=false). Resume with {count} processes (torchrun --nproc_per_node={count}), at least "
                f"to the end of that epoch{f': {ending}' if ending else ''}"
                f"{f'. Then resume with {here}, and {after}' if after else ''}.{note}"
            )


def _text(value: Any) -> str:
    """Return a setting as the user writes it in an override."""
    return shown(value, quotes=False)


def identity_of(data: Splits, task: Task) -> dict[str, Any]:
    """Return what a checkpoint records of the data and of what was fitted to them."""
    return {
        "data": data.sha256,
        "train": fingerprint(data),  # `data` covers all files, however they are split
        "classes": sha256_of_plain(data.classes),
        "fitted": fitted_to(data),
        "task": task.record(),
    }


def fitted_to(data: Splits) -> dict[str, str]:
    """Return name -> sha256 (hex) of what `Modality.identity` names."""
    return _digests(data.modality.identity(data))


def _digests(identity: Mapping[str, Any]) -> dict[str, str]:
    return {name: sha256_of_plain(value) for name, value in identity.items() if value is not None}


def fingerprint(data: Splits) -> str:
    """Return the sha256 (hex) of the train split's labels and of about 64 of its samples."""
    inputs = data.train.inputs
    return digest(data.train.labels, inputs[:: max(1, len(inputs) // 64)])
