"""Regression with targets of any size: trained on standardised ones, read in their own unit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from effbench.data.rows.modality import Rows
from effbench.data.splits import Split, Splits, digest
from effbench.errors import ConfigError, DataError
from effbench.metrics import MeanAbsoluteError, RootMeanSquaredError
from effbench.tasks.losses import Loss, MeanSquaredError, OfTorch
from effbench.tasks.regression import Regression

N, D = 40, 2
GENERATOR = torch.Generator().manual_seed(0)
PRICES = torch.randn(N, D, generator=GENERATOR) * torch.tensor([1e5, 0.01]) + torch.tensor([2e5, -3.0])
OUTPUTS = torch.randn(N, D, generator=GENERATOR)


def splits(targets: torch.Tensor = PRICES) -> Splits:
    inputs = torch.zeros(len(targets), 1)
    names = tuple(f"y{column}" for column in range(targets.shape[1]))
    return Splits("houses", Split(inputs, targets), None, None, names, digest(targets), modality=Rows)


def fitted(loss: Loss | None = None, targets: torch.Tensor = PRICES, standardise: bool | str = True) -> Regression:
    metrics = [MeanAbsoluteError(), RootMeanSquaredError()]
    task = Regression(loss or MeanSquaredError(), metrics, targets.shape[1], standardise)
    task.fit(splits(targets))
    return task


def standard(values: torch.Tensor) -> torch.Tensor:
    mean, std = np.mean(PRICES.double().numpy(), 0), np.std(PRICES.double().numpy(), 0)
    return ((values.double() - torch.from_numpy(mean)) / torch.from_numpy(std)).float()


def test_training_minimises_the_loss_of_standardised_targets() -> None:
    outputs = OUTPUTS.clone().requires_grad_()
    loss, logged = fitted().training_loss(*fitted().rows(outputs, PRICES))
    loss.backward()
    reference = OUTPUTS.clone().requires_grad_()
    expected = F.mse_loss(reference, standard(PRICES), reduction="sum") / D
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(outputs.grad, reference.grad, rtol=1e-3, atol=1e-4)
    assert not logged.requires_grad


def test_every_figure_has_the_unit_of_the_targets() -> None:
    task = fitted()
    predicted = OUTPUTS.double() * PRICES.double().std(0, correction=0) + PRICES.double().mean(0)
    torch.testing.assert_close(task.answers(OUTPUTS).double(), predicted, rtol=1e-5, atol=1e-3)
    outputs, targets = task.rows(OUTPUTS, PRICES)
    squared = F.mse_loss(predicted, PRICES.double())
    torch.testing.assert_close(task.plain_loss(outputs, targets) / N, squared, rtol=1e-5, atol=0)
    _, logged = task.training_loss(outputs, targets)
    torch.testing.assert_close(logged / N, squared, rtol=1e-5, atol=0)
    values = task.tallies.values(task.tallies.of(logged, outputs, targets))
    assert values["mae"] == pytest.approx(float((predicted - PRICES).abs().mean()), rel=1e-5)
    assert values["rmse"] == pytest.approx(float(squared.sqrt()), rel=1e-5)


def test_a_loss_of_torch_gets_standardised_values() -> None:
    task = fitted(OfTorch(torch.nn.HuberLoss(reduction="none")))
    loss, _ = task.training_loss(*task.rows(OUTPUTS, PRICES))
    expected = F.huber_loss(OUTPUTS, standard(PRICES), reduction="sum") / D
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("width", [0.3, 1.0, 50.0])
@pytest.mark.parametrize("kind", [torch.nn.HuberLoss, torch.nn.SmoothL1Loss])
def test_the_logged_huber_loss_is_the_minimised_function(kind: type[torch.nn.Module], width: float) -> None:
    """In the targets' unit: that of a width of so many deviations, for each target."""
    key, function = {
        torch.nn.HuberLoss: ("delta", F.huber_loss), torch.nn.SmoothL1Loss: ("beta", F.smooth_l1_loss),
    }[kind]  # fmt: skip
    task = fitted(OfTorch(kind(reduction="none", **{key: width})))
    _, logged = task.training_loss(*task.rows(OUTPUTS, PRICES))
    std, mean = PRICES.double().std(0, correction=0), PRICES.double().mean(0)
    predicted = OUTPUTS.double() * std + mean
    each = [
        function(predicted[:, at], PRICES[:, at].double(), reduction="sum", **{key: width * float(std[at])})
        for at in range(D)
    ]
    torch.testing.assert_close(logged, torch.stack(each).sum() / D, rtol=1e-4, atol=0)


def test_a_width_in_deviations_is_told_in_the_targets_unit() -> None:
    one = fitted(OfTorch(torch.nn.HuberLoss(reduction="none", delta=10_000)), PRICES[:, :1])
    std = float(PRICES[:, 0].double().std(correction=0))
    told = one.note(["price"]) or ""
    assert f"; loss.delta=10000 counts in deviations: it is {10_000 * std:.6g} for price" in told
    assert told.endswith(f"(for 10000 itself write loss.delta={10_000 / std:.3g})")
    both = fitted(OfTorch(torch.nn.SmoothL1Loss(reduction="none"))).note(["price", "rate"]) or ""
    assert "; loss.beta=1 counts in deviations: it is " in both
    assert "for rate" in both
    assert "loss." not in (fitted(OfTorch(torch.nn.L1Loss(reduction="none"))).note(["a", "b"]) or "")


def test_without_it_outputs_and_losses_are_as_they_were() -> None:
    task = fitted(standardise=False)
    assert task.rows(OUTPUTS, PRICES)[0] is OUTPUTS
    assert task.answers(OUTPUTS) is OUTPUTS
    assert task.record() == {}
    plain = F.mse_loss(OUTPUTS, PRICES, reduction="none").mean(1).sum()
    assert all(torch.equal(loss, plain) for loss in task.training_loss(OUTPUTS, PRICES))


def test_halves_are_brought_into_the_unit_in_float32() -> None:
    halves = OUTPUTS.bfloat16()
    assert fitted().answers(halves).dtype == torch.float32
    torch.testing.assert_close(fitted().answers(halves), fitted().answers(halves.float()), rtol=0, atol=0)


def test_targets_whose_squares_exceed_float32_have_a_loss() -> None:
    targets = PRICES[:, :1] * 1e20
    task = fitted(targets=targets)
    outputs, _ = task.rows(OUTPUTS[:, :1], targets)
    assert all(loss.isfinite() for loss in (*task.training_loss(outputs, targets), task.plain_loss(outputs, targets)))


def test_a_record_restores_the_scale_to_the_bit() -> None:
    task = fitted()
    other = Regression(MeanSquaredError(), [], D, standardise=True)
    other.restore(json.loads(json.dumps(task.record())))
    assert torch.equal(other.answers(OUTPUTS), task.answers(OUTPUTS))
    assert torch.equal(task.rescaler()(OUTPUTS), task.answers(OUTPUTS))


def test_a_scale_moved_in_a_validation_still_trains() -> None:
    """On another device; meta stands for a GPU."""
    task, targets = fitted(), PRICES.to("meta")
    with torch.inference_mode():
        task.rows(OUTPUTS.to("meta"), targets)
    outputs, _ = task.rows(OUTPUTS.to("meta").requires_grad_(), targets)
    task.training_loss(outputs, targets)[0].backward()


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"target_mean": [1.0, 2.0]},
        {"target_mean": [1.0], "target_std": [1.0]},
        {"target_mean": [1.0, 2.0], "target_std": [1.0, 0.0]},
        {"target_mean": [1.0, "x"], "target_std": [1.0, 1.0]},
        {"target_mean": [1.0, float("nan")], "target_std": [1.0, 1.0]},
    ],
)
def test_a_record_without_sound_numbers_is_damaged(record: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="task.target_mean and task.target_std, 2 numbers each"):
        Regression(MeanSquaredError(), [], D, standardise=True).restore(record)


def test_a_constant_target_is_named(caplog: pytest.LogCaptureFixture) -> None:
    half = PRICES.clone()
    half[:, 1] = 0.1
    task = fitted(targets=half)
    assert "the target 'y1' (0.1) has one value in all 40 rows of train" in caplog.text
    assert task.record()["target_std"][1] == 1.0
    with pytest.raises(
        DataError, match=r"houses: the targets 'y0' \(7\), 'y1' \(7\) have one value .* nothing to learn"
    ):
        fitted(targets=torch.full((5, 2), 7.0))


def test_an_export_agrees_within_a_thousandth_of_the_spread() -> None:
    task, expected = fitted(), PRICES.clone()
    got = expected + torch.tensor([50.0, 0.0])  # 0.0005 deviations
    assert task.same_answer(expected, got, 0.0).all()
    assert not task.same_answer(expected, expected + torch.tensor([0.0, 1e-4]), 0.0).any()


def test_standardise_is_a_switch() -> None:
    with pytest.raises(ConfigError, match="task.standardise must be true, false or auto; got 3"):
        Regression(MeanSquaredError(), [], 1, standardise=3)  # type: ignore[arg-type]
