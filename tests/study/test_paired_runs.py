"""What a study's comparison rests on: runs of one seed differ in the arm alone, and predictions are those tested."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import effbench
from effbench import Callback, build
from effbench.config.compose import compose
from effbench.run.overrides import merge_overrides
from effbench.study.collect import bits_of, outcome_of
from effbench.study.plan import StudyPlan
from effbench.study.planning import planned

SMALL = ["data=synthetic", "data.num_train=64", "data.num_val=16", "data.num_test=40", "data.image_size=8",
         "data.batch_size=16", "device.name=cpu", "early_stopping=off"]  # fmt: skip


class Seen(Callback):
    """The weights before the first step, and the inputs of the network in the first two steps."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        self.inputs: list[Tensor] = []

    def fit_start(self, context: Any) -> None:
        self.weights = {name: value.clone() for name, value in context.model.state_dict().items()}
        self.hook = context.model.register_forward_pre_hook(self.note)

    def note(self, model: Any, args: tuple[Tensor, ...]) -> None:
        if model.training and len(self.inputs) < 2:
            self.inputs.append(args[0].detach().clone())


def first_steps(plan: StudyPlan, arm: str, seed: int, folder: Path) -> Seen:
    """What the run of an arm with a seed starts from; it is ended after two steps."""
    seen = Seen()
    settings = {"optimizer.lr": 0.01 if arm.endswith("sgd") else 0.0001}  # each arm has a tuned setting of its own
    words = plan.words(arm, settings, seed, tests=True)
    effbench.train(merge_overrides(words, ["trainer.max_steps=2"]), folder, callbacks=[seen])
    assert len(seen.inputs) == 2
    return seen


@pytest.mark.slow
def test_a_seed_means_the_same_weights_order_and_augmentation(tmp_path: Path) -> None:
    own = [*SMALL, "augment=strong", "study.models=[cnn]", "model.channels=[4]", "study.optimizers=[sgd,adamw]"]
    plan = planned(["study=smoke", "study.baseline=cnn-adamw", *own])
    one, other = (first_steps(plan, arm, 3, tmp_path / arm) for arm in ("cnn-sgd", "cnn-adamw"))
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert all(torch.equal(a, b) for a, b in zip(one.inputs, other.inputs, strict=True))

    # and another seed changes each of them
    third = first_steps(plan, "cnn-sgd", 4, tmp_path / "third")
    assert any(not torch.equal(one.weights[name], third.weights[name]) for name in one.weights)
    assert all(not torch.equal(a, b) for a, b in zip(one.inputs, third.inputs, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("ema", ["off", "on"])
def test_predictions_kept_are_the_tested_checkpoint_s(ema: str, tmp_path: Path) -> None:
    keep = "++callbacks.keep_predictions._target_=effbench.callbacks.KeepPredictions"
    words = [*SMALL, "data.noise=0.9", "model=mlp", "model.hidden=[8]", "trainer.max_epochs=3", f"ema={ema}", keep]
    run = effbench.train(words, tmp_path / "run")
    test = build.splits(compose(words)).test
    assert test is not None
    chances = run.predict(test.images)
    with (tmp_path / "run" / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["target"]) for row in rows] == test.labels.tolist()
    assert [int(row["predicted"]) for row in rows] == chances.argmax(1).tolist()
    told = torch.tensor([float(row["probability"]) for row in rows])
    assert torch.allclose(told, chances.max(1).values, rtol=0, atol=2e-6)  # six decimals are written
    assert 0.1 < told.min() < told.max() < 1

    correct = (chances.argmax(1) == test.labels).tolist()
    assert 0 < sum(correct) < len(correct)
    assert list(bits_of(outcome_of(tmp_path / "run", "acc", "run")) or ()) == correct
