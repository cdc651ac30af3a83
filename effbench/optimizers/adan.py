"""Adan (arXiv:2208.06677) as its authors run it, and adan-pytorch's reading of it, behind one class.

With t counted from 1 and d_1 = 0, the authors' update is
    d = g - g_prev                        m = b1 m + (1-b1) g
    v = b2 v + (1-b2) d                   n = b3 n + (1-b3) (g + b2 d)^2
    theta = (theta - lr (m/(1-b1^t) + b2 v/(1-b2^t)) / (sqrt(n/(1-b3^t)) + eps)) / (1 + lr wd)

adan-pytorch 0.1.0 differs: its betas are 1 - beta, its first step only decays, and its bias correction is one
step late (at a constant gradient and lr 1 it moves by 0, 0.712, 0.823, ... where the authors' moves by 1, 1, 1).
"""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import adan_pytorch
import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from effbench.errors import ConfigError, unknown_name
from effbench.optimizers.checks import (
    checked_betas,
    checked_lr,
    checked_number,
    checked_weight_decay,
    closure_loss,
    refuse_sparse,
)

VARIANTS = ("paper", "package")

_LR_REMEDY = "The authors use 1e-3 for fine-tuning and up to 1.5e-2 for large batches."
_BETAS_REMEDY = "The authors' are [0.98, 0.92, 0.99]."
_EPS_REMEDY = "The authors' is 1e-8; a parameter without gradient divides by it."

# Unwrapped: once someone used the package's class its step carries hooks, which would run a second time in ours.
_package_step = inspect.unwrap(adan_pytorch.Adan.step)


class Adan(adan_pytorch.Adan):  # type: ignore[misc]
    """Adan with the paper's betas (b1, b2, b3), whichever variant runs.

    params: parameters, or groups that may carry their own lr, betas, eps, weight_decay and maximize.
    variant: 'paper', the authors' update above; 'package', adan-pytorch's to the bit, whose groups hold 1 - beta
    and whose state_dict() loads into `adan_pytorch.Adan` and back.
    restart_cond: for 'package' alone, a predicate over one parameter's state; a state_dict never holds it.
    State: prev_grad, m, v and n of each parameter's shape and dtype: 16 bytes a parameter in fp32.
    Raises ConfigError for a value out of range, and for betas written as 1 - beta.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        variant: str = "paper",
        restart_cond: Callable[[dict[str, Any]], bool] | None = None,
        maximize: bool = False,
    ) -> None:
        _check_variant(variant, restart_cond)
        options = _checked({"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, variant)
        whole = {"variant": variant, "restart_cond": restart_cond, "maximize": maximize}
        torch.optim.Optimizer.__init__(self, params, options | whole)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also called by load_state_dict: fills in what the package's checkpoints lack, keeps our restart_cond."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("variant", self.defaults["variant"])
            group.setdefault("maximize", self.defaults["maximize"])
            group["restart_cond"] = self.defaults["restart_cond"]
        for entry in self.state.values():
            if isinstance(entry.get("step"), Tensor):
                entry["step"] = entry["step"].cpu()  # on an accelerator, reading it would wait for the device

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(_checked(param_group, self.defaults["variant"]))

    def state_dict(self) -> dict[str, Any]:
        """torch's state_dict without the restart predicate, so that torch.load(weights_only=True) reads it."""
        state = super().state_dict()
        for group in state["param_groups"]:
            group["restart_cond"] = None
        return dict(state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ConfigError for the other variant's state: its betas and its moments mean something else."""
        own = self.defaults["variant"]
        for group in state_dict["param_groups"]:
            saved = group.get("variant", "package")
            if saved != own:
                raise ConfigError(
                    f"optimizer.variant must be '{saved}' to load this state; got '{own}'. "
                    f"Set optimizer.variant={saved}, or start without the optimizer's state."
                )
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; the closure's loss, or None."""
        loss = closure_loss(closure)
        for group in self.param_groups:
            for gradient in _gradients(group):
                refuse_sparse(gradient, "adan")
        if self.defaults["variant"] == "package":
            with _ascending(self.param_groups):
                _package_step(self)
        else:
            for group in self.param_groups:
                self._paper_step(group)
        return loss

    def _paper_step(self, group: dict[str, Any]) -> None:
        for parameters in _batches(self._started(group)):
            gradients = [p.grad for p in parameters if p.grad is not None]
            if group["maximize"]:
                gradients = list(torch._foreach_neg(gradients))
            moments = [[self.state[p][key] for p in parameters] for key in ("prev_grad", "m", "v", "n")]
            t = self.state[parameters[0]]["step"].item()
            _paper_update(parameters, gradients, *moments, t, group)

    def _started(self, group: dict[str, Any]) -> Iterator[tuple[Tensor, float]]:
        """(parameter, t) of each parameter with a gradient, its counter advanced to t >= 1."""
        for parameter in group["params"]:
            if parameter.grad is not None:
                state = self.state[parameter]
                if not state:
                    state.update(_first_state(parameter, group["maximize"]))
                state["step"] += 1
                yield parameter, state["step"].item()
