"""The record of a run that was resumed, and one command that can be given again and again."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import effbench as library
from effbench import cli
from effbench.training.callbacks import Progress
from effbench.training.trainer import Trainer
from tests.cli.conftest import Effbench
from tests.cli.interrupting import FOUR_EPOCHS_OF_FIVE_STEPS, SendsSignal, ends_like, summary
from tests.torture.runs import finish

TWO_EPOCHS = [*FOUR_EPOCHS_OF_FIVE_STEPS, "trainer.max_epochs=2"]


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two epochs") / "run"
    assert cli.main(["train", *TWO_EPOCHS, f"hydra.run.dir='{folder}'"]) == 0
    return folder


@pytest.fixture
def run(two_epochs: Path, tmp_path: Path) -> Path:
    """A finished run of two epochs, to be changed."""
    return Path(shutil.copytree(two_epochs, tmp_path / "run", symlinks=True))


def content(folder: Path) -> dict[str, Any]:
    """Every file's bytes and every link's target."""
    return {
        str(path.relative_to(folder)): path.readlink() if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def config(folder: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((folder / "config.yaml").read_text()))


@pytest.mark.process
@pytest.mark.row(51, 18)
def test_resume_that_trains_nothing_names_settings_not_applied(run: Path, effbench: Effbench) -> None:
    before = content(run)
    code, _, err = effbench("train", "resume=run", "optimizer.lr=1e-4", "logger=tensorboard")
    assert (code, content(run) == before) == (0, True)
    assert "not applied: optimizer.lr=0.0001; the weights were trained with 0.003" in err


REFUSED = {
    "another optimizer": ["optimizer=lion"],
    "another shape": ["model.hidden=17", "trainer.max_epochs=4"],
    "other data": ["data.split_seed=7", "trainer.max_epochs=4"],
    "another place": ["trainer.max_epochs=4", "hydra.run.dir=elsewhere"],
}


@pytest.mark.process
@pytest.mark.row(51)
@pytest.mark.parametrize("words", REFUSED.values(), ids=REFUSED)
def test_a_refused_resume_changes_no_byte(words: list[str], run: Path, effbench: Effbench, tmp_path: Path) -> None:
    with (run / "metrics.csv").open("a") as file:
        file.write("step,3,11\n")  # as a killed session leaves it
    (run / "checkpoints" / "last").unlink()
    before = content(run)
    assert effbench("train", "resume=run", *words)[0] == 2
    assert content(run) == before
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.process
@pytest.mark.row(51)
def test_the_record_lists_each_session_with_its_changes(run: Path, effbench: Effbench) -> None:
    assert effbench("train", "resume=run", "trainer.max_epochs=3", "optimizer.lr=1e-4")[0] == 0
    first, second = summary(run)["sessions"]
    assert (first["from_step"], first["to_step"], first["status"]) == (0, 10, "completed")
    assert "optimizer.lr=3e-3" in first["overrides"]
    assert (second["from_step"], second["to_step"], second["status"]) == (10, 15, "completed")
    assert second["changed"] == {"optimizer.lr": [3e-3, 1e-4], "trainer.max_epochs": [2, 3]}
    assert {"optimizer.lr=1e-4", "trainer.max_epochs=3"} < set(second["overrides"])
    assert second["started"] < second["ended"]
    assert config(run)["optimizer"]["lr"] == 1e-4
    assert effbench("verify", "run")[0] == 0
    assert effbench("report", "run", "output=page.html")[0] == 0
    assert "optimizer.lr from 0.003 to 0.0001" in Path("page.html").read_text()


def lie(run: Path, what: str) -> None:
    if what == "config.yaml":
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace("lr: 0.003", "lr: 0.0001"))
    elif what == "overrides.yaml":
        path = run / ".hydra" / "overrides.yaml"
        path.write_text(path.read_text().replace("optimizer.lr=3e-3", "optimizer.lr=1e-4"))
    else:
        text = (run / "summary.json").read_text()
        (run / "summary.json").write_text(text.replace('"to_step": 10', '"to_step": 9'))


@pytest.mark.row(51)
@pytest.mark.parametrize("what", ["config.yaml", "overrides.yaml", "a session's steps"])
def test_verify_finds_a_record_that_contradicts_itself(what: str, run: Path, effbench: Effbench) -> None:
    assert effbench("verify", "run")[0] == 0
    lie(run, what)
    assert effbench("verify", "run")[0] == 1


@pytest.mark.process
@pytest.mark.row(51)
def test_session_killed_before_its_checkpoint_keeps_old_config(run: Path, effbench: Effbench, tmp_path: Path) -> None:
    def kill_in_the_first_step(_: int) -> None:
        Trainer.update = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]

    before = config(run)
    words = ["resume=run", "trainer.max_epochs=4", "optimizer.lr=1e-4"]
    assert finish(words, tmp_path, kill_in_the_first_step)[0] == -9
    assert config(run) == before
    assert summary(run)["status"] == "interrupted"  # and so it is found, by resume=auto too
    assert effbench("verify", "run")[0] == 0
    assert effbench("train", *words)[0] == 0
    sessions = summary(run)["sessions"]
    assert [(one["status"], one["from_step"], one["to_step"]) for one in sessions] == [
        ("completed", 0, 10), ("killed", 10, 10), ("completed", 10, 20),
    ]  # fmt: skip
    assert effbench("verify", "run")[0] == 0


# --- the same command, again and again --------------------------------------------------------------------------------


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(55)
def test_one_command_starts_resumes_and_ends_in_a_fixed_folder(
    uninterrupted: Path, send: SendsSignal, effbench: Effbench, tmp_path: Path
) -> None:
    command = ["train", *FOUR_EPOCHS_OF_FIVE_STEPS, "resume=auto", "hydra.run.dir=fixed"]
    send(signal.SIGUSR1, 7)
    assert effbench(*command)[0] == 138
    send(signal.SIGUSR1, 12)
    assert effbench(*command)[0] == 138
    send.never()
    assert effbench(*command)[0] == 0
    ends_like(tmp_path / "fixed", uninterrupted)
    before = content(tmp_path / "fixed")
    code, out, err = effbench(*command)
    assert (code, "completed" in out, "nothing is left to do" in err) == (0, True, True)
    assert content(tmp_path / "fixed") == before
    assert not (tmp_path / "outputs").exists()


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(55)
def test_numbers_that_a_run_chose_for_auto_are_no_other_config(effbench: Effbench, tmp_path: Path) -> None:
    words = ["model=mlp", "data=synthetic", "data.num_train=100", "data.image_size=8", "trainer.max_epochs=1"]
    command = ["train", *words, "data.batch_size=auto", "device.threads=1", "resume=auto", "hydra.run.dir=fixed"]
    assert effbench(*command)[0] == 0
    before = content(tmp_path / "fixed")
    assert effbench(*command)[0] == 0
    assert content(tmp_path / "fixed") == before


@pytest.mark.slow
@pytest.mark.row(55)
def test_run_of_another_config_is_refused_by_the_differing_keys(run: Path, effbench: Effbench) -> None:
    before = content(run)
    changes = ["optimizer.lr=1e-4", "device.threads=2", "device.channels_last=true"]
    words = [*TWO_EPOCHS, *changes, "resume=auto", "hydra.run.dir=run"]
    code, _, err = effbench("train", *words)
    assert (code, content(run) == before) == (2, True)
    assert "optimizer.lr: 0.003 in that run, 0.0001 now" in err
    assert "device.channels_last: null in that run, true now" in err  # it changes the numbers; the threads' number not
    assert "device.threads" not in err


@pytest.mark.process
@pytest.mark.row(55)
def test_run_failed_before_first_checkpoint_allows_a_requeue(
    effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", *TWO_EPOCHS, "resume=auto", "hydra.run.dir=fixed"]
    with monkeypatch.context() as broken:
        broken.setattr(Trainer, "update", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            effbench(*command)
    assert effbench(*command)[0] == 0
    assert summary(tmp_path / "fixed")["status"] == "completed"
    assert summary(tmp_path / "fixed.failed-1")["status"] == "failed"


# --- where data lie, what Python began, what to type ------------------------------------------------------------------


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(21)
def test_within_an_epoch_the_data_may_have_moved(send: SendsSignal, effbench: Effbench, tmp_path: Path) -> None:
    from PIL import Image

    for index in range(40):
        path = tmp_path / "here" / "train" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (index * 6, 255 - index * 6, index)).save(path)
    start, words = FOUR_EPOCHS_OF_FIVE_STEPS.index("data=synthetic"), [*FOUR_EPOCHS_OF_FIVE_STEPS]
    words[start : start + 5] = ["data=image_folder", "data.root=here", "data.cache_dir=cache", "data.image_size=8"]
    send(signal.SIGTERM, 2)
    assert effbench("train", *words, "hydra.run.dir=run")[0] == 143
    send.never()
    (tmp_path / "here").rename(tmp_path / "there")
    code, _, err = effbench("train", "resume=run", "data.root=there", "data.cache_dir=other")
    assert code == 0, err
    assert summary(tmp_path / "run")["status"] == "completed"


@pytest.mark.process
def test_a_run_started_in_python_resumes_from_the_command_line(
    send: SendsSignal, effbench: Effbench, tmp_path: Path
) -> None:
    words = [*TWO_EPOCHS, "+optimizer.group_lr={head.*:0.5}", "logger.project='it\\'s, {a}'"]
    send(signal.SIGTERM, 7)
    run = library.train(library.compose(words), tmp_path / "run")
    send.never()
    code, _, err = effbench("train", "resume=run")
    assert (code, "changed since" in err) == (0, False)
    assert (run.folder / "config.yaml").is_file()
    assert (summary(run.folder)["status"], summary(run.folder)["steps"]) == ("completed", 10)
    assert effbench("verify", "run")[0] == 0


OWN = """
from torch import nn
def net(num_classes, in_channels, image_size, hidden=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size[0] * image_size[1], num_classes))
"""


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.parametrize("sweeps", [False, True], ids=["a run", "a sweep"])
def test_the_command_to_go_on_with_is_whole(
    sweeps: bool, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step_end(_: Any, context: Any) -> None:
        if context.state.step == 7:
            os.kill(os.getppid() if sweeps else os.getpid(), signal.SIGTERM)
            time.sleep(0.5 if sweeps else 0)  # for the sweep to pass it on

    (tmp_path / "my groups" / "model").mkdir(parents=True)
    (tmp_path / "my groups" / "model" / "own.yaml").write_text("defaults: [_base, _self_]\n_target_: own_net_17.net\n")
    (tmp_path / "own_net_17.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["model=own", *TWO_EPOCHS[3:], "--config-dir", "my groups", "allow_targets=[own_net_17]"]
    place = ["-m", "seed=1,2", "hydra.sweep.dir='a b'"] if sweeps else ["hydra.run.dir='a b'"]
    with monkeypatch.context() as patched:
        patched.setattr(Progress, "step_end", step_end)
        code, _, err = effbench("train", *words, *place)
    assert code == 143
    command = next(line for line in reversed(err.splitlines()) if "resume with: " in line).partition("resume with: ")[2]
    program, *rest = shlex.split(command)
    assert program == "effbench"
    code, _, err = effbench(*rest)
    assert code == 0, err
