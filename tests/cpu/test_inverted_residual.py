"""torchvision's inverted residual blocks as chains: what they learn, and when they are torch's."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import mobilenetv2, mobilenetv3

from effbench.cpu import inverted_residual
from effbench.cpu.accelerate import accelerate
from tests.compiler import needs_compiler
from tests.training.tiny import same

pytestmark = needs_compiler
V2, V3 = mobilenetv2.InvertedResidual, mobilenetv3.InvertedResidual


def v3(
    expanded: int = 24, out: int = 8, kernel: int = 3, stride: int = 1, gate: bool = True, act: str = "HS"
) -> nn.Module:
    config = mobilenetv3.InvertedResidualConfig(8, kernel, expanded, out, gate, act, stride, 1, 1.0)
    return V3(config, nn.BatchNorm2d)


BLOCKS = {
    "expanded": v3,
    "not expanded": lambda: v3(expanded=8, act="RE"),
    "stride 2": lambda: v3(out=16, kernel=5, stride=2),
    "no gate": lambda: v3(gate=False, act="RE"),
    "V2": lambda: V2(8, 8, 1, 6),
    "V2, stride 2, not expanded": lambda: V2(8, 12, 2, 1),
}


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def images(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return last(torch.randn(*(shape or (4, 8, 6, 6)), generator=generator, dtype=torch.float32))


def pair(make=v3) -> tuple[nn.Module, nn.Module]:
    """Torch's and ours, with the same weights."""
    torch.manual_seed(0)
    plain = make().to(memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    accelerate(ours)
    assert type(ours) is not type(plain)
    return plain, ours


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each block that was computed in one call."""
    calls: list[int] = []
    real = inverted_residual.inverted_residual
    monkeypatch.setattr(inverted_residual, "inverted_residual", lambda *given: (calls.append(1), real(*given))[1])
    return calls


@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
def test_a_step_is_float64_s(make, taken):
    plain, ours = pair(make)
    exact = copy.deepcopy(plain).double()
    x = images()
    for step in range(3):
        results = []
        for net in (ours, exact):
            own = (x + step).to(next(net.parameters()).dtype).requires_grad_()
            net.zero_grad()
            out = net(own)
            (out * last(images(*out.shape)).to(out.dtype)).sum().backward()
            results.append(
                [out.detach(), own.grad, *(parameter.grad for parameter in net.parameters()), *net.buffers()]
            )
        for mine, theirs in zip(*results, strict=True):
            assert float((mine.double() - theirs).norm()) <= 1e-4 * (1 + float(theirs.double().norm()))
    assert len(taken) == 3
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in plain.named_modules()]


class Scaled(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def scale_first(net: nn.Module) -> None:
    net.block[0] = Scaled(*net.block[0])


@pytest.mark.parametrize(
    ("change", "make"),
    [
        (lambda net: net.eval(), images),
        (lambda net: net.double(), lambda: images().double()),
        (lambda net: net, lambda: images().contiguous()),
        (lambda net: net.get_submodule("block.0.1").eval(), images),
        (lambda net: net.block[1].register_forward_hook(lambda *_: None), images),
        (lambda net: net.block[2].fc1.register_forward_pre_hook(lambda *_: None), images),
        (lambda net: setattr(net.block[0][1], "momentum", None), images),
        (lambda net: setattr(net.block[0], "2", nn.SiLU()), images),
        (lambda net: setattr(net.block[2], "activation", nn.SiLU()), images),
        (lambda net: setattr(net.block[2], "avgpool", nn.AdaptiveMaxPool2d(1)), images),
        (lambda net: setattr(net.block[1], "0", nn.Conv2d(24, 24, 3, 1, 2, 2, groups=24, bias=False)), images),
        (lambda net: scale_first(net), images),
        (lambda net: setattr(net.block[1][2], "forward", torch.sin), images),
        (lambda net: net.requires_grad_(False), lambda: images().requires_grad_()),
        (lambda net: setattr(net.block[1], "0", nn.Conv2d(24, 24, 3, 1, 1, bias=False)), images),
    ],
    ids=[
        "eval", "float64", "contiguous", "one norm in eval", "hook", "hook inside", "averaged", "activation",
        "gate's activation", "gate's pooling", "dilated", "forward of its own", "forward put in its place", "frozen",
        "dense",
    ],
)  # fmt: skip
def test_other_blocks_run_layer_by_layer(change, make, taken):
    plain, ours = pair()
    torch.manual_seed(2)
    change(plain)
    torch.manual_seed(2)
    change(ours)
    torch.testing.assert_close(ours(make()), plain(make()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dict(ours.state_dict()), dict(plain.state_dict()), rtol=1e-4, atol=1e-4)
    assert taken == []


def test_no_grad_graphs_and_autocast_get_torch_s_layers(taken):
    plain, ours = pair()
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), plain(x))
    assert "conv2d" in str(torch.export.export(ours, (x,)).graph)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ours(x), plain(x), rtol=0.05, atol=0.05)
    with FlopCounterMode(display=False) as theirs:
        plain(x)
    with FlopCounterMode(display=False) as counted:
        ours(x)
    assert counted.get_total_flops() == theirs.get_total_flops() > 0
    with forward_ad.dual_level():
        dual = [forward_ad.unpack_dual(net(forward_ad.make_dual(x, x))).tangent for net in (plain, ours)]
    torch.testing.assert_close(*dual)
    assert taken == []


def test_other_weights_may_be_passed_in(taken):
    plain, ours = pair()
    doubled = {name: (2 * weight.detach()).requires_grad_() for name, weight in plain.named_parameters()}
    found = [torch.func.functional_call(net, doubled, images()) for net in (plain, ours)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    assert len(taken) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(net.block[1][0], "weight", nn.Parameter(torch.randn(12, 1, 3, 3))),
        lambda net: setattr(net.block[2].fc1, "bias", nn.Parameter(torch.randn(3))),
        lambda net: setattr(net.block[0][0], "weight", nn.Parameter(torch.randn(24, 4, 1, 1))),
    ],
    ids=["fewer filters", "short bias", "fewer channels"],
)
def test_weights_of_wrong_shape_are_refused_as_by_torch(change, taken):
    _, ours = pair()
    change(ours)
    with pytest.raises(RuntimeError):
        ours(images())
    assert taken == []


def test_a_sum_of_unlike_maps_is_refused_as_torch_does(taken):
    _, ours = pair(lambda: V2(8, 8, 1, 6))
    ours.conv[1][0].stride = (2, 2)
    with pytest.raises(RuntimeError, match="must match"):
        ours(images())
    assert taken == []


def test_a_block_without_layers_is_the_identity(taken):
    _, ours = pair(lambda: V2(8, 8, 1, 6))
    ours.conv = nn.Sequential()
    assert torch.equal(ours(images()), 2 * images())
    assert taken == []


def test_the_default_dtype_has_nothing_to_do_with_it(taken):
    _, ours = pair()
    expected = copy.deepcopy(ours)(images())
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = ours(images().float())
        found.sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert ours.block[0][0].weight.grad.isfinite().all()
    assert len(taken) == 2


def test_one_value_a_channel_is_refused_as_torch_does(taken):
    _, ours = pair(lambda: v3(stride=2))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ours(images(1, 8, 2, 2))
    assert taken == []


def test_frozen_weights_get_no_gradient_and_the_others_theirs(taken):
    _, whole = pair()
    _, ours = pair()
    ours.block[0].requires_grad_(False)
    inputs = [images().requires_grad_() for _ in range(2)]
    for net, x in zip((whole, ours), inputs, strict=True):
        net(x).square().sum().backward()
    assert ours.block[0][0].weight.grad is None
    assert torch.equal(inputs[0].grad, inputs[1].grad)
    for name, parameter in ours.block[1:].named_parameters():
        assert torch.equal(parameter.grad, whole.block[1:].get_parameter(name).grad)
    assert len(taken) == 2


def test_it_copies_and_pickles(taken):
    _, ours = pair()
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(other) is type(ours)
        assert torch.equal(other(images()), copy.deepcopy(ours)(images()))
    assert len(taken) == 4


def test_backward_twice_needs_a_kept_graph():
    _, ours = pair()
    out = ours(images()).sum()
    out.backward(retain_graph=True)
    once = [parameter.grad.clone() for parameter in ours.parameters()]
    out.backward()
    assert all(
        torch.equal(parameter.grad, 2 * before) for parameter, before in zip(ours.parameters(), once, strict=True)
    )
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


def test_a_weight_changed_between_the_passes_is_noticed():
    _, ours = pair()
    out = ours(images()).sum()
    with torch.no_grad():
        ours.block[0][0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "mobilenet_v2"])
def test_every_block_is_one_call_and_a_seed_repeats_its_bits(arch, taken):
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        net = getattr(torchvision.models, arch)(num_classes=4).to(memory_format=torch.channels_last)
        accelerate(net)
        net(images(4, 3, 64, 64)).square().sum().backward()
        found.append([*(parameter.grad for parameter in net.parameters()), *net.buffers()])
    assert same(*found)
    assert len(taken) == 2 * sum(isinstance(module, V2 | V3) for module in net.modules())


@pytest.mark.slow
def test_dynamo_follows_every_layer_of_ours_into_torch_s(taken):
    torch.manual_seed(0)
    net = nn.Sequential(v3(), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    net.append(nn.Dropout(0.5)).to(memory_format=torch.channels_last)
    accelerate(net)
    torch.compile(net, backend="eager", fullgraph=True)(images()).sum().backward()
    assert net[5].weight.grad is not None
    assert taken == []
