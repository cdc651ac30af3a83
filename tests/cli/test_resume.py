"""Ctrl-C, SIGTERM, and going on: in the same folder, to the same weights."""

from __future__ import annotations

import hashlib
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from effbench import cli
from effbench.config.recipes import quoted
from effbench.errors import ConfigError, DataError, EffbenchError
from effbench.records import check_new_run, read_any_summary
from effbench.run.overrides import merge_overrides
from effbench.run.resume_words import newest_unfinished, with_resume
from effbench.tasks.losses import CrossEntropy
from effbench.training import checkpoint, checkpoint_files, trainer
from effbench.training.callbacks import Progress
from effbench.training.checkpoint_files import read_checkpoint
from tests.cli.conftest import Effbench
from tests.cli.interrupting import FOUR_EPOCHS_OF_FIVE_STEPS, SendsSignal, ends_like, rows, summary, weights
from tests.compiler import needs_compiler
from tests.patience import patience
from tests.torture.runs import Hook, finish

ENDING = [
    (signal.SIGINT, 130),
    (signal.SIGTERM, 143),
    (signal.SIGHUP, 129),
    (signal.SIGUSR1, 138),
    (signal.SIGUSR2, 140),
]


@pytest.mark.spread(2)
@pytest.mark.process
@pytest.mark.row(9, 11, 55)
@pytest.mark.parametrize(("number", "code"), ENDING)
def test_signal_saves_after_the_step_and_prints_resume_command(
    number: int, code: int, send: SendsSignal, effbench: Effbench, tmp_path: Path
) -> None:
    handlers = [signal.getsignal(known) for known, _ in ENDING]
    send(number, 7)
    result, out, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")
    assert result == code
    assert "interrupted" in out
    said = err.splitlines()
    assert said[-1] == "interrupted; resume with: effbench train resume=run"
    assert (
        len([line for line in said if not line.startswith(("data ", "model ", "epoch ", "10 steps", "20 steps"))]) == 1
    )
    assert summary(tmp_path / "run")["status"] == "interrupted"
    assert summary(tmp_path / "run")["steps"] == 7
    assert "test/acc" not in summary(tmp_path / "run")["metrics"]
    assert (tmp_path / "run" / "checkpoints" / "last").resolve().name == "step-00000007"
    assert [signal.getsignal(known) for known, _ in ENDING] == handlers


@pytest.mark.proof
@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.row(55)
@pytest.mark.parametrize("theirs", [signal.SIG_IGN, lambda *_: None], ids=["ignored, as under nohup", "a handler"])
def test_ignored_or_handled_warning_signals_do_not_end_the_run(
    theirs: Any, send: SendsSignal, effbench: Effbench
) -> None:
    warnings = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.signal(number, theirs) for number in warnings}
    try:
        for number in warnings:
            send(number, 7)
            assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, f"hydra.run.dir=run{number}")[0] == 0
        assert all(signal.getsignal(number) is theirs for number in warnings)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.spread(2)
@pytest.mark.process
@pytest.mark.row(9)
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
    ends_like(tmp_path / "run", uninterrupted)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.process
@pytest.mark.row(13)
def test_a_refusal_after_training_began_leaves_a_record(
    effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of data that are read, or of a metric that answers, only then."""

    def step_end(_: Any, context: Any) -> None:
        if context.state.step == 8:
            raise DataError("image 7 is gone")

    with monkeypatch.context() as broken:
        broken.setattr(Progress, "step_end", step_end)
        assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")[0] == 2
    assert summary(tmp_path / "run")["status"] == "failed"
    assert "image 7 is gone" in summary(tmp_path / "run")["error"]
    assert effbench("eval", "run")[0] == 0
    assert effbench("train", "resume=run")[0] == 0


@pytest.mark.process
@pytest.mark.row(9)
def test_without_save_last_a_resumed_run_leaves_what_others_do(
    send: SendsSignal, effbench: Effbench, tmp_path: Path
) -> None:
    """The first validation stays the best: no later checkpoint is written."""
    words = [word for word in FOUR_EPOCHS_OF_FIVE_STEPS if not word.startswith(("model", "ema", "augment", "optim"))]
    words += ["model=mlp", "model.hidden=[8]", "augment=none", "optimizer.lr=1e-30", "checkpoint.save_last=false"]
    send(signal.SIGTERM, 7)
    assert effbench("train", *words, "hydra.run.dir=run")[0] == 143
    checkpoints = tmp_path / "run" / "checkpoints"
    assert (checkpoints / "last").resolve().name == "step-00000007"
    send.never()
    assert effbench("train", "resume=run")[0] == 0
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best", "step-00000005"]
    assert effbench("verify", "run")[0] == 0
    # the newest checkpoint is the best: the run is complete all the same
    code, _, err = effbench("train", "resume=run")
    assert (code, "run is finished; nothing is left to do" in err) == (0, True), err
    assert effbench("train", "resume=run", "trainer.max_epochs=5")[0] == 0
    assert summary(tmp_path / "run")["steps"] == 25


@pytest.mark.process
@pytest.mark.row(13)
def test_crashed_run_resumes_from_last_and_logs_each_step_once(
    uninterrupted: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step_end(_: Any, context: Any) -> None:
        if context.state.step == 8:
            raise EffbenchError("the plug was pulled")

    with monkeypatch.context() as broken:
        broken.setattr(Progress, "step_end", step_end)
        assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")[0] == 1
    assert rows(tmp_path / "run")[-1]["step"] == "8"
    assert (tmp_path / "run" / "checkpoints" / "last").resolve().name == "step-00000005"
    assert effbench("train", "resume=run")[0] == 0
    assert rows(tmp_path / "run") == rows(uninterrupted)
    assert all(torch.equal(tensor, weights(uninterrupted)[name]) for name, tensor in weights(tmp_path / "run").items())


@pytest.mark.proof
@pytest.mark.process
def test_both_times_of_a_resumed_run_cover_all_sessions(send: SendsSignal, effbench: Effbench, tmp_path: Path) -> None:
    words = [*FOUR_EPOCHS_OF_FIVE_STEPS, "trainer.max_epochs=2", "hydra.run.dir=run"]
    send(signal.SIGTERM, 7)
    assert effbench("train", *words)[0] == 143
    first = summary(tmp_path / "run")["timing"]
    assert first["elapsed_s"] == pytest.approx(first["seconds"]["total"], abs=0.1)
    send.never()
    _, out, _ = effbench("train", "resume=run")
    both = summary(tmp_path / "run")["timing"]
    saved = torch.load(tmp_path / "run" / "checkpoints" / "step-00000007" / "state.pt")["train"]["elapsed_s"]
    assert 0 < saved < first["elapsed_s"]
    assert both["elapsed_s"] == pytest.approx(saved + both["seconds"]["total"], abs=0.1)
    assert both["training_s"] < both["elapsed_s"]
    assert f"{both['training_s']:.1f} s training, {both['elapsed_s']:.1f} s in all" in out


@pytest.mark.proof
@pytest.mark.process
def test_resume_records_a_new_length_for_the_next_resume(send: SendsSignal, effbench: Effbench, tmp_path: Path) -> None:
    send(signal.SIGINT, 2)
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")[0] == 130
    send(signal.SIGINT, 4)
    assert effbench("train", "resume=run", "trainer.max_epochs=2")[0] == 130
    send.never()
    assert effbench("train", "resume=run/")[0] == 0
    assert summary(tmp_path / "run")["steps"] == 10
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"]["max_epochs"] == 2


@pytest.mark.process
@pytest.mark.row(18)
@pytest.mark.parametrize("status", ["completed", "stopped_early"])
def test_resuming_a_finished_run_changes_nothing_and_says_so(
    status: str, uninterrupted: Path, effbench: Effbench, tmp_path: Path
) -> None:
    def files(folder: Path) -> dict[str, tuple[str, int]]:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in paths}

    folder = uninterrupted
    if status == "stopped_early":
        folder = tmp_path / "early"
        words = ["early_stopping.patience=1", "early_stopping.min_delta=9", f"hydra.run.dir={folder}"]
        assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, *words)[0] == 0
    before = files(folder)
    code, out, err = effbench("train", f"resume={folder}")
    assert code == 0
    assert err.splitlines()[-1] == f"{folder} is finished; nothing is left to do"
    assert status in out
    assert files(folder) == before
    assert summary(folder)["status"] == status


@pytest.mark.process
def test_run_killed_before_its_test_is_tested_on_resume(
    uninterrupted: Path, effbench: Effbench, tmp_path: Path
) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run", symlinks=True)
    (tmp_path / "run" / "summary.json").unlink()
    assert effbench("train", "resume=run")[0] == 0
    assert summary(tmp_path / "run")["metrics"] == summary(uninterrupted)["metrics"]


@pytest.mark.process
@pytest.mark.row(19)
def test_a_run_folder_may_be_moved(uninterrupted: Path, send: SendsSignal, effbench: Effbench, tmp_path: Path) -> None:
    send(signal.SIGTERM, 6)
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")[0] == 143
    (tmp_path / "else where").mkdir()
    (tmp_path / "run").rename(tmp_path / "else where" / "it's")
    send.never()
    assert effbench("train", "resume=else where/it's")[0] == 0
    moved = tmp_path / "else where" / "it's"
    assert all(torch.equal(tensor, weights(uninterrupted)[name]) for name, tensor in weights(moved).items())


# --- another length of an epoch ---------------------------------------------------------------------------------------


CHANGES = {
    "a larger batch": (["data.batch_size=16"], 2),
    "a smaller batch": (["data.batch_size=4"], 10),
    "accumulation": (["trainer.accumulate_grad_batches=2"], 2),
    "no drop_last": (["data.batch_size=16", "data.drop_last=false"], 3),
    "fewer batches": (["trainer.limit_train_batches=3"], 3),
    "more images": (["data.num_train=80", "checkpoint.allow_changed_data=true"], 10),
    "nothing": ([], 5),
}


def saved_learning_rates(folder: Path) -> list[float]:
    """What the next optimizer step would use."""
    groups = read_checkpoint(folder / "checkpoints" / "last").state["optimizer"]["param_groups"]
    return [group["lr"] for group in groups]


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two epochs") / "run"
    assert cli.main(["train", *FOUR_EPOCHS_OF_FIVE_STEPS, "trainer.max_epochs=2", f"hydra.run.dir='{folder}'"]) == 0
    return folder


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.row(50)
@pytest.mark.parametrize("change", CHANGES)
def test_resume_keeps_epochs_if_steps_per_epoch_change(
    change: str, two_epochs: Path, effbench: Effbench, tmp_path: Path
) -> None:
    shutil.copytree(two_epochs, tmp_path / "run", symlinks=True)
    words, per_epoch = CHANGES[change]
    code, _, err = effbench("train", "resume=run", "trainer.max_epochs=4", *words)
    assert code == 0
    told = [line.partition("  ")[0] for line in err.splitlines() if line.startswith("epoch ")]
    assert told == ["epoch 3/4", "epoch 4/4"]
    epochs = [(row["epoch"], int(row["step"])) for row in rows(tmp_path / "run") if row["row"] == "epoch"]
    assert epochs == [("1", 5), ("2", 10), ("3", 10 + per_epoch), ("4", 10 + 2 * per_epoch)]
    assert summary(tmp_path / "run")["epochs"] == 4
    assert summary(tmp_path / "run")["steps"] == 10 + 2 * per_epoch
    assert saved_learning_rates(tmp_path / "run") == [0.0, 0.0]  # the cosine is at its end


@pytest.mark.proof
@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.row(50)
@pytest.mark.parametrize("scheduler", ["cosine", "torch's"])
def test_the_schedule_keeps_its_place_in_epochs(
    scheduler: str, send: SendsSignal, effbench: Effbench, tmp_path: Path
) -> None:
    torchs = ["scheduler=constant", "scheduler._target_=torch.optim.lr_scheduler.CosineAnnealingLR",
              "~scheduler.warmup", "~scheduler.warmup_start", "+scheduler.T_max=4 epochs"]  # fmt: skip
    words = ["scheduler=cosine", "scheduler.warmup=0"] if scheduler == "cosine" else torchs
    send(signal.SIGTERM, 15)
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, *words, "hydra.run.dir=run")[0] == 143
    quarter = 3e-3 * (1 + math.cos(math.pi * 3 / 4)) / 2
    assert saved_learning_rates(tmp_path / "run") == pytest.approx([quarter, quarter])
    send(signal.SIGTERM, 16)
    assert effbench("train", "resume=run", "data.batch_size=4")[0] == 143
    after = 3e-3 * (1 + math.cos(math.pi * 31 / 40)) / 2  # a tenth of an epoch later
    assert saved_learning_rates(tmp_path / "run") == pytest.approx([after, after])
    send.never()
    assert effbench("train", "resume=run")[0] == 0
    assert saved_learning_rates(tmp_path / "run") == pytest.approx([0.0, 0.0], abs=1e-12)
    assert summary(tmp_path / "run")["epochs"] == 4


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.row(50)
@pytest.mark.parametrize("length", [["trainer.max_epochs=4"], ["trainer.max_epochs=null", "trainer.max_steps=8"]])
def test_batch_size_change_mid_epoch_is_refused_with_a_remedy(
    length: list[str], send: SendsSignal, effbench: Effbench, tmp_path: Path
) -> None:
    send(signal.SIGTERM, 7)
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, *length, "hydra.run.dir=run")[0] == 143
    send.never()
    assert effbench("train", "resume=run", "task.metrics=[acc,macro_f1]")[0] == 2
    code, _, err = effbench("train", "resume=run", "data.batch_size=16")
    assert (code, "changed: data.batch_size from 8 to 16." in err) == (2, True)
    remedy = err.partition("without these changes, with ")[2].partition(";")[0].split()
    assert effbench("train", "resume=run", *remedy)[0] == 0
    assert summary(tmp_path / "run")["epochs"] == 2
    assert effbench("train", "resume=run", "trainer.max_epochs=4", "data.batch_size=16")[0] == 0
    assert (summary(tmp_path / "run")["epochs"], summary(tmp_path / "run")["steps"]) == (4, 14)


def advice(err: str) -> tuple[list[str], list[str]]:
    """The words that the refusal names: for the rest of the epoch, and for the resume with the changes."""
    ending, _, after = err.partition("without these changes")[2].partition("; then resume with them")
    after = after.partition(". The end")[0].strip().removeprefix("and ").removesuffix(".")
    return shlex.split(ending.removeprefix(", with ")), shlex.split(after)


@pytest.mark.proof
@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.row(50)
@pytest.mark.parametrize("words", [[], ["scheduler.warmup=15%", "trainer.min_steps=15"]], ids=["steps", "shares"])
def test_finishing_the_epoch_as_advised_keeps_each_number(
    words: list[str], uninterrupted: Path, send: SendsSignal, effbench: Effbench, tmp_path: Path
) -> None:
    send(signal.SIGTERM, 7)
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, *words, "hydra.run.dir=run")[0] == 143
    send.never()
    code, _, err = effbench("train", "resume=run", "seed=5")
    ending, after = advice(err)
    assert code == 2
    assert effbench("train", "resume=run", *ending)[0] == 0
    assert summary(tmp_path / "run")["steps"] == 10
    # The changes themselves are left out, so that the run must end as one that was never stopped.
    assert effbench("train", "resume=run", *after)[0] == 0
    ends_like(tmp_path / "run", uninterrupted)


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(50)
def test_changes_in_the_last_epoch_are_told_to_need_more(send: SendsSignal, effbench: Effbench, tmp_path: Path) -> None:
    send(signal.SIGTERM, 7)
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "trainer.max_epochs=2", "hydra.run.dir=run")[0] == 143
    send.never()
    code, _, err = effbench("train", "resume=run", "data.batch_size=16")
    ending, after = advice(err)
    assert (code, ending) == (2, [])
    assert effbench("train", "resume=run")[0] == 0
    assert effbench("train", "resume=run", "data.batch_size=16", *after)[0] == 0
    assert summary(tmp_path / "run")["steps"] == 12


@pytest.mark.process
@pytest.mark.row(50)
def test_an_epoch_without_validation_is_told_to_get_one(send: SendsSignal, effbench: Effbench) -> None:
    send(signal.SIGTERM, 7)
    words = ["trainer.max_epochs=null", "trainer.max_steps=10", "trainer.check_val_every_n_epoch=3"]
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, *words, "hydra.run.dir=run")[0] == 143
    send.never()
    err = effbench("train", "resume=run", "data.batch_size=16")[2]
    assert advice(err) == (["trainer.max_epochs=2"], ["trainer.max_epochs=3", "trainer.max_steps=null"])
    assert "is then validated" not in err  # the run's own end is
    err = effbench("train", "resume=run", "data.batch_size=16", "trainer.max_steps=20", "scheduler.warmup=5 %")[2]
    assert "although trainer.check_val_every_n_epoch=3" in err
    assert "scheduler.warmup=5 %" in advice(err)[1]  # a word that a shell would part is in quotes


def test_a_key_that_was_added_changes_without_its_plus() -> None:
    earlier = ["scheduler=constant", "+scheduler.total_steps=total", "+recipe=swin_lion"]
    merged = merge_overrides(earlier, ["scheduler.total_steps=20", "recipe=null"])
    assert merged == ["scheduler=constant", "++scheduler.total_steps=20", "recipe=null"]


# --- resume=auto ------------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_resume_auto_continues_newest_unfinished_run_of_config(
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
    assert "starting a new run" not in err
    assert {path.parent for path in tmp_path.glob("outputs/*/*/config.yaml")} == folders
    assert sorted(summary(folder)["status"] for folder in folders) == ["completed", "completed", "interrupted"]


@pytest.mark.process
def test_resume_auto_starts_afresh_without_a_run_to_continue(effbench: Effbench, tmp_path: Path) -> None:
    code, _, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "trainer.max_epochs=1", "resume=auto")
    assert code == 0
    assert "starting a new run" in err
    assert len(list(tmp_path.glob("outputs/*/*/summary.json"))) == 1


@pytest.mark.parametrize("damaged", ["summary.json", ".hydra/overrides.yaml"])
def test_resume_auto_passes_over_a_damaged_record(
    damaged: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("older", "newer"):
        folder = tmp_path / "day" / name
        (folder / ".hydra").mkdir(parents=True)
        (folder / "checkpoints" / "step-00000002").mkdir(parents=True)
        (folder / ".hydra" / "overrides.yaml").write_text("- model=mlp\n")
        (folder / "summary.json").write_text('{"schema_version": 1, "status": "interrupted"}')
    os.utime(tmp_path / "day" / "older", (1, 1))
    assert newest_unfinished(tmp_path, ["model=mlp"]) == tmp_path / "day" / "newer"
    (tmp_path / "day" / "newer" / damaged).write_text("{")
    assert newest_unfinished(tmp_path, ["model=mlp"]) == tmp_path / "day" / "older"
    assert f"passes over {tmp_path / 'day' / 'newer'}" in caplog.text


@pytest.mark.proof
@pytest.mark.process
def test_resume_auto_knows_a_run_by_its_recipe_file(send: SendsSignal, effbench: Effbench, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# @package _global_\ndefaults:\n  - override /model: mlp\n")
    words = ["recipe=mine.yaml", *FOUR_EPOCHS_OF_FIVE_STEPS[3:]]
    send(signal.SIGTERM, 6)
    assert effbench("train", *words)[0] == 143
    send.never()
    assert effbench("train", *words, "resume=auto")[0] == 0
    assert len(list(tmp_path.glob("outputs/*/*"))) == 1


# --- what cannot go on ------------------------------------------------------------------------------------------------


@pytest.mark.spread(3)
@pytest.mark.slow
@pytest.mark.row(20)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model=resnet18"], ["model.channels"]),  # the run's own overrides hold still
        (["optimizer=lion"], ["optimizer", "torch.optim.AdamW", "effbench.optimizers.Lion"]),
        (["scheduler=constant"], ["scheduler", "effbench.schedulers.Cosine"]),
        (
            ["model.hidden=17"],
            [
                "do not fit",
                "hidden.1.weight: checkpoint (16, 32), model (17, 32)",
                "hidden.1.bias: checkpoint (16,), model (17,)",
                "head.weight: checkpoint (10, 16), model (10, 17)",
                "changed since the checkpoint: model.hidden from 16 to 17, trainer.max_epochs from 4 to 5",
            ],
        ),
        (
            ["model.channels=[4]"],
            ["block2.0.weight: checkpoint (8, 4, 3, 3), model none", "hidden.1.weight: checkpoint (16, 32), model"],
        ),
        (
            ["data.num_classes=3", "checkpoint.allow_changed_data=true"],
            [
                "do not fit",
                "head.weight: checkpoint (10, 16), model (3, 16)",
                "head.bias: checkpoint (10,), model (3,)",
            ],
        ),
        (["ema=off", "model.hidden=17"], ["hidden.1.weight"]),
    ],
    ids=lambda value: value[0],
)
def test_checkpoint_of_another_config_is_refused_and_unchanged(
    words: list[str], expected: list[str], uninterrupted: Path, effbench: Effbench
) -> None:
    before = weights(uninterrupted), summary(uninterrupted), (uninterrupted / "config.yaml").read_bytes()
    code, out, err = effbench("train", f"resume={uninterrupted}", "trainer.max_epochs=5", *words)
    assert (code, out) == (2, "")
    assert all(part in err for part in expected), err
    assert summary(uninterrupted) == before[1]
    assert (uninterrupted / "config.yaml").read_bytes() == before[2]
    assert all(torch.equal(tensor, weights(uninterrupted)[name]) for name, tensor in before[0].items())


@pytest.mark.process
@pytest.mark.row(20)
def test_changes_since_the_checkpoint_are_reported_key_by_key(send: SendsSignal, effbench: Effbench) -> None:
    send(signal.SIGTERM, 7)
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")[0] == 143
    send.never()
    changes = ["trainer.max_epochs=2", "optimizer.lr=1e-3", "data.num_workers=1", "trainer.gradient_clip_val=null"]
    code, _, err = effbench("train", "resume=run", *changes)
    assert code == 0
    assert [line for line in err.splitlines() if line.startswith("changed")] == [
        "changed since the checkpoint: optimizer.lr from 0.003 to 0.001",
        "changed since the checkpoint: data.num_workers from 0 to 1",
        "changed since the checkpoint: trainer.max_epochs from 4 to 2",
        "changed since the checkpoint: trainer.gradient_clip_val from 1.0 to null",
    ]


@pytest.mark.process
@pytest.mark.row(20)
@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("model.freeze=[block1.*]", "model.freeze must stay as it was: []; got ['block1.*']"),
        ("optimizer.no_decay=false", "optimizer.no_decay must stay as it was: true; got false"),
        ("+optimizer.group_lr={head.*:0.1}", "optimizer.group_lr must stay as it was: []; got ['head.*']"),
    ],
)
def test_other_parameter_groups_are_refused_by_key_and_values(
    word: str, change: str, two_epochs: Path, effbench: Effbench
) -> None:
    """The optimizer finds a parameter's state by its place in the groups: it would take another parameter's."""
    code, _, err = effbench("train", f"resume={two_epochs}", "trainer.max_epochs=3", word)
    assert (code, change in err) == (2, True), err


@pytest.mark.process
@pytest.mark.row(20)
def test_changed_constructor_arguments_are_named_and_applied(
    two_epochs: Path, effbench: Effbench, tmp_path: Path
) -> None:
    shutil.copytree(two_epochs, tmp_path / "run", symlinks=True)
    words = ["optimizer.betas=[0.5,0.9]", "optimizer.weight_decay=0.2", "scheduler.min_factor=0.5", "model.dropout=0.1"]
    code, _, err = effbench("train", "resume=run", "trainer.max_epochs=3", *words)
    assert code == 0
    changed = [line for line in err.splitlines() if "changed since" in line]
    assert changed == [
        "warning: changed since the checkpoint: model.dropout from 0.5 to 0.1; the weights were trained with 0.5",
        "changed since the checkpoint: optimizer.weight_decay from 0.01 to 0.2",
        "changed since the checkpoint: optimizer.betas from [0.9, 0.999] to [0.5, 0.9]",
        "changed since the checkpoint: scheduler.min_factor from 0.0 to 0.5",
        "changed since the checkpoint: trainer.max_epochs from 2 to 3",
    ]
    groups = read_checkpoint(tmp_path / "run" / "checkpoints" / "last").state["optimizer"]["param_groups"]
    assert [tuple(group["betas"]) for group in groups] == [(0.5, 0.9)] * 2
    assert [group["weight_decay"] for group in groups] == [0.2, 0.0]
    assert saved_learning_rates(tmp_path / "run") == pytest.approx([1.5e-3] * 2)


@pytest.mark.process
def test_best_values_of_another_metric_do_not_count_on_resume(
    two_epochs: Path, effbench: Effbench, tmp_path: Path
) -> None:
    """Else an accuracy of 0.1 would be the lowest loss for ever, and the run would be tested by its weights."""
    shutil.copytree(two_epochs, tmp_path / "run", symlinks=True)
    assert summary(tmp_path / "run")["best"]["metric"] == "val/acc"
    words = ["checkpoint.monitor=val/loss", "early_stopping.monitor=val/acc", "early_stopping.mode=max"]
    assert effbench("train", "resume=run", "trainer.max_epochs=4", *words)[0] == 0
    later = [row for row in rows(tmp_path / "run") if row["row"] == "epoch"][2:]
    best = summary(tmp_path / "run")["best"]
    assert (best["metric"], best["value"]) == ("val/loss", pytest.approx(min(float(row["val/loss"]) for row in later)))
    stopping = read_checkpoint(tmp_path / "run" / "checkpoints" / "last").state["stopping"]
    assert stopping["best"] == pytest.approx(max(float(row["val/acc"]) for row in later))


@pytest.mark.proof
@pytest.mark.process
def test_a_run_without_early_stopping_may_get_it_on_resume(
    two_epochs: Path, effbench: Effbench, tmp_path: Path
) -> None:
    shutil.copytree(two_epochs, tmp_path / "run", symlinks=True)
    assert effbench("train", "resume=run", "trainer.max_epochs=3", "early_stopping=off")[0] == 0
    assert effbench("train", "resume=run", "trainer.max_epochs=4", "early_stopping=on")[0] == 0
    assert summary(tmp_path / "run")["epochs"] == 4


@pytest.mark.process
@needs_compiler
def test_compiled_functions_missing_on_resume_are_reported(
    send: SendsSignal, effbench: Effbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(signal.SIGTERM, 7)
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")[0] == 143
    send.never()
    monkeypatch.setattr("effbench.run.resume.library", lambda: None)
    code, _, err = effbench("train", "resume=run")
    assert code == 0
    assert "changed since the checkpoint: compiled functions, there then, missing now" in err


@pytest.mark.process
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
    assert "run/checkpoints holds no checkpoint: nothing was saved to continue from. Start a new run." in err


def test_a_sweep_is_not_resumed_as_a_run(effbench: Effbench, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    for words in (["resume=sweep"], ["sweep.resume=sweep"]):
        code, _, err = effbench("train", *words)
        assert code == 2
        assert "effbench train -m sweep.resume=" in err


@pytest.mark.parametrize("text", ["{a: 1}", "[a: b", "\0"])
def test_a_damaged_record_of_overrides_is_named(text: str, effbench: Effbench, tmp_path: Path) -> None:
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "overrides.yaml").write_text(text)
    code, _, err = effbench("train", "resume=run")
    assert code == 2
    assert "overrides.yaml" in err


# --- at every moment --------------------------------------------------------------------------------------------------


def forked(words: list[str], cwd: Path, moment: Hook) -> tuple[int, str]:
    """(exit code, what it printed) of a run in a process of its own, `moment` being arranged in it."""

    def out_loud(_: int) -> None:
        sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w") for number in (1, 2))  # else pytest would have it

    return finish(words, cwd, out_loud, moment)


def in_its_validation(act: Callable[[], None], number: int) -> Hook:
    """Calls `act` in the middle of validation `number` (from 1) of a forked run."""

    def hook(_: int) -> None:
        whole, count = trainer.evaluate, 0

        def evaluate(model: Any, batches: Any, *rest: Any) -> Any:
            nonlocal count
            count += 1

            def read() -> Any:
                for index, batch in enumerate(batches):
                    if (count, index) == (number, 0):
                        act()
                    yield batch

            return whole(model, read(), *rest)

        trainer.evaluate = evaluate

    return hook


def in_its_save(act: Callable[[], None], number: int, function: str = "_write_state") -> Hook:
    """Calls `act` in the middle of save `number` (from 1) of a forked run."""
    module = checkpoint_files if hasattr(checkpoint_files, function) else checkpoint

    def hook(_: int) -> None:
        whole, count = getattr(module, function), 0

        def write(*args: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                act()
            return whole(*args)

        setattr(module, function, write)

    return hook


def in_its_step(act: Callable[[], None], step: int) -> Hook:
    """Calls `act` between the forward and the backward pass of training step `step` (from 1) of a forked run."""

    def hook(_: int) -> None:
        whole, count = CrossEntropy.summed, 0

        def summed(*args: Any) -> Any:
            nonlocal count
            if torch.is_grad_enabled():  # an evaluation may call it as well
                count += 1
                if count == step:
                    act()
            return whole(*args)

        CrossEntropy.summed = summed

    return hook


def once() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def twice() -> None:
    """The second when the first has been heard: Python's handlers run in the main thread, a save's calls in another."""
    once()
    heard_by = time.monotonic() + patience(10)
    while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL and time.monotonic() < heard_by:
        time.sleep(0.001)
    once()


@pytest.mark.spread(2)
@pytest.mark.process
@pytest.mark.row(9)
@pytest.mark.parametrize(
    ("moment", "steps"),
    [
        (in_its_step(once, 7), 7),
        (in_its_validation(once, 2), 11),
        (in_its_save(once, 2), 11),
        (in_its_save(once, 4), 20),
        (in_its_validation(once, 5), 20),
    ],
    ids=["in a step", "in a validation", "in a save", "in the last save", "in the test"],
)
def test_sigterm_at_any_moment_is_heard_after_the_step_at_hand(
    moment: Hook, steps: int, uninterrupted: Path, effbench: Effbench, tmp_path: Path
) -> None:
    waits = "checkpoint.background=false"  # a save behind training has steps of its own time beside it
    code, told = forked([*FOUR_EPOCHS_OF_FIVE_STEPS, waits, "hydra.run.dir=run"], tmp_path, moment)
    assert (code, "Traceback" in told) == (143, False), told
    assert summary(tmp_path / "run")["steps"] == steps
    assert effbench("train", "resume=run")[0] == 0
    ends_like(tmp_path / "run", uninterrupted)


@pytest.mark.proof
@pytest.mark.process
def test_early_stopped_run_interrupted_in_test_trains_no_more(effbench: Effbench, tmp_path: Path) -> None:
    words = [*FOUR_EPOCHS_OF_FIVE_STEPS, "early_stopping.patience=1", "early_stopping.min_delta=9"]
    assert effbench("train", *words, "hydra.run.dir=whole")[0] == 0
    code, told = forked([*words, "hydra.run.dir=run"], tmp_path, in_its_validation(once, 3))
    assert code == 143, told
    assert "resume with: effbench train resume=run" in told
    assert summary(tmp_path / "run")["status"] == "interrupted"
    assert effbench("train", "resume=run")[0] == 0
    whole, resumed = summary(tmp_path / "whole"), summary(tmp_path / "run")
    assert whole["status"] == "stopped_early"
    for key in ("status", "stop_reason", "metrics", "steps", "epochs"):
        assert resumed[key] == whole[key]


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.row(9)
@pytest.mark.parametrize(
    "moment",
    [
        in_its_step(twice, 12),
        in_its_validation(twice, 3),
        in_its_save(twice, 3),
        in_its_save(twice, 3, "_link"),
        in_its_save(twice, 3, "_write_tensors"),
    ],
    ids=["in a step", "in a validation", "in a save's state", "in a save's link", "in a save's weights"],
)
def test_second_sigterm_ends_at_once_and_keeps_saved_checkpoints(
    moment: Hook, uninterrupted: Path, effbench: Effbench, tmp_path: Path
) -> None:
    code, _ = forked([*FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run"], tmp_path, moment)
    assert code == -signal.SIGTERM
    for path in (tmp_path / "run" / "checkpoints").glob("step-*"):
        read_checkpoint(path)
    assert effbench("train", "resume=run")[0] == 0
    ends_like(tmp_path / "run", uninterrupted)
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


@pytest.mark.proof
@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.row(55)
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_closed_terminal_or_a_batch_system_may_warn_twice(
    number: int, uninterrupted: Path, effbench: Effbench, tmp_path: Path
) -> None:
    def warn_twice() -> None:
        os.kill(os.getpid(), number)
        time.sleep(0.05)  # heard between Python's instructions
        os.kill(os.getpid(), number)

    words = [*FOUR_EPOCHS_OF_FIVE_STEPS, "checkpoint.background=false", "hydra.run.dir=run"]
    assert forked(words, tmp_path, in_its_save(warn_twice, 2))[0] == 128 + number
    assert effbench("train", "resume=run")[0] == 0
    ends_like(tmp_path / "run", uninterrupted)


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.row(1, 9)
@pytest.mark.parametrize("function", ["_write_tensors", "_link"])
def test_kill_in_save_after_epoch_end_interrupt_logs_rows_once(
    function: str, send: SendsSignal, uninterrupted: Path, effbench: Effbench, tmp_path: Path
) -> None:
    """The resumed run validates first, logs that, and writes the same step's checkpoint again."""
    send(signal.SIGTERM, 10)
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")[0] == 143
    send.never()
    moment = in_its_save(lambda: os.kill(os.getpid(), signal.SIGKILL), 1, function)
    assert forked(["resume=run"], tmp_path, moment)[0] == -signal.SIGKILL
    assert effbench("train", "resume=run")[0] == 0
    ends_like(tmp_path / "run", uninterrupted)


@pytest.mark.process
@pytest.mark.row(9, 11)
def test_ctrl_c_in_the_final_test_repeats_no_training(uninterrupted: Path, effbench: Effbench, tmp_path: Path) -> None:
    """Four validations came before; after them there is no step to end."""
    moment = in_its_validation(lambda: os.kill(os.getpid(), signal.SIGINT), 5)
    code, told = forked([*FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run"], tmp_path, moment)
    assert (code, told.splitlines()[-1]) == (130, "interrupted; resume with: effbench train resume=run")
    assert summary(tmp_path / "run")["status"] == "interrupted"
    assert effbench("train", "resume=run")[0] == 0
    ends_like(tmp_path / "run", uninterrupted)


# --- as processes -----------------------------------------------------------------------------------------------------


def start(words: list[str], folder: Path, *before: str) -> subprocess.Popen[str]:
    """Started (by the command `before`, such as nohup) and past its second epoch."""
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "effbench", "train", *words], cwd=folder,
        stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            return process
    raise AssertionError(process.communicate())


ENDLESS = [*FOUR_EPOCHS_OF_FIVE_STEPS, "trainer.max_epochs=100000"]


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(9, 10)
def test_sigterm_to_a_process_group_with_workers_saves_once(tmp_path: Path) -> None:
    process = start([*ENDLESS, "data.num_workers=2", "hydra.run.dir=run"], tmp_path)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=patience(60))
    assert process.returncode == 143
    assert "interrupted" in out
    assert err.splitlines()[-1] == "interrupted; resume with: effbench train resume=run"
    assert "Traceback" not in err
    read_checkpoint(tmp_path / "run" / "checkpoints" / "last")


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(9, 11, 25)
@pytest.mark.parametrize("whole_group", [False, True], ids=["the sweep alone", "its process group"])
def test_sweep_forwards_a_signal_and_starts_no_further_job(whole_group: bool, tmp_path: Path) -> None:
    process = start(["-m", *ENDLESS, "seed=1,2,3", "hydra.sweep.dir=sweep"], tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if children.exists():  # Ctrl-C reaches a process group: the job must not be in the sweep's
        assert all(os.getpgid(int(child)) != process.pid for child in children.read_text().split())
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT if whole_group else signal.SIGTERM)
    out, err = process.communicate(timeout=patience(60))
    assert process.returncode == (130 if whole_group else 143)
    assert "2 of 3 jobs were not started" in err
    assert "interrupted" in out
    assert "Traceback" not in err
    [job] = tmp_path.glob("sweep/000*")
    assert summary(job)["status"] == "interrupted"
    assert (job / "checkpoints" / "last").exists()
    assert (tmp_path / "sweep" / "sweep.csv").is_file()
    assert not list(tmp_path.glob("sweep/001*"))


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(55)
def test_sweep_under_nohup_ignores_sighup_and_forwards_sigusr1(tmp_path: Path) -> None:
    process = start(["-m", *ENDLESS, "seed=1,2", "hydra.sweep.dir=sweep"], tmp_path, "nohup")
    os.killpg(process.pid, signal.SIGHUP)
    [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGHUP)
    for line in process.stderr:  # both go on
        if line.startswith("epoch 20/"):
            break
    os.kill(process.pid, signal.SIGUSR1)
    _, err = process.communicate(timeout=patience(60))
    assert process.returncode == 138
    assert "resume with: effbench train -m sweep.resume=sweep" in err
    [job] = tmp_path.glob("sweep/000*")
    assert (summary(job)["status"], summary(job)["stop_reason"]) == ("interrupted", "SIGUSR1")
    assert (job / "checkpoints" / "last").exists()


def test_a_resume_that_names_nothing_is_refused(effbench: Effbench) -> None:
    code, _, err = effbench("train", "resume=")
    assert (code, "resume= names no run" in err) == (2, True)
    code, _, err = effbench("train", "-m", "seed=0,1", "sweep.resume=")
    assert (code, "sweep.resume= names no sweep" in err) == (2, True)


def test_quotes_of_the_grammar_are_undone_in_a_resumed_folder(tmp_path: Path) -> None:
    """A study and a sweep resume their runs by a quoted folder, a shell gives it as it is."""
    folder = tmp_path / "it's a \\'run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("- model=mlp\n")
    place = quoted(folder)
    for word in (f"resume={place}", f"resume={folder}"):
        assert with_resume([word]) == ["model=mlp", f"resume={place}", f"hydra.run.dir={place}"]


def test_a_suggested_command_can_be_pasted_for_any_folder(tmp_path: Path) -> None:
    begun, ended, swept = (tmp_path / name for name in ("a b", "it's c", "$d"))
    for place in (begun / ".hydra", ended, swept):
        place.mkdir(parents=True)
    (begun / ".hydra" / "overrides.yaml").touch()
    (ended / "summary.json").touch()
    (swept / "sweep.json").touch()
    for function, word in (
        (lambda: read_any_summary(begun), f"resume={begun}"),
        (lambda: check_new_run(ended), f"resume={ended}"),
        (lambda: with_resume([f"resume={swept}"]), f"sweep.resume={swept}"),
    ):
        with pytest.raises(ConfigError) as refusal:
            function()
        assert f" {shlex.quote(word)}" in str(refusal.value)
