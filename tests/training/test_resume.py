"""A run that was interrupted or killed, at any step and under any part, ends to the bit as if it had not been."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from effbench import build, schedulers
from effbench.automatic import settled
from effbench.config.compose import compose, group_options
from effbench.config.schema import Config
from effbench.data.images.augment import Augment
from effbench.data.images.modality import Images
from effbench.training.checkpoint import Checkpoints
from effbench.training.checkpoint_files import read_checkpoint
from effbench.training.clipping import choose_clipping
from effbench.training.distributed import DistributedContext
from effbench.training.early_stopping import EarlyStopping
from effbench.training.ema import Ema, OptimizerAverage, averages_itself
from effbench.training.precision import choose_precision
from effbench.training.schedule import TorchSchedule
from effbench.training.snapshots import restore, snapshot_of
from effbench.training.trainer import Intervals, Trainer
from tests.training.tiny import At, Rows, convolutional, copied, data, dense, same, trainer

STEPS, PER_EPOCH = 12, 4
DATA = data(num_train=64, num_val=24)


def from_yaml(name: str, optimizer: torch.optim.Optimizer) -> Any:
    """The schedule of scheduler=NAME for a run of these tests."""
    config = settled(compose([f"scheduler={name}"]), STEPS, Images, (1, 8, 8))
    return build.schedule(config, optimizer, total_steps=STEPS, steps_per_epoch=PER_EPOCH)


SCHEDULES = {
    "constant": partial(schedulers.Constant, warmup=3),
    "step": partial(schedulers.Step, step_size=5),
    "exponential": partial(schedulers.Exponential, steps_per_epoch=PER_EPOCH),
    "cosine": partial(schedulers.Cosine, total_steps=STEPS, warmup=3),
    "plateau": partial(schedulers.Plateau, patience=0, threshold=0.9),  # a reduction at each validation but the first
    "one_cycle": partial(schedulers.OneCycle, total_steps=STEPS),
    "torch's own": lambda optimizer: TorchSchedule(torch.optim.lr_scheduler.StepLR(optimizer, 5)),
    "torch's own, which cycles the momentum": lambda optimizer: TorchSchedule(
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, STEPS)
    ),
    "step, warmed up": partial(schedulers.Step, step_size=5, warmup=3),
    "exponential, warmed up": partial(schedulers.Exponential, steps_per_epoch=PER_EPOCH, warmup=5),
    "plateau, warmed up": partial(schedulers.Plateau, patience=0, threshold=0.9, warmup=6),
    "one_cycle, warmed up": partial(schedulers.OneCycle, total_steps=STEPS, warmup=3),
}
# A schedule that is not among these, from its own YAML: another file in conf/ needs no entry here.
SCHEDULES |= {name: partial(from_yaml, name) for name in group_options()["scheduler"] if name not in SCHEDULES}
AUGMENT = Augment(crop_padding=1, flip=0.5, rotate=10, contrast=0.2, dropout_holes=1, mixup_alpha=0.4, cutmix_alpha=1.0)


@dataclass
class RunPlan:
    """All that varies between the runs here; by default everything that could break a resume is on."""

    schedule: str = "cosine"
    optimizer: Any = torch.optim.AdamW
    precision: str = "32-true"
    ema: bool = True
    accumulate: int = 2
    clip: str | None = "norm"
    mixes: bool = True
    num_workers: int = 0
    validate_epochs: int = 1
    save_steps: int | None = None
    patience: int = 99

    def build(self, folder: Path, rows: Rows, seed: int = 0) -> Trainer:
        net = convolutional(seed)
        optimizer = self._optimizer(net)
        average = Ema(net, 0.9) if self.ema else None
        return trainer(
            DATA,
            net,
            STEPS,
            optimizer=optimizer,
            schedule=SCHEDULES[self.schedule],
            batch={
                "batch_size": 16 // self.accumulate,
                "accumulate": self.accumulate,
                "augment": AUGMENT if self.mixes else Augment(),
                "num_workers": self.num_workers,
            },
            validate=True,
            clip=choose_clipping(list(net.parameters()), 0.5 if self.clip else None, self.clip or "norm"),
            precision=choose_precision(self.precision, torch.device("cpu"))[0],
            ema=OptimizerAverage(net, optimizer) if averages_itself(optimizer) else average,
            early_stopping=EarlyStopping("val/loss", "min", self.patience, 0.0, None),
            checkpoints=Checkpoints(folder / "checkpoints", "val/acc", "max", 2, keep_last=True),
            intervals=Intervals(self.validate_epochs, 3, self.save_steps),
            watch=[rows],
        )

    def _optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """By a class, or by the overrides that name one of conf/optimizer."""
        if isinstance(self.optimizer, tuple):
            return build.optimizer(composed(self.optimizer), net)
        return self.optimizer(net.parameters(), lr=1e-2, weight_decay=0.1)


@cache
def composed(overrides: tuple[str, ...]) -> Config:
    return compose([*overrides])


@dataclass
class Outcome:
    """What must agree to the bit."""

    snapshot: dict[str, Any]
    rows: list[dict[str, float]]
    best: dict[str, Any]
    status: str


SECONDS = {"training_s", "elapsed_s"}  # no two runs take the same


def outcome(run: Trainer, rows: list[dict[str, float]]) -> Outcome:
    end = snapshot_of(run)
    best = vars(read_checkpoint(run.checkpoints.best))
    state, best["state"] = (
        {**state, "train": {key: value for key, value in state["train"].items() if key not in SECONDS}}
        for state in (end.state, best["state"])
    )
    links = {path.name: path.readlink().name for path in run.checkpoints.folder.iterdir() if path.is_symlink()}
    ranking = [list(entry) for entry in run.checkpoints.ranking]
    whole = {"weights": copied(end.weights), "ema": copied(end.ema), "state": state, "links": links, "ranking": ranking}
    return Outcome(whole, rows, best, run.state.status)


def uninterrupted(plan: RunPlan, folder: Path) -> Outcome:
    rows = Rows()
    run = plan.build(folder, rows)
    run.fit()
    return outcome(run, rows.rows)


def resumed(plan: RunPlan, folder: Path, rows: list[dict[str, float]]) -> Outcome:
    """A new process: other initial weights, other rows, everything from the checkpoint."""
    more = Rows()
    run = plan.build(folder, more, seed=99)
    restore(run, read_checkpoint(folder / "checkpoints" / "last"))
    kept = [row for row in rows if row["step"] <= run.state.step]
    torch.manual_seed(12345)
    run.fit()
    return outcome(run, kept + more.rows)


def interrupted(plan: RunPlan, folder: Path, at: int) -> Outcome:
    """Ctrl-C in step `at`: that step is finished and saved."""
    rows = Rows()
    run = plan.build(folder, rows)

    def signal(_: Any) -> None:
        run.interrupted_by = "SIGINT"

    run.callbacks.members.append(At(at, signal))
    assert run.fit().status == "interrupted"
    assert run.state.step == at
    return resumed(plan, folder, rows.rows)


class KilledError(Exception):
    pass


def killed(plan: RunPlan, folder: Path, at: int, then: RunPlan | None = None) -> Outcome:
    """The run dies in step `at`, before anything of it is saved, and goes on by `then`."""
    rows = Rows()
    run = plan.build(folder, rows)

    def die(_: Any) -> None:
        raise KilledError

    run.callbacks.members.append(At(at, die))
    with pytest.raises(KilledError):
        run.fit()
    return resumed(then or plan, folder, rows.rows)


def agree(a: Outcome, b: Outcome) -> None:
    for name in ("status", "rows", "snapshot", "best"):
        assert same(getattr(a, name), getattr(b, name)), name


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> Callable[[RunPlan], Outcome]:
    """`uninterrupted`, once for each plan."""
    made: dict[str, Outcome] = {}

    def outcome_of(plan: RunPlan) -> Outcome:
        if repr(plan) not in made:
            made[repr(plan)] = uninterrupted(plan, tmp_path_factory.mktemp("whole"))
        return made[repr(plan)]

    return outcome_of


@pytest.fixture(scope="module")
def reference(whole_run) -> Outcome:
    return whole_run(RunPlan())


@pytest.mark.slow
def test_a_run_repeats_itself(reference, tmp_path):
    agree(uninterrupted(RunPlan(), tmp_path), reference)


@pytest.mark.spread(4)
@pytest.mark.row(13)
@pytest.mark.parametrize("at", range(1, STEPS + 1))
def test_interrupted_after_any_step_a_run_ends_the_same(at, reference, tmp_path):
    agree(interrupted(RunPlan(), tmp_path, at), reference)


@pytest.mark.spread(5)
@pytest.mark.row(13)
@pytest.mark.parametrize("at", range(3, STEPS + 1))
def test_run_killed_in_any_step_resumes_from_last_interval_save(at, reference, tmp_path):
    agree(killed(RunPlan(save_steps=2), tmp_path, at), reference)


@pytest.mark.spread(8)
@pytest.mark.slow
@pytest.mark.row(15)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("at", [2, 8, 10])
def test_every_schedule_resumes_exactly(name, at, whole_run, tmp_path):
    """Rows, which hold the learning rate of every third step, agree too."""
    plan = RunPlan(schedule=name)
    straight = whole_run(plan)
    agree(interrupted(plan, tmp_path, at), straight)
    assert len({row["lr/0"] for row in straight.rows}) > 1 or name == "constant"


EXTRAS = {"schedule_free": "schedulefree"}
OPTIMIZERS = [
    *((f"optimizer={name}",) for name in group_options()["optimizer"] if name not in EXTRAS or find_spec(EXTRAS[name])),
    ("optimizer=adan", "optimizer.variant=package"),
    ("optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=false"),
]
FACTORS: dict[str, Sequence[Any]] = {
    "optimizer": OPTIMIZERS,
    "ema": [False, True],
    "accumulate": [1, 2, 4],
    "clip": [None, "norm", "value"],
    "precision": ["32-true", "16-mixed", "bf16-mixed"],
    "mixes": [False, True],
    "schedule": ["cosine", "plateau"],
}


def pairwise(factors: dict[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Combinations in which every two values of different factors meet: each time the one with most new meetings."""
    everything = [tuple(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())]
    meetings = {combination: frozenset(itertools.combinations(combination, 2)) for combination in everything}
    missing, chosen = set().union(*meetings.values()), []
    while missing:
        chosen.append(max(everything, key=lambda combination: len(meetings[combination] & missing)))
        missing -= meetings[chosen[-1]]
    return [dict(combination) for combination in chosen]


COMBINATIONS = pairwise(FACTORS)


@pytest.mark.spread(5)
@pytest.mark.slow
@pytest.mark.row(16)
@pytest.mark.parametrize("number", range(len(COMBINATIONS)), ids=[str([*c.values()]) for c in COMBINATIONS])
def test_resume_is_exact_for_pairwise_combinations_of_settings(number, tmp_path):
    """Interrupted in mid-epoch, at another step each time."""
    plan = RunPlan(**COMBINATIONS[number])
    at = (1, 2, 3, 5, 6, 7, 9, 10, 11)[number % 9]
    agree(interrupted(plan, tmp_path / "a", at), uninterrupted(plan, tmp_path / "b"))


@pytest.mark.spread(5)
@pytest.mark.slow
@pytest.mark.row(16)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_every_optimizer_resumes_exactly(optimizer, tmp_path):
    plan = RunPlan(optimizer=optimizer)
    agree(killed(replace(plan, save_steps=2), tmp_path / "a", 7), uninterrupted(plan, tmp_path / "b"))


@pytest.mark.slow
@pytest.mark.row(16)
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("at", [3, 8])
def test_every_precision_resumes_exactly(precision, at, whole_run, tmp_path):
    plan = RunPlan(precision=precision)
    agree(interrupted(plan, tmp_path, at), whole_run(plan))


@pytest.mark.slow
@pytest.mark.row(16)
@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_averages_and_accumulation_in_every_combination(ema, accumulate, whole_run, tmp_path):
    plan = RunPlan(ema=ema, accumulate=accumulate)
    agree(interrupted(plan, tmp_path, 7), whole_run(plan))


@pytest.mark.spread(5)
@pytest.mark.slow
@pytest.mark.row(13, 14)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("at", range(1, STEPS + 1))
def test_interrupted_run_with_workers_ends_the_same(at, workers, reference, tmp_path):
    agree(interrupted(RunPlan(num_workers=workers), tmp_path, at), reference)


@pytest.mark.spread(3)
@pytest.mark.slow
@pytest.mark.row(14)
@pytest.mark.parametrize(("before", "after"), [*itertools.permutations((0, 1, 2), 2)])
def test_the_number_of_workers_may_change_on_resume(before, after, reference, tmp_path):
    then = RunPlan(num_workers=after, save_steps=3)
    agree(killed(RunPlan(num_workers=before, save_steps=3), tmp_path, 7, then), reference)


@pytest.mark.spread(4)
@pytest.mark.slow
@pytest.mark.parametrize("at", range(4, STEPS + 1))
def test_validations_every_second_epoch_resume_on_schedule(at, whole_run, tmp_path):
    plan = RunPlan(validate_epochs=2)
    agree(interrupted(plan, tmp_path, at), whole_run(plan))


@pytest.mark.row(17)
@pytest.mark.parametrize("at", [3, 4, 5, 7, 8])
def test_early_stopping_stops_at_the_same_epoch(at, whole_run, tmp_path):
    plan = RunPlan(patience=1, schedule="constant", optimizer=partial(torch.optim.SGD, maximize=True))
    straight = whole_run(plan)
    assert straight.status == "stopped_early"
    assert straight.rows[-1]["step"] == 8
    agree(interrupted(plan, tmp_path, at), straight)


@pytest.mark.spread(2)
@pytest.mark.slow
@pytest.mark.row(17)
@pytest.mark.parametrize("at", [8, 9, 11, 12])
def test_early_stopping_count_survives_a_kill_near_the_end(at, whole_run, tmp_path):
    """Patience 2: a best at step 4, worse at 8, worse at 12, where it ends."""
    plan = RunPlan(patience=2, schedule="constant", optimizer=partial(torch.optim.SGD, maximize=True))
    straight = whole_run(plan)
    assert (straight.status, straight.rows[-1]["step"]) == ("stopped_early", 12)
    assert straight.snapshot["links"]["best"] == "step-00000004"
    agree(killed(plan, tmp_path, at), straight)


@pytest.mark.slow
def test_interrupted_twice_and_killed_once_a_run_ends_the_same(reference, tmp_path):
    rows: list[dict[str, float]] = []
    for at, how in ((3, "signal"), (8, "signal"), (11, "kill")):
        watch = Rows()
        run = RunPlan(save_steps=5).build(tmp_path, watch)
        if at > 3:
            restore(run, read_checkpoint(tmp_path / "checkpoints" / "last"))
            rows = [row for row in rows if row["step"] <= run.state.step]

        def act(_: Any, run: Trainer = run, how: str = how) -> None:
            run.interrupted_by = "SIGTERM"
            if how == "kill":
                raise KilledError

        run.callbacks.members.append(At(at, act))
        with pytest.raises(KilledError) if how == "kill" else nullcontext():
            run.fit()
        assert (run.state.step, run.state.status) == (at, "failed" if how == "kill" else "interrupted")
        rows = rows + watch.rows
    agree(resumed(RunPlan(save_steps=5), tmp_path, rows), reference)


class Draws(nn.Module):
    """Notes what dropout would draw."""

    def __init__(self):
        super().__init__()
        self.net, self.drawn = dense(), []

    def forward(self, x):
        if self.training:
            self.drawn.append(float(torch.rand(())))
        return self.net(x)


class RankOne(DistributedContext):
    rank = 1


def test_step_rng_is_unique_per_epoch_step_rank_and_seed():
    drawn = []
    for seed, ranks in (
        (0, DistributedContext()),
        (0, DistributedContext()),
        (1, DistributedContext()),
        (0, RankOne()),
    ):
        net = Draws()
        trainer(DATA, net, 6, ranks=ranks, batch={"seed": seed, "batch_size": 16, "accumulate": 2}).fit()
        drawn.append(net.drawn)
    assert drawn[0] == drawn[1]
    different = [number for draws in drawn[1:] for number in draws]
    assert len(different) == len(set(different)) == 3 * 12


def test_training_time_includes_earlier_sessions(tmp_path):
    rows = Rows()
    run = RunPlan().build(tmp_path, rows)
    run.limits.steps = 4
    run.fit()
    first = read_checkpoint(tmp_path / "checkpoints" / "last").state["train"]
    assert 0 < first["training_s"] <= run.state.training_s
    assert first["training_s"] < first["elapsed_s"] < run.clocks.seconds()["total"]
    resumed = RunPlan().build(tmp_path, rows)
    restore(resumed, read_checkpoint(tmp_path / "checkpoints" / "last"))
    resumed.fit()
    assert resumed.state.training_s == pytest.approx(first["training_s"] + resumed.clocks.training)
    assert resumed.state.elapsed_s == first["elapsed_s"]
    second = read_checkpoint(tmp_path / "checkpoints" / "last").state["train"]["elapsed_s"]
    assert first["elapsed_s"] < second < first["elapsed_s"] + resumed.clocks.seconds()["total"]
