"""The checks that Lion and Adan share: every message names the key, the rule, the value and the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, SupportsFloat

import torch
from torch import Tensor

from effbench.errors import ConfigError

_LAYOUT = attrgetter("layout")


def checked_number(value: SupportsFloat, key: str, rule: str, holds: Callable[[float], bool], remedy: str) -> float:
    """`value` as a plain float, which every checkpoint can hold; ConfigError unless finite and `holds`."""
    number = math.nan if isinstance(value, bool | str) else _as_float(value)
    if not (math.isfinite(number) and holds(number)):
        raise ConfigError(f"optimizer.{key} must be {rule}; got {value!r}. {remedy}")
    return number


def checked_betas(betas: Sequence[float], count: int, remedy: str) -> tuple[float, ...]:
    """`count` floats in [0, 1), or a ConfigError."""
    rule = f"{count} numbers in [0, 1)"
    if isinstance(betas, str) or not isinstance(betas, Iterable) or len(list(betas)) != count:
        raise ConfigError(f"optimizer.betas must be {rule}; got {betas!r}. {remedy}")
    shown = f"each beta of {rule}, in betas {list(betas)}"
    return tuple(checked_number(beta, "betas", shown, lambda b: 0 <= b < 1, remedy) for beta in betas)


def checked_lr(lr: SupportsFloat, remedy: str) -> float:
    """Zero is allowed: a schedule may start or end there."""
    return checked_number(lr, "lr", "a number >= 0", lambda x: x >= 0, remedy)


def checked_weight_decay(weight_decay: SupportsFloat) -> float:
    remedy = "Decay shrinks the weights by lr x weight_decay a step; 0.01 is common, 0 turns it off."
    return checked_number(weight_decay, "weight_decay", "a number >= 0", lambda x: x >= 0, remedy)


def closure_loss(closure: Callable[[], Any] | None) -> Any:
    """What the closure returns, with gradients enabled as torch's own optimizers do; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def refuse_sparse(parameters: Sequence[Tensor], optimizer: str) -> None:
    """Of parameters that have gradients."""
    gradients = [parameter.grad for parameter in parameters]
    if set(map(_LAYOUT, gradients)) <= {torch.strided}:
        return
    sparse = next(gradient for gradient in gradients if gradient is not None and gradient.layout is not torch.strided)
    raise ConfigError(
        f"optimizer {optimizer} needs dense gradients; got a sparse one of shape {tuple(sparse.shape)}. "
        "Build the nn.Embedding with sparse=False."
    )


def _as_float(value: SupportsFloat) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
