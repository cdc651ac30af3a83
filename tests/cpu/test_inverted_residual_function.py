"""A block in one C call gives float64's numbers for any shape, layers and number of threads."""

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
from effbench.cpu.inverted_residual_function import HARDSIGMOID, SIGMOID, block_of, inverted_residual
from tests.compiler import needs_compiler

pytestmark = needs_compiler
GATES = {nn.Hardsigmoid: HARDSIGMOID, nn.Sigmoid: SIGMOID}


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=0.01, momentum=0.3)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    return norm


class Block(nn.Module):
    """An inverted residual block of torch's layers."""

    def __init__(
        self, channels: int, expanded: int | None, out_channels: int, kernel: int = 3, stride: int = 1,
        squeezed: int = 0, gate: type[nn.Module] = nn.Sigmoid, act: type[nn.Module] = nn.Hardswish,
        residual: bool = False,
    ):  # fmt: skip
        super().__init__()
        inner = expanded or channels
        first = [nn.Conv2d(channels, inner, 1, bias=False), batch_norm(inner), act()] if expanded else []
        self.expand = nn.Sequential(*first)
        filters = nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False)
        self.depthwise = nn.Sequential(filters, batch_norm(inner), act())
        self.squeeze = SqueezeExcitation(inner, squeezed, scale_activation=gate) if squeezed else nn.Identity()
        self.project = nn.Sequential(nn.Conv2d(inner, out_channels, 1, bias=False), batch_norm(out_channels))
        norm, self.residual = (0.01, 0.3, ACTIVATIONS.get(act, 0)), residual
        self.options = (
            inner, squeezed, out_channels, kernel, stride, GATES[gate] if squeezed else 0, residual,
            norm if expanded else (), norm, (0.01, 0.3, 0),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return out + x if self.residual else out

    def weights(self) -> list[Tensor | None]:
        given = (*self.expand.parameters(),) or (None,) * 3, (*self.squeeze.parameters(),) or (None,) * 4
        return [*given[0], *self.depthwise.parameters(), *given[1], *self.project.parameters()]

    def running(self) -> list[Tensor | None]:
        norms = [self.expand[1] if len(self.expand) else None, self.depthwise[1], self.project[1]]
        pairs = [(norm.running_mean, norm.running_var) if norm else (None, None) for norm in norms]
        return [buffer for pair in pairs for buffer in pair]

    def in_one_call(self, x: Tensor) -> Tensor:
        return inverted_residual(block_of(tuple(x.shape), *self.options), x, self.weights(), self.running())


def gradients(out: Tensor, x: Tensor, net: nn.Module, weighting: Tensor) -> list[Tensor]:
    return [out.detach(), *torch.autograd.grad((out * weighting).sum(), [x, *net.parameters()])]


def compare(net: Block, x: Tensor, threads: int = 2) -> list[Tensor]:
    """Asserts that one call gives torch's numbers in float64; returns what it gave."""
    exact = copy.deepcopy(net).double()
    own, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = net.in_one_call(own)
        expected = exact(theirs)
        weighting = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        found = gradients(out, own, net, last(weighting.float()))
    finally:
        torch.set_num_threads(before)
    assert out.is_contiguous(memory_format=torch.channels_last)
    best = gradients(expected, theirs, exact, weighting)
    buffers, after = ([b for name, b in each.named_buffers() if "tracked" not in name] for each in (net, exact))
    for mine, value in zip([*found, *buffers], [*best, *after], strict=True):
        assert mine.shape == value.shape
        # A rectifier's slope jumps, and rounding may decide at one place among many.
        assert float((mine.double() - value).norm()) <= 2e-4 * (1 + float(value.norm()))
    return [*found, *buffers]


@pytest.mark.proof
@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(
    data=st.data(),
    count=st.integers(2, 18),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.integers(1, 40),
    expanded=st.none() | st.integers(1, 70),
    kernel=st.sampled_from([3, 5, 7]),
    squeezed=st.integers(0, 9),
    act=st.sampled_from([nn.Identity, nn.Hardswish]),  # whose slope does not jump by much
    residual=st.booleans(),
    threads=st.integers(1, 3),
)
def test_any_block_gives_float64_numbers(
    data, count, size, channels, expanded, kernel, squeezed, act, residual, threads
):
    stride = 1 if residual else data.draw(st.integers(1, 3))
    out_channels = channels if residual else data.draw(st.integers(1, 70))
    height, width = ((edge - 1) // stride + 1 for edge in size)
    assume(count * height * width >= 60)  # of fewer pixels the deviation may be next to nothing
    torch.manual_seed(channels)
    net = Block(channels, expanded, out_channels, kernel, stride, squeezed, act=act, residual=residual)
    compare(net, last(torch.randn(count, channels, *size)), threads)


@pytest.mark.spread(3)
@pytest.mark.slow
@pytest.mark.parametrize(("count", "size"), [(8, 14), (33, 7), (128, 4)])
@pytest.mark.parametrize(("act", "gate"), [(nn.ReLU, nn.Hardsigmoid), (nn.ReLU6, nn.Sigmoid)])
def test_rectified_blocks_give_float64_numbers(count, size, act, gate):
    torch.manual_seed(size)
    compare(Block(24, 72, 40, 5, 2, 18, gate, act), last(torch.randn(count, 24, size, size)))


@pytest.mark.spread(4)
@pytest.mark.slow
@pytest.mark.parametrize("channels", [8, 16, 24, 48, 56, 96, 130])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_depthwise_of_every_width_kernel_and_stride(channels, kernel, stride):
    torch.manual_seed(channels)
    for count, size in ((5, (17, 11)), (12, (2, 3)), (40, (1, 1))):
        net = Block(channels, None, 3, kernel, stride)
        compare(net, last(torch.randn(count, channels, *size)))


@pytest.mark.spread(3)
@pytest.mark.slow
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 72), (72, 16), (8, 8), (576, 96), (96, 576), (47, 49), (3, 130)])
def test_pointwise_of_every_width(inputs, outputs):
    torch.manual_seed(inputs)
    compare(Block(inputs, outputs, inputs), last(torch.randn(7, inputs, 9, 5)))


@pytest.mark.spread(2)
@pytest.mark.slow
@pytest.mark.parametrize(("count", "size"), [(37, 14), (1, 40), (2, 30), (3, 64)])
def test_the_number_of_threads_changes_no_bit(count, size):
    found = []
    for threads in (1, 2, 3, 5, 16):
        torch.manual_seed(0)
        net = Block(24, 72, 40, 5, 2, 300, act=nn.ReLU6)
        found.append(compare(net, last(torch.randn(count, 24, size, size)), threads))
    assert all(torch.equal(a, b) for others in found[1:] for a, b in zip(found[0], others, strict=True))


def test_infinite_gradients_stop_where_a_gate_is_flat():
    torch.manual_seed(0)
    net = Block(4, None, 4, squeezed=3, gate=nn.Hardsigmoid, act=nn.Identity)
    nn.init.constant_(net.squeeze.fc2.bias, 9.0)  # open all the way
    nn.init.zeros_(net.squeeze.fc2.weight)
    x, asked = last(torch.randn(2, 4, 3, 3)), [net.squeeze.fc1.weight, net.squeeze.fc2.weight, net.squeeze.fc2.bias]
    results = [torch.autograd.grad((out * math.inf).sum(), asked) for out in (net(x), net.in_one_call(x))]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_come_through(value):
    torch.manual_seed(0)
    net = Block(6, None, 6, act=nn.ReLU)
    x = last(torch.randn(4, 6, 5, 5))
    x[1, 2, 3, 4] = value
    out = net.in_one_call(x)
    assert out.isnan().all()
    assert net.depthwise[1].running_mean[[0, 1, 3, 4, 5]].isfinite().all()
    assert not net.depthwise[1].running_mean[2].isfinite()


def test_a_gradient_in_another_layout_is_read_in_its_own():
    torch.manual_seed(0)
    net, x = Block(6, 9, 8), last(torch.randn(4, 6, 5, 5))
    found = []
    for change in (lambda out: out, lambda out: out.contiguous()):
        own = x.clone().requires_grad_()
        weighting = torch.randn(4, 8, 5, 5, generator=torch.Generator().manual_seed(1))
        found.append(gradients(change(net.in_one_call(own)), own, net, weighting))
    assert all(map(torch.equal, *found))


def test_weights_of_other_shapes_are_not_taken():
    net = Block(6, 9, 8, squeezed=2)
    block, weights = block_of((4, 6, 5, 5), *net.options), net.weights()
    assert block.takes(weights)
    for index in range(len(weights)):
        for wrong in (None, torch.zeros(1), weights[index].double(), weights[index].unsqueeze(0)):
            assert not block.takes([*weights[:index], wrong, *weights[index + 1 :]])
    none = Block(6, None, 8)
    block = block_of((4, 6, 5, 5), *none.options)
    assert block.takes(none.weights())
    assert not block.takes([torch.zeros(6, 6, 1, 1), *none.weights()[1:]])
