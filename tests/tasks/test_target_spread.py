"""A regression that is no better than the mean of the split is named."""

from __future__ import annotations

import numpy as np
import torch

from effbench.tasks.target_spread import TargetSpread

PRICES = torch.from_numpy(np.random.default_rng(0).normal(2e5, 1e5, (60, 2))).float()
MEAN = PRICES.double().mean(0).float().expand(60, 2)


def complaint(outputs: torch.Tensor, targets: torch.Tensor = PRICES, seen: bool = True) -> str:
    check = TargetSpread()
    for one, other in zip(outputs.split(7), targets.split(7), strict=True):
        check.add(one, other)
    rmse = float((outputs.double() - targets.double()).square().mean().sqrt())
    return check.complaint("test", {"rmse": rmse}, ("price", "rent"), "row", seen) or ""


def test_predicting_the_mean_is_no_result() -> None:
    found = complaint(MEAN + 1)
    spread = np.std(PRICES.double().numpy(), 0)
    start = "test: the predictions are no better than the mean over all 60 rows for 'price'"
    assert found.startswith(f"{start} (rmse {spread[0]:.4g}, standard deviation {spread[0]:.4g}), 'rent' (rmse ")
    assert "Train longer (trainer.max_epochs)" in found
    assert "for the targets (rmse " in complaint(MEAN * 1.1, seen=False)


def test_only_the_target_that_is_not_learnt_is_named() -> None:
    half = torch.stack([PRICES[:, 0] + 9e4, MEAN[:, 1] - 5e4], 1)
    assert "'rent'" in complaint(half)
    assert "'price'" not in complaint(half)


def test_a_regression_that_has_learnt_is_not_reported() -> None:
    assert complaint(PRICES * 0.9) == complaint(PRICES * 0.9, seen=False) == ""
    assert complaint(MEAN[:19] + 1, PRICES[:19]) == "", "too few"
    constant = torch.full((60, 2), 0.1)
    assert complaint(constant + 1, constant) == "", "there is nothing to learn"
    assert TargetSpread().complaint("val", {"rmse": 9.0}, ("price",)) is None
