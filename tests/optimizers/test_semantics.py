"""What torch.optim.Optimizer promises, Lion and both Adans keep."""

from __future__ import annotations

import copy
import io
import pickle

import adan_pytorch
import lion_pytorch
import numpy as np
import pytest
import torch

from effbench.errors import ConfigError
from effbench.optimizers import Adan, Lion
from tests.optimizers.test_lion import model, same, train

torch.set_num_threads(1)


def package_adan(params, **options):
    return Adan(params, variant="package", **options)


@pytest.fixture(params=[Lion, Adan, package_adan], ids=["lion", "adan", "adan package"])
def make(request):
    return request.param


def through_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def clones(optimizer, parameters):
    """(optimizer, its parameters) by each way of copying one."""
    yield copy.deepcopy((optimizer, parameters))
    yield pickle.loads(pickle.dumps((optimizer, parameters)))


def test_a_checkpoint_read_with_weights_only_continues_to_the_bit(make):
    stopped, through = model(), model()
    optimizer, uninterrupted = make(stopped, lr=1e-2), make(through, lr=1e-2)
    train(optimizer, stopped, 5)
    train(uninterrupted, through, 5)
    resumed = make(stopped, lr=1.0)
    resumed.load_state_dict(through_file(optimizer.state_dict()))
    assert same(train(resumed, stopped, 5, seed=2), train(uninterrupted, through, 5, seed=2))


def test_a_copy_by_deepcopy_or_pickle_continues_to_the_bit(make):
    parameters = model()
    optimizer = make(parameters, lr=1e-2, weight_decay=0.1, maximize=True)
    train(optimizer, parameters, 5)
    copies = list(clones(optimizer, parameters))
    expected = train(optimizer, parameters, 5, seed=2)
    for optimizer_copy, parameters_copy in copies:
        assert same(train(optimizer_copy, parameters_copy, 5, seed=2), expected)


def test_each_group_has_its_own_learning_rate(make):
    slow, fast, alone = model(), model(), model()
    both = make([{"params": slow, "lr": 1e-3}, {"params": fast}], lr=1e-2)
    torch.manual_seed(1)
    for _ in range(5):
        for p, q in zip(slow[:-1], fast[:-1], strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        both.step()
    assert same(train(make(alone, lr=1e-3), alone, 5), [p.detach() for p in slow])
    assert not same(slow, fast)


def test_maximize_climbs_where_the_negated_gradient_descends(make):
    up, down = model(), model()
    climbing, descending = make(up, lr=1e-2, maximize=True), make(down, lr=1e-2)
    torch.manual_seed(1)
    for _ in range(5):
        for p, q in zip(up[:-1], down[:-1], strict=True):
            p.grad = torch.randn_like(p)
            q.grad = -p.grad
        climbing.step()
        descending.step()
    assert same(up, down)


def test_a_step_at_lr_0_moves_nothing_but_learns_the_gradient(make):
    parameters = model()
    start = [p.detach().clone() for p in parameters]
    optimizer = make(parameters, weight_decay=0.1)
    optimizer.param_groups[0]["lr"] = 0.0
    assert same(train(optimizer, parameters, 3), start)
    momentum = "exp_avg" if make is Lion else "m"
    assert optimizer.state[parameters[0]][momentum].abs().sum() > 0


def test_frozen_parameters_neither_move_nor_take_memory(make):
    parameters = model()
    parameters[0].requires_grad_(False)
    start = parameters[0].detach().clone()
    optimizer = make(parameters, lr=1.0, weight_decay=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        sum((p**2).sum() for p in parameters[1:]).backward()
        optimizer.step()
    assert torch.equal(parameters[0], start)
    assert parameters[0] not in optimizer.state


def test_a_closure_is_run_with_gradients_and_its_loss_returned(make):
    parameter = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = make([parameter], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():  # torch's own optimizers enable gradients for the closure alone
        assert optimizer.step(closure).item() == 9.0
    optimizer.step(closure)
    assert parameter.item() < 3.0


def test_step_hooks_run_once_even_after_the_packages_own_class_was_used(make):
    lion_pytorch.Lion(model())
    adan_pytorch.Adan(model())
    parameters, calls = model(), []
    optimizer = make(parameters)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(optimizer, parameters, 1)
    assert calls == ["before", "after"]


def test_a_group_added_later_takes_part(make):
    first, second = model(), model(seed=3)
    optimizer = make(first, lr=1e-2)
    optimizer.add_param_group({"params": second, "lr": 1e-3})
    start = [p.detach().clone() for p in second]
    end = train(optimizer, second, 3)  # odd: two opposite steps of Lion would cancel
    assert all(not torch.equal(a, b) for a, b in zip(start[:-1], end[:-1], strict=True))


def test_sparse_gradients_are_refused_with_the_remedy(make):
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = make(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ConfigError, match=r"dense gradients; got a sparse one .* sparse=False"):
        optimizer.step()


def test_options_given_as_numpy_numbers_stay_loadable_with_weights_only(make):
    optimizer = make(model(), lr=np.float64(1e-3), weight_decay=np.float32(0.5))
    assert through_file(optimizer.state_dict())["param_groups"][0]["lr"] == 1e-3
