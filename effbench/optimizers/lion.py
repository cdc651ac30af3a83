"""Lion (arXiv:2302.06675): a torch optimizer with lion-pytorch's arithmetic, equal to the bit.

It derives from the package's class and uses the same state_dict format. The update is one pass over memory, compiled
(effbench/cpu/csrc/optimizer_steps.c) or in cache-sized chunks. Two features of the package are left out: the Triton
path (it calls `exit()` if Triton is missing) and `decoupled_weight_decay` (it divides by the constructor's lr and is
not part of the state_dict).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import lion_pytorch
import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from effbench.optimizers import fused
from effbench.optimizers.checks import (
    check_state,
    checked_betas,
    checked_lr,
    checked_options,
    checked_weight_decay,
    closure_loss,
    current_lr,
    fill_in_options,
    refuse_sparse,
)
from effbench.optimizers.chunks import update_in_chunks

_OPTIONS = ("lr", "betas", "weight_decay", "maximize")  # of a group
_CHECKS: dict[str, Callable[[Any], Any]] = {
    "lr": partial(checked_lr, remedy="Lion's range is 1e-5 to 3e-4, 3-10x below AdamW's."),
    "betas": partial(checked_betas, count=2, remedy="The authors' are [0.9, 0.99]."),
    "weight_decay": checked_weight_decay,
}


class Lion(lion_pytorch.Lion):  # type: ignore[misc]
    """theta = (1 - lr wd) theta - lr sign(b1 m + (1-b1) g); then m = b2 m + (1-b2) g.

    A complex parameter is treated as two real ones, as in torch. State: one momentum, `exp_avg`, with the parameter's
    shape and dtype (4 bytes a parameter in float32). state_dict() can be exchanged with `lion_pytorch.Lion`.

    Args:
        params: parameters, or groups that may set lr, betas, weight_decay and maximize.
        lr: learning rate, >= 0: the size of every weight's move. A tensor of one element stays a tensor.
        betas: two numbers in [0, 1).
        weight_decay: decoupled decay, >= 0.
        maximize: maximize the objective instead of minimizing it.

    Raises:
        OptionError: a value is out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: Sequence[float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        # The package's constructor keeps settings outside of the groups, where pickle and deepcopy lose them.
        options = checked_options({"lr": lr, "betas": betas, "weight_decay": weight_decay}, _CHECKS)
        torch.optim.Optimizer.__init__(self, params, {**options, "maximize": maximize})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fill in options that a checkpoint of another class lacks. load_state_dict calls it too."""
        super().__setstate__(state)
        fill_in_options(self, _OPTIONS)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(checked_options(param_group, _CHECKS))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; raise OptionError if it has no momentum."""
        # Adam's state also has exp_avg: whoever loads it gets a momentum, which Lion can go on with
        check_state(state_dict, ["exp_avg"], "lion")
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the closure's loss, or None without a closure."""
        # Not super().step(): torch adds hooks to the package's step when its class is used; they would run twice.
        loss = closure_loss(closure)
        refuse_sparse(self.param_groups, "lion")
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            # in the first step of each parameter: one may be frozen at first
            states = [self.state[parameter] for parameter in parameters]
            for parameter, state in zip(parameters, states, strict=True):
                if not state:
                    # zeros_like keeps channels_last: C walks over parameter and state in one order
                    state["exp_avg"] = torch.zeros_like(parameter)
            settings = {name: group[name] for name in ("betas", "weight_decay", "maximize")}
            settings["lr"] = current_lr(group)
            in_one_pass, others = fused.divide(parameters, [[state["exp_avg"] for state in states]])
            fused.lion(in_one_pass, **settings)
            update_in_chunks(others, partial(_update, **settings))
        return loss


def _update(
    columns: list[list[Tensor]], lr: float, betas: Sequence[float], weight_decay: float, maximize: bool
) -> None:
    """Apply lion_pytorch's update_fn in place. columns: parameters, gradients and exp_avg."""
    parameters, gradients, moments = columns
    b1, b2 = betas
    if maximize:
        gradients = list(torch._foreach_neg(gradients))
    torch._foreach_mul_(parameters, 1 - lr * weight_decay)
    # mul and add, not lerp: lerp rounds otherwise, and the sign of a sum near 0 would differ from the package's
    signs = torch._foreach_mul(moments, b1)
    torch._foreach_add_(signs, gradients, alpha=1 - b1)
    torch._foreach_sign_(signs)
    torch._foreach_add_(parameters, signs, alpha=-lr)
    # after the move: the momentum has its own, slower beta
    torch._foreach_mul_(moments, b2)
    torch._foreach_add_(moments, gradients, alpha=1 - b2)
