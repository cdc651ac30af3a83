"""logger=tensorboard|wandb|mlflow: what metrics.csv holds, in their own files; without the library, what to install.

White-box: drives a logger's session without a server.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from effbench.errors import EffbenchError
from effbench.records import read_metrics, read_summary
from effbench.report.curves import points
from effbench.run.session import TrainingSession
from effbench.training import checkpoint
from effbench.training.callbacks import Callback, Context, Progress
from effbench.training.loggers import LOGGERS, MetricLogger, Start
from effbench.training.trainer import Trainer
from tests.cli.conftest import TWENTY_STEPS, Effbench

LIBRARIES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


@pytest.mark.spread(1)
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


@pytest.mark.proof
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


@pytest.mark.proof
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


@pytest.mark.proof
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
        # By the file's name: W&B adds "-1" to the folder's, after the id, if both sessions start in the same second.
        ids = [path.stem for path in (tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb")]
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


class Gap(Callback):
    """Columns that only rows of steps have, only rows of epochs, and both."""

    columns = ("norm", "gap", "own/both")
    interrupted_after: int | None = None

    def before_step(self, context: Context) -> None:
        squares = [parameter.grad.square().sum() for parameter in context.model.parameters()]
        context.log("norm", torch.stack(squares).sum().sqrt())

    def step_end(self, context: Context) -> None:
        if context.state.step == self.interrupted_after:
            context.trainer.interrupted_by = "SIGTERM"

    def logged(self, context: Context, values: Mapping[str, float]) -> None:
        context.log("own/both", values["train/loss"])

    def epoch_end(self, context: Context, values: Mapping[str, float]) -> None:
        context.log("gap", values["val/loss"] - values["train/loss"])
        context.log("own/both", values["val/loss"])


# Steps 5 and 15 have a row of their own, and 10 and 20 a row of the step and one of the epoch.
WITH_COLUMNS = [
    *TWENTY_STEPS, "trainer.log_every_n_steps=5", "+callbacks.mine={_target_:tests.cli.test_loggers.Gap}",
    "allow_targets=[tests.cli]",
]  # fmt: skip


def wandb_points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every value of the history in the offline files."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for record in map(Record.FromString, leveldb_records(path.read_bytes())):
            values = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
            for name, value in values.items():
                found.setdefault(name, []).append((int(values["_step"]), float(value)))
    return found


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """Records of a log file in LevelDB's format, after W&B's header of 7 bytes.

    Blocks of 32 KiB; in front of each part of a record a checksum of 4 bytes, its size in 2 and its kind in 1.
    """
    full, last, header, block = 1, 4, 7, 32768
    at, record = header, b""
    while at + header <= len(content):
        if (left := block - at % block) < header:  # too little for a part: padding
            at += left
            continue
        size, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + header : at + header + size]
        at += header + size
        if kind in (full, last):
            yield record
            record = b""


def mlflow_points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    [run] = client.search_runs(["1"])
    return {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.filterwarnings("ignore")  # mlflow's own
def test_columns_of_a_callback_reach_each_logger(
    name: str, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_SILENT", "true")
    code, _, err = effbench("train", *WITH_COLUMNS, f"logger={name}", "hydra.run.dir=run")
    assert code == 0
    assert f"logger={name} stopped" not in err
    points = {"tensorboard": tensorboard_points, "wandb": wandb_points, "mlflow": mlflow_points}[name](tmp_path / "run")
    for column, steps in (("norm", [5, 10, 15, 20]), ("gap", [10, 20]), ("own/both", [5, 10, 10, 15, 20, 20])):
        rows = [(int(row["step"]), float(row[column])) for row in read_metrics(tmp_path / "run") if row[column]]
        assert [step for step, _ in rows] == steps
        expected = list(dict(rows).items()) if name == "wandb" else rows  # W&B has one row a step
        assert sorted(points[column]) == [(step, pytest.approx(value, rel=1e-5)) for step, value in sorted(expected)]


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(13)
def test_columns_of_an_epoch_interrupted_at_its_end_come_once(
    effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of the epoch is logged after the resume, and again after a second one from the same checkpoint."""

    def no_power(*_: object) -> None:
        raise EffbenchError("the cable was pulled")

    pytest.importorskip("tensorboard")
    words, resume = [*WITH_COLUMNS, "logger=tensorboard"], ["resume=run", "allow_targets=[tests.cli]"]
    assert effbench("train", *words, "hydra.run.dir=whole")[0] == 0
    monkeypatch.setattr(Gap, "interrupted_after", 10)
    effbench("train", *words, "hydra.run.dir=run")
    assert read_summary(tmp_path / "run")["status"] == "interrupted"
    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "write_checkpoint", no_power)  # after the row of the epoch, before its checkpoint
        assert effbench("train", *resume)[0] == 1
    assert tensorboard_points(tmp_path / "run")["gap"][-1][0] == 10
    assert effbench("train", *resume)[0] == 0
    assert tensorboard_points(tmp_path / "run") == tensorboard_points(tmp_path / "whole")


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

    monkeypatch.setattr(
        {"fit": Trainer, "test": TrainingSession}[broken], {"fit": "update", "test": "_test"}[broken], cable
    )
    assert effbench("train", *TWENTY_STEPS, "logger=tensorboard")[0] == 1
    assert recorder.told[-1] == "failed"
    assert "test/acc" not in recorder.told


def test_csv_logger_creates_no_folder_of_other_loggers(run: Path) -> None:
    assert not (run / "tensorboard").exists()
    assert not (run / "wandb").exists()
