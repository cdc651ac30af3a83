"""A step whose numbers are not finite, or whose memory does not suffice: what is configured happens, and no more."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from effbench.data.batches import TrainBatches
from effbench.data.images.augment import Augment
from effbench.errors import EffbenchError
from effbench.models.adapt import set_train_mode
from effbench.optimizers import Lion
from effbench.schedulers import Exponential
from effbench.training.callbacks import Callback
from effbench.training.checkpoint import Checkpoints
from effbench.training.checkpoint_files import read_checkpoint
from effbench.training.distributed import DistributedContext
from effbench.training.early_stopping import EarlyStopping
from effbench.training.ema import Ema
from effbench.training.failure_policies import (
    SKIPS_IN_A_ROW,
    BufferSnapshot,
    RaiseOnOutOfMemory,
    SkipNonFinite,
    SplitOnOutOfMemory,
    gradients_finite,
    optimizer_not_finite,
)
from effbench.training.precision import choose_precision
from effbench.training.snapshots import restore
from effbench.training.trainer import Intervals, Trainer
from tests.training.tiny import At, Rows, convolutional, copied, data, dense, same, sgd, trainer

STEPS = 9  # three epochs of three
CPU = torch.device("cpu")


def keeper(folder: Path) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", "val/loss", "min", 1, keep_last=True)


def state_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return copied(dict(net.state_dict()))


# --- not finite


class Spoils(nn.Module):
    """Adds `value` to the logits of these training steps (from 1), in the last of a step's `parts` forward passes."""

    def __init__(self, net: nn.Module, steps: Collection[int], value: float = math.nan, parts: int = 1):
        super().__init__()
        self.net, self.steps, self.value, self.parts, self.calls = net, steps, value, parts, 0
        self.state: Any = None

    def forward(self, x):
        logits = self.net(x)
        self.calls += self.training
        last = self.calls % self.parts == 0
        return logits + self.value if self.training and last and self.state.step + 1 in self.steps else logits


def skipping(net: nn.Module, bad: Collection[int], precision: str = "32-true", value: float = math.nan, **parts: Any):
    """A Trainer that leaves out what is not finite, and is fed with such losses in the steps `bad`."""
    forward = Spoils(net, bad, value, parts.get("batch", {}).get("accumulate", 1))
    chosen, _ = choose_precision(precision, CPU)
    rule = SkipNonFinite(DistributedContext(), precision != "16-mixed")
    steps = parts.pop("steps", STEPS)
    run = trainer(
        data(),
        net,
        steps,
        forward=forward,
        precision=chosen,
        nonfinite_policy=rule,
        buffer_snapshot=BufferSnapshot(net.buffers()),
        **parts,
    )
    forward.state = run.state
    return run


def by_hand(net: nn.Module, left_out: Collection[int], half: bool = False, accumulate: int = 1) -> torch.optim.SGD:
    """Torch's own loop over the same batches, without those steps; returns the optimizer."""
    settings = {"batch_size": 32 // accumulate, "accumulate": accumulate}
    batches, optimizer = trainer(data(), net, STEPS, batch=settings).train, sgd(net)
    scaler = torch.amp.GradScaler("cpu", enabled=half)
    set_train_mode(net)
    steps = [(epoch, index) for epoch in range(3) for index in range(3)]
    for number, (epoch, index) in enumerate(steps, start=1):
        if number in left_out:
            continue
        optimizer.zero_grad()
        for part in range(accumulate):
            batch = batches.make(epoch, index, part)
            with torch.autocast("cpu", torch.float16, enabled=half):
                logits = net(batch.inputs)
            scaler.scale(F.cross_entropy(logits.float(), batch.targets, reduction="sum") / 32).backward()
        scaler.step(optimizer)
        scaler.update()
    return optimizer


@pytest.mark.row(27)
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("bad", [{1}, {4}, {9}, {2, 3, 7}], ids=str)
def test_skipped_step_changes_no_weights_buffers_or_momentum(bad, value, precision):
    net, reference = convolutional(dropout=0.0), convolutional(dropout=0.0)
    run = skipping(net, bad, precision, value)
    state = run.fit()
    optimizer = by_hand(reference, bad, half=precision == "16-mixed")
    assert (state.status, state.step, state.skipped, state.skipped_in_a_row) == ("completed", 9, len(bad), 9 in bad)
    assert same(state_of(net), state_of(reference))
    assert same(run.optimizer.state_dict()["state"], optimizer.state_dict()["state"])


@pytest.mark.row(27)
def test_one_nonfinite_micro_batch_skips_its_whole_step():
    net, reference = convolutional(dropout=0.0), convolutional(dropout=0.0)
    assert skipping(net, {3}, batch={"batch_size": 8, "accumulate": 4}).fit().skipped == 1
    by_hand(reference, {3}, accumulate=4)
    assert same(state_of(net), state_of(reference))


@pytest.mark.row(28)
def test_nonfinite_gradient_with_finite_loss_skips_the_step():
    net, reference, calls = convolutional(dropout=0.0), convolutional(dropout=0.0), []

    def spoil(gradient):
        calls.append(1)
        return gradient * math.inf if len(calls) == 5 else gradient

    net.head.bias.register_hook(spoil)
    state = skipping(net, ()).fit()
    by_hand(reference, {5})
    assert (state.status, state.skipped) == ("completed", 1)
    assert same(state_of(net), state_of(reference))


@pytest.mark.row(28)
def test_with_loss_scaling_the_scaler_sees_to_the_gradients():
    def spoilt() -> nn.Module:
        net, calls = convolutional(dropout=0.0), []
        hook = lambda gradient: (calls.append(1), gradient * (math.nan if len(calls) == 5 else 1))[1]  # noqa: E731
        net.head.bias.register_hook(hook)
        return net

    net, reference = spoilt(), spoilt()
    run = skipping(net, (), "16-mixed")
    assert run.fit().status == "completed"
    by_hand(reference, (), half=True)
    assert same(state_of(net), state_of(reference))
    assert run.precision.state_dict()["scale"] == 2**15


@pytest.mark.row(27)
def test_schedule_and_average_follow_the_steps_that_were_taken():
    rows, net = Rows(), dense()
    schedule = partial(Exponential, gamma=0.5, steps_per_epoch=1)
    run = skipping(net, {2, 6}, schedule=schedule, ema=Ema(net, 0.9), watch=[rows], intervals=Intervals(log_steps=1))
    run.fit()
    assert int(run.averaged.state_dict()["_ema_steps"]) == 7
    steps = {row["step"]: row["lr/0"] for row in rows.rows}
    assert steps == {step: 0.1 * 0.5 ** (step - 1 - (step > 2) - (step > 6)) for step in range(1, 10)}


@pytest.mark.row(27)
def test_skipped_step_is_reported_and_excluded_from_means(capsys):
    rows = Rows()
    skipping(dense(), {2, 3}, watch=[rows], intervals=Intervals(log_steps=1)).fit()
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: step")]
    assert told == [f"warning: step {step} is left out: its loss is nan" for step in (2, 3)]
    assert all(math.isfinite(value) for row in rows.epochs for value in row.values())


def all_finite(folder: Path) -> bool:
    saved = [read_checkpoint(path) for path in folder.glob("checkpoints/step-*")]
    return all(tensor.isfinite().all() for snapshot in saved for tensor in snapshot.weights.values())


@pytest.mark.slow
@pytest.mark.row(27)
def test_twenty_in_a_row_end_the_run_as_diverged(tmp_path):
    bad, intervals = range(5, 10**6), Intervals(save_steps=1)
    run = skipping(dense(), bad, steps=100, checkpoints=keeper(tmp_path), validate=True, intervals=intervals)
    state = run.fit()
    assert (state.status, state.skipped, state.step) == ("diverged", 20, 4 + 19)
    assert all_finite(tmp_path)


@pytest.mark.row(28)
@pytest.mark.parametrize("saves", [True, False])
def test_a_spoilt_weight_is_not_a_batch_s_fault_and_ends_the_run(saves, tmp_path):
    """Found by the next save, or where there is none by the steps that all go wrong."""
    net = dense()

    def poison(_: Any) -> None:
        net.head.weight.data.view(-1)[0] = math.nan

    intervals = Intervals(validate_epochs=1 if saves else 10**6)
    watch = [At(4, poison)]
    run = skipping(net, (), steps=100, checkpoints=keeper(tmp_path), validate=True, watch=watch, intervals=intervals)
    state = run.fit()
    assert (state.status, state.skipped) == ("diverged", 2 if saves else SKIPS_IN_A_ROW)
    assert all_finite(tmp_path)


@pytest.mark.row(27)
def test_a_finite_step_resets_the_count_of_skipped_steps():
    bad = set(range(1, 100)) - {SKIPS_IN_A_ROW, 2 * SKIPS_IN_A_ROW}
    state = skipping(dense(), bad, steps=3 * SKIPS_IN_A_ROW - 1).fit()
    assert (state.status, state.skipped) == ("completed", 3 * (SKIPS_IN_A_ROW - 1))


@pytest.mark.row(27)
def test_run_ending_in_skipped_steps_still_validates_and_saves(tmp_path):
    run = skipping(dense(), {7, 8, 9}, validate=True, checkpoints=keeper(tmp_path))
    state = run.fit()
    assert (state.status, state.step) == ("completed", 9)
    assert (tmp_path / "checkpoints" / "last").readlink().name == "step-00000009"


@pytest.mark.row(27)
def test_epoch_of_skipped_steps_is_no_train_loss_stopping_check():
    stopping = EarlyStopping("train/loss", "min", 9, 0.0, None)
    state = skipping(dense(), {1, 2, 3}, validate=True, early_stopping=stopping).fit()
    assert (state.status, state.step, stopping.best is None) == ("completed", 9, False)


@pytest.mark.row(27)
@pytest.mark.parametrize("at", [2, 3, 4, 5])
def test_interruption_next_to_a_skipped_step_resumes_bit_exact(at, tmp_path):
    straight = convolutional()
    skipping(straight, {3, 4}).fit()
    first = skipping(convolutional(), {3, 4}, checkpoints=keeper(tmp_path))
    first.callbacks.members.append(At(at, lambda _: setattr(first, "interrupted_by", "SIGTERM")))
    assert first.fit().status == "interrupted"
    net = convolutional(seed=5)
    resumed = skipping(net, {3, 4}, checkpoints=keeper(tmp_path))
    restore(resumed, read_checkpoint(tmp_path / "checkpoints" / "last"))
    assert resumed.fit().skipped == 2
    assert same(state_of(net), state_of(straight))


@pytest.mark.row(28)
@pytest.mark.parametrize("where", ["buffer", "average's buffer"])
def test_a_nan_in_a_buffer_alone_ends_the_run_and_is_not_saved(where, tmp_path):
    net = convolutional()
    run = trainer(data(), net, STEPS, validate=True, checkpoints=keeper(tmp_path), ema=Ema(net, 0.9))
    model = net if where == "buffer" else run.averaged.model
    [norm] = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    # After the last step of the second epoch: the next step would spoil the loss too.
    run.callbacks.members.append(At(6, lambda _: norm.running_var.fill_(math.nan)))
    assert run.fit().status == "diverged"
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-00000003"]


@pytest.mark.row(28)
def test_an_infinity_in_a_buffer_may_be_meant_such_as_a_mask(tmp_path):
    net = dense()
    net.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    assert trainer(data(), net, 3, validate=True, checkpoints=keeper(tmp_path)).fit().status == "completed"


# --- out of memory


def no_memory(kind: str) -> Exception:
    """As torch says it on a GPU, as it says it on a CPU, and as Python does."""
    return {
        "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has 4 GiB"),
        "cpu": RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 4096000000 bytes. Error code 12 (Cannot allocate memory)"
        ),
        "python": MemoryError(),
    }[kind]


class Hungry(nn.Module):
    """Has room for so many samples at once; notices after its forward pass, when batch norm has seen them."""

    def __init__(self, net: nn.Module, room: int = 10**9, eval_room: int = 10**9, kind: str = "gpu", after: int = 0):
        super().__init__()
        self.net, self.room, self.eval_room, self.kind, self.after = net, room, eval_room, kind, after

    def forward(self, x):
        logits = self.net(x)
        self.after -= 1
        if self.after < 0 and len(x) > (self.room if self.training else self.eval_room):
            raise no_memory(self.kind)
        return logits


def halving(net: nn.Module, room: int, steps: int = STEPS, after: int = 0, **parts: Any) -> Trainer:
    forward = Hungry(net, room, after=after)
    return trainer(
        data(),
        net,
        steps,
        forward=forward,
        oom_policy=SplitOnOutOfMemory(),
        buffer_snapshot=BufferSnapshot(net.buffers()),
        **parts,
    )


@pytest.mark.row(29)
@pytest.mark.parametrize("kind", ["gpu", "cpu", "python"])
def test_oom_in_training_names_batch_size_and_remedies(kind):
    net = dense()
    with pytest.raises(EffbenchError) as caught:
        trainer(
            data(), net, 3, forward=Hungry(net, 31, kind=kind), oom_policy=RaiseOnOutOfMemory("data.image_size")
        ).fit()
    text = str(caught.value)
    assert "out of memory in training at data.batch_size=32" in text
    assert all(word in text for word in ("lower data.batch_size", "data.image_size", "trainer.on_oom=halve"))
    assert "\n" not in text


@pytest.mark.row(29)
def test_oom_in_evaluation_names_eval_batch_size():
    net = Hungry(dense(), eval_room=15)
    with pytest.raises(EffbenchError, match=r"out of memory in evaluation at data.eval_batch_size=16: lower data.eval"):
        trainer(data(), net, 3, validate=True).fit()


@pytest.mark.row(29)
def test_oom_in_the_optimizer_names_its_state_not_the_batch(monkeypatch):
    net = dense()
    run = trainer(data(), net, 3)

    def step(*_: Any) -> None:
        raise no_memory("gpu")

    monkeypatch.setattr(run.optimizer, "step", step)
    with pytest.raises(EffbenchError, match=r"in the step of the optimizer, SGD .* not with data\.batch_size"):
        run.fit()


@pytest.mark.parametrize("memory", ["raise", "halve"])
def test_another_runtime_error_is_not_taken_for_out_of_memory(memory):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    net = dense()
    parts = {"oom_policy": SplitOnOutOfMemory()} if memory == "halve" else {}
    with pytest.raises(RuntimeError, match="shapes cannot"):
        trainer(data(), net, 3, forward=Broken(), **parts).fit()


@pytest.mark.row(29)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("room", [16, 15, 8, 2])
def test_halved_batches_train_like_accumulation(room, workers, capsys):
    pieces = {16: 2, 15: 4, 8: 4, 2: 16}[room]
    net, reference = dense(), dense()
    run = halving(net, room, batch={"num_workers": workers})
    state = run.fit()
    trainer(data(), reference, STEPS, batch={"batch_size": 32 // pieces, "accumulate": pieces}).fit()
    assert (state.status, state.micro_batch_splits, state.eval_splits) == ("completed", pieces, 1)
    assert same(state_of(net), state_of(reference))
    told = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert len(told) == int(math.log2(pieces)), "once each time"
    assert f"data.batch_size=32: each batch is cut into {pieces} pieces" in told[-1]


@pytest.mark.row(29)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("after", [0, 4, 5])
def test_failed_oom_attempt_leaves_the_training_state_unchanged(after, accumulate):
    """Against a run that cut its batches from that step on, asked to before it failed."""
    settings = {"batch_size": 32 // accumulate, "accumulate": accumulate, "augment": Augment(mixup_alpha=0.4)}
    net, reference = convolutional(), convolutional()
    halving(net, 32 // accumulate - 1, after=after, batch=settings).fit()
    known = trainer(data(), reference, STEPS, batch=settings)
    step = after // accumulate  # done before the one in which memory first does not suffice

    def cut(_: Any) -> None:
        known.state.micro_batch_splits = 2

    if step == 0:
        cut(None)
    known.callbacks.members.append(At(step, cut))
    known.fit()
    assert same(state_of(net), state_of(reference))


@pytest.mark.row(29)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["gpu", "cpu", "python"])
def test_out_of_memory_while_making_a_batch_loses_no_batch(kind, workers, monkeypatch):
    """Augmentation runs on the device too; the steps after it must get their own batches."""
    net, reference, tried = dense(), dense(), []
    make = TrainBatches.make

    def hungry(self: TrainBatches, *place: int) -> Any:
        tried.append(place)
        if place[:2] == (1, 0) and tried.count(place) == 1:
            raise no_memory(kind)
        return make(self, *place)

    run = halving(net, 10**9, batch={"num_workers": workers})
    with monkeypatch.context() as patch:
        patch.setattr(TrainBatches, "make", hungry)
        state = run.fit()
    known = trainer(data(), reference, STEPS)
    known.callbacks.members.append(At(3, lambda _: setattr(known.state, "micro_batch_splits", 2)))
    known.fit()
    assert (state.samples_seen, state.micro_batch_splits) == (STEPS * 32, 2)
    assert same(state_of(net), state_of(reference))


@pytest.mark.row(29)
def test_oom_at_smallest_piece_names_batch_size_and_pieces():
    with pytest.raises(
        EffbenchError, match=r"out of memory in training at data.batch_size=32, cut into 16 pieces already"
    ):
        halving(dense(), 1).fit()


@pytest.mark.row(29)
def test_an_incomplete_batch_is_cut_into_no_pieces_of_one():
    """Batch norm cannot train on one sample."""
    sizes = []

    class Notes(Callback):
        def step_end(self, context):
            sizes.append(seen.copy())
            seen.clear()

    net, seen = convolutional(), []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    run = halving(net, 4, steps=4, batch={"drop_last": False, "batch_size": 30}, watch=[Notes()])
    run.fit()
    assert sizes[1:] == [[4, 4, 4, 4, 4, 4, 3, 3]] * 2 + [[2, 2, 2]]


@pytest.mark.row(29)
def test_halved_evaluation_is_equal_and_reported_once(capsys):
    measured = []
    for room in (10**9, 3):
        net = Hungry(dense(), eval_room=room)
        run = trainer(data(), net, STEPS, validate=True, oom_policy=SplitOnOutOfMemory())
        state = run.fit()
        measured.append(state.metrics)
        assert (state.micro_batch_splits, state.eval_splits) == (1, 1 if room > 100 else 8)
    assert measured[0] == pytest.approx(measured[1], rel=1e-6)
    told = [line for line in capsys.readouterr().err.splitlines() if "out of memory in evaluation" in line]
    assert len(told) == 3


@pytest.mark.row(29)
def test_a_resumed_run_keeps_its_pieces_and_its_bits(tmp_path, capsys):
    straight = convolutional()
    halving(straight, 8, validate=True).fit()
    first = halving(convolutional(), 8, validate=True, checkpoints=keeper(tmp_path))
    first.callbacks.members.append(At(4, lambda _: setattr(first, "interrupted_by", "SIGTERM")))
    first.fit()
    capsys.readouterr()
    net = convolutional(seed=5)
    resumed = halving(net, 8, validate=True, checkpoints=keeper(tmp_path))
    restore(resumed, read_checkpoint(tmp_path / "checkpoints" / "last"))
    assert resumed.fit().micro_batch_splits == 4
    assert "out of memory" not in capsys.readouterr().err
    assert same(state_of(net), state_of(straight))


@pytest.mark.row(28)
def test_nan_in_lion_s_momentum_alone_is_found_at_the_next_save(tmp_path):
    """The sign of NaN is 0: the weights stay finite, and that parameter would silently never move again."""
    net = dense()
    lion = Lion(net.parameters(), lr=1e-3)

    def poison(_: Any) -> None:
        lion.state[next(net.parameters())]["exp_avg"].view(-1)[0] = float("nan")

    run = trainer(
        data(), net, 6, optimizer=lion, watch=[At(2, poison)],
        checkpoints=Checkpoints(tmp_path / "checkpoints", "val/acc", "max", 1, keep_last=True),
    )  # fmt: skip
    state = run.fit()
    assert state.status == "diverged"
    assert "exp_avg of the optimizer" in str(state.stop_reason)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.row(28)
def test_a_parameter_without_elements_is_finite():
    """The largest of nothing is an error to torch."""
    empty = torch.zeros(0, 3, requires_grad=True)
    empty.grad = torch.zeros_like(empty)
    full = torch.zeros(2, requires_grad=True)
    full.grad = torch.tensor([1.0, float("nan")])
    assert gradients_finite([empty])
    assert not gradients_finite([empty, full])
    lion = Lion([empty, full], lr=0.1)
    lion.step()
    assert optimizer_not_finite(lion) == "exp_avg of the optimizer"
