"""Where a run ends, what it logs on the way, and what a number that is not finite does to it."""

from __future__ import annotations

import inspect
import math
import time
from functools import partial
from itertools import pairwise
from typing import get_args, get_type_hints

import pytest
import torch
from torch import nn

from effbench.metrics import Accuracy
from effbench.schedulers import Exponential, Plateau
from effbench.tasks.classification import Classification
from effbench.tasks.losses import CrossEntropy
from effbench.training.batch_norm_statistics import AveragedStatistics, KeepStatistics, RefreshStatistics
from effbench.training.callbacks import Callback
from effbench.training.checkpoint import Checkpoints
from effbench.training.checkpoint_files import read_checkpoint
from effbench.training.clipping import ClipNorm, ClipValue, NoClipping
from effbench.training.distributed import DistributedContext
from effbench.training.early_stopping import EarlyStopping, NoEarlyStopping
from effbench.training.ema import Ema, NoEma, OptimizerAverage
from effbench.training.failure_policies import (
    RaiseOnOutOfMemory,
    SkipNonFinite,
    SplitOnOutOfMemory,
    StopAtNonFinite,
)
from effbench.training.state import Limits, TrainState
from effbench.training.trainer import Intervals, Trainer
from tests.training.tiny import CLASSES, At, Rows, copied, data, dense, same, trainer

PER_EPOCH = 3  # steps: 96 images in batches of 32


def keeper(folder, keep_best=1) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", "val/loss", "min", keep_best, keep_last=True)


def saved_steps(folder) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("checkpoints/step-*"))


# --- limits


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_run_takes_max_steps_then_validates_and_saves(steps, tmp_path):
    rows = Rows()
    run = trainer(data(), dense(), steps, validate=True, checkpoints=keeper(tmp_path), watch=[rows])
    state = run.fit()
    assert (state.step, state.status, state.stop_reason) == (steps, "completed", None)
    assert (state.epoch, state.batch) == divmod(steps, PER_EPOCH)
    assert state.samples_seen == 32 * steps
    assert "val/loss" in rows.rows[-1]
    assert (tmp_path / "checkpoints" / "last").readlink().name == f"step-{steps:08d}"


@pytest.mark.slow
def test_max_time_ends_the_run_after_the_step_that_passed_it(tmp_path):
    run = trainer(
        data(),
        dense(),
        10**6,
        limits=Limits(10**6, seconds=0.2),
        validate=True,
        checkpoints=keeper(tmp_path),
        intervals=Intervals(validate_epochs=10**6),
        watch=[At(2, lambda _: time.sleep(0.25))],
    )
    state = run.fit()
    assert (state.step, state.status, state.stop_reason) == (2, "completed", "trainer.max_time is over")
    assert "val/loss" in state.metrics
    assert saved_steps(tmp_path) == [2]


def test_a_finished_run_has_no_step_left():
    net = dense()
    run = trainer(data(), net, 4)
    run.fit()
    before = copied(dict(net.state_dict()))
    run.fit()
    assert run.state.step == 4
    assert same(before, dict(net.state_dict()))


# --- intervals


def test_validation_comes_every_so_many_epochs_and_at_the_end():
    rows = Rows()
    trainer(data(), dense(), 5 * PER_EPOCH, validate=True, intervals=Intervals(validate_epochs=3), watch=[rows]).fit()
    assert [row["step"] for row in rows.rows if "val/loss" in row] == [9, 15]
    assert len(rows.epochs) == 5


@pytest.mark.parametrize(("metric", "mode"), [("val/loss", "min"), ("val/acc", "max")])
def test_a_plateau_observes_its_metric_after_each_validation(metric, mode):
    """lr 0.1 -> 0.05 -> 0.025: with a threshold this high no validation improves on the first."""
    rows = Rows()
    schedule = partial(Plateau, factor=0.5, patience=0, threshold=0.99, mode=mode)
    run = trainer(data(), dense(), 9, schedule=schedule, validate=True, watch=[rows], plateau_metric=metric)
    run.fit()
    assert [row["lr/0"] for row in rows.epochs] == [0.1, 0.1, 0.05]
    assert run.optimizer.param_groups[0]["lr"] == 0.025
    assert run.schedule.best == rows.epochs[0][metric]


class EverySecond(Accuracy):
    """Accuracy that is undefined for every validation with an odd number."""

    name = "sometimes"
    validations = 0

    def value(self, sums, samples):
        if samples != 40:  # of the train split
            return 0.5
        self.validations += 1
        return None if self.validations % 2 else super().value(sums, samples)


def test_an_undefined_metric_is_neither_observed_nor_kept():
    rows = Rows()
    schedule = partial(Plateau, factor=0.5, patience=0, threshold=0.99, mode="max")
    task = Classification(CrossEntropy(), [EverySecond()], CLASSES)
    metric = "val/sometimes"
    run = trainer(data(), dense(), 18, schedule=schedule, validate=True, watch=[rows], plateau_metric=metric, task=task)
    state = run.fit()
    assert [metric in row for row in rows.epochs] == [False, True] * 3
    # the plateau has seen three validations: a first one and two without improvement
    assert run.optimizer.param_groups[0]["lr"] == 0.025
    assert list(state.metrics) == ["train/loss", "train/sometimes", "val/loss", metric]
    run.task.metrics[0].validations = 0
    run.validate(state)
    assert metric not in state.metrics


def test_log_row_holds_the_learning_rate_used_by_its_step():
    """Plain SGD moves a weight whose gradient is -1 by the learning rate."""

    class Slope(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, x):
            return self.weight.expand(len(x), CLASSES)

    class Rise(CrossEntropy):
        def summed(self, logits_BK, targets):
            return -logits_BK[:, 0].sum()

    class Weights(Callback):
        def step_end(self, context):
            weights.append(float(net.weight.detach()))

    net, rows, weights = Slope(), Rows(), [0.0]
    run = trainer(
        data(), net, 2 * PER_EPOCH, optimizer=torch.optim.SGD(net.parameters(), lr=0.5), loss=Rise(),
        schedule=partial(Exponential, gamma=0.5, steps_per_epoch=1), intervals=Intervals(log_steps=1),
        watch=[rows, Weights()],
    )  # fmt: skip
    run.fit()
    moved = [after - before for before, after in pairwise(weights)]
    assert len(set(moved)) == 2 * PER_EPOCH
    assert list({row["step"]: row["lr/0"] for row in rows.rows}.values()) == pytest.approx(moved)
    assert [row["lr/0"] for row in rows.epochs] == pytest.approx([moved[PER_EPOCH - 1], moved[-1]])


def test_log_interval_rows_hold_the_mean_since_the_last_row():
    rows = Rows()
    net = dense()
    still = torch.optim.SGD(net.parameters(), lr=0.0)
    run = trainer(data(), net, 6, optimizer=still, intervals=Intervals(log_steps=2), watch=[rows])
    run.fit()
    assert [row["step"] for row in rows.rows] == [2, 3, 4, 6, 6]  # the ends of epochs at 3 and 6 have rows of their own
    by_step = [
        nn.functional.cross_entropy(net(batch.inputs), batch.targets).item()
        for epoch in (0, 1)
        for step in run.train.epoch(epoch)
        for batch in step.micro_batches
    ]
    expected = [by_step[0:2], by_step[0:3], by_step[3:4], by_step[4:6], by_step[3:6]]
    assert [row["train/loss"] for row in rows.rows] == pytest.approx([sum(e) / len(e) for e in expected])
    assert all(row["lr/0"] == 0.0 for row in rows.rows)


@pytest.mark.parametrize(
    ("every", "validate_epochs", "expected"),
    [(2, 1, [2, 3, 4, 6, 8, 9]), (3, 2, [3, 6, 9]), (4, 9, [4, 8, 9]), (None, 1, [3, 6, 9]), (None, 2, [6, 9])],
)
def test_saves_follow_validations_and_the_save_step_interval(every, validate_epochs, expected, tmp_path):
    intervals = Intervals(validate_epochs=validate_epochs, save_steps=every)
    run = trainer(data(), dense(), 9, validate=True, checkpoints=keeper(tmp_path), intervals=intervals)
    saved = []
    write = run.checkpoints.save
    run.checkpoints.save = lambda snapshot, step, *rest, **options: (
        saved.append(step),
        write(snapshot, step, *rest, **options),
    )
    run.fit()
    assert saved == expected


def test_a_train_metric_ranks_checkpoints_without_validation(tmp_path):
    checkpoints, rows = Checkpoints(tmp_path / "checkpoints", "train/loss", "min", 1, False), Rows()
    trainer(data(), dense(), 9, watch=[rows], checkpoints=checkpoints).fit()
    losses = {row["step"]: row["train/loss"] for row in rows.epochs}
    assert list(losses) == [3, 6, 9]
    best = min(losses, key=losses.__getitem__)
    assert checkpoints.ranking == [(losses[best], f"step-{best:08d}")]
    assert checkpoints.best is not None


def test_accelerator_has_no_host_sync_between_log_lines(monkeypatch):
    """A CPU stands in: with the per-step check of CPUs off, nothing may turn a tensor into a number."""
    run = trainer(
        data(), dense(), 9, intervals=Intervals(log_steps=100), nonfinite_policy=StopAtNonFinite(check_each_step=False)
    )
    run.limits.steps = 2  # within the first epoch
    read = []
    for name in ("item", "tolist", "__float__", "__bool__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda self, *a, original=original, name=name: (read.append(name), original(self, *a))[1],
        )
    steps = run.steps(run.state)
    run.update(run.accumulate(next(steps)))
    run.log_if_due(run.state)
    assert read == []


# --- numbers that are not finite


class Poisoned(nn.Module):
    """Returns logits that are not finite at its `at`-th training call."""

    def __init__(self, net: nn.Module, at: int, value: float):
        super().__init__()
        self.net, self.at, self.value, self.calls = net, at, value, 0

    def forward(self, x):
        self.calls += self.training
        logits = self.net(x)
        return logits + self.value if self.training and self.calls == self.at else logits


@pytest.mark.row(27)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [1, 3, 5])
def test_nonfinite_loss_ends_the_run_before_the_weights_change(value, at, tmp_path):
    net, until_then, rows = dense(), dense(), Rows()
    forward = Poisoned(net, at, value)
    run = trainer(data(), net, 9, forward=forward, validate=True, checkpoints=keeper(tmp_path), watch=[rows])
    state = run.fit()
    assert len(rows.epochs) == (at - 1) // PER_EPOCH, "what is left of the epoch is not validated"
    assert (state.status, state.step) == ("diverged", at - 1)
    assert f"at step {at}" in state.stop_reason
    assert "optimizer.lr" in state.stop_reason
    trainer(data(), until_then, at - 1).fit()
    assert same(dict(net.state_dict()), dict(until_then.state_dict()))
    assert saved_steps(tmp_path) == ([3] if at > 3 else [])


def all_finite(folder) -> bool:
    snapshots = [read_checkpoint(path) for path in folder.glob("checkpoints/step-*")]
    return all(t.isfinite().all() for s in snapshots for t in (*s.weights.values(), *s.ema.values()))


def poison(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        tensor.view(-1)[0] = math.nan


@pytest.mark.row(28)
@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("save_steps", [None, 1])
def test_nan_weight_ends_the_run_and_reaches_no_checkpoint(at, save_steps, tmp_path):
    net = dense()
    run = trainer(
        data(),
        net,
        9,
        validate=True,
        checkpoints=keeper(tmp_path),
        intervals=Intervals(save_steps=save_steps),
        watch=[At(at, lambda _: poison(net.head.weight))],
    )
    assert run.fit().status == "diverged"
    assert all_finite(tmp_path)
    assert run.state.step <= at


@pytest.mark.row(28)
def test_an_interruption_saves_no_weights_that_are_not_finite(tmp_path):
    def both(_):
        poison(net.head.weight)
        run.interrupted_by = "SIGTERM"

    net = dense()
    run = trainer(data(), net, 9, validate=True, checkpoints=keeper(tmp_path), watch=[At(4, both)])
    assert run.fit().status == "interrupted"
    assert saved_steps(tmp_path) == [3]


@pytest.mark.row(28)
@pytest.mark.parametrize("at", [1, 3, 4])
def test_nan_gradient_ends_the_run_and_reaches_no_checkpoint(at, tmp_path):
    net = dense()
    seen = []

    def spoil(gradient):
        seen.append(1)
        return gradient * math.nan if len(seen) == at else gradient

    net.head.bias.register_hook(spoil)
    intervals = Intervals(save_steps=1)
    run = trainer(data(), net, 9, validate=True, checkpoints=keeper(tmp_path), intervals=intervals)
    assert run.fit().status == "diverged"
    assert all_finite(tmp_path)


@pytest.mark.row(28)
def test_nan_in_an_unused_weight_is_found_when_saving(tmp_path):
    net = dense()
    net.register_parameter("unused", nn.Parameter(torch.zeros(3)))
    poison(net.unused)
    run = trainer(data(), net, 3, validate=True, checkpoints=keeper(tmp_path))
    assert run.fit().status == "diverged"
    assert "unused" in run.state.stop_reason
    assert saved_steps(tmp_path) == []


@pytest.mark.row(28)
@pytest.mark.parametrize("validate", [True, False])
def test_nan_in_averaged_weights_ends_the_run_and_is_not_saved(validate, tmp_path):
    net = dense()
    run = trainer(data(), net, 9, validate=validate, checkpoints=keeper(tmp_path), ema=Ema(net, 0.9))
    run.callbacks.members.append(At(4, lambda _: poison(run.averaged.model.head.weight)))
    assert run.fit().status == "diverged"
    assert saved_steps(tmp_path) == [3]
    assert all_finite(tmp_path)


class Explodes(nn.Module):
    """Finite in training, not in evaluation."""

    def __init__(self, net: nn.Module, after: int):
        super().__init__()
        self.net, self.after, self.evaluations = net, after, 0

    def forward(self, x):
        self.evaluations += not self.training
        return self.net(x) * (math.inf if self.evaluations > self.after and not self.training else 1)


@pytest.mark.row(27)
def test_nonfinite_validation_loss_ends_the_run_and_is_not_best(tmp_path):
    net = Explodes(dense(), after=3)  # validation is three batches
    stopping = EarlyStopping("val/loss", "min", 1, 0.0, None)
    run = trainer(data(), net, 9, validate=True, checkpoints=keeper(tmp_path), early_stopping=stopping)
    state = run.fit()
    assert (state.status, state.step) == ("diverged", 6)
    assert "validation loss" in state.stop_reason
    assert saved_steps(tmp_path) == [3]


@pytest.mark.row(27)
def test_without_step_checks_the_next_log_line_finds_divergence(tmp_path):
    """As on a GPU, where reading the loss at each step would cost more than it is worth."""
    net = dense()
    rows = Rows()
    run = trainer(
        data(),
        net,
        30,
        forward=Poisoned(net, 5, math.nan),
        validate=True,
        checkpoints=keeper(tmp_path),
        intervals=Intervals(log_steps=4, save_steps=1),
        nonfinite_policy=StopAtNonFinite(check_each_step=False),
        watch=[rows],
    )
    state = run.fit()
    assert (state.status, state.step) == ("diverged", 5)
    assert saved_steps(tmp_path) == [3, 4]
    assert all_finite(tmp_path)


@pytest.mark.row(27)
def test_nonfinite_train_loss_is_reported_at_epoch_end():
    net = dense()
    # The gradient of -inf logits is finite enough here to leave the weights whole.
    forward = Poisoned(net, 2, math.nan)
    intervals, rule = Intervals(log_steps=100), StopAtNonFinite(check_each_step=False)
    run = trainer(data(), net, 30, forward=forward, validate=True, intervals=intervals, nonfinite_policy=rule)
    run.clip = lambda: [p.grad.nan_to_num_() for p in net.parameters()]
    state = run.fit()
    assert (state.status, state.step) == ("diverged", 3)
    assert "training loss" in state.stop_reason


@pytest.mark.row(27)
def test_divergence_takes_precedence_over_early_stopping():
    net = dense()
    still = torch.optim.SGD(net.parameters(), lr=0.0)
    forward = Poisoned(net, 5, math.nan)
    stopping = EarlyStopping("val/loss", "min", 1, 0.0, None)  # due at step 6
    run = trainer(
        data(),
        net,
        30,
        optimizer=still,
        forward=forward,
        validate=True,
        early_stopping=stopping,
        intervals=Intervals(log_steps=100),
        nonfinite_policy=StopAtNonFinite(check_each_step=False),
    )
    run.clip = lambda: [p.grad.nan_to_num_() for p in net.parameters()]
    assert run.fit().status == "diverged"


# --- callbacks and clocks


class Recorder(Callback):
    def __init__(self):
        self.calls: list[str] = []

    def fit_start(self, context):
        self.calls.append(f"start {context.total_steps} {context.steps_per_epoch}")

    def step_end(self, context):
        self.calls.append(f"step {context.state.step}")

    def epoch_end(self, context, values):
        self.calls.append(f"epoch {context.state.epoch}")

    def fit_end(self, context):
        self.calls.append(f"end {context.state.status}")


def test_callback_hooks_are_called_in_order():
    recorder = Recorder()
    trainer(data(), dense(), 4, watch=[recorder]).fit()
    told = ["start 4 3", "step 1", "step 2", "step 3", "epoch 1", "step 4", "epoch 1", "end completed"]
    assert recorder.calls == told


def test_fit_end_is_called_when_a_step_fails():
    recorder = Recorder()

    def fail(_):
        raise KeyError("a bug")

    run = trainer(data(), dense(), 4, watch=[recorder, At(2, fail)])
    with pytest.raises(KeyError, match="a bug"):
        run.fit()
    assert recorder.calls[-1] == "end failed"


def test_the_clocks_add_up_to_the_run_and_do_not_overlap():
    run = trainer(data(), dense(), 9, validate=True)
    run.fit()
    seconds = run.clocks.seconds()
    parts = {name: value for name, value in seconds.items() if name != "total"}
    assert sum(parts.values()) == pytest.approx(seconds["total"])
    assert all(value >= 0 for value in parts.values())
    assert min(parts[name] for name in ("data", "forward_backward", "optimizer", "evaluation")) > 0
    assert run.clocks.training == parts["data"] + parts["forward_backward"] + parts["optimizer"]
    assert run.state.training_s == run.clocks.training


def test_the_speed_leaves_the_first_steps_out(monkeypatch):
    run = trainer(data(), dense(), 0)
    seconds = iter([float(n) for n in range(100)])
    monkeypatch.setattr(type(run.clocks), "training", property(lambda _: now[0]))
    now = [0.0]
    for step in range(1, 8):
        now[0] = 100.0 if step <= 5 else now[0] + 2.0  # five slow steps, then two seconds each
        run.throughput.step_done(32 * step)
        expected = {} if step <= 5 else {"train/images_per_s": 16.0}
        assert run.throughput.values(32 * step) == expected
    assert next(seconds) == 0.0


class Second(DistributedContext):
    """One of two processes, the other of which says yes to whatever is asked."""

    rank, world_size = 1, 2

    def any(self, flag):
        return True


@pytest.mark.parametrize(("limits", "status"), [(Limits(9), "interrupted"), (Limits(9, 1e9), "interrupted")])
def test_a_process_stops_with_the_others_at_a_logged_step(limits, status):
    run = trainer(data(), dense(), 9, limits=limits, ranks=Second(), intervals=Intervals(log_steps=2))
    assert run.fit().status == status
    assert run.state.step == 2


# --- parts


PARTS = {
    "clip": (NoClipping, ClipNorm, ClipValue),
    "ema": (NoEma, Ema, OptimizerAverage),
    "nonfinite_policy": (StopAtNonFinite, SkipNonFinite),
    "oom_policy": (RaiseOnOutOfMemory, SplitOnOutOfMemory),
    "statistics": (KeepStatistics, RefreshStatistics, AveragedStatistics),
    "early_stopping": (NoEarlyStopping, EarlyStopping),
}


@pytest.mark.parametrize("field", PARTS)
def test_each_form_of_a_part_has_its_interface_s_methods(field):
    """No form is the base class of another kind of form: a method that one lacks would be the no-op's."""
    hint = get_type_hints(Trainer)[field]
    interface = next(kind for kind in (get_args(hint) or (hint,)) if kind is not type(None))
    methods = {name for name, value in vars(interface).items() if inspect.isfunction(value) and name[:2] != "__"}
    methods |= {"__call__"} & set(vars(interface))
    assert methods
    plain, *others = PARTS[field]
    for kind in others:
        assert not issubclass(kind, plain)
        assert all(callable(getattr(kind, name, None)) for name in methods), kind
        assert all(inspect.signature(getattr(kind, name)) == inspect.signature(getattr(interface, name))
                   for name in methods), kind  # fmt: skip


def test_a_checkpoint_of_0_1_keeps_its_counts_under_new_names():
    state = TrainState()
    state.load_state_dict({"step": 3, "seen": 96, "pieces": 2, "eval_pieces": 4})
    assert (state.step, state.samples_seen, state.micro_batch_splits, state.eval_splits) == (3, 96, 2, 4)
    assert not hasattr(state, "seen")
