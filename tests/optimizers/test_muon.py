"""Muon's two parts are torch's to the bit; convolutions count as matrices; one learning rate serves both parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effbench.errors import ConfigError
from effbench.optimizers import Muon
from effbench.optimizers.muon import orthogonalized
from tests.optimizers.test_lion import same

torch.set_num_threads(1)

SHAPES = [(7, 5), (5, 7), (16, 16), (64, 3), (2, 300)]


def parameters(shapes: list[tuple[int, ...]], seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def train(optimizer: torch.optim.Optimizer, over: list[nn.Parameter], steps: int = 20, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in over:
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.grad = drawn.contiguous(memory_format=torch.channels_last) if is_last(parameter) else drawn
        optimizer.step()
    return [parameter.detach().clone() for parameter in over]


def is_last(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and not tensor.is_contiguous()


@pytest.mark.parametrize("nesterov", [True, False])
def test_matrices_equal_torch_optim_muon_to_the_bit(nesterov: bool) -> None:
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    options = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9, "nesterov": nesterov, "ns_steps": 4}
    expected = train(torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **options), theirs)
    assert same(train(Muon(ours, ns_dtype="bfloat16", **options), ours), expected)


def test_on_a_cpu_the_iteration_is_in_float32_by_default() -> None:
    chosen, given = parameters(SHAPES), parameters(SHAPES)
    assert same(train(Muon(chosen), chosen), train(Muon(given, ns_dtype="float32"), given))
    half = parameters(SHAPES)
    assert not same(chosen, train(Muon(half, ns_dtype="bfloat16"), half))


@pytest.mark.parametrize("fused", [True, False])
def test_other_parameters_equal_torch_adamw_to_the_bit(fused: bool) -> None:
    shapes = [(5,), (), (7, 5), (4, 3, 3, 3)]
    ours, theirs = parameters(shapes), parameters(shapes)
    options = {"lr": 0.02, "weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-6, "fused": fused}
    groups = [{"params": ours[:2]}, {"params": ours[2:], "use_muon": False}]
    assert same(train(Muon(groups, **options), ours), train(torch.optim.AdamW(theirs, **options), theirs))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_counts_as_the_matrix_out_x_in_k_k(layout: torch.memory_format) -> None:
    (kernel,), (matrix,) = parameters([(8, 4, 3, 3)]), parameters([(8, 36)])
    kernel.data = kernel.data.contiguous(memory_format=layout)
    assert torch.equal(kernel.flatten(1), matrix)
    end = train(Muon([kernel], lr=0.02), [kernel])[0]
    assert torch.equal(end.flatten(1), train(Muon([matrix], lr=0.02), [matrix])[0])
    assert is_last(kernel) == (layout is torch.channels_last)


def test_a_convolution_moves_as_with_timm_muon() -> None:
    timm = pytest.importorskip("timm.optim")
    ours, theirs = parameters([(8, 4, 3, 3)]), parameters([(8, 4, 3, 3)])
    options = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True}
    timms = timm.Muon(theirs, ns_coefficients="original", adjust_lr_fn="match_rms_adamw", **options)
    start = ours[0].detach().clone()
    moved, expected = train(Muon(ours, ns_dtype="bfloat16", **options), ours)[0], train(timms, theirs)[0]
    assert (moved - expected).abs().max() < 0.01 * (expected - start).abs().max()


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (300, 10), (10, 300), (64, 64)])
def test_moves_have_the_size_of_adamw_s_for_every_shape(shape: tuple[int, ...]) -> None:
    [parameter] = parameters([shape])
    start = parameter.detach().clone()
    move = train(Muon([parameter], lr=0.1, weight_decay=0.0), [parameter], steps=1)[0] - start
    rms = float(move.square().mean().sqrt()) / 0.1
    assert 0.12 < rms < 0.24  # 0.2, and singular values from 0.7 to 1.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_iteration_orthogonalizes_and_agrees_with_float64(dtype: torch.dtype) -> None:
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    exact = orthogonalized(matrix, 5, torch.float64)
    singular = torch.linalg.svdvals(exact)
    assert 0.6 < singular.min() <= singular.max() < 1.3
    u, _, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    assert float((exact * (u @ vh)).sum()) / 24 > 0.8  # close to the nearest orthogonal matrix
    found = orthogonalized(matrix, 5, dtype)
    assert found.dtype is dtype
    error = (found.double() - exact).abs().max() / exact.abs().max()
    assert error < {torch.bfloat16: 0.05, torch.float32: 1e-5}[dtype]


def test_the_matrix_given_is_not_changed() -> None:
    matrix = torch.randn(4, 6, dtype=torch.float64)
    kept = matrix.clone()
    orthogonalized(matrix, 5, torch.float64)
    assert torch.equal(matrix, kept)


def test_a_zero_gradient_leaves_all_but_the_decay() -> None:
    ours = parameters([(4, 3), (3,)])
    start = [parameter.detach().clone() for parameter in ours]
    for parameter in ours:
        parameter.grad = torch.zeros_like(parameter)
    Muon(ours, lr=0.1, weight_decay=0.5).step()
    assert all(torch.allclose(after, before * 0.95) for after, before in zip(ours, start, strict=True))


def test_state_is_one_momentum_for_matrices_two_for_vectors() -> None:
    ours = parameters([(4, 3), (3,)])
    optimizer = Muon(ours)
    train(optimizer, ours, 1)
    assert [sorted(optimizer.state[p]) for p in ours] == [["momentum_buffer"], ["exp_avg", "exp_avg_sq", "step"]]


def test_a_state_for_the_other_part_is_refused() -> None:
    ours, other = parameters([(4, 3)]), parameters([(4, 3)])
    optimizer = Muon([{"params": ours, "use_muon": False}])
    train(optimizer, ours, 1)
    with pytest.raises(ConfigError, match=r"the state must be muon's, with momentum_buffer .* got step, exp_avg"):
        Muon(other).load_state_dict(optimizer.state_dict())


def test_complex_matrices_are_refused_and_complex_vectors_taken() -> None:
    matrix, vector = (nn.Parameter(torch.ones(shape, dtype=torch.complex64)) for shape in ((2, 2), (2,)))
    optimizer = Muon([vector])
    with pytest.raises(ConfigError, match=r"muon cannot orthogonalize complex matrices.*use_muon=False"):
        optimizer.add_param_group({"params": [matrix]})
    optimizer.add_param_group({"params": [matrix], "use_muon": False})
    for parameter in (matrix, vector):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert len(optimizer.param_groups) == 2
    assert not np.isclose(matrix.detach().numpy(), 1).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1e-4}, r"optimizer\.lr must be a number >= 0; got -0\.0001\."),
        ({"betas": (0.9, 0.99, 0.999)}, r"optimizer\.betas must be 2 numbers in \[0, 1\)"),
        ({"eps": 0}, r"optimizer\.eps must be a number > 0; got 0\."),
        ({"weight_decay": -0.1}, r"optimizer\.weight_decay must be a number >= 0; got -0\.1"),
        ({"momentum": 1.0}, r"optimizer\.momentum must be .*\[0, 1\); got 1\.0\. The authors' is 0\.95"),
        ({"ns_steps": 0}, r"optimizer\.ns_steps must be a whole number from 1 to 99; got 0\. The authors' is 5"),
        ({"ns_steps": 5.5}, r"optimizer\.ns_steps must be a whole number from 1 to 99; got 5\.5"),
        ({"ns_dtype": "bf16"}, r"optimizer\.ns_dtype 'bf16' is not one of: auto, bfloat16, float32, float64"),
    ],
)
def test_an_option_out_of_range_names_key_rule_value_and_remedy(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Muon(parameters([(2, 2)]), **options)
    with pytest.raises(ConfigError, match=message):
        Muon([{"params": parameters([(2, 2)]), **options}])
