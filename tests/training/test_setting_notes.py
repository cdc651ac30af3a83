"""Notes at the start on settings that do not fit each other, and at the end on a schedule that time cut off."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from effbench import build
from effbench.config.compose import compose
from effbench.run.schedule_note import cut_note
from effbench.run.setting_notes import setting_notes
from effbench.training.state import Limits, TrainState
from effbench.training.trainer import TIME_OVER

WEIGHTED = "loss.class_weights=balanced"
BALANCED = "early_stopping.monitor=val/balanced_acc"
COUNTED = "early_stopping.monitor=val/loss"


def notes(*words: str, batch_size: int | None = None) -> list[str]:
    config = compose(words)
    chosen = {} if batch_size is None else {"data.batch_size": batch_size}
    kind = "labels" if "task=multilabel" in words else "class"
    return setting_notes(config, chosen, kind)


@pytest.mark.parametrize(
    ("words", "monitors", "remedy"),
    [
        ([], f"checkpoint.monitor=val/acc and {COUNTED} count all", f"task.metrics=[balanced_acc,acc] {BALANCED}"),
        (["early_stopping=off"], "checkpoint.monitor=val/acc counts all alike", "task.metrics=[balanced_acc,acc]"),
        (["checkpoint.save_top_k=0"], f"but {COUNTED} counts", f"task.metrics=[balanced_acc,acc] {BALANCED}"),
        (["task.metrics=[balanced_acc,acc]"], f"but {COUNTED} counts", f": write {BALANCED}"),
        (
            ["task.metrics=[balanced_acc]", "checkpoint.monitor=val/loss", BALANCED],
            "but checkpoint.monitor=val/loss counts",
            ": write checkpoint.monitor=val/balanced_acc",
        ),
    ],
)  # fmt: skip
def test_weighted_classes_and_unweighted_monitors_are_noted(words: list[str], monitors: str, remedy: str) -> None:
    [note] = notes(WEIGHTED, *words)
    assert monitors in note
    assert note.endswith(remedy)


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], [WEIGHTED], ["loss=focal", WEIGHTED]])
def test_the_remedy_for_weighted_classes_silences_the_note(words: list[str]) -> None:
    assert notes(*words, "task.metrics=[balanced_acc,acc]", BALANCED) == []
    found = notes(*words)
    assert len(found) == bool(words)
    assert not found or notes(*words, *found[0].rpartition(": write ")[2].split()) == []


def test_a_weight_of_present_labels_is_judged_by_macro_f1() -> None:
    [note] = notes("task=multilabel", "loss.pos_weight=9")
    assert note.startswith("loss.pos_weight weighs what training minimises, but early_stopping.monitor=val/loss counts")
    assert note.endswith(": write early_stopping.monitor=val/macro_f1")
    assert notes("task=multilabel") == []


@pytest.mark.parametrize(
    ("words", "batch_size", "lr"),
    [
        (["optimizer=sgd"], 8, "0.0063"),
        (["optimizer=sgd"], 32, "0.025"),
        (["optimizer=sgd", "trainer.accumulate_grad_batches=2"], 16, "0.025"),
        (["optimizer=sgd", "trainer.accumulate_grad_batches=8"], 8, None),
        (["optimizer=sgd"], 64, None),
        (["optimizer=sgd", "optimizer.lr=0.05"], 8, None),
        (["optimizer=sgd", "data.batch_size=8"], None, None),
        (["optimizer=adamw"], 8, None),
    ],
)
def test_the_rate_of_sgd_is_for_larger_batches(words: list[str], batch_size: int | None, lr: str | None) -> None:
    found = notes(*words, batch_size=batch_size)
    assert [note.rpartition(" ")[2] for note in found] == ([f"optimizer.lr={lr}"] if lr else [])


def note_after(step: int, limits: Limits, *words: str, reason: str = TIME_OVER) -> str | None:
    """The note of a run of 100 steps an epoch that stopped after `step` steps."""
    config = compose(words)
    schedule = build.schedule(config, torch.optim.SGD([torch.zeros(1)], lr=0.3), limits.total_steps(100), 100)
    schedule.move_to(step)
    state, train = TrainState(step=step, stop_reason=reason), SimpleNamespace(steps_per_epoch=100)
    trainer: Any = SimpleNamespace(state=state, schedule=schedule, limits=limits, train=train)
    return cut_note(config, trainer)


@pytest.mark.slow
def test_a_schedule_that_time_cut_off_is_noted() -> None:
    # half a cosine is at one half in its middle, and at three quarters after a third
    note = note_after(1001, Limits(epochs=20), "scheduler.warmup=0") or ""
    assert "the learning rate was still 50 % of its highest: the schedule was laid out for 20 epochs" in note
    assert note.endswith("Next time set trainer.max_epochs=10, which fits, or scheduler=constant")
    note = note_after(667, Limits(steps=2000), "scheduler.warmup=0") or ""
    assert "still 75 % of its highest: the schedule was laid out for 2,000 steps" in note
    assert "Next time set trainer.max_steps=667, which fits" in note
    assert "still 100 %" in (note_after(500, Limits(epochs=20), "scheduler=step") or "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "words", "reason"),
    [
        (1990, ["scheduler.warmup=0"], TIME_OVER),  # the rest is small
        (1001, ["scheduler.warmup=0"], "early stopping"),
        (1001, ["scheduler=constant"], TIME_OVER),
        (1001, ["scheduler=exponential"], TIME_OVER),  # which another length of the run does not change
        (1001, ["scheduler=plateau", "scheduler.patience=2"], TIME_OVER),
        (50, ["scheduler.warmup=300"], TIME_OVER),  # no run of an epoch can have this schedule
    ],
)
def test_a_schedule_that_was_not_cut_off_is_not_noted(step: int, words: list[str], reason: str) -> None:
    assert note_after(step, Limits(epochs=20), *words, reason=reason) is None
