"""Build the optimizer, and check which parameters it accepts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from effbench.builders.factories import construct
from effbench.config.options import BOOL, FRACTION_BELOW_1, NON_NEGATIVE, Rule
from effbench.config.schema import Config
from effbench.errors import ConfigError, EffbenchError
from effbench.models.adapt import head_names
from effbench.optimizers.groups import parameter_groups
from effbench.target_allowlist import resolve
from effbench.training.ema import averages_itself

# Torch's own messages about these options name no key and no remedy. It also accepts a momentum of 1 or more, which
# never decays, and an alpha above 1, with which RMSprop's mean of squares becomes negative.
_MOMENTUM = (FRACTION_BELOW_1, "0.9 is usual; 0 turns it off.")
_OPTIONS_OF_TORCH: dict[type[Optimizer], dict[str, tuple[Rule[float], str]]] = {
    torch.optim.SGD: {"momentum": _MOMENTUM, "dampening": (FRACTION_BELOW_1, "0 is torch's default.")},
    torch.optim.RMSprop: {"momentum": _MOMENTUM, "alpha": (FRACTION_BELOW_1, "0.99 is torch's default.")},
    torch.optim.NAdam: {"momentum_decay": (NON_NEGATIVE, "0.004 is torch's default.")},
}


def optimizer(config: Config, built: nn.Module) -> Optimizer:
    """Build the optimizer over the model's parameter groups.

    A class with a static method divide_groups(groups, model, heads) divides them further, as Muon does.
    """
    check_shapes(config, built)
    return _optimizer_over(_groups(config, built), config)


def _groups(config: Config, built: nn.Module) -> list[dict[str, Any]]:
    section = config.optimizer
    groups = parameter_groups(built, section.lr, section.weight_decay, section.no_decay, section.group_lr)
    divide_groups = getattr(_class_of(config), "divide_groups", None)
    return groups if divide_groups is None else list(divide_groups(groups, built, head_names(built)))


def check_shapes(config: Config, built: nn.Module) -> None:
    """Refuse a model without the parameters that the optimizer is for, or with some that it cannot update."""
    _groups(config, built)
    if takes_vectors(config):
        return
    # One trial step for each number of dimensions; 2 is tried anyway, to tell a matrix optimizer from a broken one.
    named = {name: parameter for name, parameter in built.named_parameters() if parameter.requires_grad}
    taken = {dims: trial_step(config, dims) is None for dims in {parameter.ndim for parameter in named.values()} | {2}}
    refused = [f"{name} {tuple(p.shape)}" for name, p in named.items() if not taken[p.ndim]]
    if taken[2] and refused:
        raise ConfigError(
            f"optimizer._target_ {config.optimizer.target!r} takes parameters of "
            f"{' and '.join(str(dims) for dims in sorted(taken) if taken[dims])} dimensions only, and {len(refused)} "
            f"of the {len(named)} that the model trains have others: {', '.join(refused[:3])}"
            f"{', …' if len(refused) > 3 else ''}. Freeze those (model.freeze=[PATTERN]), use a model without them, or "
            "an optimizer of all shapes, such as optimizer=adamw."
        )


def takes_vectors(config: Config) -> bool:
    """Return False for an optimizer that accepts matrices only, such as torch.optim.Muon."""
    return trial_step(config, dims=1) is None


def trial_step(config: Config, dims: int) -> ConfigError | None:
    """Try one step of the optimizer over a parameter with `dims` dimensions; return the error, or None."""
    # A real step, because some classes check their options and shapes only there.
    parameter = nn.Parameter(torch.zeros((1,) if dims == 1 else (2,) * dims))
    parameter.grad = torch.zeros_like(parameter)
    try:
        trial = _optimizer_over([parameter], config)
        if averages_itself(trial):
            refuse_two_averages(config)
            trial.train()  # type: ignore[attr-defined]  # schedulefree's classes refuse a step before it
        trial.step()
    except ConfigError as error:
        return error
    except EffbenchError:
        raise
    except Exception as error:  # noqa: BLE001 - a user's class may raise anything
        return ConfigError(f"optimizer ({config.optimizer.target}) cannot step with its options: {error!r}.")
    return None


def refuse_two_averages(config: Config) -> None:
    if config.ema.enabled:
        raise ConfigError(
            f"ema=on averages the weights, and so does {config.optimizer.target} (it has train() and eval()). "
            "Use ema=off with it."
        )


def _class_of(config: Config) -> type[Optimizer]:
    """Return the optimizer's class, if it fits the loop and the number of betas is right."""
    section, target = config.optimizer, config.optimizer.target
    kind = resolve("optimizer", target, config.allow_targets)
    if not (inspect.isclass(kind) and issubclass(kind, Optimizer)):
        raise ConfigError(f"optimizer._target_ {target!r} is not a torch.optim.Optimizer.")

    # The loop computes one gradient a step; LBFGS and SAM need several.
    closure = inspect.signature(kind.step).parameters.get("closure")
    if hasattr(kind, "first_step") or (closure is not None and closure.default is closure.empty):
        raise ConfigError(
            f"optimizer._target_ {target!r} does not fit the loop: a step of it takes the gradient more than once, by "
            "a closure, and the loop takes it once. Use one of conf/optimizer, such as optimizer=adamw, or another "
            "class of torch.optim."
        )
    # torch silently ignores surplus betas.
    word = inspect.signature(kind).parameters.get("betas")
    usual = word.default if word else None
    if section.betas is not None and isinstance(usual, tuple) and len(section.betas) != len(usual):
        raise ConfigError(f"optimizer.betas must be {len(usual)} numbers for {target}; got {list(section.betas)}.")
    return kind


def _optimizer_over(params: Sequence[Any], config: Config) -> Optimizer:
    section, kind = config.optimizer, _class_of(config)
    _check_options(kind, section.options)
    return construct("optimizer", section.target, kind, {**section.options, "params": params})


def _check_options(kind: type[Optimizer], options: Mapping[str, Any]) -> None:
    """Refuse values that the class would accept without a word, or refuse in words that name no key."""
    for key, (rule, remedy) in _OPTIONS_OF_TORCH.get(kind, {}).items():
        if key in options:
            rule.check(options[key], f"optimizer.{key}", remedy=remedy)
    for key, word in inspect.signature(kind).parameters.items():
        # 3 and 'maybe' would count as true. None is allowed: with fused=None, torch chooses by itself.
        declared = word.annotation is bool or word.annotation in ("bool", "bool | None", bool | None)
        if declared and (value := options.get(key)) is not None:
            BOOL.check(value, f"optimizer.{key}")
    # torch refuses this too, but its message names no key.
    if kind is torch.optim.SGD and options.get("nesterov"):
        momentum, dampening = options.get("momentum", 0), options.get("dampening", 0)
        if momentum == 0 or dampening != 0:
            raise ConfigError(
                f"optimizer.nesterov=true takes a momentum above 0 without dampening; got optimizer.momentum={momentum}"
                f"{f', optimizer.dampening={dampening}' if dampening else ''}. Write optimizer.nesterov=false too."
            )
