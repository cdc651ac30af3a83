"""Batch normalisation with its activation in one function: float64's numbers, torch's buffers, torch elsewhere."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effbench.models import batch_norm
from effbench.models.batch_norm import BatchNormAct2d, join
from effbench.models.quick import quicken
from tests.compiler import needs_compiler
from tests.training.tiny import same

ACTS = [nn.Identity, nn.ReLU, nn.ReLU6, nn.Hardswish]
BUFFERS = ["running_mean", "running_var", "num_batches_tracked"]


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def pair(channels: int, act: type[nn.Module], **options) -> tuple[nn.Sequential, nn.Sequential]:
    """Torch's and ours, with the same random weights."""
    torch.manual_seed(channels)
    plain = nn.Sequential(nn.BatchNorm2d(channels, **options), act())
    if plain[0].affine:
        nn.init.uniform_(plain[0].weight, 0.5, 2)
        nn.init.normal_(plain[0].bias)
    ours = copy.deepcopy(plain)
    join(ours)
    return plain, ours


def learned(net: nn.Module, x: Tensor, weighting: Tensor) -> list[Tensor]:
    """Output, gradients of input, weight and bias, and the buffers, after a step."""
    own = x.to(net[0].weight.dtype, copy=True).requires_grad_()
    out = net(own)
    (out * weighting.to(out.dtype)).sum().backward()
    buffers = [getattr(net[0], name) for name in BUFFERS]
    return [out.detach(), own.grad, net[0].weight.grad, net[0].bias.grad, *buffers]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The compiled functions called so far."""
    calls: list[str] = []
    real = batch_norm._call
    monkeypatch.setattr(batch_norm, "_call", lambda name, *rest: (calls.append(name), real(name, *rest)))
    return calls


@needs_compiler
@settings(deadline=None, max_examples=100)
@given(
    count=st.integers(2, 9),
    channels=st.integers(1, 300),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    act=st.sampled_from(ACTS),
    threads=st.integers(1, 3),
    offset=st.sampled_from([0.0, 30.0]),
)
def test_any_shape_gives_float64_s_numbers(count, channels, height, width, act, threads, offset):
    assume(count * height * width >= 8)  # of fewer the deviation may be next to nothing
    _, ours = pair(channels, act)
    exact = copy.deepcopy(ours).double()
    generator = torch.Generator().manual_seed(count * channels)
    x = last(torch.randn(count, channels, height, width, generator=generator) + offset)
    weighting = torch.randn(x.shape, generator=generator)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = learned(ours, x, weighting)
    finally:
        torch.set_num_threads(before)
    expected = learned(exact, x, weighting)
    edges = torch.tensor([-3.0, 0.0, 3.0, 6.0])  # there an activation's slope jumps, and rounding may decide
    safe = ((expected[0].unsqueeze(-1) - edges).abs().amin(-1) > 1e-3).all() or act is nn.Identity
    for index, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        if index not in (1, 2, 3) or safe:
            tolerance = (1e-4 if offset else 2e-5) * (1 + theirs.abs().max().item())
            torch.testing.assert_close(mine.double(), theirs.double(), rtol=0, atol=tolerance)


@needs_compiler
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("shape", [(64, 72, 14, 14), (5, 24, 7, 3), (128, 576, 2, 2)], ids=str)
def test_it_is_as_near_to_float64_as_torch_s(shape, act, taken):
    plain, ours = pair(shape[1], act)
    exact = copy.deepcopy(plain).double()
    x, weighting = last(torch.randn(shape) * 3 + 5), torch.randn(shape)
    results = [learned(net, x, weighting) for net in (plain, ours, exact)]
    assert taken == ["batch_norm", "batch_norm_backward"]
    for torchs, mine, theirs in zip(*results, strict=True):
        error, usual = ((value.double() - theirs.double()).norm() for value in (mine, torchs))
        assert error <= 2 * usual + 1e-6 * theirs.double().norm()


@needs_compiler
def test_the_number_of_threads_changes_no_bit():
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            _, ours = pair(40, nn.Hardswish)
            generator = torch.Generator().manual_seed(0)
            x = last(torch.randn(16, 40, 14, 14, generator=generator))
            found.append(learned(ours, x, torch.ones_like(x)))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for others in found[1:] for a, b in zip(found[0], others, strict=True))


@needs_compiler
@pytest.mark.parametrize("act", ACTS)
def test_nan_and_infinity_come_through(act, taken):
    _, ours = pair(3, act)
    for value in (math.nan, math.inf):
        x = torch.randn(4, 3, 5, 5)
        x[1, 2, 3, 4] = value
        out = ours(last(x))
        assert out[:, 2].isnan().all()
        assert out[:, :2].isfinite().all()
    assert len(taken) == 2


@needs_compiler
def test_several_steps_leave_torch_s_statistics():
    plain, ours = pair(6, nn.ReLU, momentum=0.3, eps=1e-2)
    for step in range(5):
        x = last(torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(step)) * (step + 1))
        plain(x), ours(x)
    assert int(ours[0].num_batches_tracked) == 5
    torch.testing.assert_close(dict(ours.state_dict()), dict(plain.state_dict()))
    for net in (plain, ours):
        net.eval()
    torch.testing.assert_close(ours(x), plain(x))


@needs_compiler
@pytest.mark.parametrize(
    ("options", "change", "makes"),
    [
        ({"affine": False}, lambda net: net, last),
        ({"track_running_stats": False}, lambda net: net, last),
        ({"momentum": None}, lambda net: net, last),
        ({}, lambda net: net.eval(), last),
        ({}, lambda net: net.double(), lambda x: last(x).double()),
        ({}, lambda net: net, lambda x: x.contiguous()),
        ({}, lambda net: net, lambda x: last(x)[:, :, ::2]),
        ({}, lambda net: net, lambda x: last(x).bfloat16()),
    ],
    ids=["no weights", "no statistics", "averaged", "eval", "float64", "contiguous", "gaps", "bfloat16"],
)
def test_elsewhere_it_is_torch_s_to_the_bit(options, change, makes, taken):
    plain, ours = map(change, pair(6, nn.Hardswish, **options))
    x = makes(torch.randn(4, 6, 8, 8))
    assert torch.equal(ours(x), plain(x))
    assert same(dict(ours.state_dict()), dict(plain.state_dict()))
    with torch.no_grad():
        ours.train()(last(x.float()) if ours[0].weight is None or ours[0].weight.dtype is torch.float32 else x)
    assert taken == []


def test_one_value_a_channel_is_refused_as_torch_does():
    _, ours = pair(4, nn.ReLU)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ours(last(torch.randn(1, 4, 1, 1)))


def test_without_a_compiler_it_is_torch_s(monkeypatch):
    monkeypatch.setattr(batch_norm, "library", lambda: None)
    plain, ours = pair(5, nn.ReLU6)
    x = last(torch.randn(3, 5, 4, 4))
    assert all(map(torch.equal, learned(ours, x, torch.ones_like(x)), learned(plain, x, torch.ones_like(x))))


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "mobilenet_v2", "resnet18"])
def test_a_whole_network_learns_the_same_and_keeps_its_state_dict(arch):
    torch.manual_seed(0)
    plain = getattr(torchvision.models, arch)(num_classes=4).to(memory_format=torch.channels_last)
    exact, ours = copy.deepcopy(plain).double(), copy.deepcopy(plain)
    quicken(ours)
    assert {type(module) for module in ours.modules()} & {nn.BatchNorm2d, BatchNormAct2d} == {BatchNormAct2d}
    assert list(ours.state_dict()) == list(plain.state_dict())
    x = last(torch.randn(8, 3, 48, 48))
    nets = (exact, ours, plain)
    for net in nets:
        torch.manual_seed(1)  # dropout
        net(x.to(next(net.parameters()).dtype)).square().sum().backward()
    best, ours_grad, usual_grad = (torch.cat([p.grad.double().flatten() for p in net.parameters()]) for net in nets)
    assert float((ours_grad - best).norm()) <= 3 * float((usual_grad - best).norm()) + 1e-3 * float(best.norm())
    plain.load_state_dict(ours.state_dict())
    assert torch.equal(plain.eval()(x), ours.eval()(x)) or torch.allclose(plain(x), ours(x), rtol=1e-4, atol=1e-5)


def test_what_follows_in_no_sequential_stays_where_it_is():
    class Custom(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[0](self[1](x))

    for net in (Custom(nn.BatchNorm2d(3), nn.ReLU()), nn.Sequential(nn.BatchNorm2d(3), nn.SiLU())):
        follower = net[1]
        join(net)
        assert net[1] is follower
        assert type(net[0].act) is nn.Identity
    lone = nn.BatchNorm2d(3)
    join(lone)  # a model that is nothing else
    assert type(lone) is nn.BatchNorm2d


@needs_compiler
def test_copies_and_pickles_go_on_alike(taken):
    _, ours = pair(4, nn.Hardswish)
    x = last(torch.randn(3, 4, 5, 5))
    again = [copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]
    first = ours(x)
    assert all(torch.equal(net(x), first) for net in again)
    assert taken == ["batch_norm"] * 3


def test_graphs_are_torch_s():
    _, ours = pair(4, nn.Hardswish)
    graph = str(torch.export.export(ours.eval(), (torch.randn(2, 4, 5, 5),)).graph)
    assert "batch_norm" in graph
    assert "hardswish" in graph
    assert "_BatchNormAct" not in graph
