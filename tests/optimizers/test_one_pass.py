"""Lion and Adan in one pass over memory: the same numbers in every layout, way and number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import lion_pytorch
import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import Replicate, distribute_tensor

from effbench.cpu.library import library
from effbench.optimizers import Adan, Lion, fused
from effbench.optimizers.chunks import ELEMENTS, chunks
from tests.compiler import needs_compiler

SHAPES = [(3,), (), (0, 4), (5, 3, 3, 3), (7, 1, 5, 5), (2, 3, 4, 5, 6), (ELEMENTS + 17,), (300, 600)]
KINDS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "lion": lambda params: Lion(params, lr=1e-3, weight_decay=0.1),
    "adan": lambda params: Adan(params, lr=1e-3, weight_decay=0.1),
    "lion, uphill": lambda params: Lion(params, lr=1e-3, weight_decay=0.1, maximize=True),
    "adan, uphill": lambda params: Adan(params, lr=1e-3, weight_decay=0.1, maximize=True),
}


@pytest.fixture(params=[pytest.param("one pass", marks=needs_compiler), "in chunks"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "in chunks":
        monkeypatch.setattr(fused, "library", lambda: None)
    else:
        assert library() is not None
    return str(request.param)


def values(seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]


def trained(kind: str, steps: int, lay: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Parameters after so many steps; `lay` gives parameters and gradients their place in memory."""
    parameters = [lay(value).requires_grad_() for value in values(0, dtype)]
    optimizer = KINDS[kind](parameters)
    for step in range(steps):
        for parameter, gradient in zip(parameters, values(step + 1, dtype), strict=True):
            parameter.grad = lay(gradient)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def plainly(tensor: Tensor) -> Tensor:
    return tensor.clone()


def channels_last(tensor: Tensor) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tensor.contiguous(memory_format=formats.get(tensor.dim(), torch.contiguous_format))


def with_gaps(tensor: Tensor) -> Tensor:
    if tensor.dim() == 0:
        return tensor.clone()
    wide = tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1])
    wide[..., ::2] = tensor
    return wide[..., ::2]


@pytest.mark.spread(8)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lay", [plainly, channels_last, with_gaps])
@pytest.mark.usefixtures("way")
def test_every_layout_learns_the_same_as_float64(kind, lay):
    expected = trained(kind, 5, plainly, torch.float64)
    for ours, exact in zip(trained(kind, 5, lay), expected, strict=True):
        assert torch.allclose(ours.double(), exact, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("way")
def test_a_gradient_in_another_layout_is_read_in_its_own(kind):
    rows = iter(range(10_000))

    def alternating(tensor: Tensor) -> Tensor:
        return (channels_last if next(rows) % 2 else plainly)(tensor)

    mixed, plain = trained(kind, 3, alternating), trained(kind, 3, plainly)
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(mixed, plain, strict=True))


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_agrees_with_the_torch_implementation(kind, monkeypatch):
    one_pass = trained(kind, 20, plainly)
    monkeypatch.setattr(fused, "library", lambda: None)
    pairs = list(zip(one_pass, trained(kind, 20, plainly), strict=True))
    if kind.startswith("lion"):
        assert all(torch.equal(a, b) for a, b in pairs)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in pairs)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_threads_changes_no_bit(kind, threads):
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append(trained(kind, 2, plainly))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*found, strict=True))


@pytest.mark.usefixtures("way")
def test_nan_gradients_are_handled_like_lion_pytorch():
    parameters = [torch.zeros(3, requires_grad=True) for _ in range(2)]
    for parameter, kind in zip(parameters, (Lion, lion_pytorch.Lion), strict=True):
        parameter.grad = torch.tensor([1.0, float("nan"), -1.0])
        kind([parameter], lr=0.1).step()
    assert torch.equal(*parameters)


def test_chunks_cover_every_element_once_and_are_small() -> None:
    tensors = [torch.zeros(shape) for shape in SHAPES]
    for columns in chunks([(tensor, tensor) for tensor in tensors]):
        assert sum(piece.numel() for piece in columns[0]) <= ELEMENTS
        torch._foreach_add_(columns[0], 1)
    assert all(bool((tensor == 1).all()) for tensor in tensors)


def test_other_types_are_updated_beside() -> None:
    parameters = [
        torch.ones(4, dtype=dtype).requires_grad_() for dtype in (torch.float32, torch.float64, torch.bfloat16)
    ]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    Lion(parameters, lr=0.5).step()
    assert all(parameter.detach().float().tolist() == [0.5] * 4 for parameter in parameters)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("way")
def test_a_layout_may_change_between_steps(kind):
    found = []
    for lay in (plainly, channels_last):
        parameters = [value.requires_grad_() for value in values(0)]
        optimizer = KINDS[kind](parameters)
        for step in range(4):
            for parameter, gradient in zip(parameters, values(step + 1), strict=True):
                parameter.data = (plainly if step < 2 else lay)(parameter.data)
                parameter.grad = (plainly if step % 2 else lay)(gradient)
            optimizer.step()
        found.append([parameter.detach() for parameter in parameters])
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(*found, strict=True))


@pytest.mark.usefixtures("way")
def test_state_of_another_shape_raises():
    parameter = torch.ones(1000, requires_grad=True)
    parameter.grad = torch.ones_like(parameter)
    optimizer = Lion([parameter])
    optimizer.step()
    optimizer.state[parameter]["exp_avg"] = torch.zeros(10)
    with pytest.raises(RuntimeError, match="size"):
        optimizer.step()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_negated_by_a_bit_is_read_as_it_is_meant(kind):
    found = []
    for negate in (Tensor.neg, lambda gradient: torch._neg_view(gradient)):
        parameters = [value.requires_grad_() for value in values(0)]
        optimizer = KINDS[kind](parameters)
        for parameter, gradient in zip(parameters, values(1), strict=True):
            parameter.grad = negate(gradient)
        optimizer.step()
        found.append(parameters)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["lion", "adan"])
def test_a_graph_over_weights_that_a_step_changed_is_refused(kind):
    weight = torch.randn(4, 4, requires_grad=True)
    optimizer = KINDS[kind]([weight])
    loss = (weight @ weight).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["lion", "adan"])
def test_tensors_that_are_not_in_one_place_are_torch_s_to_update(kind, tmp_path):
    """DTensors, as of FSDP: they have no address."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        found = []
        for lay in (plainly, lambda value: distribute_tensor(value, mesh, [Replicate()])):
            parameter = torch.nn.Parameter(lay(values(0)[3]))
            parameter.grad = lay(values(1)[3])
            KINDS[kind]([parameter]).step()
            found.append(parameter.detach())
        torch.testing.assert_close(found[1].to_local(), found[0])
    finally:
        torch.distributed.destroy_process_group()
