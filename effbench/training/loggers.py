"""Metrics to TensorBoard, Weights & Biases or MLflow, beside metrics.csv. Each library is an extra."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.config.compare import EPHEMERAL_KEYS
from effbench.errors import MissingExtraError
from effbench.records import FINISHED, replacing, write_text
from effbench.redaction import redact
from effbench.training.callbacks import Callback, Context, Forwarding

log = logging.getLogger(__name__)

IDS = "logger.json"  # in the run's folder: the names of its runs at W&B and MLflow


@dataclass(frozen=True)
class Start:
    """Where a session starts. epoch_ended: whether the row of an epoch that ended there is logged.

    in_epoch: whether a step of the epoch at hand is logged.
    """

    step: int = 0
    epoch_ended: bool = True
    in_epoch: bool = False

    def follows(self, step: int, name: str) -> bool:
        """Whether this session logs that metric of that step (again)."""
        return step > self.step or (step == self.step and not self.epoch_ended and name.startswith("val/"))


class MetricLogger(Callback):
    """One curve a metric: train/* from the logged steps, val/* from the epochs.

    Train means of an epoch would be spikes between the logged steps: they are told of epochs that have none of those.
    test/* is one point, at the last step. The test follows the fit, so the libraries are closed by run_end.
    """

    def __init__(self, start: Start):
        self.start = start
        self._in_epoch = start.in_epoch

    def logged(self, context: Context, values: Mapping[str, float]) -> None:
        self._in_epoch = True
        self.log(values, context.state.step)

    def epoch_end(self, context: Context, values: Mapping[str, float]) -> None:
        told = {name: value for name, value in values.items() if name.startswith("val/") or not self._in_epoch}
        self._in_epoch = False
        self.log(told, context.state.step)

    def tested(self, context: Context, values: Mapping[str, float]) -> None:
        self.log(values, context.state.step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Hands `values` to the library."""


class FaultTolerantLogger(Forwarding):
    """A logger whose failure (a full disk, no network) costs its log, not the run."""

    def __init__(self, logger: Callback, name: str):
        self._logger: Callback | None = logger
        self._name = name

    def call(self, hook: str, *args: Any) -> None:
        if self._logger is None:
            return
        try:
            getattr(self._logger, hook)(*args)
        except Exception as error:  # noqa: BLE001 - whatever a library raises
            self._logger = None
            log.warning(f"logger={self._name} ends here: {error}; training goes on")


class TensorBoardLogger(MetricLogger):
    """Event files in the run folder's tensorboard/; what a session logs again is taken out of earlier ones."""

    def __init__(self, folder: Path, params: Mapping[str, Any], project: str, offline: bool, start: Start):
        super().__init__(start)
        del params, project, offline
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("logger=tensorboard", "tensorboard") from error
        for path in sorted((folder / "tensorboard").glob("events.out.tfevents.*")):
            _cut_events(path, start)
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def saving(self, context: Context) -> None:
        """A run that goes on from the checkpoint must find the points before it."""
        self._writer.flush()

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def run_end(self, context: Context) -> None:
        self._writer.close()


def _cut_events(path: Path, start: Start) -> None:
    """Leaves what the session at `start` will not log again, up to a record that a kill tore."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    def stays(record: bytes) -> bool:
        event = Event.FromString(record)
        return not any(start.follows(event.step, value.tag) for value in event.summary.value)

    records = list(RawEventFileLoader(str(path)).Load())
    kept = [record for record in records if stays(record)]
    if len(kept) < len(records):
        with replacing(path) as stream:
            writer = RecordWriter(stream)
            for record in kept:
                writer.write(record)


def _run_id(folder: Path, library: str, start: Start) -> str | None:
    """What the library called the run in an earlier session that this one continues."""
    path = folder / IDS
    if start.step == 0 or not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[library]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _keep_run_id(folder: Path, library: str, run_id: str) -> None:
    write_text(folder / IDS, json.dumps({library: run_id}) + "\n")


class WandbLogger(MetricLogger):
    """A W&B run in the run folder's wandb/, the same one in each session; offline ones are sent with `wandb sync`.

    W&B itself leaves out steps that it has.
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
            resume="allow" if before and not offline else None,  # an offline session is joined by its id alone
            project=redact(project),
            dir=str(folder),
            mode="offline" if offline else "online",
            config=dict(redact(params)),
            # its own metadata would hold the command line, the git remote and the user's name
            settings=wandb.Settings(console="off", silent=True, x_disable_meta=True, disable_git=True, save_code=False),
        )
        _keep_run_id(folder, "wandb", self._run.id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def run_end(self, context: Context) -> None:
        self._run.summary["status"] = context.state.status
        self._run.finish(exit_code=0 if context.state.status in FINISHED else 1)


class MlflowLogger(MetricLogger):
    """An MLflow run, the same one in each session; MLFLOW_TRACKING_URI decides where, by default the run's mlflow.db.

    MLflow forgets no value and no parameter: steps that it has are not logged again, and parameters that a later
    session changed become a tag.
    """

    def __init__(self, folder: Path, params: Mapping[str, Any], project: str, offline: bool, start: Start):
        super().__init__(start)
        del offline
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtraError("logger=mlflow", "mlflow") from error
        self._mlflow: Any = mlflow
        self._reached: dict[str, int] = {}  # the last step that earlier sessions logged, by metric
        before = _run_id(folder, "mlflow", start)
        with _mlflow_variables_kept():
            own = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
            mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", own))
            self._begin(folder.name, redact(project), before)
        lasting = {key: value for key, value in params.items() if key not in EPHEMERAL_KEYS}
        self._tell_params({key: str(value)[:500] for key, value in _flat(redact(lasting)).items()})
        _keep_run_id(folder, "mlflow", self._run_id)

    @property
    def _run_id(self) -> str:
        return str(self._mlflow.active_run().info.run_id)

    def _begin(self, name: str, project: str, before: str | None) -> None:
        if before is not None:
            try:
                experiment = self._mlflow.MlflowClient().get_run(before).info.experiment_id
                self._mlflow.set_experiment(experiment_id=experiment)  # an earlier run here may have chosen another
                self._mlflow.start_run(run_id=before)
                return
            except self._mlflow.exceptions.MlflowException as error:
                log.warning(f"logger=mlflow cannot go on with run {before}, a new one begins: {error}")
        self._mlflow.set_experiment(project)
        self._mlflow.start_run(run_name=name)

    def _tell_params(self, params: Mapping[str, str]) -> None:
        client = self._mlflow.MlflowClient()
        data = client.get_run(self._run_id).data
        self._mlflow.log_params({key: value for key, value in params.items() if key not in data.params})
        changed = {key: value for key, value in params.items() if data.params.get(key, value) != value}
        if changed:
            listed = ", ".join(f"{key}={value}" for key, value in changed.items())
            self._mlflow.set_tag(f"changed from step {self.start.step}", listed[:5000])
        for name in data.metrics:
            self._reached[name] = max(point.step for point in client.get_metric_history(self._run_id, name))

    def log(self, values: Mapping[str, float], step: int) -> None:
        new = {name: value for name, value in values.items() if step > self._reached.get(name, -1)}
        self._mlflow.log_metrics(new, step=step)

    def run_end(self, context: Context) -> None:
        good = context.state.status in FINISHED
        self._mlflow.end_run("FINISHED" if good else "FAILED")


@contextmanager
def _mlflow_variables_kept() -> Iterator[None]:
    """MLflow exports what it is told: the next run of this process would take that for the user's wish."""
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


LOGGERS: dict[str, Callable[..., Callback]] = {
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
    "mlflow": MlflowLogger,
}


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
