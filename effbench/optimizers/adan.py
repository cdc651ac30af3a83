"""Adan (arXiv:2208.06677): the authors' update ('paper') and adan-pytorch's update ('package') in one class.

With t counted from 1 and d_1 = 0, the authors' update is
    d = g - g_prev                        m = b1 m + (1-b1) g
    v = b2 v + (1-b2) d                   n = b3 n + (1-b3) (g + b2 d)^2
    theta = (theta - lr (m/(1-b1^t) + b2 v/(1-b2^t)) / (sqrt(n/(1-b3^t)) + eps)) / (1 + lr wd)

adan-pytorch 0.1.0 differs in three points: its betas are 1 - beta, its first step applies weight decay only, and its
bias correction is one step late. At a constant gradient and lr 1 it moves by 0, 0.712, 0.823, ...; the authors' update
moves by 1, 1, 1.
"""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import adan_pytorch
import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from effbench.config.options import POSITIVE
from effbench.errors import OptionError, shown, unknown_name
from effbench.optimizers import fused
from effbench.optimizers.checks import (
    check_state,
    checked_betas,
    checked_lr,
    checked_number,
    checked_options,
    checked_weight_decay,
    closure_loss,
    current_lr,
    fill_in_options,
    refuse_sparse,
)
from effbench.optimizers.chunks import copy_all, update_in_chunks

VARIANTS = ("paper", "package")

_MOMENTS = ("prev_grad", "m", "v", "n")
_OPTIONS = ("lr", "betas", "eps", "weight_decay", "variant", "restart_cond", "maximize")  # of a group

# Unwrapped: torch adds hooks to the package's step when its class is first used; in our step they would run twice.
_package_step = inspect.unwrap(adan_pytorch.Adan.step)


class Adan(adan_pytorch.Adan):  # type: ignore[misc]
    """Adan; betas are always given as in the paper (b1, b2, b3), for both variants.

    A complex parameter is treated as two real ones, as in torch; 'package' refuses it. State: prev_grad, m, v and n,
    each with the parameter's shape and dtype (16 bytes a parameter in float32).

    Args:
        params: parameters, or groups that may set lr, betas, eps, weight_decay and maximize.
        lr: learning rate, >= 0; a tensor of one element stays a tensor, so a schedule can change it in place.
        betas: three numbers in [0, 1), near 1.
        eps: added to the denominator, > 0.
        weight_decay: proximal decay, >= 0: parameters are divided by 1 + lr * weight_decay.
        variant: 'paper' for the update above; 'package' for adan-pytorch's update, equal to the bit. The groups of
            'package' hold 1 - beta, and its state_dict can be exchanged with `adan_pytorch.Adan`.
        restart_cond: for 'package' only: predicate over one parameter's state. It is never part of a state_dict.
        maximize: maximize the objective instead of minimizing it.

    Raises:
        OptionError: a value is out of range, or betas are written as 1 - beta.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: Sequence[float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        variant: str = "paper",
        restart_cond: Callable[[dict[str, Any]], bool] | None = None,
        maximize: bool = False,
    ) -> None:
        if variant not in VARIANTS:
            raise OptionError(unknown_name("optimizer.variant", variant, VARIANTS))
        if restart_cond is not None and variant != "package":
            raise OptionError(
                f"optimizer.restart_cond must be null with variant 'paper'; got {shown(restart_cond)}. "
                "The authors' code has no restarts: set optimizer.variant=package."
            )
        given = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        whole = {"variant": variant, "restart_cond": restart_cond, "maximize": maximize}
        # not the constructor of the package, which has other options
        torch.optim.Optimizer.__init__(self, params, checked_options(given, _CHECKS[variant]) | whole)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fill in options that the package's checkpoints lack. load_state_dict calls it too."""
        super().__setstate__(state)
        fill_in_options(self, _OPTIONS)
        for group in self.param_groups:
            group["restart_cond"] = self.defaults["restart_cond"]  # a saved state holds no functions
        # the package counts in plain ints, 'paper' in tensors for foreach functions
        counted = int if self.defaults["variant"] == "package" else _counter
        for entry in self.state.values():
            if "step" in entry:
                entry["step"] = counted(entry["step"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(checked_options(param_group, _CHECKS[self.defaults["variant"]]))
        if self.defaults["variant"] == "package" and any(map(torch.is_complex, self.param_groups[-1]["params"])):
            # super() has appended it: remove it, so that the optimizer stays valid after the error
            self.param_groups.pop()
            raise OptionError(
                "optimizer.variant must be 'paper' for complex parameters; got 'package', whose square of a complex "
                "gradient is no second moment. Set optimizer.variant=paper."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state_dict without the restart predicate, so that torch.load(weights_only=True) reads it."""
        state = super().state_dict()
        for group in state["param_groups"]:
            group["restart_cond"] = None
        return dict(state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of the same variant.

        Raises:
            OptionError: the state is of another optimizer or of the other variant, where the numbers mean something
                else.
        """
        check_state(state_dict, ["step", *_MOMENTS], "adan")
        own = self.defaults["variant"]
        for group in state_dict["param_groups"]:
            saved = group.get("variant", "package")  # adan-pytorch writes no variant
            if saved != own:
                raise OptionError(
                    f"optimizer.variant must be '{saved}' to load this state; got '{own}'. "
                    f"Set optimizer.variant={saved}, or start without the optimizer's state."
                )
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the closure's loss, or None without a closure."""
        loss = closure_loss(closure)
        refuse_sparse(self.param_groups, "adan")
        if self.defaults["variant"] == "package":
            self._package_update()
        else:
            for group in self.param_groups:
                self._paper_update(group)
        return loss

    def _package_update(self) -> None:
        """Take the package's step, which has no `maximize`, and rounds otherwise for learning rates in tensors."""
        given = [group["lr"] for group in self.param_groups]
        ascending = [group for group in self.param_groups if group["maximize"]]
        negated = [fused.gradient_of(parameter) for group in ascending for parameter in _with_gradients(group)]
        for group in self.param_groups:
            group["lr"] = current_lr(group)
        for gradient in negated:
            gradient.neg_()
        try:
            _package_step(self)
        finally:
            # twice negated is unchanged to the bit: the caller may read its gradients after the step
            for gradient in negated:
                gradient.neg_()
            for group, lr in zip(self.param_groups, given, strict=True):
                group["lr"] = lr

    def _paper_update(self, group: dict[str, Any]) -> None:
        parameters, steps = _with_gradients(group), list[Tensor]()
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = _counter(0)
                for moment in _MOMENTS:
                    state[moment] = torch.zeros_like(parameter)
            if not isinstance(state["step"], Tensor):  # the user set it to a number
                state["step"] = _counter(state["step"])
            steps.append(state["step"])
        if steps:  # foreach functions refuse empty lists
            torch._foreach_add_(steps, 1)

        # t is counted per parameter, because one may be frozen at first. A pass updates all that have the same t, and
        # so the same bias corrections.
        by_step: defaultdict[float, list[Tensor]] = defaultdict(list)
        for parameter, step in zip(parameters, steps, strict=True):
            by_step[step.item()].append(parameter)
        settings = {name: group[name] for name in ("betas", "eps", "weight_decay", "maximize")}
        settings["lr"] = current_lr(group)
        for t, alike in by_step.items():
            entries = [self.state[parameter] for parameter in alike]
            states = [[entry[moment] for entry in entries] for moment in _MOMENTS]
            in_one_pass, others = fused.divide(alike, states)
            fused.adan(in_one_pass, t, **settings)
            update_in_chunks(others, partial(_update, t=t, **settings))


def _counter(step: float | Tensor) -> Tensor:
    """Return a step counter on the CPU: reading one on an accelerator would wait for the device."""
    return torch.tensor(float(step), dtype=torch.float32, device="cpu")


def _with_gradients(group: dict[str, Any]) -> list[Tensor]:
    return [parameter for parameter in group["params"] if parameter.grad is not None]


def _update(
    columns: list[list[Tensor]],
    t: float,
    lr: float,
    betas: Sequence[float],
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    """Apply the authors' update in place; prev_grad becomes the gradients. All tensors share device and dtype.

    columns: parameters, gradients, prev_grad, m, v and n.
    """
    parameters, gradients, prev_grad, m, v, n = columns
    b1, b2, b3 = betas
    if maximize:
        gradients = list(torch._foreach_neg(gradients))
    if t == 1:
        copy_all(prev_grad, gradients)  # d_1 = 0
    difference = prev_grad  # reuses its memory until the new gradients are copied in
    torch._foreach_neg_(difference)
    torch._foreach_add_(difference, gradients)

    # lerp is one pass over memory; mul_ and add_ are two
    torch._foreach_lerp_(m, gradients, 1 - b1)
    torch._foreach_lerp_(v, difference, 1 - b2)
    torch._foreach_mul_(difference, b2)
    torch._foreach_add_(difference, gradients)
    torch._foreach_mul_(n, b3)
    torch._foreach_addcmul_(n, difference, difference, value=1 - b3)
    copy_all(prev_grad, gradients)

    # eps is added after the bias correction, as by the authors
    denominator = torch._foreach_sqrt(n)
    torch._foreach_div_(denominator, math.sqrt(1 - b3**t))
    torch._foreach_add_(denominator, eps)
    numerator = torch._foreach_div(m, 1 - b1**t)
    torch._foreach_add_(numerator, v, alpha=b2 / (1 - b2**t))
    torch._foreach_addcdiv_(parameters, numerator, denominator, value=-lr)
    torch._foreach_div_(parameters, 1 + lr * weight_decay)


def _checked_betas(betas: Sequence[float], variant: str) -> tuple[float, ...]:
    """Return the betas as the variant's groups hold them: the paper's, or adan-pytorch's 1 - beta."""
    paper = checked_betas(betas, 3, "The authors' are [0.98, 0.92, 0.99].")
    # all: a single small beta may be meant
    if all(beta < 0.5 for beta in paper):
        raise OptionError(
            f"optimizer.betas must be in the paper's convention, near 1; got {list(betas)}, which look like "
            f"adan-pytorch's 1 - beta. Write {[round(1 - beta, 12) for beta in paper]}."
        )
    if variant == "paper":
        return paper
    return tuple(round(1 - beta, 12) for beta in paper)  # 1 - 0.98 is 0.020000000000000018, the package has 0.02


# Checks of options, by variant.
_CHECKS: dict[str, dict[str, Callable[[Any], Any]]] = {
    variant: {
        "lr": partial(checked_lr, remedy="The authors' default is 1e-3."),
        "betas": partial(_checked_betas, variant=variant),
        "eps": partial(
            checked_number,
            key="eps",
            rule=POSITIVE,
            remedy="The authors' is 1e-8; a parameter without gradient divides by it.",
        ),
        "weight_decay": checked_weight_decay,
    }
    for variant in VARIANTS
}
