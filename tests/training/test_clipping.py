"""Clipping against torch's own and against float64, compiled and without a compiler."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effbench.training import clipping
from effbench.training.clipping import choose_clipping
from tests.compiler import needs_compiler

SHAPES = [(3,), (5, 2, 3, 3), (64, 33), (1,), (7, 4, 2, 2)]


def with_gradients(scale: float, seed: int = 0, shapes=SHAPES) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator) * scale
    parameters[-1].grad = parameters[-1].grad.contiguous(memory_format=torch.channels_last)
    return parameters


def gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]


@pytest.fixture(params=[pytest.param("compiled", marks=needs_compiler), "without a compiler"])
def way(request, monkeypatch):
    if request.param != "compiled":
        monkeypatch.setattr(clipping, "library", lambda: None)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e15])
@pytest.mark.parametrize("limit", [0.01, 1.0, 1e4])
def test_the_norm_is_at_most_the_limit_and_the_direction_stays(limit, scale):
    parameters = with_gradients(scale)
    before = [gradient.double() for gradient in gradients(parameters)]
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in before))
    choose_clipping(parameters, limit, "norm")()
    factor = min(1.0, limit / (norm + 1e-6))
    for found, gradient in zip(gradients(parameters), before, strict=True):
        torch.testing.assert_close(found.double(), gradient * factor, rtol=1e-6, atol=0)


@pytest.mark.slow
@needs_compiler
@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(0, 1000), st.sampled_from([1, 2, 3]))
def test_compiled_is_torchs_on_any_number_of_threads(limit, scale, seed, threads):
    ours, torchs = with_gradients(scale, seed), with_gradients(scale, seed)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        choose_clipping(ours, limit, "norm")()
    finally:
        torch.set_num_threads(before)
    torch.nn.utils.clip_grad_norm_(torchs, limit)
    torch.testing.assert_close(gradients(ours), gradients(torchs), rtol=1e-6, atol=0)


@pytest.mark.usefixtures("way")
def test_gradients_within_the_limit_stay_to_the_bit():
    parameters = with_gradients(1e-3)
    before = gradients(parameters)
    choose_clipping(parameters, 1.0, "norm")()
    assert all(map(torch.equal, gradients(parameters), before))


@pytest.mark.usefixtures("way")
def test_one_nan_makes_all_gradients_nan_like_torch():
    parameters = with_gradients(1.0)
    parameters[1].grad[0, 0, 0, 0] = math.nan
    choose_clipping(parameters, 1.0, "norm")()
    assert all(gradient.isnan().all() for gradient in gradients(parameters))


@needs_compiler
def test_squares_beyond_float32_do_not_overflow():
    """torch's norm is infinite there, and its gradients become zero."""
    parameters = with_gradients(1e37)
    choose_clipping(parameters, 1.0, "norm")()
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients(parameters)))
    assert norm == pytest.approx(1.0, rel=1e-6)


@pytest.mark.usefixtures("way")
def test_clipping_handles_missing_and_strided_gradients():
    parameters = with_gradients(1.0)
    parameters[0].grad = None
    parameters[2].grad = torch.randn(64, 66)[:, ::2]
    before = [gradient.double() for gradient in gradients(parameters)]
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in before))
    choose_clipping(parameters, 0.5, "norm")()
    for found, gradient in zip(gradients(parameters), before, strict=True):
        torch.testing.assert_close(found.double(), gradient * 0.5 / norm, rtol=1e-5, atol=0)


@pytest.mark.usefixtures("way")
def test_without_any_gradient_nothing_happens():
    parameters = [nn.Parameter(torch.zeros(3))]
    choose_clipping(parameters, 1.0, "norm")()
    assert parameters[0].grad is None


@needs_compiler
def test_clipping_increments_the_autograd_version():
    parameters = with_gradients(1.0)
    before = [parameter.grad._version for parameter in parameters]
    choose_clipping(parameters, 0.1, "norm")()
    assert all(parameter.grad._version > version for parameter, version in zip(parameters, before, strict=True))
