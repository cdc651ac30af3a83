"""From a config to a trained run in a folder, for `effbench train` and `effbench.train`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effbench import build
from effbench.automatic import augments, described, settings, settled
from effbench.cache_dir import expanded
from effbench.config.schema import Config
from effbench.config.static_compose import chosen_by_data
from effbench.console import guarded
from effbench.cpu.accelerate import remove_acceleration
from effbench.cpu.library import library
from effbench.data.batches import EvalBatches
from effbench.data.modality import Modality
from effbench.data.splits import Split, Splits
from effbench.errors import ConfigError, MissingExtraError, first_line
from effbench.escaping import one_line
from effbench.models import accounting
from effbench.records import FINISHED, MetricsFile, keep_rows_up_to, replacing
from effbench.redaction import redact_environment
from effbench.report.curves import draw_curves
from effbench.run.compressed import kept_zeros, shaped_model
from effbench.run.facts import check_facts, known_at_start, macs_counter, outcome
from effbench.run.history import SessionHistory
from effbench.run.load import load_run, recorded_config
from effbench.run.lock import claimed
from effbench.run.resume import Resumption, identity_of
from effbench.run.run import Run
from effbench.run.schedule_note import cut_note, schedule_note
from effbench.run.setting_notes import setting_notes
from effbench.run.signals import Interrupted, SignalHandler, signal_handler
from effbench.run.validate import refuse_early
from effbench.tasks.task import Task
from effbench.training.callbacks import Callback, Callbacks, Context, HookReceiver, MetricsLog, Progress
from effbench.training.checkpoint import Checkpoints, checkpoint_name
from effbench.training.checkpoint_files import read_weights
from effbench.training.distributed import DistributedContext, distributed_context
from effbench.training.loggers import LOGGERS, FaultTolerantLogger, Start
from effbench.training.malloc import keeping_freed_memory
from effbench.training.precision import choose_precision
from effbench.training.snapshots import load_weights
from effbench.training.trainer import Trainer
from effbench.training.waiting import sharing_processors
from effbench.units import counted, human_count

log = logging.getLogger(__name__)

SAMPLES = "samples.txt"
_SHOWN = 200  # characters of a sampled text in the log


def train(
    config: Config,
    folder: Path | str | None = None,
    overrides: Sequence[str] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train a config.

    Args:
        config: a checked config.
        folder: output folder; by default the resumed run's folder, or outputs/<date>/<time>.
        overrides: words that `config` was composed from, for the record.
        callbacks: callbacks in addition to those of `config`.

    Returns:
        The run.

    Raises:
        ConfigError: the config cannot work; as far as possible before the data are read.
        EffbenchError: the run failed. The folder then holds a summary.json with status 'failed'.
    """
    now = datetime.now()
    folder = folder or config.resume
    folder = expanded(folder) if folder else Path("outputs") / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S-%f}"
    with guarded(), distributed_context(torch.device(build.device_type(config))) as ranks:
        # Each rank may have computed a folder with its own clock: all use rank 0's.
        folder = Path(ranks.broadcast_object(str(folder)))
        with claimed(folder, resumes=config.resume is not None):
            return TrainingSession(config, folder, ranks, overrides, callbacks).run()


def train_claimed(config: Config, folder: Path, overrides: Sequence[str], callbacks: Sequence[Callback] = ()) -> Run:
    """Like `train`, in a folder that the caller has locked.

    Args:
        config: a checked config.
        folder: output folder; rank 0's is used on all ranks.
        overrides: words that `config` was composed from, for the record.
        callbacks: callbacks in addition to those of `config`.

    Returns:
        The run.
    """
    with guarded(), distributed_context(torch.device(build.device_type(config))) as ranks:
        return TrainingSession(config, Path(ranks.broadcast_object(str(folder))), ranks, overrides, callbacks).run()


class TrainingSession:
    """One session of a run, from reading data to writing the summary.

    Args:
        config: a checked config.
        folder: output folder, which the caller has locked.
        ranks: the processes that train together.
        words: overrides that `config` was composed from, for the record; None if it was made in Python.
        callbacks: callbacks in addition to those of `config`.
        model: trained in place; None: the one that the config gives.
        tests: evaluate the test split at the end.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        ranks: DistributedContext,
        words: Sequence[str] | None,
        callbacks: Sequence[Callback] = (),
        model: nn.Module | None = None,
        tests: bool = True,
    ):
        # a resumed run's record may ask for one more: weights that stay zero
        self.callbacks, self.words, self.model = [*callbacks, *kept_zeros(folder)], words, model
        self.config, self.folder, self.ranks, self.tests = config, folder, ranks, tests
        self.device = build.device(config, ranks)  # also sets threads and determinism for what follows
        self.begun = datetime.now()
        self.sessions = SessionHistory(config, folder, words, self.begun)
        self.warnings: list[str] = []
        self.chosen: dict[str, int | str | None] = {}  # the values chosen for `auto`
        self.facts: dict[str, Any] = {}  # summary entries known at the start; empty until then
        self.count_macs: Callable[[], int | None] = lambda: None  # set when there is a model

    def run(self) -> Run:
        try:
            return self._run()
        except BaseException as error:
            # What is refused before any work needs no record. Later such an error may come from a user's metric, or
            # from data that are read while training goes on.
            if self.facts or not isinstance(error, ConfigError | MissingExtraError):
                self._record_failure(error)
            raise

    def _run(self) -> Run:
        config, folder = self.config, self.folder
        refuse_early(config)
        # Callbacks come before the data: one may be refused, and reading data may take minutes.
        callbacks = build.callbacks(config, self.callbacks)
        data = self._load_data()
        self.warnings += data.warnings
        # From here on the config has numbers: the record and a later resume need what `auto` came to.
        config = self._settle(data)
        task = build.task(config, data, self.device)
        data = task.checked(data)
        modality = build.modality(config, data, self.device)
        check_facts(data, modality)
        trainer = build.trainer(
            config, data, modality, self.ranks, self._checkpoints(data, task), task,
            lambda: shaped_model(config, folder, len(data.classes), modality) if self.model is None else self.model,
        )  # fmt: skip
        # The context refers to the trainer, so both come after it.
        trainer.callbacks, trainer.context = Callbacks(callbacks), Context(trainer, folder, data)

        if config.resume:
            resumption = Resumption(config, folder, self.ranks)
            resumption.restore(trainer, data)
            if resumption.is_finished(trainer):
                resumption.log_finished()
                return load_run(folder, config.allow_targets)
            resumption.start_session(trainer, self.sessions)

        # Rank 0 alone writes files and log lines.
        if self.ranks.is_main:
            trainer.callbacks = Callbacks([*callbacks, *self._watchers(trainer)])  # watchers see what callbacks log
            self.sessions.begin(trainer.checkpoints)
            # The test split is built here only to say how much of it will be read; it is evaluated after the training.
            test_split = self._test_split(data)
            test_batches = None if test_split is None else self._test_batches(test_split, modality)
            # Evaluations that read only a sample of their split, by the split's name.
            samples = {
                which: batches
                for which, batches in (("val", trainer.val), ("test", test_batches))
                if batches is not None and batches.sample is not None
            }
            self._announce(trainer, data, samples)
            self.count_macs = macs_counter(trainer.model, modality)
            self.facts = known_at_start(config, trainer, data, modality, self.chosen)
            if samples:
                self.facts["data"]["evaluated"] = {which: len(batches) for which, batches in samples.items()}

        # The handler stays until the summary is written: a second signal may still end the process.
        with signal_handler() as handler:
            test = self._fitted_and_tested(trainer, data, modality, handler)
            if self.ranks.is_main:
                self._end(trainer, test)
        self.ranks.barrier()
        return Run(folder, config)

    def _end(self, trainer: Trainer, test: Mapping[str, float]) -> None:
        """Write the summary, and then what a kill may cost."""
        self._count_macs()
        self.sessions.end(trainer.state, outcome(trainer, test, self.begun, self.warnings) | self.facts)
        if trainer.checkpoints is not None and trainer.state.status in FINISHED:
            trainer.checkpoints.finish()
        # After the summary: matplotlib takes a second.
        title = f"{self.config.model.label} with {self.config.optimizer.label}"
        try:
            draw_curves(self.folder, title, trainer.task.displays)
        except Exception as error:  # noqa: BLE001 - an error in drawing must not fail a finished run
            log.warning(f"curves.png was not drawn: {error}")

    def _fitted_and_tested(
        self, trainer: Trainer, data: Splits, modality: Modality, handler: SignalHandler
    ) -> dict[str, float]:
        """Train, then test. The run_end hooks are called once, after the test; after an error with status 'failed'."""
        try:
            # Both contexts change how the process computes and end with the test; a notebook may go on afterwards.
            with keeping_freed_memory(self.device), sharing_processors(self.device):
                with handler.stopping(trainer):
                    state = trainer.fit()
                if self.ranks.is_main and (note := cut_note(self.config, trainer)):
                    log.info(f"note: {note}")

                test: dict[str, float] = {}
                if state.status in FINISHED:
                    self._warn_of_predictions("val", trainer, data, state.metrics)
                    try:
                        with handler.raising(trainer):
                            test = self._test(trainer, data, modality)
                    except Interrupted as signal:  # without a test result, a resumed session runs only the test
                        trainer.state.stop_reason, trainer.state.status = str(signal), "interrupted"
                    else:
                        self._write_sample(trainer, data, modality)
                    self._warn_of_predictions("test", trainer, data, test)

            test = self.ranks.broadcast_object(test)  # only rank 0 reads the test split
            if test:
                trainer.callbacks.call("tested", trainer.context, test)
        except BaseException:
            trainer.state.status = "failed"
            raise
        finally:
            remove_acceleration(trainer.model)  # the model's factory may return the same object again
            trainer.callbacks.call("run_end", trainer.context)
        return test

    def _settle(self, data: Splits) -> Config:
        """Replace `auto` values in the config by numbers; a resumed run keeps its recorded ones."""
        asked = self.config
        before = recorded_config(self.folder) if asked.resume else None
        self.config = settled(asked, len(data.train), data.modality, data.shape, self.ranks.world_size, before)
        self.config = build.with_monitors(self.config, before)
        self.chosen = settings(asked, self.config)
        if self.config.augment != asked.augment and not augments(asked, data.modality) and self.ranks.is_main:
            # Only the default gets here: an augment group that was asked for is refused.
            log.debug(f"the augment group is not for {data.modality.unit}s: it counts as augment=none")
        self.sessions.settle(self.config)
        return self.config

    def _load_data(self) -> Splits:
        """Read the data on rank 0 first: if decoding fills a cache, the other ranks read the cache."""
        if not self.ranks.is_main:
            self.ranks.barrier()
        with signal_handler() as handler, handler.raising():  # so that decoding removes its unfinished cache
            data = build.splits(self.config)
        if self.ranks.is_main:
            self.ranks.barrier()
        return data

    def _checkpoints(self, data: Splits, task: Task) -> Checkpoints | None:
        section = self.config.checkpoint
        if not self.ranks.is_main:
            return None
        identity = {
            **identity_of(data, task),
            "kernels": library() is not None,
            "processes": self.ranks.world_size,
        }
        folder = self.folder / "checkpoints"
        return Checkpoints(folder, section.monitor, section.mode, section.save_top_k, section.save_last, identity)

    def _watchers(self, trainer: Trainer) -> list[Callback | HookReceiver]:
        own = trainer.callbacks.columns
        # All columns from the start: the header of a CSV file cannot grow.
        columns = [
            "row", "epoch", "step", *(f"{split}/{name}" for split in ("train", "val") for name in trainer.task.names),
            trainer.throughput.column, *trainer.learning_rates(), *own,
        ]  # fmt: skip
        section, unit = self.config.logger, trainer.train.modality.speed_unit()
        watchers: list[Callback | HookReceiver] = [Progress(trainer.task.displays, own, unit)]
        if section.name != "csv":
            params = self.config.to_dict()
            # A logger of a resumed run continues after what earlier sessions logged.
            state = trainer.state
            last_logged = state.step - state.step % trainer.intervals.log_steps
            in_epoch = state.batch if state.batch or trainer.meter.empty else state.steps_per_epoch
            start = Start(state.step, trainer.meter.empty, in_epoch=last_logged > state.step - in_epoch)
            logger = LOGGERS[section.name](self.folder, params, section.project, section.offline, start)
            # A tracking server that fails must not end the run.
            watchers.append(FaultTolerantLogger(logger, section.name))

        path = self.folder / "metrics.csv"
        if self.config.resume:
            # Rows after the checkpoint will be written again.
            keep_rows_up_to(path, trainer.state.step, trainer.meter.empty)
        else:
            path.unlink(missing_ok=True)
        return [*watchers, MetricsLog(MetricsFile(path, columns))]

    def _warn_of_predictions(self, which: str, trainer: Trainer, data: Splits, metrics: Mapping[str, float]) -> None:
        """Warn if the newest evaluation is suspicious. It was of the split `which` if `metrics` hold its values."""
        values = {name: metrics[f"{which}/{name}"] for name in trainer.task.names if f"{which}/{name}" in metrics}
        if not values or not self.ranks.is_main:
            return
        checkpoints, seen = trainer.checkpoints, True
        if which == "val" and checkpoints is not None and checkpoints.ranking:
            value, best = checkpoints.ranking[0]
            seen = best == checkpoint_name(trainer.state.step)
            if not seen:  # the result is of the best weights; of these, the ranking alone tells a value
                split, _, name = checkpoints.monitor.partition("/")
                values = {name: value} if split == "val" else {}
        complaint = trainer.prediction_check.complaint(which, values, data.classes, data.modality.unit, seen)
        if complaint is None:
            return
        flips = data.modality.unit == "image" and self.config.augment.options.get("flip")
        if trainer.task.kind == "class" and flips:
            complaint += ". Are classes mirror images, such as left and right or b and d? Then augment.flip=0"
        self.warnings.append(complaint)
        log.warning(complaint)

    def _test(self, trainer: Trainer, data: Splits, modality: Modality) -> dict[str, float]:
        """Evaluate the best weights on the test split, once, on rank 0, which counts every sample."""
        split = self._test_split(data)
        if not self.ranks.is_main or split is None:
            return {}
        self._load_best(trainer, data)
        with trainer.clocks.evaluation:
            # As a single process: the other ranks do not take part.
            values = trainer.evaluate(self._test_batches(split, modality), DistributedContext())
        return {f"test/{name}": value for name, value in values.items()}

    def _load_best(self, trainer: Trainer, data: Splits) -> None:
        """Load the best weights into the averaged model; without a best checkpoint it keeps the last ones."""
        # The averaged model serves as the place for the best weights; the one in training keeps its own.
        model: nn.Module = trainer.averaged.model
        checkpoints = trainer.checkpoints
        if checkpoints is not None and checkpoints.best is not None:
            load_weights(model, read_weights(checkpoints.best))
        elif checkpoints is not None and checkpoints.keep_best and self._measures(checkpoints.monitor, data):
            log.warning(
                f"{self.config.checkpoint.monitor} never had a finite value, so no checkpoint is the best: the "
                "last weights are tested"
            )

    @staticmethod
    def _measures(monitor: str, data: Splits) -> bool:
        """Return True if the data have the split of a monitored metric."""
        return data.val is not None or not monitor.startswith("val/")

    def _write_sample(self, trainer: Trainer, data: Splits, modality: Modality) -> None:
        """Write a text that the best weights make into samples.txt, if the task has one."""
        if not self.ranks.is_main or not trainer.task.samples:
            return
        if self._test_split(data) is None:  # else the test has done it
            self._load_best(trainer, data)
        try:
            model = trainer.averaged.model.eval()
            text = trainer.task.sample_text(model, modality, self.config.seed, data.train.inputs)
        except Exception as error:  # noqa: BLE001 - an error in sampling must not fail a run that is tested
            self.warnings.append(f"{SAMPLES} was not written: {first_line(error)}")
            log.warning(self.warnings[-1])
            return
        if text is None:
            return
        path = self.folder / SAMPLES
        with replacing(path) as stream:
            stream.write(redact_environment(text + "\n").encode())
        start = one_line(text.strip().replace("\n", " "))
        log.info(f"sampled text ({path}): {start[:_SHOWN]}{' …' if len(start) > _SHOWN else ''}")

    def _test_split(self, data: Splits) -> Split | None:
        """Return the split to test on, or None: trainer.limit_test_batches=0 and tests=False leave it unread."""
        return data.test if self.tests and self.config.trainer.limit_test_batches != 0 else None

    def _test_batches(self, test: Split, modality: Modality) -> EvalBatches:
        return build.eval_batches(
            self.config, test, modality, DistributedContext(), self.config.trainer.limit_test_batches
        )

    def _announce(self, trainer: Trainer, data: Splits, samples: Mapping[str, EvalBatches]) -> None:
        counts = accounting.parameters(trainer.model)
        sizes = ", ".join(f"{len(split)} {which}" for which, split in data.named().items())
        _, why = choose_precision(self.config.trainer.precision, self.device)
        word = {"values": "value", "labels": "label"}.get(trainer.task.kind)
        outputs = counted(len(data.classes), word) if word else f"{len(data.classes)} {data.modality.outputs}"
        log.info(f"data {data.name}: {sizes}, {outputs}, {data.modality.size_text(data.shape)}")
        if (padding := trainer.train.padding()) is not None:
            log.info(f"batches of {data.modality.unit}s of similar length: {100 * padding:.1f} % of them is padding")
        # What a metric is computed from is said with a count.
        for which, batches in samples.items():
            log.info(f"{which}: {batches.extent}")
        if by_data := chosen_by_data(self.words or []):
            chosen = " ".join(f"{group}={choice}" for group, choice in by_data.items())
            log.info(f"{chosen} (default{'s'[: len(by_data) > 1]} for {data.modality.unit}s)")
        log.info(
            f"model {self.config.model.label}: {human_count(counts.total)} parameters"
            f" ({human_count(counts.trainable)} trained), {trainer.precision.name} ({why}), {self.device}"
        )
        every = trainer.intervals.validate_epochs * trainer.train.steps_per_epoch
        validations = -(-trainer.limits.total_steps(trainer.train.steps_per_epoch) // every)
        if line := described(self.chosen, len(data.train), data.modality.unit, validations):
            log.info(line)
        if note := trainer.task.note(data.classes):
            log.info(note)
        if note := schedule_note(self.config, trainer):
            log.info(f"note: {note}")
        for note in setting_notes(self.config, self.chosen, trainer.task.kind):
            log.info(f"note: {note}")
        steps = trainer.state.step + trainer.steps_left
        log.info(f"{counted(steps, 'step')}, {trainer.train.steps_per_epoch} an epoch -> {self.folder}")

    def _record_failure(self, error: BaseException) -> None:
        """Record a failure. One before a resumed run took its first step leaves the earlier record unchanged."""
        before = (self.folder / "summary.json").is_file()
        if not self.ranks.is_main or not self.folder.is_dir() or (before and not self.facts):
            return
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        entries = {"status": status, "error": f"{type(error).__name__}: {error}", "metrics": {}, "argv": sys.argv}
        self._count_macs()
        self.sessions.fail(status, entries | self.facts)

    def _count_macs(self) -> None:
        """Count MACs now, while no training step waits."""
        if self.facts:
            self.facts["model"]["macs"] = self.count_macs()
