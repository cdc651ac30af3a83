"""Fine-tuning of a pruned model, through the one Trainer: a run of its own in the folder of the result."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effbench import build
from effbench.compress.distill import Distill
from effbench.compress.options import FineTuneOptions
from effbench.config.compose import parse
from effbench.config.schema import Config
from effbench.config.static_compose import member
from effbench.console import guarded
from effbench.cpu.accelerate import remove_acceleration
from effbench.errors import EffbenchError
from effbench.models.adapt import freeze
from effbench.records import FINISHED, read_summary
from effbench.run.load import recorded_config
from effbench.run.lock import claimed
from effbench.run.run import Run
from effbench.run.session import TrainingSession
from effbench.run.signals import Interrupted
from effbench.training.callbacks import Callback
from effbench.training.checkpoint import Checkpoints
from effbench.training.checkpoint_files import committed, read_manifest, read_weights
from effbench.training.distributed import DistributedContext, distributed_context
from effbench.training.snapshots import load_weights
from effbench.units import counted

log = logging.getLogger(__name__)


class FineTuning:
    """The trainings after each step of a pruning. That of the last step leaves the checkpoints of the result.

    Args:
        source: the run.
        checkpoint: name of its checkpoint, whose answers distillation is against.
        folder: of the result.
        own: its options; without epochs the pruned weights are written as they are. A new cosine starts from lr, or
            from the run's own (arXiv:2003.02389).
        tests: evaluate the test split at the end; False for candidates of a search.

    Attributes:
        details: what was done, for compression.json.
        summary: of the last training.
    """

    def __init__(self, source: Run, checkpoint: str, folder: Path, own: FineTuneOptions, tests: bool = True):
        self._source, self._checkpoint, self._folder, self._distill = source, checkpoint, folder, own.distill
        self._tests = tests
        self._steps = own.steps
        # the same number each time, and the rest in the last, whose result counts
        each = own.epochs // own.steps
        self._epochs = [each] * (own.steps - 1) + [own.epochs - (own.steps - 1) * each]
        self._lr = source.config.optimizer.lr if own.lr is None else own.lr
        lr = self._lr if own.epochs else None
        self.details: dict[str, Any] = {"epochs": own.epochs, "lr": lr, "distill": own.distill}
        self.summary: dict[str, Any] = {}

    def run(self, model: nn.Module, step: int, callbacks: Sequence[Callback] = ()) -> None:
        """Train the model in place; it then has the best weights by validation.

        Args:
            model: the pruned model, with torch's plain layers.
            step: of the pruning, from 1.
            callbacks: hooks of the training.

        Raises:
            EffbenchError: the training failed, or was interrupted.
        """
        epochs = self._epochs[step - 1]
        if not epochs:
            write_untrained(self._source, model, self._folder)
            return
        log.info(f"fine-tuning for {counted(epochs, 'epoch')} at lr {self._lr:g}")
        if step == self._steps:
            self.summary = self._train(tuned_config(self._source, epochs, self._lr), model, self._folder, callbacks)
            return
        # of a step in between only the weights are of use
        config = tuned_config(self._source, epochs, self._lr, tests=False)
        with tempfile.TemporaryDirectory(prefix=".step-", dir=self._folder) as place:
            self._train(config, model, Path(place), callbacks)

    def _train(self, config: Config, model: nn.Module, folder: Path, callbacks: Sequence[Callback]) -> dict[str, Any]:
        freeze(model, config.model.freeze)
        teacher = [Distill(self._source.model(self._checkpoint))] if self._distill else []
        tuned = _trained(config, folder, model, [*callbacks, *teacher], self._tests)
        summary = read_summary(folder)
        if summary["status"] == "interrupted":
            raise Interrupted(summary["stop_reason"])  # as in the other verbs: what was begun is removed
        if summary["status"] not in FINISHED:
            raise EffbenchError(f"fine-tuning did not end well: {summary['stop_reason']}. Nothing was written.")
        load_weights(model.to("cpu"), read_weights(tuned.checkpoint("best")))
        model.eval()
        return summary


def _trained(config: Config, folder: Path, model: nn.Module, callbacks: Sequence[Callback], tests: bool) -> Run:
    device = torch.device(build.device_type(config))
    with guarded(), distributed_context(device) as ranks, claimed(folder, resumes=False):
        return TrainingSession(config, folder, ranks, None, callbacks, model, tests).run()


def tuned_config(source: Run, epochs: int, lr: float, tests: bool = True) -> Config:
    """Return the run's config for fine-tuning: its data, optimizer and augmentation, a short cosine or no schedule.

    Args:
        source: the run; its recorded config says on which device it was trained.
        epochs: to train.
        lr: learning rate.
        tests: evaluate the test split at the end.
    """
    content = source.config.to_dict()
    recorded = recorded_config(source.folder)
    content["device"] = {**content["device"], "name": "cpu" if recorded["device"]["name"] == "cpu" else "auto"}
    content["model"] = {**content["model"], "pretrained": None}
    content["optimizer"] = {**content["optimizer"], "lr": lr}
    # the run's own may have lengths for its own epochs: a warm-up, too
    constant = member("scheduler", "constant")
    stays = content["scheduler"]["_target_"] == constant["_target_"]
    content["scheduler"] = constant if stays else member("scheduler", "cosine")
    content["trainer"] = {
        **content["trainer"], "max_epochs": epochs, "max_steps": None, "max_time": None, "min_steps": None,
        "check_val_every_n_epoch": 1,
    }  # fmt: skip
    if not tests:
        content["trainer"]["limit_test_batches"] = 0
    content["early_stopping"] = {**content["early_stopping"], "enabled": False}
    content["logger"] = {**content["logger"], "name": "csv"}
    return parse({**content, "resume": None, "allow_targets": source.config.allow_targets, "callbacks": {}})


def write_untrained(source: Run, model: nn.Module, folder: Path) -> None:
    """Write the model's weights as a checkpoint of step 0, from which `effbench train resume=` can go on.

    Args:
        source: the run.
        model: the pruned model, with torch's plain layers.
        folder: of the result.
    """
    config = source.config
    freeze(model, config.model.freeze)  # as a resume does: the optimizer has the same parameters
    data = build.splits(config)
    device = build.device(config)
    task = build.task(config, data, device)
    data = task.checked(data)
    section = config.checkpoint
    # config.yaml of the result is the source's, which its newest checkpoint was written by
    manifest = read_manifest(committed(source.folder / "checkpoints")[0])
    identity = {key: value for key, value in manifest.items() if key not in ("format", "step", "sessions", "sha256")}
    checkpoints = Checkpoints(folder / "checkpoints", section.monitor, section.mode, section.save_top_k, True, identity)
    modality = build.modality(config, data, device)
    trainer = build.trainer(config, data, modality, DistributedContext(), checkpoints, task, lambda: model)
    trainer.save(None)
    trainer.finish_saves()
    remove_acceleration(model)
