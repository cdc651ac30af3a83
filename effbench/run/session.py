"""Config -> trained run in a folder: what `effbench train` and `effbench.train` both do."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effbench import build
from effbench.automatic import settings, settled, told
from effbench.cache_dir import expanded
from effbench.config.schema import Config
from effbench.console import guarded
from effbench.cpu.accelerate import remove_acceleration
from effbench.cpu.library import library
from effbench.data.batches import EvalBatches
from effbench.data.modality import Modality
from effbench.data.splits import Split, Splits
from effbench.errors import ConfigError, MissingExtraError
from effbench.metrics import as_recorded
from effbench.models import accounting
from effbench.records import FINISHED, MetricsFile, keep_rows_up_to
from effbench.report.curves import draw_curves
from effbench.report.environment import environment, git_state, peak_memory
from effbench.run.history import Sessions
from effbench.run.load import load_run, recorded_config
from effbench.run.lock import claimed
from effbench.run.resume import Resumption, fingerprint
from effbench.run.run import Run
from effbench.run.schedule_note import schedule_note
from effbench.run.signals import Ears, Interrupted, listening
from effbench.run.validate import refuse_early
from effbench.training.callbacks import Callback, Callbacks, Context, MetricsLog, Progress, check_columns
from effbench.training.checkpoint import Checkpoints, load_weights, read_weights
from effbench.training.distributed import DistributedContext, distributed_context
from effbench.training.loggers import LOGGERS, FaultTolerantLogger, Start
from effbench.training.malloc import keeping_freed_memory
from effbench.training.meter import WARMUP_STEPS
from effbench.training.precision import choose_precision
from effbench.training.trainer import Trainer
from effbench.training.waiting import sharing_processors
from effbench.units import counted, human_count, seen_key, throughput_key

log = logging.getLogger(__name__)


def train(
    config: Config,
    folder: Path | str | None = None,
    overrides: Sequence[str] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Trains `config` and returns its run; the folder is outputs/<date>/<time> unless given.

    overrides: the words that `config` was composed from, for the record. callbacks: more than those of `config`.
    Raises ConfigError before any time is spent on what cannot work, EffbenchError where the run fails; the folder
    then holds a summary.json with status 'failed'.
    """
    now = datetime.now()
    folder = folder or config.resume
    folder = expanded(folder) if folder else Path("outputs") / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S-%f}"
    with _processes(config) as ranks:
        folder = Path(ranks.broadcast_object(str(folder)))
        with claimed(folder, resumes=config.resume is not None):
            return _Session(config, folder, ranks, overrides, callbacks).run()


def train_claimed(config: Config, folder: Path, overrides: Sequence[str]) -> Run:
    """As `train`, in a folder that the caller has claimed; on other ranks than 0, rank 0's."""
    with _processes(config) as ranks:
        return _Session(config, Path(ranks.broadcast_object(str(folder))), ranks, overrides).run()


@contextmanager
def _processes(config: Config) -> Iterator[DistributedContext]:
    """The processes that train together, with output streams that never raise."""
    with guarded(), distributed_context(torch.device(build.device_type(config))) as ranks:
        yield ranks


class _Session:
    """One training run from data to summary."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        ranks: DistributedContext,
        words: Sequence[str] | None,
        callbacks: Sequence[Callback] = (),
    ):
        self.callbacks = callbacks
        self.config, self.folder, self.ranks = config, folder, ranks
        self.device = build.device(config, ranks)
        self.begun = datetime.now()
        self.sessions = Sessions(config, folder, words, self.begun)
        self.warnings: list[str] = []
        self.chosen: dict[str, int | None] = {}  # what became of the config's `auto`s
        self.facts: dict[str, Any] = {}  # what the summary holds whatever comes of the run; empty until it has begun
        self.count_macs: Callable[[], int | None] = lambda: None

    def run(self) -> Run:
        try:
            return self._run()
        except (ConfigError, MissingExtraError):
            raise  # refused, nothing happened
        except BaseException as error:
            self._record_failure(error)
            raise

    def _run(self) -> Run:
        config, folder = self.config, self.folder
        refuse_early(config)
        callbacks = build.callbacks(config, self.callbacks)  # before the data: one may be refused
        check_columns(callbacks)
        data = self._load_data()
        config = self._settle(data)
        data = build.task(config, data).checked(data)
        modality = build.modality(config, data, self.device)
        trainer = build.trainer(config, data, modality, self.ranks, self._checkpoints(data))
        trainer.callbacks, trainer.context = Callbacks(callbacks), Context(trainer, folder, data)
        if config.resume:
            resumption = Resumption(config, folder, self.ranks)
            resumption.restore(trainer, data)
            if resumption.is_over(trainer):
                resumption.log_over()
                return load_run(folder, config.allow_targets)
            resumption.go_on(trainer, self.sessions)
        if self.ranks.is_main:
            trainer.callbacks = trainer.callbacks.watched_by(self._watchers(trainer))
            self.sessions.begin(trainer.checkpoints)
            samples = self._samples(trainer, data, modality)
            self._announce(trainer, data, samples)
            self.count_macs = _macs(trainer.model, modality)
            self.facts = self._facts(trainer, data, modality)
            if samples:
                self.facts["data"]["evaluated"] = {which: len(batches) for which, batches in samples.items()}
        with listening() as ears:
            test = self._fitted_and_tested(trainer, data, modality, ears)
            if self.ranks.is_main:
                self._count_macs()
                self.sessions.end(trainer.state, self._outcome(trainer, test) | self.facts)
                self._draw(trainer)
        self.ranks.barrier()
        return Run(folder, config)

    def _fitted_and_tested(self, trainer: Trainer, data: Splits, modality: Modality, ears: Ears) -> dict[str, float]:
        with _watched_to_the_end(trainer):
            with keeping_freed_memory(self.device), sharing_processors(self.device):
                with ears.stopping(trainer):
                    state = trainer.fit()
                test: dict[str, float] = {}
                if state.status in FINISHED:
                    self._warn_of_predictions("val", trainer, data, state.metrics)
                    test = self._tested(trainer, data, modality, ears)
                    self._warn_of_predictions("test", trainer, data, test)
            test = self.ranks.broadcast_object(test)  # rank 0 alone reads the test split
            if test:
                trainer.callbacks.tested(trainer.context, test)
        return test

    def _settle(self, data: Splits) -> Config:
        """The config with numbers for `auto`, from here on the run's; a resumed run keeps those it was begun with."""
        asked = self.config
        before = recorded_config(self.folder) if asked.resume else None
        self.config = settled(asked, len(data.train), data.modality, data.shape, self.ranks.world_size, before)
        self.chosen = settings(asked, self.config)
        if self.config.augment != asked.augment and not data.modality.augments and self.ranks.is_main:
            log.info(f"note: the augment group is not for {data.modality.unit}s: it counts as augment=none")
        self.sessions.settle(self.config)
        return self.config

    def _load_data(self) -> Splits:
        """Rank 0 first: where decoding fills a cache, the others read it."""
        if not self.ranks.is_main:
            self.ranks.barrier()
        with listening() as ears, ears.raising():  # decoding removes its unfinished cache
            data = build.splits(self.config)
        if self.ranks.is_main:
            self.ranks.barrier()
        return data

    def _checkpoints(self, data: Splits) -> Checkpoints | None:
        section = self.config.checkpoint
        if not self.ranks.is_main:
            return None
        identity = {"data": data.sha256, "train": fingerprint(data), "kernels": library() is not None}
        folder = self.folder / "checkpoints"
        return Checkpoints(folder, section.monitor, section.mode, section.save_top_k, section.save_last, identity)

    def _watchers(self, trainer: Trainer) -> list[Callback]:
        own = trainer.callbacks.columns
        columns = [
            "row", "epoch", "step", *(f"{split}/{name}" for split in ("train", "val") for name in trainer.task.names),
            trainer.throughput.column, *trainer.learning_rates(), *own,
        ]  # fmt: skip
        section, unit = self.config.logger, trainer.train.modality.unit
        watchers: list[Callback] = [Progress(trainer.task.displays, own, unit)]
        if section.name != "csv":
            params = self.config.to_dict()
            logger = LOGGERS[section.name](self.folder, params, section.project, section.offline, _start(trainer))
            watchers.append(FaultTolerantLogger(logger, section.name))
        return [*watchers, MetricsLog(self._metrics_file(columns, trainer))]

    def _metrics_file(self, columns: list[str], trainer: Trainer) -> MetricsFile:
        """Goes on where a resumed run was; begun anew otherwise, over what a killed run may have left."""
        path = self.folder / "metrics.csv"
        if self.config.resume:
            keep_rows_up_to(path, trainer.state.step, trainer.meter.empty)
        else:
            path.unlink(missing_ok=True)
        return MetricsFile(path, columns)

    def _warn_of_predictions(self, which: str, trainer: Trainer, data: Splits, metrics: Mapping[str, float]) -> None:
        """After the newest evaluation, which is of the split `which` if `metrics` hold its accuracy."""
        values = {name: metrics[f"{which}/{name}"] for name in trainer.task.names if f"{which}/{name}" in metrics}
        if not values or not self.ranks.is_main:
            return
        checkpoints = trainer.checkpoints
        if checkpoints is not None and checkpoints.ranking:
            split, _, name = checkpoints.monitor.partition("/")
            if which == split == "val":
                values[name] = checkpoints.ranking[0][0]  # of the best weights
        if complaint := trainer.prediction_check.complaint(which, values, data.classes, data.modality.unit):
            self.warnings.append(complaint)
            log.warning(complaint)

    def _tested(self, trainer: Trainer, data: Splits, modality: Modality, ears: Ears) -> dict[str, float]:
        """As `_test`; nothing where a signal comes before its end. A resumed run trains no more, and is tested then."""
        try:
            with ears.leaving(trainer):
                return self._test(trainer, data, modality)
        except Interrupted as signal:
            trainer.state.stop_reason, trainer.state.status = str(signal), "interrupted"
            return {}

    def _test(self, trainer: Trainer, data: Splits, modality: Modality) -> dict[str, float]:
        """The test split, read this once, with the best weights; on rank 0, which counts every sample."""
        if not self.ranks.is_main or data.test is None:
            return {}
        model: nn.Module = trainer.averaged.model
        checkpoints = trainer.checkpoints
        if checkpoints is not None and checkpoints.best is not None:
            load_weights(model, read_weights(checkpoints.best))
        with trainer.clocks.evaluation:
            values = trainer.evaluate(self._test_batches(data.test, modality), DistributedContext())
        return {f"test/{name}": value for name, value in values.items()}

    def _test_batches(self, test: Split, modality: Modality) -> EvalBatches:
        return build.eval_batches(
            self.config, test, modality, DistributedContext(), self.config.trainer.limit_test_batches
        )

    def _samples(self, trainer: Trainer, data: Splits, modality: Modality) -> dict[str, EvalBatches]:
        """The evaluations that read a part of their split, by its name."""
        test = None if data.test is None else self._test_batches(data.test, modality)
        every = {"val": trainer.val, "test": test}
        return {
            which: batches for which, batches in every.items() if batches is not None and batches.sample is not None
        }

    def _announce(self, trainer: Trainer, data: Splits, samples: Mapping[str, EvalBatches]) -> None:
        counts = accounting.parameters(trainer.model)
        sizes = ", ".join(f"{len(split)} {which}" for which, split in data.named().items())
        _, why = choose_precision(self.config.trainer.precision, self.device)
        log.info(f"data {data.name}: {sizes}, {len(data.classes)} classes, {'x'.join(map(str, data.shape))}")
        for which, batches in samples.items():
            log.info(f"{which}: {batches.extent}")
        log.info(
            f"model {self.config.model.label}: {human_count(counts.total)} parameters"
            f" ({human_count(counts.trainable)} trained), {trainer.precision.name} ({why}), {self.device}"
        )
        if line := told(self.chosen, len(data.train), data.modality.unit):
            log.info(line)
        if note := schedule_note(self.config, trainer):
            log.info(f"note: {note}")
        steps = trainer.state.step + trainer.steps_left
        log.info(f"{counted(steps, 'step')}, {trainer.train.steps_per_epoch} an epoch -> {self.folder}")

    def _facts(self, trainer: Trainer, data: Splits, modality: Modality) -> dict[str, Any]:
        """What is known before the first step."""
        counts = accounting.parameters(trainer.model)
        return {
            "model": {
                "name": self.config.model.label,
                "optimizer": self.config.optimizer.label,
                "parameters": counts.total,
                "trainable_parameters": counts.trainable,
            },
            "precision": trainer.precision.name,
            "device": str(self.device),
            "auto": self.chosen,
            "processes": self.ranks.world_size,
            "task": {"name": type(trainer.task).__name__.lower(), "metrics": as_recorded(trainer.task.displays)},
            "data": {
                "name": data.name,
                "sha256": data.sha256,
                "counts": {which: len(split) for which, split in data.named().items()},
                "modality": f"{data.modality.__module__}.{data.modality.__qualname__}",
                "unit": data.modality.unit,
                "shape": list(data.shape),
                "classes": list(data.classes),
                **modality.record(),
                **data.facts,
            },
            "environment": environment(),
            "git": git_state(Path.cwd()),
            "argv": sys.argv,
        }

    def _outcome(self, trainer: Trainer, test: dict[str, float]) -> dict[str, Any]:
        """What the training came to."""
        state, checkpoints, unit = trainer.state, trainer.checkpoints, trainer.train.modality.unit
        best = None
        if checkpoints is not None and checkpoints.ranking:
            value, name = checkpoints.ranking[0]
            best = {"metric": checkpoints.monitor, "value": value, "checkpoint": name}
        return {
            "status": state.status,
            "stop_reason": state.stop_reason,
            "warnings": self.warnings,
            "metrics": {**state.metrics, **test},
            "best": best,
            "epochs": state.epoch + state.batch / trainer.train.steps_per_epoch,
            "steps": state.step,
            "skipped_steps": state.skipped,
            "pieces": state.micro_batch_splits,
            seen_key(unit): state.samples_seen,
            "timing": {
                "started": self.begun.astimezone().isoformat(timespec="seconds"),
                "seconds": trainer.clocks.seconds(),
                "training_s": state.training_s,
                "elapsed_s": state.elapsed_s + trainer.clocks.seconds()["total"],  # of all sessions, as training_s
                throughput_key(unit): trainer.throughput.values(state.samples_seen).get(trainer.throughput.column),
                f"{throughput_key(unit)}_excludes_first_steps": WARMUP_STEPS,
            },
            "memory": peak_memory(),
        }

    def _draw(self, trainer: Trainer) -> None:
        """A picture must not cost a finished run."""
        try:
            title = f"{self.config.model.label} with {self.config.optimizer.label}"
            draw_curves(self.folder, title, trainer.task.displays)
        except Exception as error:  # noqa: BLE001
            log.warning(f"curves.png was not drawn: {error}")

    def _record_failure(self, error: BaseException) -> None:
        """A failure before a resumed run went on leaves its earlier record as it was."""
        before = (self.folder / "summary.json").is_file()
        if not self.ranks.is_main or not self.folder.is_dir() or (before and not self.facts):
            return
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        outcome = {"status": status, "error": f"{type(error).__name__}: {error}", "metrics": {}, "argv": sys.argv}
        self._count_macs()
        self.sessions.fail(status, outcome | self.facts)

    def _count_macs(self) -> None:
        """Here, where no step waits for them."""
        if self.facts:
            self.facts["model"]["macs"] = self.count_macs()


def _start(trainer: Trainer) -> Start:
    """For the loggers: what earlier sessions have told them."""
    state, every = trainer.state, trainer.intervals.log_steps
    last_logged = state.step - state.step % every
    in_epoch = state.batch if state.batch or trainer.meter.empty else state.steps_per_epoch
    return Start(state.step, trainer.meter.empty, in_epoch=last_logged > state.step - in_epoch)


@contextmanager
def _watched_to_the_end(trainer: Trainer) -> Iterator[None]:
    """Whoever watches hears of the run's end once, after its test; of an error as a failure, not as a good end.

    The model then gets its plain classes back: its factory may hand it out more than once.
    """
    try:
        yield
    except BaseException:
        trainer.state.status = "failed"
        raise
    finally:
        remove_acceleration(trainer.model)
        trainer.callbacks.run_end(trainer.context)


def _macs(model: nn.Module, modality: Modality) -> Callable[[], int | None]:
    """What counts the MACs of one sample; None for a model of the user's that cannot be copied or run without data.

    The copy is taken at once: what a model keeps of a training step may not let itself be copied.
    """

    def attempt(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - whatever such a model raises, it must not cost the run
            log.info(f"note: the model's MACs cannot be counted: {error}")
            return None

    shapes = attempt(lambda: accounting.without_data(model, "meta"))
    return lambda: None if shapes is None else attempt(lambda: accounting.macs(shapes, modality.example()).macs)
