"""Linear layers by kernels of ours give float64's numbers forward and backward, and torch's where they do not pay."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effbench.cpu import linear as linear_module
from effbench.cpu.accelerate import accelerate
from effbench.cpu.linear import CpuLinear, linear
from tests.compiler import needs_compiler

pytestmark = needs_compiler


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The compiled functions called so far; on any processor, and however small."""
    calls: list[str] = []
    real = linear_module.call
    monkeypatch.setattr(linear_module, "call", lambda name, *rest: (calls.append(name), real(name, *rest)))
    monkeypatch.setattr(linear_module, "MIN_MULTIPLICATIONS", 0)
    monkeypatch.setattr(linear_module, "MIN_ROWS", 0)
    monkeypatch.setattr(linear_module, "mkl_is_slow", lambda: True)
    return calls


def pair(inputs: int, outputs: int, bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    """Torch's and ours, with the same weights."""
    torch.manual_seed(inputs)
    plain = nn.Linear(inputs, outputs, bias)
    ours = copy.deepcopy(plain)
    accelerate(ours)
    assert type(ours) is CpuLinear
    return plain, ours


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 130), st.integers(1, 130), st.booleans(),
    st.integers(1, 3),
)  # fmt: skip
def test_outputs_and_gradients_are_float64_s(shape, inputs, outputs, bias, threads):
    plain, ours = pair(inputs, outputs, bias)
    exact = copy.deepcopy(plain).double()
    x = torch.randn(*shape, inputs)
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_module, "MIN_MULTIPLICATIONS", 0)
        patch.setattr(linear_module, "MIN_ROWS", 0)
        patch.setattr(linear_module, "mkl_is_slow", lambda: True)
        patch.setattr(torch, "get_num_threads", lambda: threads)
        for net in (ours, exact):
            own = x.detach().to(net.weight.dtype, copy=True).requires_grad_()
            out = net(own)
            (out * out.detach().sin()).sum().backward()
            results.append([out, own.grad, *(parameter.grad for parameter in net.parameters())])
    for mine, theirs in zip(*results, strict=True):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-4)


def test_it_is_taken_and_an_activation_may_overwrite_it(taken):
    plain, ours = pair(6, 5)
    x = torch.randn(4, 3, 6)
    for net in (plain, ours):
        nn.Sequential(net, nn.ReLU(inplace=True))(x.clone().requires_grad_()).sum().backward()
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)
    torch.testing.assert_close(ours.bias.grad, plain.bias.grad)
    assert taken == ["conv1x1", "conv1x1_backward_input", "conv1x1_backward_weight"]
    with torch.no_grad():
        torch.testing.assert_close(ours(x), plain(x))
    assert len(taken) == 4


def test_frozen_weights_and_an_input_that_wants_no_gradient(taken):
    _, ours = pair(6, 5)
    ours.weight.requires_grad_(False)
    ours(torch.randn(4, 6)).sum().backward()
    assert ours.weight.grad is None
    assert ours.bias.grad.tolist() == [4.0] * 5
    assert taken == ["conv1x1"]


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.double(),
        lambda x: x.bfloat16(),
        lambda x: x[:, ::2],
        lambda x: x[0],
        lambda x: x.t().contiguous().t(),
    ],
    ids=["float64", "bfloat16", "gaps", "one row", "turned"],
)
def test_elsewhere_it_is_torch_s_to_the_bit(make, taken):
    x = make(torch.randn(8, 12))
    plain, ours = (net.to(x.dtype) for net in pair(x.shape[-1], 5))
    assert torch.equal(ours(x), plain(x))
    assert taken == []


def test_graphs_transforms_and_autocast_get_torch_s(taken):
    plain, ours = pair(6, 5)
    x = torch.randn(4, 6)
    assert "linear" in str(torch.export.export(ours, (x,)).graph)
    assert torch.equal(torch.func.vmap(ours)(x), torch.func.vmap(plain)(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x), plain(x))
    assert taken == []


def test_small_products_and_fast_mkl_are_torch_s(monkeypatch):
    monkeypatch.setattr(linear_module, "call", lambda *_: pytest.fail("went through ours"))
    x, weight = torch.randn(64, 64), torch.randn(8, 64)
    assert torch.equal(linear(x, weight, None), x @ weight.t())  # small
    monkeypatch.setattr(linear_module, "MIN_MULTIPLICATIONS", 0)
    assert torch.equal(linear(x[:31], weight, None), x[:31] @ weight.t())  # few rows
    monkeypatch.setattr(linear_module, "mkl_is_slow", lambda: False)
    assert torch.equal(linear(x, weight, None), x @ weight.t())


def test_gradients_of_gradients_and_many_at_once_are_torch_s(taken):
    plain, ours = pair(6, 5)
    x = torch.randn(4, 6)
    for find in (
        lambda net: torch.autograd.functional.hessian(lambda x: net(x).sin().sum(), x),
        lambda net: torch.autograd.functional.jacobian(net, x, vectorize=True),
        lambda net: torch.func.jvp(net, (x,), (x,))[1],
    ):
        torch.testing.assert_close(find(ours), find(plain))
    assert "conv1x1" in taken


def test_a_symbolic_trace_keeps_the_layer_or_what_it_does():
    _, ours = pair(6, 5)
    x = torch.randn(4, 6)
    assert torch.equal(torch.fx.symbolic_trace(nn.Sequential(ours))(x), ours(x))


def test_a_bias_of_another_dtype_is_refused_as_torch_does(taken):
    _, ours = pair(6, 5)
    ours.bias = nn.Parameter(ours.bias.double())
    with pytest.raises(RuntimeError):
        ours(torch.randn(4, 6))
    assert taken == []


@pytest.mark.usefixtures("taken")
def test_wrong_shapes_are_refused_as_torch_does():
    _, ours = pair(6, 5)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        ours(torch.randn(4, 7))


def test_it_copies_pickles_and_keeps_its_state_dict(taken):
    plain, ours = pair(6, 5)
    x: Tensor = torch.randn(4, 6)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(other(x), ours(x))
    plain.load_state_dict(ours.state_dict())
    assert len(taken) == 4


def test_a_subclass_of_somebody_else_s_is_left_alone():
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    net = Doubled(3, 3)
    accelerate(net)
    assert type(net) is Doubled


def test_an_exported_graph_takes_any_batch_size():
    _, ours = pair(512, 512)
    graph = torch.export.export(ours, (torch.randn(4, 512),), dynamic_shapes=({0: torch.export.Dim("N")},))
    assert graph.module()(torch.randn(300, 512)).shape == (300, 512)


@pytest.mark.slow
@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 9), (9, 3)])
def test_a_gradient_over_a_million_rows_is_a_sum_of_sums(inputs, outputs):
    """One sum after the other would be off by a ten-thousandth: all terms have the same sign."""
    x, weight = torch.rand(2**20, inputs), torch.rand(outputs, inputs, requires_grad=True)
    gradient = torch.rand(2**20, outputs)
    [found] = torch.autograd.grad(linear(x, weight, None), weight, gradient)
    exact = gradient.double().T @ x.double()
    assert float((found / exact - 1).abs().max()) <= 1e-5
