"""Dropout by a seed: the right share, independent from draw to draw, torch's numbers but for which elements go.

White-box: draws masks without a layer.
"""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from effbench.cpu import dropout
from effbench.cpu.accelerate import accelerate
from effbench.cpu.dropout import CpuDropout
from tests.compiler import needs_compiler

pytestmark = needs_compiler
SPREAD = 5  # standard deviations: one test in 1.7 million would fail by chance, were the seeds not fixed


def masks(seeds: list[int], p: float, size: int) -> Tensor:
    """(seeds, size) bool: what is kept when torch's generator is seeded so."""
    net, kept = CpuDropout(p), []
    for seed in seeds:
        torch.manual_seed(seed)
        kept.append(net(torch.ones(size)) != 0)
    return torch.stack(kept)


def by_seed(seeds: range, p: float, size: int) -> Tensor:
    """(seeds, size) bool: what is kept where the kernel itself is handed these seeds."""
    return torch.stack([dropout._drop(torch.ones(size), torch.empty(size), p, seed) != 0 for seed in seeds])


def correlation(a: Tensor, b: Tensor) -> float:
    """In standard deviations from that of independent draws."""
    return float(torch.corrcoef(torch.stack([a, b]).flatten(1).double())[0, 1] * math.sqrt(a.numel()))


def is_ours(y: Tensor) -> bool:
    return type(y.grad_fn).__name__ == "_DropoutBackward"


@pytest.mark.parametrize("p", [1e-3, 0.1, 0.2, 0.5, 0.9, 0.999])
def test_share_kept_is_binomial_and_the_mean_stays(p):
    size = 2**22
    torch.manual_seed(1)
    y = CpuDropout(p)(torch.ones(size))
    deviation = math.sqrt(p * (1 - p) / size)
    assert abs(float((y != 0).double().mean()) - (1 - p)) < SPREAD * deviation
    assert abs(float(y.double().mean()) - 1) < SPREAD * deviation / (1 - p)


SHAPES = st.lists(st.integers(0, 7), max_size=5) | st.sampled_from([[15], [16], [17], [33, 31], [3, 40, 7, 41]])


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(SHAPES, st.floats(1e-6, 0.999), st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_output_and_gradient_are_products_with_the_same_noise(shape, p, last, inplace, seed):
    layout = torch.channels_last if last and len(shape) == 4 else torch.contiguous_format
    torch.manual_seed(seed)
    x = torch.randn(shape).contiguous(memory_format=layout).requires_grad_()
    gradient = torch.randn(shape)  # in the channels-last cases it lies otherwise than x
    net = CpuDropout(p, inplace)
    torch.manual_seed(seed)
    y = net(x.clone())
    assert is_ours(y)
    torch.manual_seed(seed)
    kept = net(torch.ones(shape).contiguous(memory_format=layout)) != 0
    noise = kept.float().div_(1 - p)  # as torch has it
    y.backward(gradient)
    assert torch.equal(y, x * noise)
    assert torch.equal(x.grad, gradient * noise)
    assert y.stride() == torch.empty_like(x).stride()


def test_expanded_or_strided_gradients_meet_the_same_mask():
    x = torch.randn(64, 96, requires_grad=True)
    y = CpuDropout(0.3)(x)
    noise = (y != 0).float().div_(1 - 0.3)
    for gradient in (torch.ones(1).expand(64, 96), torch.randn(96, 64).t(), torch.randn(64, 192)[:, ::2]):
        (found,) = torch.autograd.grad(y, x, gradient, retain_graph=True)
        assert torch.equal(found, gradient * noise)


def test_a_gradient_has_a_gradient_and_may_come_in_batches():
    x = torch.randn(5, 7, requires_grad=True)
    y = CpuDropout(0.4)(x)
    noise = (y != 0).float().div_(1 - 0.4)
    (first,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 6 * x * noise**3)
    many = torch.randn(3, 5, 7)
    (batched,) = torch.autograd.grad(y, x, many, is_grads_batched=True)
    torch.testing.assert_close(batched, many * noise)


def test_torch_s_seed_and_saved_state_decide_every_mask():
    net, x = CpuDropout(0.5), torch.ones(1000)
    torch.manual_seed(3)
    first, state = net(x), torch.get_rng_state()
    second, third = net(x), net(x)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    torch.set_rng_state(state)
    assert torch.equal(net(x), second)
    assert torch.equal(net(x), third)
    torch.manual_seed(3)
    assert torch.equal(net(x), first)


def test_the_number_of_threads_changes_nothing():
    x, before, found = torch.randn(100_003), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            torch.manual_seed(5)
            own = x.clone().requires_grad_()
            y = CpuDropout(0.2)(own)
            y.backward(x)
            found.append((y.detach(), own.grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(y, found[0][0]) and torch.equal(grad, found[0][1]) for y, grad in found[1:])


@pytest.mark.parametrize("lag", [1, 2, 3, 8, 15, 16, 32, 1024, 2**14])
def test_elements_do_not_follow_one_another(lag):
    (kept,) = masks([11], 0.5, 2**20)
    assert abs(correlation(kept[lag:], kept[:-lag])) < SPREAD


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("draw", [by_seed, lambda seeds, p, size: masks(list(seeds), p, size)], ids=["kernel", "torch"])
def test_neighbouring_seeds_and_places_are_independent(draw, p):
    kept = draw(range(256), p, 4096)
    assert abs(correlation(kept[1:], kept[:-1])) < SPREAD
    assert abs(correlation(kept[1:, :-1], kept[:-1, 1:])) < SPREAD
    assert abs(correlation(kept[0::2], kept[1::2])) < SPREAD
    for axis in (0, 1):  # how many of a row or a column are kept: chi-square about the binomial
        sums, trials = kept.double().sum(axis), kept.shape[axis]
        square = float(((sums - trials * (1 - p)) ** 2).sum() / (trials * p * (1 - p)))
        assert abs(square - len(sums)) < SPREAD * math.sqrt(2 * len(sums))


def test_runs_of_eight_fall_into_each_of_256_patterns_alike():
    (kept,) = masks([21], 0.5, 2**23)
    patterns = (kept.view(-1, 8).long() * 2 ** torch.arange(8)).sum(1).bincount(minlength=256).double()
    expected = kept.numel() / 8 / 256
    square = float(((patterns - expected) ** 2 / expected).sum())
    assert abs(square - 255) < SPREAD * math.sqrt(2 * 255)


def test_no_mask_is_kept_for_the_backward_pass():
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(packed.append, lambda x: x):
        nn.Dropout(0.5)(torch.ones(8, requires_grad=True) * 1)
        assert packed  # torch's is
        packed.clear()
        CpuDropout(0.5)(torch.ones(8, requires_grad=True))
    assert not packed


@pytest.mark.parametrize("kind", [nn.Dropout, CpuDropout])
def test_inplace_is_what_torch_s_is_to_user_code(kind):
    net = kind(0.5, inplace=True)
    x = torch.ones(1000, requires_grad=True)
    hidden = x * 1
    version = hidden._version
    y = net(hidden)
    assert y is hidden
    assert hidden._version == version + 1
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    with pytest.raises(RuntimeError, match="leaf Variable"):
        net(x)
    assert torch.equal(x, torch.ones(1000))
    saved = x.exp()  # needs its output for the gradient
    net(saved)
    with pytest.raises(RuntimeError, match="inplace operation"):
        saved.sum().backward()
    with torch.no_grad():
        plain = torch.ones(1000)
        version = plain._version
        assert net(plain) is plain
        assert plain._version == version + 1
        assert 0 < int((plain == 0).sum()) < 1000
    with torch.inference_mode():
        inferred = torch.ones(1000)
        assert net(inferred) is inferred
        assert 0 < int((inferred == 0).sum()) < 1000


@pytest.mark.parametrize("kind", [nn.Dropout, CpuDropout])
def test_inplace_through_a_view_reaches_the_whole(kind):
    x = torch.ones(4, 500, requires_grad=True)
    whole = x * 1
    kind(0.5, inplace=True)(whole[1:3])
    assert torch.equal(whole[0], torch.ones(500))
    assert 0 < int((whole[1:3] == 0).sum()) < 1000
    (whole * 3).sum().backward()
    assert torch.equal(x.grad, 3 * whole.detach())


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_layer_drops_the_same_both_times(reentrant):
    x = torch.ones(1000, requires_grad=True)
    y = checkpoint(CpuDropout(0.5), x, use_reentrant=reentrant)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_nan_and_infinity_are_seen_as_with_torch():
    x = torch.tensor([math.nan, math.inf]).repeat(100)
    assert not CpuDropout(0.5)(x).isfinite().any()
    assert not nn.Dropout(0.5)(x).isfinite().any()


def cases() -> dict[str, tuple[Tensor, float]]:
    x = torch.randn(40, 50)
    return {
        "p = 0": (x, 0.0), "p = 1": (x, 1.0), "nearly 1": (x, 1 - 1e-9), "double": (x.double(), 0.5),
        "half": (x.bfloat16(), 0.5), "gaps": (x[:, ::2], 0.5), "transposed": (x.t(), 0.5),
        "parameter": (nn.Parameter(x), 0.5),
    }  # fmt: skip


def equal_to_torch_s(x: Tensor, p: float = 0.5, training: bool = True) -> None:
    found = []
    for kind in (nn.Dropout, CpuDropout):
        torch.manual_seed(7)
        own = x.detach().requires_grad_() if not isinstance(x, nn.Parameter) else x
        y = kind(p).train(training)(own)
        (gradient,) = torch.autograd.grad(y.sum(), own)
        found.append((y, gradient))
        assert not is_ours(y)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", cases())
def test_what_the_kernel_does_not_take_is_torch_s_to_the_bit(name):
    equal_to_torch_s(*cases()[name])


def test_eval_autocast_dual_numbers_and_no_compiler_are_torch_s(monkeypatch):
    x = torch.randn(40, 50)
    equal_to_torch_s(x, training=False)
    with torch.autocast("cpu", torch.bfloat16):
        equal_to_torch_s(x)
    with forward_ad.dual_level():
        equal_to_torch_s(x)
        torch.manual_seed(0)
        y, tangent = forward_ad.unpack_dual(CpuDropout(0.5)(forward_ad.make_dual(x, torch.ones_like(x))))
        assert torch.equal(tangent, (y != 0).float() * 2)
    monkeypatch.setattr(dropout, "library", lambda: None)
    equal_to_torch_s(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace", "ignore:.*non-deterministic", "ignore:Trace had")
def test_graphs_and_transforms_hold_torch_s_own():
    x = torch.randn(40, 50)
    net = nn.Sequential(CpuDropout(0.5))
    assert "dropout" in str(torch.export.export(net, (x,)).graph)
    assert "aten::dropout" in str(torch.jit.trace(net, x, check_trace=False).inlined_graph)
    gradient = torch.func.grad(lambda own: net(own).sum())(x)
    assert set(gradient.unique().tolist()) == {0.0, 2.0}
    varied = torch.vmap(net, randomness="different")(torch.ones(3, 100))
    assert not torch.equal(varied[0], varied[1])


def test_compiled_it_is_torch_s_graph():
    net, seen = nn.Sequential(CpuDropout(0.5)), []

    def look(graph: torch.fx.GraphModule, _: object) -> object:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compile(net, backend=look, fullgraph=True)(torch.randn(40, 50))
    assert any("dropout" in name for name in seen)


def test_dropout_is_accelerated_but_none_of_its_kin():
    class Mine(nn.Dropout):
        pass

    net = nn.Sequential(nn.Dropout(0.3, inplace=True), nn.Dropout2d(0.3), nn.AlphaDropout(0.3), Mine(0.3))
    accelerate(net)
    assert [type(module) for module in net] == [CpuDropout, nn.Dropout2d, nn.AlphaDropout, Mine]
    assert net[0].p == 0.3
    assert net[0].inplace
    assert str(net[0]) == "CpuDropout(p=0.3, inplace=True)"


def test_copies_and_pickles_work_as_the_original():
    net, x, file = nn.Sequential(CpuDropout(0.3)), torch.randn(40, 50), io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    outputs = []
    for one in (net, copy.deepcopy(net), torch.load(file, weights_only=False)):
        torch.manual_seed(9)
        outputs.append(one(x))
        assert type(one[0]) is CpuDropout
        assert not one.state_dict()
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_a_p_set_out_of_range_is_refused_as_by_torch(p):
    net = CpuDropout(0.5)
    net.p = p
    with pytest.raises(ValueError, match="dropout probability"):
        net(torch.ones(3))
