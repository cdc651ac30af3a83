"""Metrics to TensorBoard, Weights & Biases or MLflow, beside metrics.csv. Each library is an extra."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from effbench.errors import MissingExtraError
from effbench.redaction import redact
from effbench.training.callbacks import Callback
from effbench.training.state import TrainState


class MetricLogger(Callback):
    """One curve a metric: train/* from the logged steps, val/* from the epochs, whose train means would be spikes.

    test/* is one point, at the last step. The test follows the fit, so the libraries are closed by run_end.
    """

    def logged(self, state: TrainState, values: Mapping[str, float]) -> None:
        self.log(values, state.step)

    def epoch_end(self, state: TrainState, values: Mapping[str, float]) -> None:
        self.log({name: value for name, value in values.items() if name.startswith("val/")}, state.step)

    def tested(self, state: TrainState, values: Mapping[str, float]) -> None:
        self.log(values, state.step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Hands `values` to the library."""


class Spared(Callback):
    """A logger whose failure (a full disk, no network) costs its log, not the run."""

    def __init__(self, logger: Callback, name: str):
        self._logger: Callback | None = logger
        self._name = name

    def logged(self, state: TrainState, values: Mapping[str, float]) -> None:
        self._try(lambda logger: logger.logged(state, values))

    def epoch_end(self, state: TrainState, values: Mapping[str, float]) -> None:
        self._try(lambda logger: logger.epoch_end(state, values))

    def tested(self, state: TrainState, values: Mapping[str, float]) -> None:
        self._try(lambda logger: logger.tested(state, values))

    def run_end(self, state: TrainState) -> None:
        self._try(lambda logger: logger.run_end(state))

    def _try(self, call: Callable[[Callback], None]) -> None:
        if self._logger is None:
            return
        try:
            call(self._logger)
        except Exception as error:  # noqa: BLE001 - whatever a library raises
            self._logger = None
            print(f"warning: logger={self._name} ends here: {error}; training goes on", file=sys.stderr)


class TensorBoardLogger(MetricLogger):
    """Event files in the run folder's tensorboard/."""

    def __init__(self, folder: Path, params: Mapping[str, Any], project: str, offline: bool):
        del params, project, offline
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("logger=tensorboard", "tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def run_end(self, state: TrainState) -> None:
        self._writer.close()


class WandbLogger(MetricLogger):
    """A W&B run in the run folder's wandb/; offline ones are sent with `wandb sync`."""

    def __init__(self, folder: Path, params: Mapping[str, Any], project: str, offline: bool):
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("logger=wandb", "wandb") from error
        self._run: Any = wandb.init(
            project=redact(project),
            dir=str(folder),
            mode="offline" if offline else "online",
            config=dict(redact(params)),
            # its own metadata would hold the command line, the git remote and the user's name
            settings=wandb.Settings(console="off", silent=True, x_disable_meta=True, disable_git=True, save_code=False),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def run_end(self, state: TrainState) -> None:
        self._run.summary["status"] = state.status
        self._run.finish(exit_code=0 if state.status in ("completed", "stopped_early") else 1)


class MlflowLogger(MetricLogger):
    """An MLflow run; MLFLOW_TRACKING_URI decides where, by default mlflow.db in the run folder."""

    def __init__(self, folder: Path, params: Mapping[str, Any], project: str, offline: bool):
        del offline
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtraError("logger=mlflow", "mlflow") from error
        import os

        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').resolve()}")
        mlflow.set_experiment(redact(project))
        mlflow.start_run(run_name=folder.name)
        mlflow.log_params({key: str(value)[:500] for key, value in _flat(redact(params)).items()})
        self._mlflow = mlflow

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def run_end(self, state: TrainState) -> None:
        good = state.status in ("completed", "stopped_early")
        self._mlflow.end_run("FINISHED" if good else "FAILED")


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
