"""Ctrl-C, SIGTERM, and going on: in the same folder, to the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from effbench.errors import EffbenchError
from effbench.records import read_metrics
from effbench.training.callbacks import Progress
from tests.commands.conftest import Effbench

pytestmark = pytest.mark.xdist_group("resume")  # they share what a module fixture trains

# Batch norm, dropout, augmentation, EMA, warm-up, clipping and momentum: whatever could be lost in between.
FOUR_EPOCHS_OF_FIVE_STEPS = [
    "model=cnn", "model.channels=[4,8]", "model.hidden=16", "optimizer=adamw", "optimizer.lr=3e-3", "ema=on",
    "augment=strong", "scheduler=cosine", "scheduler.warmup=3", "data=synthetic", "data.num_train=40",
    "data.num_val=16", "data.num_test=16", "data.image_size=8", "data.batch_size=8",
    "trainer.max_epochs=4", "trainer.log_every_n_steps=1",
    "early_stopping.patience=50", "device.threads=1",
]  # fmt: skip


class SendsSignal:
    """Sends this process a signal after the given step, as a user or a scheduler would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self._monkeypatch = monkeypatch

    def __call__(self, number: int, step: int) -> None:
        def step_end(_: Any, state: Any) -> None:
            if state.step == step:
                os.kill(os.getpid(), number)

        self._monkeypatch.setattr(Progress, "step_end", step_end)

    def never(self) -> None:
        self._monkeypatch.setattr(Progress, "step_end", lambda *_: None)


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> SendsSignal:
    return SendsSignal(monkeypatch)


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    last = folder / "checkpoints" / "last"
    return {**load_file(last / "model.safetensors"), **load_file(last / "ema.safetensors")}


def rows(folder: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if "per_s" not in key} for row in read_metrics(folder)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from effbench import cli

    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert cli.main(["train", *FOUR_EPOCHS_OF_FIVE_STEPS, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_after_its_step_saved_and_says_how_to_go_on(
    number: int, code: int, send: SendsSignal, effbench: Effbench, tmp_path: Path
) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    send(number, 7)
    result, out, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")
    assert result == code
    assert "interrupted" in out
    assert "effbench train resume=run" in err
    assert summary(tmp_path / "run")["status"] == "interrupted"
    assert summary(tmp_path / "run")["steps"] == 7
    assert "test/acc" not in summary(tmp_path / "run")["metrics"]
    assert (tmp_path / "run" / "checkpoints" / "last").resolve().name == "step-00000007"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


@pytest.mark.parametrize("steps", [(5,), (7,), (20,), (1, 4, 19)], ids=str)
def test_a_resumed_run_ends_as_the_uninterrupted_one_bit_for_bit(
    steps: tuple[int, ...], uninterrupted: Path, send: SendsSignal, effbench: Effbench, tmp_path: Path
) -> None:
    words = [*FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run"]
    for step in steps:
        send(signal.SIGTERM, step)
        assert effbench("train", *words)[0] == 143
        words = ["resume=run"]
    send.never()
    assert effbench("train", *words)[0] == 0
    mine, reference = tmp_path / "run", uninterrupted
    assert summary(mine)["status"] == "completed"
    assert weights(mine).keys() == weights(reference).keys()
    assert all(torch.equal(tensor, weights(reference)[name]) for name, tensor in weights(mine).items())
    assert rows(mine) == rows(reference)
    assert summary(mine)["metrics"] == summary(reference)["metrics"]
    assert summary(mine)["best"] == summary(reference)["best"]
    assert summary(mine)["images_seen"] == summary(reference)["images_seen"]
    assert not (tmp_path / "outputs").exists()


def test_a_run_that_broke_goes_on_from_its_last_checkpoint_and_logs_no_step_twice(
    uninterrupted: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step_end(_: Any, state: Any) -> None:
        if state.step == 8:
            raise EffbenchError("the plug was pulled")

    with monkeypatch.context() as broken:
        broken.setattr(Progress, "step_end", step_end)
        assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")[0] == 1
    assert rows(tmp_path / "run")[-1]["step"] == "8"
    assert (tmp_path / "run" / "checkpoints" / "last").resolve().name == "step-00000005"
    assert effbench("train", "resume=run")[0] == 0
    assert rows(tmp_path / "run") == rows(uninterrupted)
    assert all(torch.equal(tensor, weights(uninterrupted)[name]) for name, tensor in weights(tmp_path / "run").items())


def test_resume_takes_a_new_length_and_keeps_it_for_the_next_time(
    send: SendsSignal, effbench: Effbench, tmp_path: Path
) -> None:
    send(signal.SIGINT, 2)
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")[0] == 130
    send(signal.SIGINT, 4)
    assert effbench("train", "resume=run", "trainer.max_epochs=2")[0] == 130
    send.never()
    assert effbench("train", "resume=run/")[0] == 0
    assert summary(tmp_path / "run")["steps"] == 10
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"]["max_epochs"] == 2


def test_resuming_a_finished_run_changes_nothing_and_says_so(uninterrupted: Path, effbench: Effbench) -> None:
    def stamps() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in uninterrupted.rglob("*.*") if path.is_file()}

    before = stamps()
    code, out, err = effbench("train", f"resume={uninterrupted}")
    assert code == 0
    assert "is finished" in err
    assert "completed" in out
    after = stamps()
    assert {path for path in before if before[path] != after.get(path)} <= {
        str(uninterrupted / ".hydra" / "overrides.yaml")
    }
    assert before.keys() == after.keys()


def test_a_run_killed_between_its_last_step_and_its_test_is_tested_on_resume(
    uninterrupted: Path, effbench: Effbench, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(uninterrupted, tmp_path / "run", symlinks=True)
    (tmp_path / "run" / "summary.json").unlink()
    assert effbench("train", "resume=run")[0] == 0
    assert summary(tmp_path / "run")["metrics"] == summary(uninterrupted)["metrics"]


def test_a_run_folder_may_be_moved(uninterrupted: Path, send: SendsSignal, effbench: Effbench, tmp_path: Path) -> None:
    send(signal.SIGTERM, 6)
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")[0] == 143
    (tmp_path / "else where").mkdir()
    (tmp_path / "run").rename(tmp_path / "else where" / "it's")
    send.never()
    assert effbench("train", "resume=else where/it's")[0] == 0
    moved = tmp_path / "else where" / "it's"
    assert all(torch.equal(tensor, weights(uninterrupted)[name]) for name, tensor in weights(moved).items())


# --- resume=auto ------------------------------------------------------------------------------------------------------


def test_resume_auto_continues_the_newest_unfinished_run_of_this_config(
    send: SendsSignal, effbench: Effbench, tmp_path: Path
) -> None:
    send.never()
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS)[0] == 0  # finished
    send(signal.SIGTERM, 6)
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "seed=1")[0] == 143  # another config
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS)[0] == 143
    folders = {path.parent for path in tmp_path.glob("outputs/*/*/config.yaml")}
    send.never()
    code, _, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "resume=auto")
    assert code == 0
    assert "starting afresh" not in err
    assert {path.parent for path in tmp_path.glob("outputs/*/*/config.yaml")} == folders
    assert sorted(summary(folder)["status"] for folder in folders) == ["completed", "completed", "interrupted"]


def test_resume_auto_starts_afresh_where_there_is_nothing_to_continue(effbench: Effbench, tmp_path: Path) -> None:
    code, _, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "trainer.max_epochs=1", "resume=auto")
    assert code == 0
    assert "starting afresh" in err
    assert len(list(tmp_path.glob("outputs/*/*/summary.json"))) == 1


def test_resume_auto_knows_a_run_by_its_recipe_file(send: SendsSignal, effbench: Effbench, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# @package _global_\ndefaults:\n  - override /model: mlp\n")
    words = ["recipe=mine.yaml", *FOUR_EPOCHS_OF_FIVE_STEPS[3:]]
    send(signal.SIGTERM, 6)
    assert effbench("train", *words)[0] == 143
    send.never()
    assert effbench("train", *words, "resume=auto")[0] == 0
    assert len(list(tmp_path.glob("outputs/*/*"))) == 1


# --- what cannot go on ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model=resnet18"], ["model.channels"]),  # the run's own overrides hold still
        (["optimizer=lion"], ["optimizer", "torch.optim.AdamW", "effbench.optimizers.Lion"]),
        (["scheduler=constant"], ["scheduler", "effbench.schedulers.Cosine"]),
        (["model.hidden=17"], ["does not fit", "hidden"]),
        (["data.num_classes=3"], ["does not fit", "head"]),
    ],
    ids=lambda value: value[0],
)
def test_a_checkpoint_of_another_config_is_refused_and_left_alone(
    words: list[str], expected: list[str], uninterrupted: Path, effbench: Effbench
) -> None:
    before = weights(uninterrupted), summary(uninterrupted), (uninterrupted / "config.yaml").read_bytes()
    code, out, err = effbench("train", f"resume={uninterrupted}", "trainer.max_epochs=5", *words)
    assert (code, out) == (2, "")
    assert all(part in err for part in expected), err
    assert summary(uninterrupted) == before[1]
    assert (uninterrupted / "config.yaml").read_bytes() == before[2]
    assert all(torch.equal(tensor, weights(uninterrupted)[name]) for name, tensor in before[0].items())


def test_a_run_without_a_checkpoint_is_named(effbench: Effbench) -> None:
    words = [
        *FOUR_EPOCHS_OF_FIVE_STEPS,
        "trainer.max_epochs=1",
        "checkpoint.save_top_k=0",
        "checkpoint.save_last=false",
    ]
    assert effbench("train", *words, "hydra.run.dir=run")[0] == 0
    code, _, err = effbench("train", "resume=run")
    assert code == 2
    assert "checkpoints/last does not exist" in err


@pytest.mark.parametrize("text", ["{a: 1}", "[a: b", "\0"])
def test_a_damaged_record_of_overrides_is_named(text: str, effbench: Effbench, tmp_path: Path) -> None:
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "overrides.yaml").write_text(text)
    code, _, err = effbench("train", "resume=run")
    assert code == 2
    assert "overrides.yaml" in err


# --- as processes -----------------------------------------------------------------------------------------------------


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """Started and past its second epoch."""
    process = subprocess.Popen(
        [sys.executable, "-m", "effbench", "train", *words], cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            return process
    raise AssertionError(process.communicate())


ENDLESS = [*FOUR_EPOCHS_OF_FIVE_STEPS, "trainer.max_epochs=100000"]


def test_sigterm_to_a_process_group_is_heard_once_and_saved(tmp_path: Path) -> None:
    process = start([*ENDLESS, "hydra.run.dir=run"], tmp_path)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "interrupted" in out
    assert "Traceback" not in err
    assert (tmp_path / "run" / "checkpoints" / "last").exists()


@pytest.mark.parametrize("whole_group", [False, True], ids=["the sweep alone", "its process group"])
def test_a_sweep_passes_a_signal_on_saves_its_job_and_starts_no_other(whole_group: bool, tmp_path: Path) -> None:
    process = start(["-m", *ENDLESS, "seed=1,2,3", "hydra.sweep.dir=sweep"], tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if children.exists():  # Ctrl-C reaches a process group: the job must not be in the sweep's
        assert all(os.getpgid(int(child)) != process.pid for child in children.read_text().split())
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT if whole_group else signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (130 if whole_group else 143)
    assert "2 of 3 jobs were not started" in err
    assert "interrupted" in out
    assert "Traceback" not in err
    [job] = tmp_path.glob("sweep/000*")
    assert summary(job)["status"] == "interrupted"
    assert (job / "checkpoints" / "last").exists()
    assert (tmp_path / "sweep" / "sweep.csv").is_file()
    assert not list(tmp_path.glob("sweep/001*"))
