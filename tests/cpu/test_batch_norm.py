"""Batch normalisation with its activation in one function: float64's numbers, torch's buffers, torch elsewhere."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effbench.cpu import batch_norm
from effbench.cpu.accelerate import accelerate
from effbench.cpu.batch_norm import CpuBatchNorm2d, FusedSequential, fuse_bn_activation
from effbench.models.accounting import activation_bytes
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
    fuse_bn_activation(ours)
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
    real = batch_norm.call
    monkeypatch.setattr(batch_norm, "call", lambda name, *rest: (calls.append(name), real(name, *rest)))
    return calls


@pytest.mark.slow
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


def poisoned(net: nn.Module, where: str, value: float, rule: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Output, gradients and buffers of a step; `value` is planted at a place of channel 1 whose output obeys `rule`.

    Sizes are multiples of vectors: at NaN, torch's activations do otherwise in what is left over by its vectors.
    """
    x, dy = (torch.randn(4, net[0].num_features, 8, 8, generator=torch.Generator().manual_seed(n)) * 4 for n in (1, 2))
    with torch.no_grad():
        before = nn.functional.batch_norm(x, None, None, net[0].weight, net[0].bias, training=True)[:, 1]
        image, row, column = rule(before).nonzero()[0].tolist()
        if where in ("x", "dy"):
            (x if where == "x" else dy)[image, 1, row, column] = value
        else:
            getattr(net[0], where)[1] = value
    own = last(x).requires_grad_()
    out = net(own)
    out.backward(last(dy))
    return [out.detach(), own.grad, net[0].weight.grad, net[0].bias.grad, net[0].running_mean, net[0].running_var]


@pytest.mark.spread(36)
@needs_compiler
@pytest.mark.row(27)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("channels", [3, 8, 24])
@pytest.mark.parametrize("where", ["x", "dy", "weight", "bias"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_where_torch_has_it(act, channels, where, value, taken):
    for rule in (lambda y: y < -3, lambda y: (y > 0) & (y < 3), lambda y: y > 6):
        plain, ours = pair(channels, act)
        for net in (plain, ours):
            net[0].weight.data.mul_(3)
        expected, got = (poisoned(net, where, value, rule) for net in (plain, ours))
        for a, b in zip(expected, got, strict=True):
            assert torch.equal(a.isfinite(), b.isfinite())
            torch.testing.assert_close(b[b.isfinite()], a[a.isfinite()], rtol=1e-4, atol=1e-4)
    assert taken.count("batch_norm_backward") == 3


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


@pytest.mark.spread(1)
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "mobilenet_v2", "resnet18"])
def test_a_network_learns_the_same_and_keeps_its_state_dict(arch):
    torch.manual_seed(0)
    plain = getattr(torchvision.models, arch)(num_classes=4).to(memory_format=torch.channels_last)
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    exact, ours = copy.deepcopy(plain).double(), copy.deepcopy(plain)
    accelerate(ours)
    assert {type(module) for module in ours.modules()} & {nn.BatchNorm2d, CpuBatchNorm2d} == {CpuBatchNorm2d}
    assert list(ours.state_dict()) == list(plain.state_dict())
    x = last(torch.randn(8, 3, 48, 48))
    nets = (exact, ours, plain)
    for net in nets:
        net(x.to(next(net.parameters()).dtype)).square().sum().backward()
    best, ours_grad, usual_grad = (torch.cat([p.grad.double().flatten() for p in net.parameters()]) for net in nets)
    assert float((ours_grad - best).norm()) <= 3 * float((usual_grad - best).norm()) + 1e-3 * float(best.norm())
    plain.load_state_dict(ours.state_dict())
    torch.testing.assert_close(plain.eval()(x), ours.eval()(x), rtol=1e-4, atol=1e-4)


# --- what it is built into


class Custom(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return self[2](x + self[1](self[0](x)))


def shared_norm() -> nn.Sequential:
    norm = nn.BatchNorm2d(3)
    return nn.Sequential(norm, nn.ReLU(), nn.Conv2d(3, 3, 1), norm, nn.Conv2d(3, 3, 1), nn.Hardswish())


def repeated_layer() -> nn.Sequential:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(3), conv, nn.ReLU())


def one_activation() -> nn.Sequential:
    act = nn.Hardswish()
    return nn.Sequential(nn.BatchNorm2d(3), act, nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), act, act)


@needs_compiler
@pytest.mark.parametrize(
    "make",
    [
        shared_norm,
        repeated_layer,
        one_activation,
        lambda: Custom(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()),
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.SiLU()),
        lambda: nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), nn.ReLU6()),
        lambda: torchvision.ops.Conv2dNormActivation(3, 3, activation_layer=nn.Hardswish),
        lambda: nn.BatchNorm2d(3),
    ],
)
def test_every_way_to_put_layers_together_computes_the_same(make, taken):
    torch.manual_seed(0)
    plain = make().to(memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    fuse_bn_activation(ours)
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in plain.named_modules()]
    x = last(torch.randn(4, 3, 6, 6))
    copies = [ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]
    expected = plain(x)
    for net in copies:
        torch.testing.assert_close(net(x), expected)
        torch.testing.assert_close(dict(net.state_dict()), dict(plain.state_dict()))
    assert len(taken) >= 3
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x))


def test_indexing_slicing_and_iterating_find_the_layers():
    plain, ours = pair(3, nn.ReLU)
    x = last(torch.randn(4, 3, 6, 6))
    assert isinstance(ours, FusedSequential)
    assert type(ours[1]) is nn.ReLU
    torch.testing.assert_close(ours[:1](x), plain[:1](x))
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine(x), theirs(x))


@pytest.mark.parametrize("watched", [0, 1])
def test_hooks_see_what_torch_s_layers_would_show_them(watched):
    seen: list[list[Tensor]] = []
    x = last(torch.randn(4, 3, 6, 6))
    for net in pair(3, nn.Hardswish):
        shown: list[Tensor] = []
        net[watched].register_forward_hook(lambda *seen, to=shown: to.append(seen[2]))
        net(x)
        seen.append(shown)
    torch.testing.assert_close(seen[0], seen[1])
    assert len(seen[1]) == 1


@needs_compiler
@pytest.mark.filterwarnings("ignore")  # jit.trace is deprecated and says so in many ways
def test_graphs_are_torch_s(taken):
    _, ours = pair(4, nn.Hardswish)
    x = last(torch.randn(2, 4, 5, 5))
    for graph in (torch.export.export(ours, (x,)).graph, torch.jit.trace(ours, x).inlined_graph):
        assert "batch_norm" in str(graph)
        assert "hardswish" in str(graph)
    assert taken == []
    ours(x)
    assert taken == ["batch_norm"]


def test_what_is_kept_for_backward_can_be_counted_without_data():
    plain, ours = pair(6, nn.ReLU)
    for net in (plain, ours):
        net.append(nn.AdaptiveAvgPool2d(1)).append(nn.BatchNorm2d(6)).append(nn.Flatten())
    fuse_bn_activation(ours)
    step = (torch.empty(1, 6, 8, 8), 4, nn.functional.mse_loss, torch.zeros(1, 6))
    assert activation_bytes(ours, *step) == activation_bytes(plain, *step) > 0


# --- what other code may do to it


@needs_compiler
@pytest.mark.parametrize(
    ("first", "rest"),
    [((100.0, 0.0), (0.0, 0.0)), ((5.0, 0.0), (5.0, 0.0)), ((1e4, 1.0), (1e4, 1.0)), ((-1e3, 1.0), (1e3, 1.0))],
    ids=["spike", "constant", "far from 0", "a block apart"],
)
def test_statistics_of_awkward_channels_are_float64_s(first, rest):
    """Means and deviations: of the first block of rows (for the spike, of its first pixel), of all the others."""
    _, ours = pair(1, nn.Identity, momentum=1.0)
    x = torch.randn(16, 1, 40, 40, generator=torch.Generator().manual_seed(0)) * rest[1] + rest[0]
    x.view(-1)[: 1 if first[0] == 100 else 128] = first[0]
    ours(last(x))
    variance, mean = torch.var_mean(x.double())
    assert float(ours[0].running_mean) == pytest.approx(float(mean), rel=1e-6, abs=1e-6)
    assert float(ours[0].running_var) == pytest.approx(float(variance), rel=1e-4, abs=1e-9)


@needs_compiler
def test_updates_may_be_turned_off_and_on_again(taken):
    plain, ours = pair(3, nn.ReLU)
    x = last(torch.randn(4, 3, 5, 5))
    for tracked in (True, False, True):
        for net in (plain, ours):
            net[0].track_running_stats = tracked
            net(x)
    torch.testing.assert_close(dict(ours.state_dict()), dict(plain.state_dict()))
    assert len(taken) == 2


@needs_compiler
def test_saved_tensors_in_another_layout_are_read_right():
    plain, ours = pair(5, nn.Hardswish)
    x = last(torch.randn(4, 5, 6, 6))
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: kept.contiguous()):
        found = [learned(net, x, torch.randn(4, 5, 6, 6, generator=torch.Generator().manual_seed(1)))[1:4]
                 for net in (plain, ours)]  # fmt: skip
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@needs_compiler
def test_functional_transforms_get_torch_s(taken):
    plain, ours = pair(3, nn.ReLU)
    x = last(torch.randn(4, 3, 5, 5))

    def loss(own, net):
        given = {**own, **{name: torch.clone(buffer) for name, buffer in net.named_buffers()}}
        return torch.func.functional_call(net, given, (x,)).square().sum()

    found = [torch.func.grad(loss)(dict(net.named_parameters()), net) for net in (plain, ours)]
    torch.testing.assert_close(*found)
    assert taken == []


@needs_compiler
def test_frozen_weights_and_autocast(taken):
    plain, ours = pair(4, nn.ReLU)
    x = last(torch.randn(3, 4, 5, 5))
    for net in (plain, ours):
        net.requires_grad_(False)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for net, own in zip((plain, ours), inputs, strict=True):
        net(own).square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-5)
    assert ours[0].weight.grad is None
    assert len(taken) == 2
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x), plain(x))
    assert len(taken) == 2
