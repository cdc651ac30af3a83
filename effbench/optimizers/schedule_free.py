"""Schedule-Free AdamW (arXiv:2405.15682): schedulefree's class, with checked options. It needs the extra schedulefree.

The model's weights are the points y at which gradients are taken; the weights to evaluate are their average x. eval()
puts x into the model and train() puts y back; the training loop calls both (effbench/training/ema.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch.optim.optimizer import ParamsT

from effbench.config.options import NON_NEGATIVE, POSITIVE, Rule
from effbench.errors import MissingExtraError, OptionError
from effbench.optimizers.checks import (
    check_state,
    checked_betas,
    checked_number,
    checked_options,
    checked_weight_decay,
    fill_in_options,
    refuse_sparse,
)

# Not in a function: the class below derives from the package's. This module is imported only when a config names it.
try:
    import schedulefree
except ModuleNotFoundError as error:
    if error.name != "schedulefree":  # a package that it needs is missing: another fault
        raise
    raise MissingExtraError("optimizer=schedule_free", "schedulefree") from error

_PROGRESS = ("k", "weight_sum", "lr_max", "scheduled_lr", "train_mode")  # entries of a group that change in training


def _checked_betas(betas: Sequence[float]) -> tuple[float, ...]:
    remedy = "The package's are [0.9, 0.999]; long runs may need 0.95 to 0.98 for the first."
    checked = checked_betas(betas, 2, remedy)
    if checked[0] == 0:  # eval() divides by it
        raise OptionError(f"optimizer.betas must begin with a number in (0, 1); got {list(betas)}. {remedy}")
    return checked


def _number(key: str, rule: Rule[float], remedy: str) -> Callable[[Any], float]:
    return partial(checked_number, key=key, rule=rule, remedy=remedy)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "lr": _number("lr", NON_NEGATIVE, "The package's default is 0.0025; 1 to 10 times AdamW's is usual."),
    "betas": _checked_betas,
    "eps": _number("eps", POSITIVE, "The package's is 1e-8."),
    "weight_decay": checked_weight_decay,
    "r": _number("r", NON_NEGATIVE, "The package's default is 0."),
    "weight_lr_power": _number("weight_lr_power", NON_NEGATIVE, "The package's default is 2."),
}


class ScheduleFree(schedulefree.AdamWScheduleFree):  # type: ignore[misc]
    """Schedule-Free AdamW with the package's arithmetic, to the bit. Its state_dict can be exchanged with that class.

    With z the points of AdamW without momentum, t from 1 and w_t = lr_max^p t^r, c = w_t / sum(w):
        y = (1 - b1) z + b1 x;  z = z - lr (g / (sqrt(v) + eps) + wd y);  x = (1 - c) x + c z
    The package's warmup_steps are left out: effbench's schedules warm up, and the weights follow the learning rate.
    State: 8 bytes a parameter (`z`, `exp_avg_sq`) in float32. A step overwrites the gradients.

    Args:
        params: parameters, or groups that may set lr, betas, eps and weight_decay.
        lr: learning rate, >= 0.
        betas: two numbers: b1 in (0, 1), the share of the average in the training weights; b2 in [0, 1).
        eps: added to the denominator, > 0.
        weight_decay: decoupled decay of y, >= 0.
        r: power of t in the weights of the average, >= 0.
        weight_lr_power: power p of the largest learning rate so far in these weights, >= 0.
        foreach: update all parameters of a group by list operations.

    Raises:
        OptionError: a value is out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.0025,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        foreach: bool = True,
    ) -> None:
        numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "r": r}
        options = checked_options({**numbers, "weight_lr_power": weight_lr_power}, _CHECKS)
        super().__init__(params, **options, foreach=foreach)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fill in what a state without these entries lacks. load_state_dict calls it too."""
        super().__setstate__(state)
        # warmup_steps and foreach too: the package reads them in each step
        fill_in_options(self, ("eps", "r", "weight_lr_power", "warmup_steps", "foreach", *_PROGRESS))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(checked_options(param_group, _CHECKS))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; raise OptionError if it is another optimizer's."""
        # AdamW's state has exp_avg_sq but no z, the points without momentum: the average could not go on
        check_state(state_dict, ["z", "exp_avg_sq"], "schedule_free")
        super().load_state_dict(state_dict)

    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient; return the closure's loss, or None without a closure."""
        refuse_sparse(self.param_groups, "schedule_free")
        return super().step(closure)
