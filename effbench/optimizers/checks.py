"""Option checks shared by Lion, Adan and Muon. Each message names the key, the rule, the value and the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, SupportsFloat

import torch
from torch import Tensor

from effbench.config.options import FRACTION_BELOW_1, NON_NEGATIVE, Rule
from effbench.errors import GradientError, OptionError, shown

_LAYOUT = attrgetter("layout")  # for map: a loop over hundreds of parameters would cost more in every step


def checked_options(options: Mapping[str, Any], checks: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Return the options of a parameter group or the defaults, checked and as plain numbers.

    `checks` maps an option's name to its check; a group may set only some of them, and others that have no check.
    """
    return {name: checks[name](value) if name in checks else value for name, value in options.items()}


def fill_in_options(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> None:
    """Give parameter groups the defaults of the named options that they lack, as a loaded state's groups may."""
    for group in optimizer.param_groups:
        # Not all of optimizer.defaults: torch adds a name of its own there when it loads a state.
        for name in names:
            group.setdefault(name, optimizer.defaults[name])


def checked_number(value: SupportsFloat, key: str, rule: Rule[float], remedy: str, text: str = "") -> float:
    """Return `value` as a plain float, which every checkpoint can hold.

    Args:
        value: a number. A tensor is refused: a later change of the tensor would have no effect here.
        key: option name for the message: 'eps' is reported as optimizer.eps.
        rule: what it must be.
        remedy: last sentence of the message.
        text: the rule in words, if more exact than its own.

    Raises:
        OptionError: the value is not finite, or the rule does not hold.
    """
    number: Any = value
    if not isinstance(value, bool | str | Tensor):  # these would convert: True to 1, '1' to 1, a tensor to its value
        try:
            number = float(value)  # numpy's numbers and fractions, too
        except (TypeError, ValueError):
            number = math.nan  # no rule holds for it
    return rule.check(number if rule.holds(number) else value, f"optimizer.{key}", text, remedy)


def checked_betas(betas: Sequence[float], count: int, remedy: str) -> tuple[float, ...]:
    """Return the betas as floats.

    Args:
        betas: numbers in [0, 1).
        count: how many there must be.
        remedy: last sentence of the message.

    Raises:
        OptionError: another count, or a number outside of [0, 1).
    """
    rule = f"{count} numbers in [0, 1)"
    # a string is iterable, too: '0.9' would be three betas
    if isinstance(betas, str) or not isinstance(betas, Iterable) or len(list(betas)) != count:
        raise OptionError(f"optimizer.betas must be {rule}; got {shown(betas)}. {remedy}")
    words = f"each beta of {rule}, in betas {list(betas)}"
    return tuple(checked_number(beta, "betas", FRACTION_BELOW_1, remedy, words) for beta in betas)


def checked_lr(lr: SupportsFloat | Tensor, remedy: str) -> float | Tensor:
    """Return the learning rate as a float; a tensor is returned unchanged, because a schedule changes it in place.

    Zero is allowed: schedules may start or end there.
    """
    value = lr
    if isinstance(lr, Tensor):
        # a whole number would be cut off when a schedule changes it in place
        if lr.numel() != 1 or not lr.is_floating_point():
            raise OptionError(f"optimizer.lr must be a number, or a floating-point tensor of one; got {lr!r}. {remedy}")
        value = lr.item()
    number = checked_number(value, "lr", NON_NEGATIVE, remedy)
    return lr if isinstance(lr, Tensor) else number


def current_lr(group: dict[str, Any]) -> float:
    """Return the group's present learning rate as a float."""
    lr = group["lr"]
    # .item() waits for an accelerator; a learning rate in a tensor belongs on the CPU
    return float(lr.item() if isinstance(lr, Tensor) else lr)


def checked_weight_decay(weight_decay: SupportsFloat) -> float:
    """Return the weight decay as a float; raise OptionError for a negative one."""
    remedy = "Decay shrinks the weights by lr x weight_decay a step; 0.01 is common, 0 turns it off."
    return checked_number(weight_decay, "weight_decay", NON_NEGATIVE, remedy)


def closure_loss(closure: Callable[[], Any] | None) -> Any:
    """Call the closure with gradients enabled, as torch's optimizers do; return its result, or None."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def refuse_sparse(groups: Iterable[Mapping[str, Any]], optimizer: str) -> None:
    """Raise GradientError if a gradient of any group is sparse. Call it before a step changes the first group."""
    found = [parameter.grad for group in groups for parameter in group["params"]]
    gradients = [gradient for gradient in found if gradient is not None]
    if set(map(_LAYOUT, gradients)) <= {torch.strided}:
        return
    sparse = next(gradient for gradient in gradients if gradient.layout is not torch.strided)
    raise GradientError(
        f"optimizer {optimizer} needs dense gradients; got a sparse one of shape {tuple(sparse.shape)}. "
        "Build the nn.Embedding with sparse=False."
    )


def check_state(state_dict: dict[str, Any], names: Sequence[str], optimizer: str) -> None:
    """Refuse the state of another optimizer, which would fail only at the next step.

    Args:
        state_dict: the state to be loaded.
        names: entries that each parameter's state must have.
        optimizer: this optimizer's name, for the message.

    Raises:
        OptionError: an entry is missing.
    """
    # an empty entry belongs to a parameter without gradient so far
    for entry in state_dict["state"].values():
        if entry and (missing := [name for name in names if name not in entry]):
            raise OptionError(
                f"the state must be {optimizer}'s, with {', '.join(names)} for each parameter; got "
                f"{', '.join(map(str, entry))}, without {', '.join(missing)}. Load the state that this optimizer "
                "wrote, or start without one."
            )
