"""Adan follows its authors by default, adan-pytorch to the bit on demand, and takes the paper's betas in both."""

from __future__ import annotations

import io

import adan_pytorch
import numpy as np
import pytest
import torch

from effbench.errors import ConfigError
from effbench.optimizers import Adan
from tests import reference
from tests.optimizers.test_lion import model, same, train

torch.set_num_threads(1)

OPTIONS = {"lr": 3e-3, "eps": 1e-6, "weight_decay": 0.3}


def always(state):
    return state["step"] % 3 == 2


def constant_gradient_moves(variant, dtype=torch.float64):
    """How far each of four steps at gradient 1 and lr 1 goes."""
    make = lambda ps: Adan(ps, lr=1.0, variant=variant)  # noqa: E731
    path = reference.torch_path(make, np.zeros(1), [np.ones(1)] * 4, dtype)
    return -np.diff(np.concatenate([[0.0], *path]))


def test_paper_moves_by_lr_at_a_constant_gradient():
    np.testing.assert_allclose(constant_gradient_moves("paper"), [1, 1, 1, 1], rtol=1e-6)


def test_package_does_not_move_at_first_and_too_little_for_long():
    np.testing.assert_allclose(constant_gradient_moves("package"), [0, 0.712, 0.823, 0.873], atol=5e-4)


def test_package_first_step_only_decays():
    parameters = model()
    start = [p.detach().clone() for p in parameters]
    end = train(Adan(parameters, lr=0.1, weight_decay=1.0, variant="package"), parameters, 1)
    for before, after in zip(start[:-1], end[:-1], strict=True):
        torch.testing.assert_close(after, before / 1.1)


@pytest.mark.parametrize("restart_cond", [None, always], ids=["plain", "with restarts"])
@pytest.mark.parametrize(
    ("paper", "package"), [((0.98, 0.92, 0.99), (0.02, 0.08, 0.01)), ((0.9, 0.8, 0.95), (0.1, 0.2, 0.05))]
)
def test_package_equals_adan_pytorch_to_the_bit(paper, package, restart_cond):
    ours, theirs = model(), model()
    optimizer = Adan(ours, betas=paper, variant="package", restart_cond=restart_cond, **OPTIONS)
    package_s = adan_pytorch.Adan(theirs, betas=package, restart_cond=restart_cond, **OPTIONS)
    assert same(train(optimizer, ours, 100), train(package_s, theirs, 100))


def test_package_variant_defaults_equal_adan_pytorch_defaults():
    ours, theirs = model(), model()
    optimizer, package_s = Adan(ours, variant="package"), adan_pytorch.Adan(theirs)
    assert optimizer.param_groups[0]["betas"] == package_s.param_groups[0]["betas"]
    assert same(train(optimizer, ours, 20), train(package_s, theirs, 20))


@pytest.mark.parametrize("from_ours", [True, False])
def test_state_dict_moves_between_adan_and_adan_pytorch(from_ours):
    moved, stayed = model(), model()
    ours = Adan(moved, variant="package", **OPTIONS)
    package_s = adan_pytorch.Adan(moved, **OPTIONS)
    before, after = (ours, package_s) if from_ours else (package_s, ours)
    train(before, moved, 10)
    after.load_state_dict(before.state_dict())

    only = adan_pytorch.Adan(stayed, **OPTIONS)
    train(only, stayed, 10)
    assert same(train(after, moved, 10, seed=2), train(only, stayed, 10, seed=2))


def test_a_parameter_that_thaws_late_counts_its_own_steps():
    theta, gradients = reference.random_problem(steps=10)
    early, late = (torch.nn.Parameter(torch.tensor(theta)) for _ in range(2))
    optimizer = Adan([early, late], lr=0.1)
    for t, g in enumerate(gradients):
        early.grad = torch.tensor(g)
        late.grad = torch.tensor(g) if t >= 4 else None
        optimizer.step()
    options = {"lr": 0.1, "betas": (0.98, 0.92, 0.99), "eps": 1e-8}
    np.testing.assert_allclose(early.detach(), reference.adan(theta, gradients, **options)[-1])
    np.testing.assert_allclose(late.detach(), reference.adan(theta, gradients[4:], **options)[-1])


def test_step_counter_is_a_tensor():
    parameters = model()
    optimizer = Adan(parameters)
    train(optimizer, parameters, 3)
    assert torch.equal(optimizer.state[parameters[0]]["step"], torch.tensor(3.0))


def test_the_gradients_are_left_as_they_were():
    for options in ({}, {"maximize": True}, {"variant": "package", "maximize": True}):
        (parameter,) = parameters = [torch.nn.Parameter(torch.zeros(3))]
        optimizer = Adan(parameters, **options)
        for gradient in (torch.tensor([1.0, -2.0, 0.0]), torch.tensor([3.0, 0.5, -1.0])):
            parameter.grad = gradient.clone()
            optimizer.step()
            assert torch.equal(parameter.grad, gradient)


def test_restart_condition_is_not_saved_and_survives_a_load():
    parameters = model()
    optimizer = Adan(parameters, variant="package", restart_cond=always)
    train(optimizer, parameters, 2)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    optimizer.load_state_dict(torch.load(file, weights_only=True))
    assert optimizer.param_groups[0]["restart_cond"] is always


def test_the_other_variants_state_is_refused():
    paper, package = Adan(model()), Adan(model(), variant="package")
    with pytest.raises(ConfigError, match=r"optimizer\.variant must be 'package' to load .* got 'paper'"):
        paper.load_state_dict(adan_pytorch.Adan(model()).state_dict())
    with pytest.raises(ConfigError, match=r"optimizer\.variant must be 'paper' to load .* got 'package'"):
        package.load_state_dict(paper.state_dict())


@pytest.mark.parametrize("variant", ["paper", "package"])
def test_betas_in_package_convention_are_refused_with_remedy(variant):
    with pytest.raises(
        ConfigError, match=r"paper's convention.*\[0\.02, 0\.08, 0\.01\].*Write \[0\.98, 0\.92, 0\.99\]"
    ):
        Adan(model(), betas=(0.02, 0.08, 0.01), variant=variant)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1}, r"optimizer\.lr must be a number >= 0; got -1\. "),
        ({"betas": (0.98, 0.92)}, r"optimizer\.betas must be 3 numbers in \[0, 1\); got \(0\.98, 0\.92\)\. "),
        (
            {"betas": (0.98, 0.92, 1.5)},
            r"optimizer\.betas must be .* got 1\.5\. The authors' are \[0\.98, 0\.92, 0\.99\]",
        ),
        ({"eps": 0}, r"optimizer\.eps must be a number > 0; got 0\. "),
        ({"weight_decay": float("inf")}, r"optimizer\.weight_decay must be a number >= 0; got inf"),
        ({"variant": "papper"}, r"optimizer\.variant 'papper' is not one of: package, paper\. Did you mean 'paper'\?"),
        ({"restart_cond": always}, r"optimizer\.restart_cond must be null .* optimizer\.variant=package"),
    ],
)
def test_an_option_out_of_range_names_key_rule_value_and_remedy(options, message):
    with pytest.raises(ConfigError, match=message):
        Adan(model(), **options)
