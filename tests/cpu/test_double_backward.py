"""Whoever differentiates a layer of ours again, traces it or changes it gets torch's numbers, or a refusal."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torchvision.models import mobilenetv2, mobilenetv3

from effbench.cpu import linear as linear_module
from effbench.cpu.accelerate import accelerate
from effbench.cpu.batch_norm import FusedSequential
from effbench.cpu.depthwise import CpuDepthwiseConv2d
from effbench.cpu.dropout import CpuDropout
from effbench.cpu.inverted_residual import InvertedResidualV2, InvertedResidualV3
from tests.compiler import needs_compiler

pytestmark = needs_compiler


def v3(activation: str, gate: nn.Module | None = None) -> nn.Module:
    """gate: torch knows no second derivative of the usual Hardsigmoid."""
    config = mobilenetv3.InvertedResidualConfig(8, 3, 12, 8, True, activation, 1, 1, 1.0)
    block = mobilenetv3.InvertedResidual(config, lambda channels: nn.BatchNorm2d(channels, 0.001))
    block.block[2].scale_activation = gate or nn.Sigmoid()
    return block


INNER: dict[str, tuple[Callable[[], nn.Module], type[nn.Module]]] = {
    "depthwise": (lambda: nn.Conv2d(8, 8, 5, padding=2, groups=8), CpuDepthwiseConv2d),
    "norm and ReLU6": (lambda: nn.Sequential(nn.BatchNorm2d(8), nn.ReLU6()), FusedSequential),
    "norm and Hardswish": (lambda: nn.Sequential(nn.BatchNorm2d(8), nn.Hardswish()), FusedSequential),
    "norm": (lambda: nn.Sequential(nn.BatchNorm2d(8), nn.SiLU()), FusedSequential),
    "V2 block": (lambda: mobilenetv2.InvertedResidual(8, 8, 1, 2), InvertedResidualV2),
    "V2 block, smaller": (lambda: mobilenetv2.InvertedResidual(8, 8, 2, 2), InvertedResidualV2),
    "V3 block": (lambda: v3("HS"), InvertedResidualV3),
    "V3 block, ReLU": (lambda: v3("RE"), InvertedResidualV3),
}


def pair(inner: str, first: nn.Module | None = None) -> tuple[nn.Sequential, nn.Sequential]:
    """A network with that layer inside by torch in float64, and the same with ours in float32."""
    torch.manual_seed(0)
    make, kind = INNER[inner]
    net = nn.Sequential(first or nn.Conv2d(3, 8, 1), make(), nn.SiLU(), nn.Conv2d(8, 4, 3))
    net.to(memory_format=torch.channels_last)
    ours = copy.deepcopy(net)
    accelerate(ours)
    assert isinstance(ours[1], kind)
    return net.double(), ours


def images(*shape: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(*shape or (4, 3, 8, 8)).to(memory_format=torch.channels_last)


def penalised(net: nn.Module, x: Tensor, ask: str) -> list[Tensor]:
    """Gradients of a loss that holds a gradient (arXiv:1704.00028), however they are asked for."""
    x = x.clone().requires_grad_()
    out = net(x)
    (inner,) = torch.autograd.grad(out.sin().sum(), x, create_graph=True)
    loss, parameters = out.square().mean() + 10 * inner.square().mean(), list(net.parameters())
    if ask == "grad":
        return list(torch.autograd.grad(loss, parameters))
    loss.backward(inputs=parameters if ask == "inputs" else None)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@pytest.mark.parametrize("ask", ["grad", "inputs", "backward"])
@pytest.mark.parametrize("inner", INNER)
def test_a_gradient_s_gradient_is_float64_s(inner, ask):
    plain, ours = pair(inner)
    found, expected = penalised(ours, images(), ask), penalised(plain, images().double(), ask)
    assert len(found) == len(expected) == len(list(plain.parameters()))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=1e-4 * max(1.0, theirs.abs().max().item()))


@pytest.mark.parametrize("inner", INNER)
def test_many_gradients_at_once_are_float64_s(inner):
    found = []
    for net in pair(inner):
        x = images().to(next(net.parameters()).dtype).requires_grad_()
        out = net(x)
        torch.manual_seed(2)
        asked = torch.randn(3, *out.shape).to(out.dtype)
        found.append(torch.autograd.grad(out, [x, *net.parameters()], asked, is_grads_batched=True))
    for theirs, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=1e-3)


def test_what_torch_cannot_differentiate_twice_is_refused(monkeypatch):
    monkeypatch.setitem(INNER, "Hardsigmoid", (lambda: v3("RE", nn.Hardsigmoid()), InvertedResidualV3))
    for net in pair("Hardsigmoid"):
        with pytest.raises(RuntimeError, match="hardsigmoid_backward is not implemented"):
            penalised(net, images().to(next(net.parameters()).dtype), "grad")


def test_a_gradient_penalty_updates_statistics_once():
    _, ours = pair("norm")
    once = copy.deepcopy(ours)
    penalised(ours, images(), "grad")
    once(images())
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(ours.buffers(), once.buffers(), strict=True))


def depthwise_pair(**change: Any) -> tuple[nn.Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, 5, padding=2, groups=8).to(memory_format=torch.channels_last)
    ours = nn.Sequential(copy.deepcopy(plain))
    accelerate(ours)
    assert type(ours[0]) is CpuDepthwiseConv2d
    for conv in (plain, ours[0]):
        for name, value in change.items():
            setattr(conv, name, value)
    return plain, ours[0]


@pytest.mark.parametrize(
    "change",
    [{"padding": (0, 0)}, {"dilation": (2, 2), "padding": (4, 4)}, {"stride": (1, 2)}, {"stride": (2, 2)}],
    ids=str,
)
def test_settings_changed_afterwards_hold(change):
    results = []
    for conv in depthwise_pair(**change):
        out = conv(images(2, 8, 9, 9))
        (out * out.detach().sin()).sum().backward()
        results.append((out, conv.weight.grad, conv.bias.grad))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_too_few_channels_are_refused_as_torch_does():
    _, ours = depthwise_pair()
    with pytest.raises(RuntimeError, match="channels"):
        ours(images(2, 4, 9, 9))


def test_transforms_and_traces_of_a_depthwise_layer_are_torch_s():
    plain, ours = depthwise_pair()
    x = images(2, 8, 9, 9)

    def by_weight(conv: nn.Conv2d) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda weight, x: torch.func.functional_call(conv, {"weight": weight}, (x,)).sin().sum()

    weight = plain.weight.detach()
    gradients = [torch.func.grad(by_weight(conv))(weight, x) for conv in (plain, ours)]
    torch.testing.assert_close(*gradients)
    tangents = [torch.func.jvp(conv, (x,), (x,))[1] for conv in (plain, ours)]
    torch.testing.assert_close(*tangents)
    traced = make_fx(lambda x: torch.autograd.grad(ours(x).sin().sum(), ours.weight)[0])(x)
    (expected,) = torch.autograd.grad(plain(2 * x).sin().sum(), plain.weight)
    torch.testing.assert_close(traced(2 * x), expected)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert ours(mode.from_tensor(x)).shape == x.shape


def test_an_activation_that_stands_twice_in_a_block_is_run_twice():
    shared = nn.ReLU6()
    torch.manual_seed(0)
    block = mobilenetv2.InvertedResidual(8, 8, 1, 2)
    depthwise, mix = block.conv[1], block.conv[2]
    layers = [nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), shared, *list(depthwise)[:2], shared, mix]
    block.conv = nn.Sequential(*layers, nn.BatchNorm2d(8))
    plain = block.to(memory_format=torch.channels_last)
    ours = nn.Sequential(copy.deepcopy(plain))
    accelerate(ours)
    torch.testing.assert_close(ours(images(4, 8, 6, 6)), plain(images(4, 8, 6, 6)), rtol=1e-4, atol=1e-4)


def test_memory_that_a_bit_negates_is_read_as_it_is_meant():
    _, ours = pair("norm", nn.Identity())
    x = images(4, 8, 8, 8)
    torch.testing.assert_close(ours(torch._neg_view(-x)), ours(x))


def spread(net: nn.Module) -> None:
    """All of each weight one and the same element in memory."""
    for parameter in net.parameters():
        parameter.data = torch.zeros(1).expand(parameter.shape)


@pytest.mark.parametrize("how", [nn.Module.bfloat16, nn.Module.double, spread], ids=["bfloat16", "double", "spread"])
@pytest.mark.parametrize("inner", ["V2 block", "V3 block"])
def test_weights_replaced_before_the_backward_pass_are_refused(inner, how):
    _, ours = pair(inner, nn.Identity())
    loss = ours[1](images(4, 8, 8, 8)).sum()
    how(ours)
    with pytest.raises(RuntimeError, match=r"\.data is of another"):
        loss.backward()


def test_a_weight_made_strided_before_backward_is_read_right(monkeypatch):
    monkeypatch.setattr(linear_module, "MIN_MULTIPLICATIONS", 0)
    monkeypatch.setattr(linear_module, "mkl_is_slow", lambda: True)
    ours = nn.Sequential(nn.Linear(6, 5))
    accelerate(ours)
    x = torch.randn(64, 6, requires_grad=True)
    loss = ours(x).sum()
    ours[0].weight.data = torch.ones(1).expand(5, 6)
    loss.backward()
    assert bool((x.grad == 5).all())


def test_a_weight_replaced_before_backward_is_torch_s_matter(monkeypatch):
    monkeypatch.setattr(linear_module, "MIN_MULTIPLICATIONS", 0)
    monkeypatch.setattr(linear_module, "mkl_is_slow", lambda: True)
    ours = nn.Sequential(nn.Linear(6, 5))
    accelerate(ours)
    loss = ours(torch.randn(64, 6, requires_grad=True)).sum()
    ours.double()
    with pytest.raises(RuntimeError, match="dtype"):
        loss.backward()


def test_dropout_differentiates_twice_with_default_float64():
    x = torch.randn(64, 32, requires_grad=True)
    torch.set_default_dtype(torch.float64)
    try:
        out = CpuDropout(0.5)(x)
        (gradient,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert gradient.dtype is torch.float32
    assert torch.equal(gradient * x, out)


def test_dropout_in_place_changes_nothing_that_torch_refuses():
    leaf = torch.ones(4, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="in-place"):
        CpuDropout(0.5, inplace=True)(leaf[:2])
    assert bool((leaf == 1).all())
