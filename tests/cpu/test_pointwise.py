"""1 x 1 convolutions of 1 x 1 maps give the numbers of torch's, forward and backward, and stay theirs in a graph."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effbench.cpu import pointwise
from effbench.cpu.accelerate import accelerate
from effbench.cpu.pointwise import CpuPointwiseConv2d
from tests.training.tiny import same


def pair(channels: int, filters: int, bias: bool = True, **options) -> tuple[nn.Module, nn.Module]:
    """Torch's and ours, with the same weights."""
    torch.manual_seed(channels)
    plain = nn.Sequential(nn.Conv2d(channels, filters, 1, bias=bias, **options))
    ours = copy.deepcopy(plain)
    accelerate(ours)
    return plain, ours


def called(net: nn.Module, x: Tensor) -> set[str]:
    """Names of torch's operations."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        net(x)
    return {event.key for event in seen.key_averages()}


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3]), st.booleans(), st.booleans())
def test_outputs_and_gradients_are_float64_s(count, channels, filters, size, bias, last):
    plain, ours = pair(channels, filters, bias)
    layout = torch.channels_last if last else torch.contiguous_format
    for net in (plain, ours):
        net.to(memory_format=layout)
    exact = copy.deepcopy(plain).double()
    x = torch.randn(count, channels, size, size).contiguous(memory_format=layout)
    outputs, inputs = [], []
    for net in (plain, ours, exact):
        own = x.detach().to(net[0].weight.dtype, copy=True).requires_grad_()
        out = net(own)
        (out * out.detach().sin()).sum().backward()
        outputs.append(out)
        inputs.append(own.grad)
    assert outputs[1].shape == outputs[0].shape
    assert outputs[1].is_contiguous(memory_format=layout) == outputs[0].is_contiguous(memory_format=layout)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(outputs[1].double(), outputs[2], **close)
    torch.testing.assert_close(inputs[1].double(), inputs[2], **close)
    for mine, theirs in zip(ours.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, **close)


def test_only_one_pixel_maps_are_matrix_products():
    plain, ours = pair(8, 4)
    assert "aten::convolution" not in called(ours, torch.randn(3, 8, 1, 1))
    assert "aten::convolution" in called(ours, torch.randn(3, 8, 2, 2))
    assert "aten::convolution" in called(plain, torch.randn(3, 8, 1, 1))
    assert ours(torch.randn(8, 1, 1)).shape == (4, 1, 1)  # without a batch


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": "same"}], ids=str)
def test_any_that_sees_no_border_is_taken(options):
    plain, ours = pair(4, 6, **options)
    assert type(ours[0]) is CpuPointwiseConv2d
    for size in (1, 5):
        x = torch.randn(2, 4, size, size)
        torch.testing.assert_close(ours(x), plain(x))


@pytest.mark.parametrize("conv", [nn.Conv2d(4, 4, 1, padding=1), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 3)])
def test_other_convolutions_are_left_alone(conv):
    net = nn.Sequential(conv)
    accelerate(net)
    assert type(net[0]) is nn.Conv2d


def test_half_precision_agrees_with_torch_s():
    plain, ours = pair(16, 8)
    x = torch.randn(4, 16, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).dtype is torch.bfloat16
        torch.testing.assert_close(ours(x), plain(x), rtol=2e-2, atol=2e-2)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_state_dict_and_graphs_are_a_plain_convolution_s(monkeypatch):
    plain, ours = pair(8, 4)
    assert same(dict(plain.state_dict()), dict(ours.state_dict()))
    x = torch.randn(3, 8, 1, 1)
    program = torch.export.export(ours.eval(), (x,))
    assert "conv2d" in str(program.graph)
    traced = torch.jit.trace(ours, x)
    assert "aten::_convolution" in str(traced.inlined_graph)
    monkeypatch.setattr(pointwise, "is_tracing", lambda: False)
    assert "conv2d" not in str(torch.export.export(ours, (x,)).graph)  # what the two above would look like
