"""Loggers: metrics to TensorBoard, Weights & Biases or MLflow, in addition to metrics.csv. Each library is an extra."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.config.compare import leaves
from effbench.errors import MissingExtraError
from effbench.records import FINISHED, replacing, write_text
from effbench.redaction import redact
from effbench.training.callbacks import Callback, Context, HookReceiver

log = logging.getLogger(__name__)

IDS = "logger.json"  # in the run folder: ids of the run at W&B and MLflow
LONGEST_PARAM, LONGEST_TAG = 500, 5000  # characters, below the limits of MLflow, which refuses longer ones


@dataclass(frozen=True)
class Start:
    """Where a session starts.

    Attributes:
        step: optimizer steps taken before it.
        epoch_ended: True if the row of an epoch that ended at `step` is already logged.
        in_epoch: True if a step of the current epoch is already logged.
    """

    step: int = 0
    epoch_ended: bool = True
    in_epoch: bool = False


class MetricLogger(Callback):
    """Base of the loggers. One curve a metric: train/* from logged steps, val/* and callbacks' columns from all rows.

    The train means of an epoch would look like spikes between the logged steps, so they are logged only for epochs
    without a logged step. test/* is one point at the last step. The test runs after the fit, so run_end closes the
    library.
    """

    def __init__(self, start: Start):
        self.start = start
        self._in_epoch = start.in_epoch

    def logged(self, context: Context, values: Mapping[str, float]) -> None:
        self._in_epoch = True
        self.log(values, context.state.step)

    def epoch_end(self, context: Context, values: Mapping[str, float]) -> None:
        shown = {
            name: value
            for name, value in values.items()
            if not name.startswith(("train/", "lr/")) or not self._in_epoch
        }
        self._in_epoch = False
        self.log(shown, context.state.step)

    def tested(self, context: Context, values: Mapping[str, float]) -> None:
        self.log(values, context.state.step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send `values` to the library."""


class FaultTolerantLogger(HookReceiver):
    """A logger whose failure (full disk, no network) ends its log, not the run."""

    def __init__(self, logger: Callback, name: str):
        self._logger: Callback | None = logger
        self._name = name

    def call(self, hook: str, *args: Any) -> None:
        if self._logger is None:
            return
        try:
            getattr(self._logger, hook)(*args)
        except Exception as error:  # noqa: BLE001 - a library may raise anything
            self._logger = None
            log.warning(f"logger={self._name} stopped: {error}; training continues")


class TensorBoardLogger(MetricLogger):
    """Event files in tensorboard/ of the run folder. Points that a session logs again are removed from earlier files.

    Args:
        folder: the run folder.
        params: the config (unused).
        project: unused.
        offline: unused.
        start: where the session starts.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, params: Mapping[str, Any], project: str, offline: bool, start: Start):
        super().__init__(start)
        del params, project, offline
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("logger=tensorboard", "tensorboard") from error
        for path in sorted((folder / "tensorboard").glob("events.out.tfevents.*")):
            _cut_events(path, start)
        # A file of its own for each session; TensorBoard shows all files of a folder as one run.
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def saving(self, context: Context) -> None:
        """Write the points to disk: a run that resumes from this checkpoint needs the points before it."""
        self._writer.flush()

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def run_end(self, context: Context) -> None:
        self._writer.close()


def _cut_events(path: Path, start: Start) -> None:
    """Remove the points that the session at `start` will log again, and a record that a kill cut short."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    records = list(RawEventFileLoader(str(path)).Load())
    points = [(event.step, {value.tag for value in event.summary.value}) for event in map(Event.FromString, records)]
    # At start.step itself an epoch's row is logged again, and a step's row is not. A point does not say which row it
    # is of, but all points of a file at start.step are of one row: the session that saved the checkpoint ended there,
    # before the epoch's row, and the next session wrote a file of its own. A step's row has learning rates; an epoch's
    # row has them only if no step of the epoch was logged.
    is_step_row = start.in_epoch and any(
        step == start.step and tag.startswith("lr/") for step, tags in points for tag in tags
    )
    end = start.step + 1 if start.epoch_ended or is_step_row else start.step
    kept = [record for record, (step, tags) in zip(records, points, strict=True) if not tags or step < end]
    if len(kept) < len(records):
        with replacing(path) as stream:
            writer = RecordWriter(stream)
            for record in kept:
                writer.write(record)


def _run_id(folder: Path, library: str, start: Start) -> str | None:
    """Return the id that the library gave this run in an earlier session, or None."""
    path = folder / IDS
    if start.step == 0 or not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[library]
    except (ValueError, KeyError, TypeError):  # an edited file: a new run at the library is better than none
        return None
    return found if isinstance(found, str) else None


class WandbLogger(MetricLogger):
    """One W&B run in wandb/ of the run folder, the same in each session. `wandb sync` uploads offline runs.

    W&B ignores steps that it already has.

    Args:
        folder: the run folder.
        params: the config, recorded without secrets.
        project: W&B project.
        offline: write to the folder only.
        start: where the session starts.

    Raises:
        MissingExtraError: wandb is not installed.
    """

    def __init__(self, folder: Path, params: Mapping[str, Any], project: str, offline: bool, start: Start):
        super().__init__(start)
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("logger=wandb", "wandb") from error
        before = _run_id(folder, "wandb", start)
        self._run: Any = wandb.init(
            id=before,
            resume="allow" if before and not offline else None,  # offline sessions are joined by their id
            project=redact(project),
            dir=str(folder.resolve()),  # W&B's process outlives a session and keeps the working directory it began in
            mode="offline" if offline else "online",
            config=dict(redact(params)),
            # W&B's metadata would hold the command line, the git remote and the user's name
            settings=wandb.Settings(console="off", silent=True, x_disable_meta=True, disable_git=True, save_code=False),
        )
        write_text(folder / IDS, json.dumps({"wandb": self._run.id}) + "\n")

    def log(self, values: Mapping[str, float], step: int) -> None:
        # Of two rows of one step W&B keeps one, with the values of both.
        self._run.log(dict(values), step=step)

    def run_end(self, context: Context) -> None:
        self._run.summary["status"] = context.state.status
        # Without an exit code W&B would record every run of a process that goes on as finished.
        self._run.finish(exit_code=0 if context.state.status in FINISHED else 1)


class MlflowLogger(MetricLogger):
    """One MLflow run, the same in each session, in MLFLOW_TRACKING_URI or, without it, in mlflow.db of the run folder.

    MLflow cannot delete a value or a parameter. Steps that it already has are not logged again, and parameters that a
    later session changed become a tag.

    Args:
        folder: the run folder.
        params: the config, recorded without secrets.
        project: MLflow experiment.
        offline: unused.
        start: where the session starts.

    Raises:
        MissingExtraError: mlflow is not installed.
    """

    def __init__(self, folder: Path, params: Mapping[str, Any], project: str, offline: bool, start: Start):
        super().__init__(start)
        del offline
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtraError("logger=mlflow", "mlflow") from error
        self._mlflow: Any = mlflow
        self._reached: dict[str, int] = {}  # metric -> last step that earlier sessions logged
        before = _run_id(folder, "mlflow", start)

        # MLflow sets environment variables, which the next run of this process would take for the user's settings.
        variables = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")}
        try:
            own = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
            mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", own))
            self._run_id = self._begin(folder.name, redact(project), before)
        finally:
            for name, value in variables.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

        self._log_params({key: str(value)[:LONGEST_PARAM] for key, value in leaves(redact(params)).items()})
        write_text(folder / IDS, json.dumps({"mlflow": self._run_id}) + "\n")

    def _begin(self, name: str, project: str, before: str | None) -> str:
        """Start the run, or continue the run with the id `before`; return its id.

        Args:
            name: name of a new run.
            project: experiment of a new run.
            before: id of the run in an earlier session, or None.
        """
        if before is not None:
            try:
                experiment = self._mlflow.MlflowClient().get_run(before).info.experiment_id
                # Another run of this process may have set another one, and MLflow refuses a run of a different one.
                self._mlflow.set_experiment(experiment_id=experiment)
                return str(self._mlflow.start_run(run_id=before).info.run_id)
            except self._mlflow.exceptions.MlflowException as error:
                log.warning(f"logger=mlflow cannot continue run {before}, it starts a new one: {error}")
        self._mlflow.set_experiment(project)
        return str(self._mlflow.start_run(run_name=name).info.run_id)

    def _log_params(self, params: Mapping[str, str]) -> None:
        """Log new parameters, and changed ones as a tag; remember how far each metric was logged."""
        client = self._mlflow.MlflowClient()
        data = client.get_run(self._run_id).data
        self._mlflow.log_params({key: value for key, value in params.items() if key not in data.params})
        changed = {key: value for key, value in params.items() if data.params.get(key, value) != value}
        if changed:
            listed = ", ".join(f"{key}={value}" for key, value in changed.items())
            self._mlflow.set_tag(f"changed from step {self.start.step}", listed[:LONGEST_TAG])
        for name in data.metrics:  # the newest value of each, without its history
            self._reached[name] = max(point.step for point in client.get_metric_history(self._run_id, name))

    def log(self, values: Mapping[str, float], step: int) -> None:
        # By metric: an interrupted session may have logged a step without the row of the epoch that it ended.
        new = {name: value for name, value in values.items() if step > self._reached.get(name, -1)}
        self._mlflow.log_metrics(new, step=step)

    def run_end(self, context: Context) -> None:
        good = context.state.status in FINISHED
        self._mlflow.end_run("FINISHED" if good else "FAILED")


LOGGERS: dict[str, Callable[..., Callback]] = {
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
    "mlflow": MlflowLogger,
}
