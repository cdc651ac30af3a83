"""Metrics to TensorBoard, Weights & Biases or MLflow, beside metrics.csv. Each library is an extra."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from effbench.errors import MissingExtraError
from effbench.training.callbacks import Callback
from effbench.training.state import TrainState


class MetricLogger(Callback):
    """One curve a metric: train/* from the logged steps, val/* from the epochs, whose train means would be spikes."""

    def logged(self, state: TrainState, values: Mapping[str, float]) -> None:
        self.log(values, state.step)

    def epoch_end(self, state: TrainState, values: Mapping[str, float]) -> None:
        self.log({name: value for name, value in values.items() if name.startswith("val/")}, state.step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Hands `values` to the library."""


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

    def fit_end(self, state: TrainState) -> None:
        self._writer.close()


class WandbLogger(MetricLogger):
    """A W&B run in the run folder's wandb/; offline ones are sent with `wandb sync`."""

    def __init__(self, folder: Path, params: Mapping[str, Any], project: str, offline: bool):
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("logger=wandb", "wandb") from error
        self._run: Any = wandb.init(
            project=project,
            dir=str(folder),
            mode="offline" if offline else "online",
            config=dict(params),
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def fit_end(self, state: TrainState) -> None:
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
        mlflow.set_experiment(project)
        mlflow.start_run(run_name=folder.name)
        mlflow.log_params({key: str(value)[:500] for key, value in _flat(params).items()})
        self._mlflow = mlflow

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def fit_end(self, state: TrainState) -> None:
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
