"""Optimizers whose state is made of tensor subclasses, such as torchao's 8-bit moments, which know few operations.

White-box: takes a copy without writing it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effbench import build
from effbench.config.compose import compose
from effbench.errors import ConfigError, EffbenchError
from effbench.training.checkpoint_writer import BackgroundSaves
from effbench.training.failure_policies import naming_optimizer_memory, optimizer_not_finite
from effbench.training.snapshots import load_optimizer
from tests.training.test_checkpoint import keeper
from tests.training.tiny import data, dense, sgd, trainer


class Halved(Tensor):
    """float32 kept as float16 beside a scale; no operation is known but detach, as little as torchao's know."""

    @staticmethod
    def __new__(cls, values: Tensor, scale: Tensor) -> Halved:
        return Tensor._make_wrapper_subclass(cls, values.shape, dtype=torch.float32, device=values.device)

    def __init__(self, values: Tensor, scale: Tensor):
        self.values, self.scale = values, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["values", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, parts: dict[str, Tensor], _context: None, _size: Any, _stride: Any) -> Halved:
        return cls(parts["values"], parts["scale"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].values, args[0].scale)
        raise NotImplementedError(f"{func} of a Halved")


def stepped(value: float = 1.0) -> tuple[torch.optim.Optimizer, Halved]:
    """An optimizer after a step, one momentum of it a Halved that holds `value`."""
    net = dense()
    optimizer = sgd(net)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    first = next(net.parameters())
    made = Halved(torch.full(first.shape, value, dtype=torch.float16), torch.ones(1))
    optimizer.state[first]["momentum_buffer"] = made
    return optimizer, made


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_found_within_a_subclass(value: float) -> None:
    assert optimizer_not_finite(stepped()[0]) is None
    assert optimizer_not_finite(stepped(value)[0]) == "momentum_buffer of the optimizer"


def test_an_opaque_tensor_subclass_is_not_checked() -> None:
    optimizer, made = stepped()
    made.__class__ = type("Closed", (Tensor,), {"__torch_dispatch__": Halved.__torch_dispatch__})
    assert optimizer_not_finite(optimizer) is None


def test_background_save_copies_storage_of_tensor_subclasses(tmp_path: Path) -> None:
    _, made = stepped()
    copy = BackgroundSaves(keeper(tmp_path))._copied({"moment": made}, "state")["moment"]
    made.values.zero_()
    assert type(copy) is Halved
    assert copy.shape == made.shape
    assert torch.equal(copy.values, torch.ones_like(copy.values))


def test_a_state_that_is_read_back_keeps_its_subclass(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, made = stepped()
    monkeypatch.setattr(optimizer, "load_state_dict", lambda _: None)  # as torchao's own keeps its class
    load_optimizer(optimizer, {})
    assert optimizer.state[optimizer.param_groups[0]["params"][0]]["momentum_buffer"] is made


# --- an optimizer's own memory, and optimizers that the loop cannot drive


class Greedy(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        raise torch.OutOfMemoryError("tried to allocate 12 GiB")


def test_out_of_memory_raised_by_an_optimizer_names_its_state() -> None:
    net = dense()
    loop = trainer(data(), net, steps=2)
    loop.optimizer = Greedy(net.parameters(), 0.1)
    with pytest.raises(EffbenchError, match=r"in the step of the optimizer, Greedy over .* not with data\.batch_size"):
        loop.fit()


def test_other_errors_of_an_optimizer_step_are_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), naming_optimizer_memory(sgd(dense())):
        raise ZeroDivisionError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("torch.optim.LBFGS", "by a closure"),
        ("tests.training.test_subclasses.TwoSteps", "by a closure"),
    ],
)
def test_optimizer_that_does_not_fit_the_loop_is_refused(target: str, why: str) -> None:
    own = ["~optimizer.fused", "~optimizer.betas", "~optimizer.eps", "allow_targets=[tests.training]"]
    config = compose(["model=mlp", f"optimizer._target_={target}", *own])
    with pytest.raises(ConfigError, match=f"does not fit the loop: .*{why}.* Use one of"):
        build.optimizer(config, nn.Linear(2, 2))


def matrices(rows: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, rows, bias=False), nn.ReLU(), nn.Linear(rows, 2, bias=False))


class MatricesOnly(torch.optim.SGD):
    """Fails in its step, not when it is made."""

    def step(self, closure: Any = None) -> None:
        assert all(parameter.ndim == 2 for group in self.param_groups for parameter in group["params"])
        super().step(closure)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["torch.optim.Muon", "tests.training.test_subclasses.MatricesOnly"])
def test_an_optimizer_of_matrices_takes_a_model_of_matrices(target: str) -> None:
    own = ["~optimizer.fused", "~optimizer.betas", "~optimizer.eps", "allow_targets=[tests.training]"]
    config = compose(["model=mlp", f"optimizer._target_={target}", *own])
    build.check_options(config)
    assert target.endswith(type(build.optimizer(config, matrices())).__name__)
    frozen = nn.Sequential(matrices(), nn.Linear(2, 2))
    frozen[1].bias.requires_grad_(False)
    build.optimizer(config, frozen)
    mixed = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), matrices())
    said = (
        rf"{target}' takes parameters of 2 dimensions only, and 4 of the 6 that the model trains have others: "
        r"0\.weight \(2, 1, 3, 3\), 0\.bias \(2,\), 1\.weight \(2,\), …\. Freeze those .*optimizer=adamw"
    )
    with pytest.raises(ConfigError, match=said):
        build.optimizer(config, mixed)


@pytest.mark.slow
def test_optimizer_with_invalid_options_is_refused_for_them() -> None:
    config = compose(["model=mlp", "optimizer._target_=torch.optim.Muon", "~optimizer.fused", "~optimizer.betas",
                      "+optimizer.momentum=-1"])  # fmt: skip
    with pytest.raises(ConfigError, match=r"refuses its options: ValueError\('momentum should be >= 0 but is: -1"):
        build.check_options(config)


class TwoSteps(torch.optim.SGD):
    """As sharpness-aware minimisation is written."""

    def first_step(self) -> None: ...
