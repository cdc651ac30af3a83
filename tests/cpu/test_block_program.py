"""Chains of layers in one compiled call: float64's numbers for any layers, shapes and threads."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from effbench.cpu.batch_norm import ACTIVATIONS
from effbench.cpu.block_program import run
from effbench.cpu.block_stages import HARDSIGMOID, SIGMOID, Depthwise, Gate, Mix, Norm, Stage
from tests.compiler import needs_compiler

pytestmark = needs_compiler
GATES = {nn.Hardsigmoid: HARDSIGMOID, nn.Sigmoid: SIGMOID}


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def stages_of(net: nn.Sequential) -> tuple[Stage, ...]:
    """What the chain is told of torch's layers."""
    found: list[Stage] = []
    for index, layer in enumerate(net):
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
            found.append(Mix(layer.out_channels))
        elif isinstance(layer, nn.Conv2d):
            found.append(Depthwise(layer.kernel_size[0], layer.stride[0]))
        elif isinstance(layer, nn.BatchNorm2d):
            found.append(Norm(layer.eps, layer.momentum, ACTIVATIONS.get(type(net[index + 1]), 0)))
        elif isinstance(layer, SqueezeExcitation):
            found.append(Gate(layer.fc1.out_channels, GATES[type(layer.scale_activation)]))
    return tuple(found)


def learned(outcome: Tensor, x: Tensor, weights: list[Tensor], weighting: Tensor) -> list[Tensor]:
    return [outcome.detach(), *torch.autograd.grad((outcome * weighting).sum(), [x, *weights])]


def compare(net: nn.Sequential, x: Tensor, residual: bool, threads: int) -> list[Tensor]:
    """Asserts that the chain gives what torch gives in float64; what it gave."""
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
    exact = copy.deepcopy(net).double()
    own, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    weights = list(net.parameters())
    buffers = [buffer for name, buffer in net.named_buffers() if "tracked" not in name]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = run(stages_of(net), residual, own, weights, buffers)
        expected = exact(theirs) + theirs if residual else exact(theirs)
        weighting = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        found = learned(out, own, weights, last(weighting.float()))
    finally:
        torch.set_num_threads(before)
    assert out.is_contiguous(memory_format=torch.channels_last)
    best = learned(expected, theirs, list(exact.parameters()), weighting)
    after = [buffer for name, buffer in exact.named_buffers() if "tracked" not in name]
    for mine, value in zip([*found, *buffers], [*best, *after], strict=True):
        assert mine.shape == value.shape
        # A rectifier's slope jumps, and rounding may decide at one place among many.
        assert float((mine.double() - value).norm()) <= 2e-4 * (1 + float(value.norm()))
    return found


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=0.01, momentum=0.3)


SMOOTH = st.sampled_from([nn.Identity, nn.Hardswish])  # whose slope does not jump by much


@settings(deadline=None, max_examples=150)
@given(
    data=st.data(),
    count=st.integers(2, 18),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(1, 40),
    residual=st.booleans(),
    threads=st.integers(1, 3),
)
def test_any_chain_gives_float64_s_numbers(data, count, height, width, channels, residual, threads):
    torch.manual_seed(channels)
    x = last(torch.randn(count, channels, height, width))
    layers: list[nn.Module] = []
    now = channels
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.sampled_from(["mix", "depthwise", "gate"] if layers else ["mix", "depthwise"]))
        if kind == "mix":
            wanted = data.draw(st.integers(1, 70))
            layers.append(nn.Conv2d(now, wanted, 1, bias=False))
            now = wanted
        elif kind == "depthwise":
            kernel, stride = data.draw(st.sampled_from([3, 5, 7])), data.draw(st.integers(1, 1 if residual else 3))
            layers.append(nn.Conv2d(now, now, kernel, stride, kernel // 2, groups=now, bias=False))
        else:
            layers.append(SqueezeExcitation(now, data.draw(st.integers(1, 9)), scale_activation=nn.Sigmoid))
        if data.draw(st.booleans()):
            layers += [batch_norm(now), data.draw(SMOOTH)()]
    if residual and now != channels:
        layers += [nn.Conv2d(now, channels, 1, bias=False)]
    net = nn.Sequential(*layers, nn.Identity())
    rows = count * height * width
    assume(rows >= 60)  # of fewer pixels the deviation may be next to nothing
    shape: tuple[int, ...] = tuple(x.shape)
    for stage in stages_of(net):
        shape = stage.out_shape(shape)  # type: ignore[arg-type]
        assume(not isinstance(stage, Norm) or shape[0] * shape[2] * shape[3] >= 16)
    compare(net, x, residual, threads)


BLOCK = [
    lambda: [nn.Conv2d(24, 72, 1, bias=False), batch_norm(72), nn.ReLU()],
    lambda: [nn.Conv2d(72, 72, 5, 2, 2, groups=72, bias=False), batch_norm(72), nn.ReLU6()],
    lambda: [SqueezeExcitation(72, 18, scale_activation=nn.Hardsigmoid)],
    lambda: [nn.Conv2d(72, 40, 1, bias=False), batch_norm(40), nn.Identity()],
]


@pytest.mark.parametrize(("count", "size"), [(8, 14), (33, 7), (128, 4)])
def test_a_whole_block_gives_float64_s_numbers(count, size):
    torch.manual_seed(size)
    net = nn.Sequential(*(layer for part in BLOCK for layer in part()))
    compare(net, last(torch.randn(count, 24, size, size)), False, 2)


@pytest.mark.parametrize("channels", [8, 16, 24, 48, 56, 96, 130])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_depthwise_of_every_width_kernel_and_stride(channels, kernel, stride):
    torch.manual_seed(channels)
    net = nn.Sequential(nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False))
    for size in ((17, 11), (2, 3), (1, 1)):
        compare(net, last(torch.randn(5, channels, *size)), stride == 1, 2)


@pytest.mark.parametrize(("inputs", "outputs"), [(16, 72), (72, 16), (8, 8), (576, 96), (96, 576), (47, 49), (3, 130)])
def test_mixes_of_every_width(inputs, outputs):
    torch.manual_seed(inputs)
    net = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False))
    compare(net, last(torch.randn(7, inputs, 9, 5)), False, 2)


def test_the_number_of_threads_changes_no_bit():
    found = []
    for threads in (1, 2, 3):
        torch.manual_seed(0)
        net = nn.Sequential(*(layer for part in BLOCK for layer in part()))
        found.append(compare(net, last(torch.randn(37, 24, 14, 14)), False, threads))
    assert all(torch.equal(a, b) for others in found[1:] for a, b in zip(found[0], others, strict=True))


@pytest.mark.parametrize(("count", "size"), [(1, 40), (2, 30), (3, 64)])
def test_more_threads_than_images_change_no_bit(count, size):
    found = []
    for threads in (1, 2, 5, 16):
        torch.manual_seed(0)
        layers = [*BLOCK[0](), *BLOCK[1](), SqueezeExcitation(72, 300, scale_activation=nn.Sigmoid), *BLOCK[3]()]
        found.append(compare(nn.Sequential(*layers), last(torch.randn(count, 24, size, size)), False, threads))
    assert all(torch.equal(a, b) for others in found[1:] for a, b in zip(found[0], others, strict=True))


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 9), (9, 3)])
def test_a_gradient_over_a_million_pixels_is_a_sum_of_sums(inputs, outputs):
    """One sum after the other would be off by a ten-thousandth: all terms have the same sign."""
    x, weight = last(torch.rand(4, inputs, 512, 512)), torch.rand(outputs, inputs, 1, 1, requires_grad=True)
    out = run((Mix(outputs),), False, x, [weight], [])
    [found] = torch.autograd.grad(out, weight, last(torch.rand(out.shape, generator=torch.Generator().manual_seed(1))))
    gradient = torch.rand(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32).double()
    exact = torch.einsum("nohw,nihw->oi", gradient, x.double())
    assert float((found.flatten(1) / exact - 1).abs().max()) <= 1e-5


def test_infinite_gradients_stop_at_a_gate_s_flat_parts_as_torch_s_do():
    torch.manual_seed(0)
    gate = SqueezeExcitation(4, 3, scale_activation=nn.Hardsigmoid)
    nn.init.constant_(gate.fc2.bias, 9.0)  # open all the way
    nn.init.zeros_(gate.fc2.weight)
    net = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), gate, nn.Identity())
    x, asked = last(torch.ones(2, 4, 3, 3)), [gate.fc1.weight, gate.fc2.weight, gate.fc2.bias]
    outputs = net(x), run(stages_of(net), False, x, list(net.parameters()), [])
    results = [torch.autograd.grad((out * math.inf).sum(), asked) for out in outputs]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_come_through(value):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1, groups=6, bias=False), batch_norm(6), nn.ReLU())
    x = last(torch.randn(4, 6, 5, 5))
    x[1, 2, 3, 4] = value
    weights = list(net.parameters())
    out = run(stages_of(net), False, x, weights, [net[1].running_mean, net[1].running_var])
    assert out[:, 2].isnan().all()
    assert out[:, [0, 1, 3, 4, 5]].isfinite().all()


def test_gradients_that_come_in_another_layout_are_read_in_theirs():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(6, 9, 1, bias=False), batch_norm(9), nn.Hardswish())
    x = last(torch.randn(4, 6, 5, 5))
    found = []
    for change in (lambda out: out, lambda out: out.contiguous()):
        own = x.clone().requires_grad_()
        out = run(stages_of(net), False, own, list(net.parameters()), [net[1].running_mean, net[1].running_var])
        weighting = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        found.append(learned(change(out), own, list(net.parameters()), weighting))
    assert all(map(torch.equal, *found))
