"""What torch.optim.Optimizer promises, Lion, both Adans and Muon keep."""

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
from effbench.optimizers import Adan, Lion, Muon
from tests.optimizers.test_lion import model, same, train

torch.set_num_threads(1)


def package_adan(params, **options):
    return Adan(params, variant="package", **options)


@pytest.fixture(params=[Lion, Adan, package_adan, Muon], ids=["lion", "adan", "adan package", "muon"])
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


def test_state_loaded_with_weights_only_continues_bit_exact(make):
    stopped, through = model(), model()
    optimizer, uninterrupted = make(stopped, lr=1e-2), make(through, lr=1e-2)
    train(optimizer, stopped, 5)
    train(uninterrupted, through, 5)
    resumed = make(stopped, lr=1.0)
    resumed.load_state_dict(through_file(optimizer.state_dict()))
    assert resumed.param_groups[0].keys() == optimizer.param_groups[0].keys()
    assert same(train(resumed, stopped, 5, seed=2), train(uninterrupted, through, 5, seed=2))
    assert resumed.state_dict()["param_groups"] == uninterrupted.state_dict()["param_groups"]


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
    momentum = {Lion: "exp_avg", Muon: "momentum_buffer"}.get(make, "m")
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


def test_step_hooks_run_once_even_after_the_package_was_used(make):
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


def test_sparse_gradients_are_refused_before_a_group_changes(make):
    dense, embedding = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Embedding(5, 2, sparse=True)
    optimizer = make([{"params": [dense]}, {"params": embedding.parameters()}])
    (embedding(torch.tensor([1])).sum() + dense.sum()).backward()
    with pytest.raises(ConfigError, match=r"dense gradients; got a sparse one .* sparse=False"):
        optimizer.step()
    assert dense.equal(torch.ones(2, 2))
    assert not optimizer.state[dense]


def test_numpy_options_stay_loadable_with_weights_only(make):
    optimizer = make(model(), lr=np.float64(1e-3), weight_decay=np.float32(0.5))
    assert through_file(optimizer.state_dict())["param_groups"][0]["lr"] == 1e-3


# --- what torch's own optimizers do with the same input ---------------------------------------------------------------


@pytest.fixture(params=[Lion, Adan], ids=["lion", "adan"])
def either(request):
    return request.param


@pytest.mark.parametrize("compiled", [True, False])
def test_complex_parameter_steps_like_its_real_and_imag_parts(either, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr("effbench.optimizers.fused.library", lambda: None)
    torch.manual_seed(0)
    whole = torch.nn.Parameter(torch.randn(3, 4, dtype=torch.complex64))
    parts = torch.nn.Parameter(torch.view_as_real(whole.detach()).clone())
    of_whole, of_parts = (either([p], lr=1e-2, weight_decay=0.1) for p in (whole, parts))
    for step in range(4):
        gradient = torch.randn(3, 4, dtype=torch.complex64)
        whole.grad = gradient.conj() if step % 2 else gradient  # lazily conjugated
        parts.grad = torch.view_as_real(whole.grad.resolve_conj()).clone()
        of_whole.step(), of_parts.step()
    assert torch.equal(torch.view_as_real(whole.detach()), parts.detach())


def test_package_variant_refuses_complex_parameters_unchanged():
    optimizer = package_adan(model())
    with pytest.raises(ValueError, match=r"variant must be 'paper' for complex parameters"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))]})
    assert len(optimizer.param_groups) == 1


def test_a_learning_rate_in_a_tensor_is_read_at_every_step(make):
    with_tensor, with_number = model(), model()
    lr = torch.tensor(1e-2)
    ours, other = make(with_tensor, lr=lr, weight_decay=0.1), make(with_number, lr=lr.item(), weight_decay=0.1)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5) for optimizer in (ours, other)]
    for seed in range(3):
        train(ours, with_tensor, 1, seed), train(other, with_number, 1, seed)
        for schedule in schedules:
            schedule.step()
        other.param_groups[0]["lr"] = lr.item()  # 1e-2 is none of float32's
    assert ours.param_groups[0]["lr"] is lr
    assert lr.item() == pytest.approx(1e-2 / 8)
    assert same(with_tensor, with_number)


def test_tensor_learning_rate_survives_checkpoint_and_deepcopy(make):
    parameters = model()
    optimizer = make(parameters, lr=torch.tensor(1e-2))
    train(optimizer, parameters, 2)
    resumed = make(parameters)
    resumed.load_state_dict(through_file(optimizer.state_dict()))
    assert torch.equal(resumed.param_groups[0]["lr"], torch.tensor(1e-2))
    assert torch.equal(copy.deepcopy(optimizer).param_groups[0]["lr"], torch.tensor(1e-2))


@pytest.mark.parametrize("lr", [torch.tensor([1.0, 2.0]), torch.tensor(1), torch.tensor(-1.0), torch.tensor(np.nan)])
def test_a_tensor_that_is_no_learning_rate_is_refused(make, lr):
    with pytest.raises(ValueError, match=r"optimizer\.lr must be a number"):
        make(model(), lr=lr)


def test_tensors_are_refused_where_they_would_be_read_once(make):
    with pytest.raises(ValueError, match=r"optimizer\.weight_decay must be"):
        make(model(), weight_decay=torch.tensor(0.1))


@pytest.mark.parametrize("kind", [int, float, np.int64, torch.tensor, lambda n: torch.tensor([float(n)])])
@pytest.mark.parametrize("by_hand", [True, False])
def test_a_state_whose_step_is_a_number_continues_to_the_bit(kind, by_hand):
    parameters, through = model(), model()
    optimizer, uninterrupted = Adan(parameters), Adan(through)
    train(optimizer, parameters, 3), train(uninterrupted, through, 3)
    state = copy.deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        entry["step"] = kind(3)
    if by_hand:
        for parameter in parameters:
            optimizer.state[parameter]["step"] = kind(3)
    else:
        optimizer.load_state_dict(state)
    assert same(train(optimizer, parameters, 3, seed=2), train(uninterrupted, through, 3, seed=2))


def test_package_variant_converts_a_saved_step_tensor_to_int():
    parameters, through = model(), model()
    optimizer, uninterrupted = package_adan(parameters), package_adan(through)
    train(optimizer, parameters, 3), train(uninterrupted, through, 3)
    state = copy.deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        entry["step"] = torch.tensor(3.0)
    optimizer.load_state_dict(state)
    assert same(train(optimizer, parameters, 3, seed=2), train(uninterrupted, through, 3, seed=2))


@pytest.mark.parametrize("other", [torch.optim.AdamW, torch.optim.RMSprop])
def test_another_optimizer_s_state_is_refused(make, other):
    parameters = model()
    theirs = other(parameters)
    train(theirs, parameters, 1)
    if make is Lion and other is torch.optim.AdamW:  # its exp_avg is a momentum too
        make(parameters).load_state_dict(theirs.state_dict())
        return
    with pytest.raises(ValueError, match="the state must be .*'s, with .* without"):
        make(parameters).load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("kind", [Lion, Adan, Muon])
def test_empty_state_of_another_optimizer_keeps_missing_options(kind):
    parameters = model()
    theirs, ours = torch.optim.SGD(parameters, lr=0.5).state_dict(), kind(parameters)
    theirs["param_groups"][0]["variant"] = "paper"
    ours.load_state_dict(theirs)
    train(ours, parameters, 1)
    assert ours.param_groups[0]["lr"] == 0.5


def test_empty_and_scalar_parameters_take_part(make):
    parameters = [torch.nn.Parameter(torch.empty(0, 3)), torch.nn.Parameter(torch.ones(())), *model()]
    optimizer = make(parameters, lr=1e-2)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert parameters[1] != 1
    assert "lr" in repr(optimizer)


def test_refusals_are_the_exception_types_of_torch(make):
    with pytest.raises(ValueError, match=r"optimizer\.lr"):
        make(model(), lr=-1.0)
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = make(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="dense gradients"):
        optimizer.step()
