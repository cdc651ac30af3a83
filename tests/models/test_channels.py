"""The channel plan: a config's model takes the shapes of a smaller one, and of nothing else."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

from effbench.errors import ConfigError
from effbench.models.channels import apply_plan, plan_of
from effbench.models.cnn import cnn
from effbench.models.mlp import mlp


def small_and_large(kind: str) -> tuple[nn.Module, nn.Module]:
    """Two models of one architecture, made by its constructor: nothing here was pruned."""
    if kind == "mlp":
        return mlp(3, in_features=5, hidden=(4, 2)), mlp(3, in_features=5, hidden=(8, 6))
    shape = {"num_classes": 3, "in_channels": 2, "image_size": (8, 8), "kind": kind}
    return cnn(channels=(4, 6), hidden=5, **shape), cnn(channels=(8, 16), hidden=16, **shape)


@pytest.mark.parametrize("kind", ["standard", "separable", "mlp"])
def test_large_model_with_the_plan_computes_as_the_small_one(kind: str) -> None:
    small, large = small_and_large(kind)
    plan = json.loads(json.dumps(plan_of(large, small)))
    apply_plan(large, plan, "here")
    large.load_state_dict(small.state_dict())
    x = torch.randn(4, 5) if kind == "mlp" else torch.randn(4, 2, 8, 8)
    assert torch.equal(large.eval()(x), small.eval()(x))
    assert repr(large) == repr(small), "the sizes that the layers show"


def test_plan_names_differences_only() -> None:
    small, large = small_and_large("mlp")
    assert plan_of(large, large) == {}
    assert set(plan_of(large, small)) == {"hidden1.0", "hidden2.0", "head"}
    assert plan_of(large, small)["head"] == {"weight": [3, 2], "in_features": 2}


def test_order_and_frozen_parameters_stay() -> None:
    small, large = small_and_large("standard")
    plan = plan_of(large, small)
    large.block1.requires_grad_(False)
    names = [name for name, _ in large.named_parameters()]
    apply_plan(large, plan, "here")
    assert [name for name, _ in large.named_parameters()] == names, "a resumed optimizer finds its state by the order"
    assert not large.block1[0].weight.requires_grad
    assert large.block2[0].weight.requires_grad


@pytest.mark.parametrize(
    "plan",
    [
        {"gone": {"weight": [1, 1]}},
        {"head": {"weight": [3, 7]}},  # wider than the config's
        {"head": {"weight": [3]}},
        {"head": {"weight": 3}},
        {"head": {"weight": [3, 0]}},
        {"head": {"weight": [3, True]}},
        {"head": {"in_features": 10**12}},
        {"head": {"in_features": "1"}},
        {"head": {"forward": 1}},
        {"head": {"training": 1}},
        {"head": 3},
    ],
)
def test_a_strangers_plan_is_refused(plan: Any) -> None:
    model = mlp(3, in_features=5, hidden=(6,))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=r"here does not fit the model"):
        apply_plan(model, plan, "here")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
