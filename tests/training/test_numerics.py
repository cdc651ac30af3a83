"""The Trainer's arithmetic against a plain PyTorch loop: torch's own loss, optimizer, clipping and loss scaler."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effbench.data.batches import TrainBatches
from effbench.data.images.augment import Augment
from effbench.optimizers.groups import decayed_parameters
from effbench.schedulers import Cosine
from effbench.tasks.losses import CrossEntropy
from effbench.training.callbacks import Callback, Context
from effbench.training.clipping import choose_clipping
from effbench.training.ema import Ema
from effbench.training.penalty import L1Penalty
from effbench.training.precision import choose_precision
from tests.training.tiny import (
    batch_transform,
    convolutional,
    copied,
    data,
    dense,
    largest_difference,
    same,
    sgd,
    trainer,
    unbalanced,
)

STEPS = 50
CPU = torch.device("cpu")
WEIGHTS = torch.tensor([0.3, 1.0, 2.0, 0.7])


def plain_loop(
    net: nn.Module,
    batches: TrainBatches,
    optimizer: torch.optim.Optimizer,
    *,
    loss: nn.Module | None = None,
    extra: Callable[[nn.Module], Tensor] | None = None,
    clip: Callable[[], Any] = lambda: None,
    autocast: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    lr_at: Callable[[int], float] | None = None,
    after: Callable[[], None] = lambda: None,
) -> nn.Module:
    """What anyone would write: gather, normalise, loss, backward, clip, step. Only the sample order is effbench's."""
    loss, scaler = loss or nn.CrossEntropyLoss(), scaler or torch.amp.GradScaler("cpu", enabled=False)
    split, mean, std = batches.split, batches.modality.transform.mean[0], batches.modality.transform.std[0]
    taken = 0  # optimizer steps really taken
    net.train()
    for step in range(STEPS):
        indices = batches.step_indices(*divmod(step, batches.steps_per_epoch))
        x = (split.images[indices].float() * (1 / 255) - torch.tensor(mean)) / torch.tensor(std)
        if lr_at:
            optimizer.param_groups[0]["lr"] = lr_at(taken)
        with torch.autocast("cpu", autocast) if autocast else nullcontext():
            value = loss(net(x), split.labels[indices])
        value = value + extra(net) if extra else value
        optimizer.zero_grad()
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        clip()
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        taken += scaler.get_scale() >= before
        after()
    return net


def twins(**options: Any) -> tuple[nn.Module, nn.Module]:
    net = dense(**options)
    return net, copy.deepcopy(net)


def weights(net: nn.Module) -> dict[str, Tensor]:
    return copied(dict(net.state_dict()))


class Rates(Callback):
    """Notes the learning rate after each step."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer, self.noted = optimizer, []

    def step_end(self, context: Context) -> None:
        self.noted.append(self.optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    "make",
    [
        lambda net: torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
        lambda net: torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.1),
        lambda net: torch.optim.RMSprop(net.parameters(), 1e-3),
    ],
    ids=["sgd", "adamw", "rmsprop"],
)
def test_50_steps_end_at_the_very_weights_of_a_plain_loop(make):
    ours, theirs = twins()
    run = trainer(data(), ours, STEPS, optimizer=make(ours))
    run.fit()
    plain_loop(theirs, run.train, make(theirs))
    assert same(weights(ours), weights(theirs))
    assert not same(weights(ours), weights(dense()))


@pytest.mark.slow
def test_batch_norm_sees_the_batches_of_a_plain_loop():
    ours = convolutional(dropout=0.0)
    theirs = copy.deepcopy(ours)
    run = trainer(data(), ours, STEPS, validate=True)
    run.fit()
    plain_loop(theirs, run.train, sgd(theirs))
    assert same(weights(ours), weights(theirs))


def test_a_schedule_sets_the_lr_of_the_step_to_come():
    ours, theirs = twins()
    run = trainer(data(), ours, STEPS, schedule=lambda o: Cosine(o, STEPS, warmup=5))
    run.fit()

    def closed_form(t: int) -> float:
        rise = 0.01 + 0.99 * t / 5
        return 0.1 * (rise if t < 5 else 0.5 * (1 + math.cos(math.pi * (t - 5) / (STEPS - 5))))

    plain_loop(theirs, run.train, sgd(theirs), lr_at=closed_form)
    assert largest_difference(weights(ours), weights(theirs)) < 1e-6


# --- accumulation


def test_4_micro_batches_of_8_make_the_step_of_a_hand_written_32():
    ours, theirs = twins()
    run = trainer(data(), ours, STEPS, batch={"batch_size": 8, "accumulate": 4})
    run.fit()
    plain_loop(theirs, run.train, sgd(theirs))
    assert largest_difference(weights(ours), weights(theirs)) < 1e-6


@pytest.mark.slow
@pytest.mark.spread(8)
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize(
    "augment",
    [
        Augment(),
        Augment(crop_padding=2, flip=0.5, rotate=15, brightness=0.2, contrast=0.2, dropout_holes=2),
        Augment(mixup_alpha=0.4),
        Augment(flip=0.5, cutmix_alpha=1.0),
        Augment(shift=0.1, mixup_alpha=0.4, cutmix_alpha=1.0),
    ],
    ids=["no augmentation", "strong", "mixup", "flip and cutmix", "shift, mixup or cutmix"],
)
@pytest.mark.parametrize("loss", [CrossEntropy(), CrossEntropy(0.1, WEIGHTS)], ids=["plain", "smoothed and weighted"])
def test_4_micro_batches_of_8_train_as_1_of_32(loss, augment, drop_last):
    ends = []
    for batch_size, accumulate in ((8, 4), (32, 1)):
        net = dense()
        batch = {"batch_size": batch_size, "accumulate": accumulate, "augment": augment, "drop_last": drop_last}
        trainer(unbalanced(data(num_train=92)), net, 20, batch=batch, loss=loss).fit()
        ends.append(weights(net))
    assert largest_difference(*ends) < 1e-6


def test_class_weights_and_label_smoothing_are_torchs():
    ours, theirs = twins()
    run = trainer(unbalanced(data()), ours, STEPS, loss=CrossEntropy(0.1, WEIGHTS))
    run.fit()
    plain_loop(theirs, run.train, sgd(theirs), loss=nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1))
    assert largest_difference(weights(ours), weights(theirs)) < 1e-6


# --- clipping and penalties, in true gradient units


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_clipping_is_torchs_and_bites(algorithm, accumulate):
    ours, theirs = twins()
    limit = {"norm": 0.05, "value": 0.005}[algorithm]
    clip = choose_clipping(list(ours.parameters()), limit, algorithm)
    batch = {"batch_size": 32 // accumulate, "accumulate": accumulate}
    run = trainer(data(), ours, STEPS, clip=clip, batch=batch)
    run.fit()
    torchs = {"norm": nn.utils.clip_grad_norm_, "value": nn.utils.clip_grad_value_}[algorithm]
    plain_loop(theirs, run.train, sgd(theirs), clip=lambda: torchs(theirs.parameters(), limit))
    rounded = accumulate > 1 or algorithm == "norm"  # the compiled sum of squares is kept in float64
    assert largest_difference(weights(ours), weights(theirs)) < (1e-6 if rounded else 1e-12)
    unclipped = dense()
    plain_loop(unclipped, run.train, sgd(unclipped))
    assert largest_difference(weights(unclipped), weights(theirs)) > 1e-3


def test_without_a_limit_nothing_is_clipped():
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.full((3,), 1e9)
    choose_clipping([parameter], None, "norm")()
    assert parameter.grad.tolist() == [1e9] * 3


def test_l1_adds_sign_gradient_to_decayed_weights_only():
    ours, theirs = twins()
    run = trainer(data(), ours, STEPS, penalty=L1Penalty(decayed_parameters(ours), 1e-2))
    run.fit()
    plain_loop(
        theirs,
        run.train,
        sgd(theirs),
        extra=lambda net: 1e-2 * sum(p.abs().sum() for name, p in net.named_parameters() if "weight" in name),
    )
    assert largest_difference(weights(ours), weights(theirs)) < 1e-6


def test_the_penalty_is_part_of_the_gradient_that_is_clipped():
    ours, theirs = twins()
    penalty = L1Penalty(list(ours.parameters()), 1e-2)
    run = trainer(data(), ours, STEPS, penalty=penalty, clip=choose_clipping(list(ours.parameters()), 0.05, "norm"))
    run.fit()
    plain_loop(
        theirs,
        run.train,
        sgd(theirs),
        extra=lambda net: 1e-2 * sum(p.abs().sum() for p in net.parameters()),
        clip=lambda: nn.utils.clip_grad_norm_(theirs.parameters(), 0.05),
    )
    assert largest_difference(weights(ours), weights(theirs)) < 1e-6


def test_l1_leaves_parameters_without_a_gradient_alone():
    live, idle = nn.Parameter(torch.tensor([2.0, -3.0, 0.0])), nn.Parameter(torch.ones(2))
    live.grad = torch.zeros(3)
    L1Penalty([live, idle], 0.5).add_gradients()
    assert live.grad.tolist() == [0.5, -0.5, 0.0]
    assert idle.grad is None


# --- precision


def test_bf16_mixed_is_torchs_autocast():
    ours, theirs = twins()
    run = trainer(data(), ours, STEPS, precision=choose_precision("bf16-mixed", CPU)[0])
    run.fit()
    plain_loop(theirs, run.train, sgd(theirs), autocast=torch.bfloat16)
    assert same(weights(ours), weights(theirs))
    exact = dense()
    plain_loop(exact, run.train, sgd(exact))
    assert not same(weights(ours), weights(exact))


@pytest.mark.parametrize("limit", [None, 0.05])
def test_16_mixed_is_torchs_autocast_with_its_grad_scaler(limit):
    ours, theirs = twins()
    run = trainer(
        data(),
        ours,
        STEPS,
        precision=choose_precision("16-mixed", CPU)[0],
        clip=choose_clipping(list(ours.parameters()), limit, "norm"),
    )
    run.fit()
    plain_loop(
        theirs,
        run.train,
        sgd(theirs),
        autocast=torch.float16,
        scaler=torch.amp.GradScaler("cpu"),
        clip=lambda: nn.utils.clip_grad_norm_(theirs.parameters(), limit) if limit else None,
    )
    assert largest_difference(weights(ours), weights(theirs)) < (1e-5 if limit else 1e-12)  # clipped: rounded otherwise


def test_l1_under_16_mixed_is_in_true_gradient_units():
    ours, theirs = twins()
    decayed = [p for name, p in ours.named_parameters() if "weight" in name]
    penalty, precision = L1Penalty(decayed, 1e-2), choose_precision("16-mixed", CPU)[0]
    run = trainer(data(), ours, STEPS, precision=precision, penalty=penalty)
    run.fit()
    plain_loop(
        theirs,
        run.train,
        sgd(theirs),
        autocast=torch.float16,
        scaler=torch.amp.GradScaler("cpu"),
        extra=lambda net: 1e-2 * sum(p.abs().sum() for name, p in net.named_parameters() if "weight" in name),
    )
    assert largest_difference(weights(ours), weights(theirs)) < 1e-6


def test_fp16_overflow_skips_the_step_and_the_schedule():
    ours, theirs = twins()
    precision = choose_precision("16-mixed", CPU)[0]
    precision.load_state_dict({**precision.state_dict(), "scale": 2.0**22})
    optimizer = sgd(ours)
    watch = Rates(optimizer)
    schedule = partial(Cosine, total_steps=STEPS)
    run = trainer(data(), ours, STEPS, optimizer=optimizer, precision=precision, schedule=schedule, watch=[watch])
    assert run.fit().status == "completed"
    rates = [0.1 * 0.5 * (1 + math.cos(math.pi * t / STEPS)) for t in range(STEPS + 1)]
    taken = run.schedule.last_epoch
    assert STEPS - 10 <= taken <= STEPS - 2, "the scale must be too large for a few steps"
    assert sorted(set(watch.noted), reverse=True) == pytest.approx(rates[: taken + 1])
    plain_loop(
        theirs,
        run.train,
        sgd(theirs),
        autocast=torch.float16,
        scaler=torch.amp.GradScaler("cpu", init_scale=2.0**22),
        lr_at=lambda taken: rates[taken],
    )
    assert largest_difference(weights(ours), weights(theirs)) < 1e-6


def test_a_skipped_step_leaves_weights_and_average_alone():
    net = dense()
    precision = choose_precision("16-mixed", CPU)[0]
    precision.load_state_dict({**precision.state_dict(), "scale": 2.0**30})
    run = trainer(data(), net, 1, precision=precision, ema=Ema(net, 0.5))
    run.fit()
    assert same(weights(net), weights(dense()))
    assert same(weights(run.averaged.model), weights(dense()))
    assert run.schedule.last_epoch == 0


@pytest.mark.parametrize(("name", "kind"), [("32-true", None), ("16-mixed", torch.float16)])
def test_a_precision_computes_in_the_type_of_its_name(name, kind):
    precision, why = choose_precision(name, CPU)
    with precision.autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == (kind or torch.float32)
    assert (precision.name, why) == (name, "as configured")


def test_auto_is_float32_on_a_cpu_and_says_why():
    precision, why = choose_precision("auto", CPU)
    assert precision.name == "32-true"
    assert "CPU" in why


# --- the average of the weights


@pytest.mark.parametrize("decay", [0.6, 0.999])
def test_ema_is_the_sum_of_all_weights_so_far_by_its_closed_form(decay):
    ours, theirs = twins()
    run = trainer(data(), ours, STEPS, ema=Ema(ours, decay))
    run.fit()
    path = [weights(theirs)]
    plain_loop(theirs, run.train, sgd(theirs), after=lambda: path.append(weights(theirs)))
    rates = [min(decay, (1 + t) / (10 + t)) for t in range(1, STEPS + 1)]
    shares = [math.prod(rates)]  # of the initial weights, then of those after each step
    shares += [(1 - rate) * math.prod(rates[t + 1 :]) for t, rate in enumerate(rates)]
    assert sum(shares) == pytest.approx(1)
    expected = {
        name: sum(share * at[name].double() for share, at in zip(shares, path, strict=True)) for name in path[0]
    }
    assert largest_difference(weights(run.averaged.model), expected) < 1e-6
    assert same(weights(ours), weights(theirs)), "the average must not feed back"


def test_ema_copies_the_statistics_of_batch_norm():
    net = convolutional()
    run = trainer(data(), net, 7, ema=Ema(net, 0.9))
    run.fit()
    averaged = dict(run.averaged.model.named_buffers())
    assert same(averaged, dict(net.named_buffers()))
    assert int(averaged["block1.1.num_batches_tracked"]) == 7


def test_ema_is_what_gets_validated():
    net = dense()
    run = trainer(data(), net, 6, ema=Ema(net, 0.9), validate=True)
    run.fit()
    split = run.val.split
    x = batch_transform(data())(split.images.float().mul_(1 / 255))
    averaged, raw = (nn.CrossEntropyLoss()(model(x), split.labels).item() for model in (run.averaged.model, net))
    assert run.state.metrics["val/loss"] == pytest.approx(averaged)
    assert run.state.metrics["val/loss"] != pytest.approx(raw)
