"""schedule_free is schedulefree's AdamW to the bit; what is evaluated, saved and resumed is its average."""

from __future__ import annotations

import copy
import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from effbench import build
from effbench.cli import main
from effbench.config.compose import compose
from effbench.errors import ConfigError, MissingExtraError
from effbench.records import read_summary
from effbench.target_allowlist import resolve
from effbench.training.batch_norm_statistics import AveragedStatistics
from effbench.training.checkpoint_files import read_checkpoint, read_weights
from effbench.training.distributed import DistributedContext
from effbench.training.ema import OptimizerAverage
from tests.optimizers.test_lion import model, same, train
from tests.training.tiny import copied, data, dense, trainer
from tests.training.tiny import same as same_weights

schedulefree = pytest.importorskip("schedulefree")
ScheduleFree: Any = pytest.importorskip("effbench.optimizers.schedule_free").ScheduleFree

torch.set_num_threads(1)

OPTIONS = {"lr": 0.02, "betas": (0.95, 0.99), "eps": 1e-6, "weight_decay": 0.1, "r": 0.5, "weight_lr_power": 1.0}


def in_training(kind: Any, parameters: list[nn.Parameter], **options: Any) -> Any:
    optimizer = kind(parameters, **options)
    optimizer.train()
    return optimizer


@pytest.mark.parametrize("foreach", [True, False])
def test_training_and_averaged_weights_equal_the_package_s(foreach: bool) -> None:
    ours, theirs = model(), model()
    own = in_training(ScheduleFree, ours, foreach=foreach, **OPTIONS)
    package = in_training(schedulefree.AdamWScheduleFree, theirs, foreach=foreach, **OPTIONS)
    assert same(train(own, ours, 30), train(package, theirs, 30))
    for switch in ("eval", "train", "eval"):
        getattr(own, switch)(), getattr(package, switch)()
        assert same(ours, theirs)


def test_defaults_are_the_package_s() -> None:
    ours, theirs = model(), model()
    own, package = in_training(ScheduleFree, ours), in_training(schedulefree.AdamWScheduleFree, theirs)
    assert same(train(own, ours, 10), train(package, theirs, 10))


def test_a_schedule_s_warm_up_equals_the_package_s_warmup_steps() -> None:
    ours, theirs = model(), model()
    own = in_training(ScheduleFree, ours, lr=0.5)
    package = in_training(schedulefree.AdamWScheduleFree, theirs, lr=0.5, warmup_steps=8)
    for step in range(12):
        own.param_groups[0]["lr"] = 0.5 * min(1.0, (step + 1) / 8)
        train(own, ours, 1, seed=step), train(package, theirs, 1, seed=step)
    assert same(ours, theirs)


@pytest.mark.parametrize("from_ours", [True, False])
def test_state_dict_moves_between_it_and_the_package(from_ours: bool) -> None:
    moved, stayed = model(), model()
    kinds = (ScheduleFree, schedulefree.AdamWScheduleFree)
    first, second = kinds if from_ours else kinds[::-1]
    before = in_training(first, moved, **OPTIONS)
    train(before, moved, 10)
    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    after = second(moved, lr=1.0)
    after.load_state_dict(torch.load(file, weights_only=True))
    only = in_training(schedulefree.AdamWScheduleFree, stayed, **OPTIONS)
    train(only, stayed, 10)
    assert same(train(after, moved, 10, seed=2), train(only, stayed, 10, seed=2))
    after.eval(), only.eval()
    assert same(moved, stayed)


def test_a_deep_copy_continues_to_the_bit() -> None:
    parameters = model()
    optimizer = in_training(ScheduleFree, parameters, **OPTIONS)
    train(optimizer, parameters, 5)
    copied, parameters_copied = copy.deepcopy((optimizer, parameters))
    assert same(train(optimizer, parameters, 5, seed=2), train(copied, parameters_copied, 5, seed=2))


def test_what_is_evaluated_and_saved_is_the_package_s_average() -> None:
    net = dense(hidden=(8, 8))
    optimizer = ScheduleFree(net.parameters(), lr=0.05)
    run = trainer(data(), net, 9, optimizer=optimizer, ema=OptimizerAverage(net, optimizer), validate=True)
    run.fit()
    trained = copied(dict(net.state_dict()))
    evaluated = copied(run.evaluated_weights())
    optimizer.eval()
    assert same_weights(evaluated, copied(dict(net.state_dict())))
    assert not same_weights(evaluated, trained)


@pytest.mark.spread(1)
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_resumed_command_ends_with_the_same_average(precision: str, tmp_path: Path) -> None:
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    words = ["data=synthetic", "data.num_train=64", "data.num_val=16", "data.num_test=16", "data.image_size=8",
             "data.batch_size=16", "model=cnn", "model.channels=[4]", "device.threads=1", "optimizer=schedule_free",
             "scheduler=constant", "scheduler.warmup=2", f"trainer.precision={precision}"]  # fmt: skip
    assert main(["train", *words, "trainer.max_epochs=1", f"hydra.run.dir={parts}"]) == 0
    assert main(["train", f"resume={parts}", "trainer.max_epochs=2"]) == 0
    assert main(["train", *words, "trainer.max_epochs=2", f"hydra.run.dir={whole}"]) == 0
    averages, trained = [], []
    for run in (parts, whole):
        last = run / "checkpoints" / "last"
        averages.append(dict(read_weights(last)))
        trained.append(dict(read_checkpoint(last).weights))
    assert same_weights(*averages)
    assert same_weights(*trained)
    assert not same_weights(averages[0], trained[0])
    assert read_summary(parts)["metrics"] == read_summary(whole)["metrics"]


@pytest.mark.slow
def test_batch_norm_statistics_are_made_for_the_average() -> None:
    config = compose(["model=cnn", "optimizer=schedule_free", "data=synthetic", "data.num_train=64"])
    splits = build.splits(config)
    fitted = build.modality(config, splits, build.device(config))
    run = build.trainer(config, splits, fitted, DistributedContext(), None)
    assert isinstance(run.statistics, AveragedStatistics)


def test_another_optimizer_s_state_is_refused() -> None:
    parameters = model()
    theirs = torch.optim.AdamW(parameters)
    train(theirs, parameters, 1)
    with pytest.raises(ConfigError, match=r"the state must be schedule_free's, with z, exp_avg_sq .* without z"):
        ScheduleFree(parameters).load_state_dict(theirs.state_dict())


def test_sparse_gradients_are_refused_with_the_remedy() -> None:
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = in_training(ScheduleFree, list(embedding.parameters()))
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ConfigError, match=r"dense gradients; got a sparse one .* sparse=False"):
        optimizer.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1}, r"optimizer\.lr must be a number >= 0; got -1\."),
        ({"betas": (0.9,)}, r"optimizer\.betas must be 2 numbers in \[0, 1\)"),
        ({"betas": (0.0, 0.9)}, r"optimizer\.betas must begin with a number in \(0, 1\); got \[0\.0, 0\.9\]"),
        ({"eps": 0}, r"optimizer\.eps must be a number > 0; got 0\."),
        ({"weight_decay": -0.1}, r"optimizer\.weight_decay must be a number >= 0; got -0\.1"),
        ({"r": -1}, r"optimizer\.r must be a number >= 0; got -1\. The package's default is 0"),
        ({"weight_lr_power": None}, r"optimizer\.weight_lr_power must be a number >= 0; got null"),
    ],
)
def test_an_option_out_of_range_names_key_rule_value_and_remedy(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScheduleFree(model(), **options)


@pytest.mark.slow
def test_ema_and_the_package_s_own_warm_up_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"ema=on averages the weights, and so does .*ScheduleFree.*Use ema=off"):
        build.check_options(compose(["optimizer=schedule_free", "ema=on"]))
    with pytest.raises(ConfigError, match=r"optimizer option 'warmup_steps' is not one of: .*weight_lr_power"):
        build.check_options(compose(["optimizer=schedule_free", "+optimizer.warmup_steps=5"]))


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    monkeypatch.delitem(sys.modules, "effbench.optimizers.schedule_free")
    with pytest.raises(MissingExtraError, match=r"optimizer=schedule_free needs the extra 'schedulefree': pip install"):
        resolve("optimizer", "effbench.optimizers.schedule_free.ScheduleFree")
