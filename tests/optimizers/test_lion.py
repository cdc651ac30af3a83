"""Lion is lion-pytorch's to the bit and refuses what cannot be meant."""

from __future__ import annotations

import lion_pytorch
import numpy as np
import pytest
import torch

from effbench.errors import ConfigError
from effbench.optimizers import Lion
from tests import reference

torch.set_num_threads(1)

OPTIONS = {"lr": 3e-3, "betas": (0.95, 0.98), "weight_decay": 0.3}


def model(seed=0):
    """Parameters of several ranks, one channels_last and one that never gets a gradient."""
    torch.manual_seed(seed)
    conv = torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)
    return [torch.nn.Parameter(p) for p in (conv, torch.randn(16, 8), torch.randn(5), torch.randn(()), torch.ones(2))]


def train(optimizer, parameters, steps, seed=1):
    torch.manual_seed(seed)
    for _ in range(steps):
        for p in parameters[:-1]:
            p.grad = torch.randn_like(p)
        optimizer.step()
    return [p.detach().clone() for p in parameters]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_100_steps_equal_lion_pytorch_to_the_bit():
    ours, theirs = model(), model()
    assert same(train(Lion(ours, **OPTIONS), ours, 100), train(lion_pytorch.Lion(theirs, **OPTIONS), theirs, 100))


@pytest.mark.parametrize(("first", "second"), [(Lion, lion_pytorch.Lion), (lion_pytorch.Lion, Lion)])
def test_state_dict_moves_between_lion_and_lion_pytorch(first, second):
    moved, stayed = model(), model()
    before = first(moved, **OPTIONS)
    train(before, moved, 10)
    after = second(moved, lr=1.0)  # its options come with the state
    after.load_state_dict(before.state_dict())

    only = lion_pytorch.Lion(stayed, **OPTIONS)
    train(only, stayed, 10)
    assert same(train(after, moved, 10, seed=2), train(only, stayed, 10, seed=2))


def test_the_step_size_is_lr_for_every_weight_with_a_gradient():
    theta, gradients = reference.random_problem(steps=1)
    path = reference.torch_path(lambda ps: Lion(ps, lr=0.5), theta, gradients, torch.float64)
    np.testing.assert_allclose(np.abs(path[0] - theta), 0.5)


def test_state_is_one_momentum_of_the_parameters_shape():
    parameters = model()
    optimizer = Lion(parameters)
    train(optimizer, parameters, 1)
    assert [{k: v.shape for k, v in optimizer.state[p].items()} for p in parameters[:-1]] == [
        {"exp_avg": p.shape} for p in parameters[:-1]
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1e-4}, r"optimizer\.lr must be a number >= 0; got -0\.0001\. .*3-10x below AdamW"),
        ({"lr": float("nan")}, r"optimizer\.lr must be .* got nan"),
        ({"lr": "fast"}, r"optimizer\.lr must be .* got 'fast'"),
        ({"lr": True}, r"optimizer\.lr must be .* got true"),
        ({"lr": None}, r"optimizer\.lr must be .* got null"),
        ({"betas": (0.9, 1.0)}, r"optimizer\.betas must be .*\[0, 1\).*\[0\.9, 1\.0\]; got 1\.0\. .*\[0\.9, 0\.99\]"),
        ({"betas": (0.9, 0.99, 0.999)}, r"optimizer\.betas must be 2 numbers in \[0, 1\); got \(0\.9, 0\.99, 0\.999\)"),
        ({"betas": 0.9}, r"optimizer\.betas must be 2 numbers .* got 0\.9"),
        ({"weight_decay": -0.1}, r"optimizer\.weight_decay must be a number >= 0; got -0\.1"),
    ],
)
def test_an_option_out_of_range_names_key_rule_value_and_remedy(options, message):
    with pytest.raises(ConfigError, match=message):
        Lion(model(), **options)


def test_the_options_of_a_group_are_checked_too():
    with pytest.raises(ConfigError, match=r"optimizer\.lr must be .* got -1"):
        Lion([{"params": model(), "lr": -1}])


@pytest.mark.parametrize("trap", ["use_triton", "decoupled_weight_decay"])
def test_the_packages_traps_are_no_options(trap):
    with pytest.raises(TypeError, match=trap):
        Lion(model(), **{trap: True})
