"""logger=tensorboard|wandb|mlflow: what metrics.csv holds, in their own files; without the library, what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from effbench.records import read_metrics
from tests.commands.conftest import TWENTY_STEPS, Effbench

LIBRARIES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_extra_is_named_with_exit_code_4_and_leaves_no_folder(
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


def test_wandb_writes_into_the_run_s_folder_without_a_network(
    effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert effbench("train", *TWENTY_STEPS, "logger=wandb", "hydra.run.dir=run")[0] == 0
    assert list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.filterwarnings("ignore")  # mlflow's own
def test_mlflow_writes_into_the_run_s_folder(effbench: Effbench, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    assert effbench("train", *TWENTY_STEPS, "logger=mlflow", "hydra.run.dir=run")[0] == 0
    assert (tmp_path / "run" / "mlflow.db").is_file()
    runs = mlflow.MlflowClient(f"sqlite:///{tmp_path}/run/mlflow.db").search_runs(["1"])
    [run] = runs
    assert run.data.metrics["val/acc"] == pytest.approx(logged(tmp_path / "run", "val/acc", "epoch")[-1][1], rel=1e-6)
    assert run.info.status == "FINISHED"


def test_the_folder_of_the_other_loggers_stays_the_documented_one_with_csv(run: Path) -> None:
    assert not (run / "tensorboard").exists()
    assert not (run / "wandb").exists()
