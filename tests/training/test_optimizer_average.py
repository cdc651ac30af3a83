"""Optimizers with train() and eval(): their average is validated, saved and tested; training does not depend on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from effbench import build
from effbench.config.compose import compose
from effbench.errors import ConfigError
from effbench.training.batch_norm_statistics import AveragedStatistics, statistics_batches, trained_norms
from effbench.training.callbacks import Callback
from effbench.training.checkpoint_files import read_checkpoint, read_weights
from effbench.training.ema import OptimizerAverage
from effbench.training.trainer import Intervals, Trainer
from tests.training.test_resume import STEPS, RunPlan, agree, interrupted, killed, uninterrupted
from tests.training.tiny import Rows, copied, data, dense, modality, same, trainer

BETA = 0.9


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD (arXiv:2405.15682), its step count in the parameter group as schedulefree has it."""

    def __init__(self, params: Any, lr: float = 0.1, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "k": 0, "train_mode": False})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            assert group["train_mode"], "step() outside of train mode"
            c, lr = 1 / (group["k"] + 1), group["lr"]
            for y in group["params"]:
                z = self.state[y].setdefault("z", y.clone())
                gradient = y.grad + group["weight_decay"] * y
                y.lerp_(z, c).add_(gradient, alpha=lr * (BETA * (1 - c) - 1))
                z.sub_(gradient, alpha=lr)
            group["k"] += 1

    def train(self) -> None:
        self._move(True, 1 - BETA)

    def eval(self) -> None:
        self._move(False, 1 - 1 / BETA)

    @torch.no_grad()
    def _move(self, train: bool, share: float) -> None:
        for group in self.param_groups:
            if group["train_mode"] != train:
                for parameter in group["params"]:
                    if "z" in self.state[parameter]:
                        parameter.lerp_(self.state[parameter]["z"], share)
            group["train_mode"] = train


class Gradients(Callback):
    """Keeps the gradients of each step, and the weights that they were taken at."""

    def __init__(self) -> None:
        self.steps: list[tuple[list[Tensor], list[Tensor]]] = []

    def before_step(self, context: Any) -> None:
        parameters = list(context.model.parameters())
        self.steps.append(([p.grad.clone() for p in parameters], [p.detach().clone() for p in parameters]))


def averaging(steps: int, watch: Any = (), **parts: Any) -> Trainer:
    net = dense()
    optimizer = ScheduleFree(net.parameters())
    average = OptimizerAverage(net, optimizer)
    return trainer(data(), net, steps, optimizer=optimizer, ema=average, watch=watch, **parts)


def test_the_average_that_is_evaluated_is_the_paper_s() -> None:
    gradients = Gradients()
    run = averaging(7, [gradients], validate=True)
    first = [p.detach().double() for p in run.model.parameters()]
    run.fit()
    z, x = list(first), list(first)
    for k, (grads, weights) in enumerate(gradients.steps):
        for i, (grad, weight) in enumerate(zip(grads, weights, strict=True)):
            torch.testing.assert_close(weight.double(), (1 - BETA) * z[i] + BETA * x[i], rtol=1e-5, atol=1e-6)
            z[i] = z[i] - 0.1 * grad.double()
            x[i] = x[i] + (z[i] - x[i]) / (k + 1)
    for averaged, expected in zip(run.averaged.model.parameters(), x, strict=True):
        torch.testing.assert_close(averaged.double(), expected, rtol=1e-5, atol=1e-6)


def test_validating_changes_nothing_of_the_training() -> None:
    never = averaging(9, intervals=Intervals(validate_epochs=99))
    often = averaging(9, validate=True, intervals=Intervals(validate_epochs=1))
    never.fit()
    often.fit()
    assert same(copied(dict(never.model.state_dict())), copied(dict(often.model.state_dict())))


class Plan(RunPlan):
    """With batch norm, augmentation, accumulation and clipping."""

    def build(self, folder: Path, rows: Rows, seed: int = 0) -> Trainer:
        self.ema, self.optimizer = False, lambda params, lr, weight_decay: ScheduleFree(params, 50 * lr, weight_decay)
        run = super().build(folder, rows, seed)
        run.averaged = OptimizerAverage(run.model, run.optimizer)
        split, images = run.train.split, modality(data(num_train=64, num_val=24))
        batches = lambda size: statistics_batches(split, images, 0, size)  # noqa: E731
        run.statistics = AveragedStatistics(trained_norms(run.model), batches, 8, 16, run.precision)
        return run


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return uninterrupted(Plan(), tmp_path_factory.mktemp("reference"))


@pytest.mark.slow
@pytest.mark.spread(5)
@pytest.mark.row(13)
@pytest.mark.parametrize("at", range(1, STEPS + 1))
def test_interrupted_after_any_step_the_run_ends_the_same(at: int, reference: Any, tmp_path: Path) -> None:
    agree(interrupted(Plan(), tmp_path, at), reference)


@pytest.mark.row(13)
@pytest.mark.parametrize("at", [6, 9, 11])
def test_killed_the_run_ends_the_same(at: int, reference: Any, tmp_path: Path) -> None:
    agree(killed(Plan(), tmp_path, at), reference)


def test_a_checkpoint_s_readers_get_the_average(tmp_path: Path) -> None:
    run = Plan().build(tmp_path, Rows())
    run.fit()
    last = tmp_path / "checkpoints" / "last"
    average, training = read_weights(last), read_checkpoint(last).weights
    assert same(average, copied(dict(run.averaged.model.state_dict())))
    assert not same(average, training)
    assert same(training, copied(dict(run.model.state_dict())))
    statistics = [name for name in training if name.endswith("running_mean")]
    assert statistics
    assert not any(torch.equal(average[name], training[name]) for name in statistics)  # made for the average


OWN = [
    "model=mlp", "optimizer._target_=tests.training.test_optimizer_average.ScheduleFree", "~optimizer.fused",
    "~optimizer.betas", "~optimizer.eps", "allow_targets=[tests.training]",
]  # fmt: skip


@pytest.mark.slow
def test_schedule_free_options_are_checked_and_ema_is_refused() -> None:
    build.check_options(compose(OWN))
    with pytest.raises(ConfigError, match=r"ema=on averages the weights, and so does .*ScheduleFree.*Use ema=off"):
        build.check_options(compose([*OWN, "ema=on"]))
