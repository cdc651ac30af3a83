"""The weight gradient of large depthwise convolutions is float64's to 1e-5 in every shape; nothing else changes.

White-box: compares the compiled gradient with the one in torch.
"""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effbench.cpu import depthwise
from effbench.cpu.accelerate import accelerate
from effbench.cpu.depthwise import CpuDepthwiseConv2d, weight_gradient
from effbench.cpu.library import library
from tests.compiler import HAS_COMPILER, needs_compiler
from tests.training.tiny import same


def expected(x: Tensor, gradient: Tensor, kernel: int, stride: int) -> Tensor:
    """autograd's, in float64."""
    weight = torch.zeros(x.shape[1], 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    out = F.conv2d(x.double(), weight, None, stride, kernel // 2, 1, x.shape[1])
    [found] = torch.autograd.grad(out, weight, gradient.double())
    return found


def last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 5),
    channels=st.integers(1, 40),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    kernel=st.sampled_from([5, 7]),
    stride=st.integers(1, 3),
    compiled=st.booleans() if HAS_COMPILER else st.just(False),
)
def test_any_shape_gives_float64_s_gradient(count, channels, height, width, kernel, stride, compiled):
    generator = torch.Generator().manual_seed(count * channels + height)
    x = last(torch.randn(count, channels, height, width, generator=generator))
    rows, columns = ((size - 1) // stride + 1 for size in (height, width))
    gradient = last(torch.randn(count, channels, rows, columns, generator=generator))
    way = weight_gradient if compiled else depthwise._shifted_products
    exact = expected(x, gradient, kernel, stride)
    atol = max(1e-5, 1e-6 * float(exact.abs().max()))  # what cancels is as good as what it was summed of
    assert torch.allclose(way(x, gradient, kernel, stride).double(), exact, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "mobilenet_v3_large"])
def test_a_whole_network_learns_the_same(arch):
    torch.manual_seed(0)
    plain = last_model(getattr(torchvision.models, arch)(num_classes=4, dropout=0.0))
    ours = copy.deepcopy(plain)
    accelerate(ours)
    assert sum(isinstance(module, CpuDepthwiseConv2d) for module in ours.modules()) > 4
    x = last(torch.randn(4, 3, 48, 48))
    outputs = []
    for net in (plain, ours):
        out = net(x)
        out.square().sum().backward()
        outputs.append(out)
    torch.testing.assert_close(*outputs)
    for (name, a), b in zip(plain.named_parameters(), ours.parameters(), strict=True):
        scale = a.grad.abs().max().item()
        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-4 * scale + 1e-7), name


def last_model(net: nn.Module) -> nn.Module:
    return net.to(memory_format=torch.channels_last)


def block() -> nn.Sequential:
    torch.manual_seed(0)
    return last_model(nn.Sequential(nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.ReLU()))


def quick() -> nn.Sequential:
    net = block()
    accelerate(net)
    return net


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 5, padding=2),
        nn.Conv2d(8, 16, 5, padding=2, groups=8),
        nn.Conv2d(8, 8, 5, padding=1, groups=8),
        nn.Conv2d(8, 8, 5, padding=4, dilation=2, groups=8),
        nn.Conv2d(8, 8, (5, 3), padding=(2, 1), groups=8),
        nn.Conv2d(8, 8, 5, padding="same", groups=8),
        nn.Conv2d(8, 8, 5, padding=2, groups=8, padding_mode="reflect"),
        nn.Conv2d(8, 8, 9, padding=4, groups=8),
    ],
    ids=str,
)
def test_other_convolutions_are_left_alone(conv):
    net = nn.Sequential(conv)
    accelerate(net)
    assert type(net[0]) is nn.Conv2d


def test_it_is_used_where_it_applies_and_torch_elsewhere(monkeypatch):
    used = []
    monkeypatch.setattr(depthwise, "weight_gradient", lambda *args: used.append(1) or weight_gradient(*args))
    net, x = quick(), last(torch.randn(2, 8, 6, 6))
    net(x).sum().backward()
    assert len(used) == 1
    net(x.contiguous()).sum().backward() if not x.is_contiguous() else None
    with torch.autocast("cpu", torch.bfloat16):
        net(x).float().sum().backward()
    net.double()(x.double()).sum().backward()
    assert len(used) == 1


def test_the_bias_and_the_input_get_their_gradients():
    plain, ours, x = block(), quick(), last(torch.randn(2, 8, 6, 6))
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    for net, own in zip((plain, ours), inputs, strict=True):
        net(own).square().sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad, rtol=1e-5, atol=1e-6)
    assert torch.allclose(plain[0].bias.grad, ours[0].bias.grad, rtol=1e-5, atol=1e-6)


def test_state_dict_copies_and_pickles_are_a_convolution_s():
    plain, ours = block(), quick()
    assert same(dict(plain.state_dict()), dict(ours.state_dict()))
    plain.load_state_dict(ours.state_dict())
    copies = [copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]
    assert all(type(net[0]) is CpuDepthwiseConv2d for net in copies)
    torch.save(ours.state_dict(), io.BytesIO())


def test_exporting_sees_torch_s_own_convolution():
    net, x = quick().eval(), torch.randn(2, 8, 6, 6)
    program = torch.export.export(net, (x,))
    assert "conv2d" in str(program.graph)
    assert torch.allclose(program.module()(x), net(x))


@pytest.mark.parametrize(
    ("capability", "channels", "taken"),
    [("AVX2", 8, [4]), ("AVX512", 240, []), ("DEFAULT", 8, [])],
)
def test_without_a_compiler_only_small_maps_are_taken(capability, channels, taken, monkeypatch):
    monkeypatch.setattr(depthwise, "library", lambda: None)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    used, shifted = [], depthwise._shifted_products
    monkeypatch.setattr(depthwise, "_shifted_products", lambda x, *args: used.append(x.shape[2]) or shifted(x, *args))
    plain = nn.Sequential(nn.Conv2d(channels, channels, 5, padding=2, groups=channels)).to(
        memory_format=torch.channels_last
    )
    net = copy.deepcopy(plain)
    accelerate(net)
    for size in (4, 20):
        x = last(torch.randn(2, channels, size, size))
        for each in (plain, net):
            each(x).square().sum().backward()
    assert used == taken
    assert torch.allclose(plain[0].weight.grad, net[0].weight.grad, rtol=1e-4, atol=1e-3)


@needs_compiler
def test_the_compiled_function_is_there() -> None:
    assert library() is not None
