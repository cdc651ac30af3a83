"""logger=tensorboard|wandb|mlflow: what metrics.csv holds, in their own files; without the library, what to install.

White-box: drives a logger's session without a server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from effbench.errors import EffbenchError
from effbench.records import read_metrics, read_summary
from effbench.report.curves import points
from effbench.run.session import _Session
from effbench.training.callbacks import Context, Progress
from effbench.training.loggers import LOGGERS, MetricLogger, Start
from effbench.training.trainer import Trainer
from tests.cli.conftest import TWENTY_STEPS, Effbench

LIBRARIES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARIES)
def test_missing_logger_extra_exits_4_and_leaves_no_folder(
    name: str, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, LIBRARIES[name], None)
    code, out, err = effbench("train", *TWENTY_STEPS, f"logger={name}")
    assert (code, out) == (4, "")
    assert f"pip install 'effbench[{name}]'" in err
    assert "epoch" not in err
    assert not any(tmp_path.iterdir())


def logged(folder: Path, column: str, kind: str) -> list[tuple[int, float]]:
    """(step, value) of the rows of metrics.csv that are of that kind, step or epoch."""
    return [
        (int(row["step"]), float(row[column])) for row in read_metrics(folder) if row["row"] == kind and row[column]
    ]


def final(folder: Path, name: str) -> Any:
    """The test metric of summary.json, as near as float32 keeps it."""
    return pytest.approx(read_summary(folder)["metrics"][name], rel=1e-5)


@pytest.mark.process
def test_tensorboard_reads_its_event_file_as_metrics_csv(effbench: Effbench, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert effbench("train", *TWENTY_STEPS, "logger=tensorboard", "hydra.run.dir=run")[0] == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    names = set(events.Tags()["scalars"])
    assert {"train/loss", "val/loss", "val/acc"} <= names
    assert any(name.startswith("lr/") for name in names)
    for name, kind in (("train/loss", "step"), ("val/loss", "epoch"), ("val/acc", "epoch")):
        told = [(event.step, event.value) for event in events.Scalars(name)]
        expected = logged(tmp_path / "run", name, kind)
        assert told == [(step, pytest.approx(value, rel=1e-5)) for step, value in expected]
    for name in ("test/loss", "test/acc"):
        assert [(event.step, event.value) for event in events.Scalars(name)] == [(20, final(tmp_path / "run", name))]


@pytest.mark.process
def test_wandb_writes_into_the_run_s_folder_without_a_network(
    effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert effbench("train", *TWENTY_STEPS, "logger=wandb", "hydra.run.dir=run")[0] == 0
    [file] = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    assert b"test/acc" in content
    assert b"test/loss" in content


@pytest.mark.process
@pytest.mark.filterwarnings("ignore")  # mlflow's own
def test_mlflow_writes_into_the_run_s_folder(effbench: Effbench, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    assert effbench("train", *TWENTY_STEPS, "logger=mlflow", "hydra.run.dir=run")[0] == 0
    assert (tmp_path / "run" / "mlflow.db").is_file()
    runs = mlflow.MlflowClient(f"sqlite:///{tmp_path}/run/mlflow.db").search_runs(["1"])
    [run] = runs
    assert run.data.metrics["val/acc"] == pytest.approx(logged(tmp_path / "run", "val/acc", "epoch")[-1][1], rel=1e-6)
    assert {name: run.data.metrics[name] for name in ("test/loss", "test/acc")} == {
        name: final(tmp_path / "run", name) for name in ("test/loss", "test/acc")
    }
    assert run.info.status == "FINISHED"


def tensorboard_points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every point of every file, whether TensorBoard would show it or not."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if "per_s" not in value.tag:
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def breaks_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def step_end(_: Any, context: Context) -> None:
        if context.state.step == step:
            raise EffbenchError("the cable was pulled")

    monkeypatch.setattr(Progress, "step_end", step_end)


@pytest.mark.process
@pytest.mark.row(13)
def test_tensorboard_of_a_crashed_and_resumed_run_has_no_gaps(
    effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    words = [*TWENTY_STEPS, "trainer.limit_train_batches=5", "trainer.max_epochs=4", "logger=tensorboard"]
    assert effbench("train", *words, "hydra.run.dir=whole")[0] == 0
    with monkeypatch.context() as broken:
        breaks_after(13, broken)  # steps 11 to 13 are in no checkpoint
        assert effbench("train", *words, "hydra.run.dir=run")[0] == 1
    assert max(step for step, _ in tensorboard_points(tmp_path / "run")["train/loss"]) == 12
    assert effbench("train", "resume=run")[0] == 0
    assert tensorboard_points(tmp_path / "run") == tensorboard_points(tmp_path / "whole")


@pytest.mark.process
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
@pytest.mark.filterwarnings("ignore")  # mlflow's own
def test_a_resumed_run_is_the_same_one_to_wandb_and_mlflow(
    name: str, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip(name)
    monkeypatch.setenv("WANDB_SILENT", "true")
    words = [*TWENTY_STEPS, "trainer.log_every_n_steps=1", f"logger={name}", "hydra.run.dir=run"]
    with monkeypatch.context() as broken:
        breaks_after(13, broken)
        assert effbench("train", *words)[0] == 1
    assert effbench("train", "resume=run", "optimizer.lr=1e-3")[0] == 0
    if name == "wandb":
        # offline-run-TIME-ID, with -1 behind it for the second of one second
        ids = [path.name.split("-")[3] for path in (tmp_path / "run").glob("wandb/offline-run-*")]
        assert (len(ids), len(set(ids))) == (2, 1)
        return
    assert not {"MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"} & os.environ.keys()  # else the next run goes there too
    client = library.MlflowClient(f"sqlite:///{tmp_path}/run/mlflow.db")
    [run] = client.search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == "0.003"
    assert run.data.tags["changed from step 10"] == "optimizer.lr=0.001"
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == list(range(1, 21))


@pytest.mark.process
def test_run_shorter_than_the_log_interval_has_a_training_curve(effbench: Effbench, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    words = [*TWENTY_STEPS, "trainer.log_every_n_steps=100", "logger=tensorboard", "hydra.run.dir=run"]
    assert effbench("train", *words)[0] == 0
    expected = logged(tmp_path / "run", "train/loss", "epoch")
    assert [step for step, _ in expected] == [10, 20]
    told = tensorboard_points(tmp_path / "run")["train/loss"]
    assert told == [(step, pytest.approx(value, rel=1e-5)) for step, value in expected]
    assert points(read_metrics(tmp_path / "run"), "train/loss") == expected


class Recorder(MetricLogger):
    """A logger's life, as its library would see it."""

    def __init__(self) -> None:
        super().__init__(Start())
        self.told: list[str] = []

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.told += values

    def run_end(self, context: Context) -> None:
        self.told.append(context.state.status)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """In the place of logger=tensorboard."""
    it = Recorder()
    monkeypatch.setitem(LOGGERS, "tensorboard", lambda *_: it)
    return it


@pytest.mark.process
def test_a_logger_gets_the_test_metrics_and_is_then_closed(recorder: Recorder, effbench: Effbench) -> None:
    assert effbench("train", *TWENTY_STEPS, "logger=tensorboard")[0] == 0
    assert recorder.told[-3:] == ["test/loss", "test/acc", "completed"]
    assert recorder.told.count("completed") == 1


@pytest.mark.process
def test_logger_of_a_diverged_run_is_closed_without_test_metrics(recorder: Recorder, effbench: Effbench) -> None:
    assert effbench("train", *TWENTY_STEPS, "optimizer.lr=1e30", "logger=tensorboard")[0] == 1
    assert recorder.told[-1] == "diverged"
    assert "test/acc" not in recorder.told


@pytest.mark.process
@pytest.mark.parametrize("broken", ["fit", "test"])
def test_a_logger_of_a_run_that_broke_is_closed_as_failed(
    broken: str, recorder: Recorder, effbench: Effbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cable(*_: object) -> None:
        raise EffbenchError("the cable was pulled")

    monkeypatch.setattr({"fit": Trainer, "test": _Session}[broken], {"fit": "update", "test": "_test"}[broken], cable)
    assert effbench("train", *TWENTY_STEPS, "logger=tensorboard")[0] == 1
    assert recorder.told[-1] == "failed"
    assert "test/acc" not in recorder.told


def test_csv_logger_creates_no_folder_of_other_loggers(run: Path) -> None:
    assert not (run / "tensorboard").exists()
    assert not (run / "wandb").exists()
