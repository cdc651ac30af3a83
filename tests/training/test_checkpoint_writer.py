"""Checkpoints written from a copy while training goes on: the same files, and no failure unheard.

White-box: looks at the copies that wait to be written.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from effbench.errors import EffbenchError
from effbench.training.checkpoint import Checkpoints
from effbench.training.checkpoint_files import Snapshot, read_checkpoint
from effbench.training.checkpoint_writer import LARGEST_NICE, NICE, BackgroundSaves, DirectSaves, NoSaves, choose_saves
from tests.patience import patience
from tests.training.test_checkpoint import keeper, snapshot
from tests.training.tiny import At, convolutional, data, same, trainer


class Slow(Checkpoints):
    """Writes only when told to, as a slow disk would."""

    go = threading.Event()

    def save(self, *args: object, **options: object) -> None:
        assert self.go.wait(patience(30))
        super().save(*args, **options)


def slow(folder: Path) -> Slow:
    made = Slow(folder / "checkpoints", "val/acc", "max", 1, True)
    made.go = threading.Event()
    return made


def test_background_save_is_isolated_from_later_training_steps(tmp_path):
    checkpoints, taken = slow(tmp_path), snapshot(1.0)
    saves = BackgroundSaves(checkpoints)
    saves.save(taken, 1, 0.5, keep=False)
    for tensors in (taken.weights, taken.ema, taken.state["optimizer"]["state"][0]):
        for tensor in tensors.values():
            tensor.fill_(-1)  # the next steps
    assert not checkpoints.folder.exists()
    checkpoints.go.set()
    saves.wait()
    back = read_checkpoint(checkpoints.folder / "step-00000001")
    back.state.pop("ranking")
    back.state.pop("ranking_losses")
    assert same(vars(back), vars(snapshot(1.0)))


@pytest.mark.slow
def test_the_next_save_waits_for_the_one_before(tmp_path):
    checkpoints = slow(tmp_path)
    saves = BackgroundSaves(checkpoints)
    saves.save(snapshot(1.0), 1, 0.5, keep=False)
    threading.Timer(0.3, checkpoints.go.set).start()
    begun = time.perf_counter()
    saves.save(snapshot(2.0), 2, 0.6, keep=False)
    assert time.perf_counter() - begun >= 0.25
    assert (checkpoints.folder / "step-00000001" / "manifest.json").is_file()
    saves.wait()
    assert checkpoints.ranking == [(0.6, "step-00000002")]


def test_a_save_that_is_not_due_copies_nothing(tmp_path):
    kept_best_only = keeper(tmp_path, keep_best=1, keep_last=False)
    saves = BackgroundSaves(kept_best_only)
    saves.save(snapshot(1.0), 1, 0.5, keep=False)
    saves.save(snapshot(2.0), 2, 0.4, keep=False)  # worse
    saves.wait()
    assert [path.name for path in kept_best_only.folder.glob("step-*")] == ["step-00000001"]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_background_save_reuses_buffers_and_keeps_memory_format(tmp_path, layout):
    checkpoints = keeper(tmp_path)
    saves = BackgroundSaves(checkpoints)
    for step in (1, 2):
        weight = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4).add(step).to(memory_format=layout)
        saves.save(Snapshot({"w": weight}, {}, {"optimizer": {"m": weight + 1, "lr": 0.1}}), step, None, keep=False)
        saves.wait()
        back = read_checkpoint(checkpoints.folder / f"step-{step:08d}")
        assert torch.equal(back.weights["w"], weight)
        assert torch.equal(back.state["optimizer"]["m"], weight + 1)
        assert back.state["optimizer"]["m"].stride() == weight.stride()
    assert len(saves._copies) == 2


def test_a_save_that_fails_ends_the_run_with_its_own_error(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    checkpoints = keeper(tmp_path)
    training = trainer(data(), convolutional(), 60, validate=True, checkpoints=checkpoints, save_in_background=True)
    with pytest.raises((EffbenchError, OSError), match="checkpoints|exists"):
        training.fit()
    assert training.state.status == "failed"
    assert training.state.step < 60  # heard of before the end


def test_another_error_does_not_lose_the_pending_save(tmp_path):
    def stumble(_: object) -> None:
        raise RuntimeError("stumbled")

    checkpoints = keeper(tmp_path)
    watch = [At(4, stumble)]  # three steps an epoch: the save of step 3 has just begun
    training = trainer(data(), convolutional(), 9, validate=True, watch=watch, checkpoints=checkpoints)
    training._saves = BackgroundSaves(checkpoints)
    with pytest.raises(RuntimeError, match="stumbled"):
        training.fit()
    assert read_checkpoint(checkpoints.folder / "step-00000003").state["train"]["step"] == 3


def test_direct_and_background_saves_leave_the_same_files(tmp_path):
    found = []
    for background in (False, True):
        folder = tmp_path / str(background)
        checkpoints = Checkpoints(folder / "checkpoints", "val/acc", "max", 1, True)
        parts = {"checkpoints": checkpoints, "save_in_background": background}
        training = trainer(data(), convolutional(), 9, validate=True, **parts)
        training.fit()
        back = read_checkpoint(checkpoints.folder / "last")
        for clock in ("training_s", "elapsed_s"):
            back.state["train"].pop(clock)
        found.append((sorted(path.name for path in checkpoints.folder.iterdir()), vars(back)))
    assert found[0][0] == found[1][0]
    assert same(found[0][1], found[1][1])


def test_choose_saves_picks_none_direct_or_background(tmp_path):
    assert type(choose_saves(None, background=True)) is NoSaves
    assert type(choose_saves(keeper(tmp_path), background=False)) is DirectSaves
    assert type(choose_saves(keeper(tmp_path), background=True)) is BackgroundSaves


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own here")
def test_the_thread_that_writes_gives_way_to_those_that_train(tmp_path):
    found: dict[str, int] = {}

    class Noting(Checkpoints):
        def save(self, *args: object, **options: object) -> None:
            found["writer"] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            super().save(*args, **options)

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    saves = BackgroundSaves(Noting(tmp_path / "checkpoints", "val/acc", "max", 1, True))
    saves.save(snapshot(1.0), 1, 0.5, keep=False)
    saves.wait()
    assert found["writer"] == min(LARGEST_NICE, before + NICE)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own here")
@pytest.mark.parametrize("call", ["getpriority", "setpriority"])
def test_a_checkpoint_is_written_where_priorities_are_refused(call, tmp_path, monkeypatch):
    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, call, refuse)
    saves = BackgroundSaves(keeper(tmp_path))
    saves.save(snapshot(1.0), 1, 0.5, keep=False)
    saves.wait()
    assert read_checkpoint(tmp_path / "checkpoints" / "last").state["optimizer"]["lr"] == 1.0


def test_failed_save_is_reported_if_another_error_ends_the_run(tmp_path, capsys):
    (tmp_path / "checkpoints").write_text("in the way")
    saves = BackgroundSaves(keeper(tmp_path))
    saves.save(snapshot(1.0), 1, 0.5, keep=False)
    saves.drain()
    assert "warning: the last checkpoint was not saved: " in capsys.readouterr().err
    saves.wait()  # told of once


def test_without_memory_for_a_copy_training_waits(tmp_path, capsys):
    too_large = torch.zeros(()).expand(2**60)  # no memory of its own; a copy of it needs 4 EiB

    class Any(Checkpoints):
        saved: list[int] = []

        def save(self, snapshot, step, value, keep=False, loss=None):
            self.saved.append(step)

    checkpoints = Any(tmp_path / "checkpoints", "val/acc", "max", 1, True)
    saves = BackgroundSaves(checkpoints)
    saves.save(Snapshot({"w": torch.ones(3), "x": too_large}, {}, {}), 5, None, keep=False)
    assert (checkpoints.saved, saves._copies) == ([5], {})
    assert "no memory for a copy" in capsys.readouterr().err


@pytest.fixture
def no_threads() -> Iterator[None]:
    before = threading.stack_size(2**46)  # more than an address space has
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threading.Thread(target=print).start()
        yield
    finally:
        threading.stack_size(before)


@pytest.mark.usefixtures("no_threads")
def test_without_a_thread_training_waits_until_it_is_written(tmp_path, capsys):
    checkpoints = keeper(tmp_path)
    saves = BackgroundSaves(checkpoints)
    for step in (1, 2):
        saves.save(snapshot(float(step)), step, None, keep=False)
        saves.wait()
    assert "no thread to write the checkpoint (can't start new thread)" in capsys.readouterr().err
    assert (
        read_checkpoint(tmp_path / "checkpoints" / "last").weights["w"].tolist() == snapshot(2.0).weights["w"].tolist()
    )
