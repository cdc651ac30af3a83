"""Parameter groups: which parameters get weight decay, and at which learning rate.

A parameter is exempt from weight decay (`no_decay`) if one of these holds:
1. It has at most one dimension, or its name is `bias` or ends with `_bias`: biases, norm scales, gains.
2. It belongs to a normalisation module (a torch norm, or a class with `norm` in its name), whatever its shape.
3. Its name is one of EXEMPT_NAMES: tokens, position tables and scales, such as `class_token` and `pos_embedding`.
4. The model has a method `no_weight_decay()` (timm's convention) that returns its name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from effbench.config.options import NON_NEGATIVE
from effbench.errors import ConfigError, shown

EXEMPT_NAMES = frozenset(
    {
        *("class_token", "cls_token", "dist_token", "reg_token", "mask_token"),
        *("pos_embedding", "pos_embed", "relative_position_bias_table"),
        *("layer_scale", "logit_scale"),
    }
)
_Groups: TypeAlias = dict[tuple[str | None, bool], dict[str, Any]]
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    no_decay: bool = True,
    group_lr: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Divide the trainable parameters into groups for an optimizer.

    Args:
        model: the model.
        lr: base learning rate.
        weight_decay: for all parameters that are not exempt.
        no_decay: exempt biases, norms, tokens and position tables (rules at the top of this file).
        group_lr: shell pattern over parameter names -> factor on `lr`, such as {'backbone.*': 0.1}. The first pattern
            that matches a parameter wins.

    Returns:
        Groups {name, params, lr, weight_decay}, none empty: 'decay' and 'no_decay', then those of each pattern in the
            given order, such as 'backbone.decay'.

    Raises:
        ConfigError: a pattern has no effect, or the model has no trainable parameter.
    """
    factors = dict(group_lr or {})
    for pattern, factor in factors.items():
        if not NON_NEGATIVE.holds(factor):
            raise ConfigError(
                f"optimizer.group_lr must map a pattern to a factor >= 0 on lr; got {shown(pattern)}: {shown(factor)}. "
                "For a tenth of lr write 0.1."
            )
    # frozen parameters count, too: whether a pattern is idle must not depend on model.freeze
    names = [name for name, _ in model.named_parameters()]
    # fnmatchcase: fnmatch would ignore case on Windows
    pattern_of = {name: next((p for p in factors if fnmatchcase(name, p)), None) for name in names}
    for pattern in factors:
        if pattern not in pattern_of.values():
            raise ConfigError(_idle_pattern(pattern, names, pattern_of))

    # by identity: a shared parameter has several names, and comparing tensors compares their elements
    decayed = {id(parameter) for parameter in decayed_parameters(model, no_decay)}
    groups = _empty_groups(factors, lr, weight_decay)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[pattern_of[name], id(parameter) in decayed]["params"].append(parameter)
    filled = [group for group in groups.values() if group["params"]]
    if not filled:
        raise ConfigError("model must have a trainable parameter; got none. Unfreeze some of it.")
    return filled


def decayed_parameters(model: nn.Module, no_decay: bool = True) -> list[nn.Parameter]:
    """Return the trainable parameters that weight decay and the L1 penalty apply to.

    Args:
        model: the model.
        no_decay: exempt biases, norms, tokens and position tables (rules at the top of this file).
    """
    exempt = exempt_names(model) if no_decay else frozenset[str]()
    return [p for name, p in model.named_parameters() if p.requires_grad and name not in exempt]


def exempt_names(model: nn.Module) -> frozenset[str]:
    """Return the full names of the parameters that are exempt from weight decay (rules at the top of this file)."""
    names: set[str] = set()
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        # by name, for norms of other packages, such as timm's LayerNorm2d
        is_norm = isinstance(module, _NORMS) or "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            is_bias = name == "bias" or name.endswith("_bias")  # nn.MultiheadAttention has in_proj_bias
            if is_norm or is_bias or parameter.ndim <= 1 or name in EXEMPT_NAMES:
                names.add(prefix + name)
        # timm's models list names relative to the module
        if callable(said := getattr(module, "no_weight_decay", None)):
            names.update(prefix + name for name in said())
    return frozenset(names)


def _empty_groups(factors: Mapping[str, float], lr: float, weight_decay: float) -> _Groups:
    """Return all possible groups in their order; pattern None stands for the rest of the model."""
    stripped = [pattern.strip("*.") for pattern in factors]
    groups: _Groups = {}
    # empty ones are left out later: the order of the others must not depend on the model
    for pattern, factor in [(None, 1.0), *factors.items()]:
        prefix = ""
        if pattern:
            # 'backbone.*' becomes 'backbone', unless two patterns would get the same name: logs tell groups by it
            short = pattern.strip("*.")
            prefix = f"{short if short and stripped.count(short) == 1 else pattern}."
        common = {"lr": lr * factor}
        groups[pattern, True] = {"name": f"{prefix}decay", "params": [], "weight_decay": weight_decay, **common}
        groups[pattern, False] = {"name": f"{prefix}no_decay", "params": [], "weight_decay": 0.0, **common}
    return groups


def _idle_pattern(pattern: str, names: list[str], pattern_of: Mapping[str, str | None]) -> str:
    """Return the message for a pattern without effect: it matches nothing, or only what earlier patterns take."""
    rule = f"optimizer.group_lr must name parameters of the model; got {pattern!r}, "
    if shadowed := next((name for name in names if fnmatchcase(name, pattern)), None):
        return f"{rule}all of which earlier patterns take, such as {pattern_of[shadowed]!r}. Put it before them."
    # suggested are names, their modules, and the top-level modules, with all that is below
    modules = {name.rpartition(".")[0] + ".*" for name in names if "." in name}
    tops = {name.partition(".")[0] + ".*" for name in names if "." in name}
    near = difflib.get_close_matches(pattern, sorted({*names, *modules, *tops}), n=3, cutoff=0.5)
    hint = (
        f"Did you mean {' or '.join(map(repr, near))}?"
        if near
        else f"There is: {', '.join(sorted(tops))}. Write one of them, or leave the pattern out."
    )
    return f"{rule}which matches none. {hint}"
