"""Lion (arXiv:2302.06675), with lion-pytorch's arithmetic to the bit, as an ordinary torch optimizer.

The package's update is used as it is. What is left out: its Triton path (it calls `exit()` where Triton is
missing) and `decoupled_weight_decay` (it divides by the constructor's lr and is absent from state_dict).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lion_pytorch
import torch
from lion_pytorch.lion_pytorch import update_fn
from torch.optim.optimizer import ParamsT

from effbench.optimizers.checks import (
    checked_betas,
    checked_lr,
    checked_weight_decay,
    closure_loss,
    refuse_sparse,
)

_LR_REMEDY = "Lion's range is 1e-5 to 3e-4, 3-10x below AdamW's."
_BETAS_REMEDY = "The authors' are [0.9, 0.99]."


class Lion(lion_pytorch.Lion):  # type: ignore[misc]
    """theta = (1 - lr wd) theta - lr sign(b1 m + (1-b1) g); then m = b2 m + (1-b2) g.

    params: parameters, or groups that may carry their own lr, betas, weight_decay and maximize.
    State: one momentum, `exp_avg`, of each parameter's shape and dtype: 4 bytes a parameter in fp32.
    state_dict() loads into `lion_pytorch.Lion` and back. Raises ConfigError for a value out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: Sequence[float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        # The package's constructor would keep settings outside the groups, which pickle and deepcopy drop.
        options = _checked({"lr": lr, "betas": betas, "weight_decay": weight_decay})
        torch.optim.Optimizer.__init__(self, params, {**options, "maximize": maximize})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also called by load_state_dict: a checkpoint of the package's class lacks `maximize`."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("maximize", self.defaults["maximize"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(_checked(param_group))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; the closure's loss, or None."""
        # Not super().step(): once the package's class was used, that is hooked too and hooks would run twice.
        loss = closure_loss(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        refuse_sparse(gradient, "lion")
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
        direction = -gradient if group["maximize"] else gradient
        update_fn(parameter, direction, state["exp_avg"], group["lr"], group["weight_decay"], *group["betas"])


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """A copy of the options (of a group or of the whole) with those present checked and made plain numbers."""
    checked = dict(options)
    if "lr" in options:
        checked["lr"] = checked_lr(options["lr"], _LR_REMEDY)
    if "betas" in options:
        checked["betas"] = checked_betas(options["betas"], 2, _BETAS_REMEDY)
    if "weight_decay" in options:
        checked["weight_decay"] = checked_weight_decay(options["weight_decay"])
    return checked
