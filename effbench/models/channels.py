"""The channel plan of a pruned model: which sizes differ from those that its config gives.

Pruning removes channels, so the shapes of a pruned model no longer follow from its config. The plan names them, as
plain values that fit in JSON. The config's model and the plan give the pruned model's shapes back; its weights are then
loaded as any model's.

    {"layer1.0.conv1": {"out_channels": 32, "weight": [32, 64, 3, 3]}, ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from effbench.errors import ConfigError, shown

# Sizes that torch's layers keep beside their tensors.
SIZES = (
    "in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "normalized_shape",
    "num_channels", "num_parameters",
)  # fmt: skip

ChannelPlan = Mapping[str, Mapping[str, int | list[int]]]  # module -> attribute -> size, or shape of a tensor


def plan_of(model: nn.Module, pruned: nn.Module) -> dict[str, dict[str, int | list[int]]]:
    """Return the sizes in which `pruned` differs from `model`, which its config gives."""
    own = {name: _sizes(module) for name, module in model.named_modules()}
    return {
        name: changed
        for name, module in pruned.named_modules()
        if (changed := {key: value for key, value in _sizes(module).items() if own[name].get(key) != value})
    }


def apply_plan(model: nn.Module, plan: Mapping[str, Any], source: str) -> None:
    """Give a model the sizes of the plan, in place. Its weights are then those of the first channels: load others.

    Args:
        model: as its config gives it.
        plan: of `plan_of`; it may be a stranger's.
        source: the file that holds the plan, for messages.

    Raises:
        ConfigError: the plan does not fit the model. Sizes only get smaller, so that no plan takes the memory.
    """
    modules = dict(model.named_modules())
    for name, changes in plan.items():
        if name not in modules:
            raise ConfigError(f"{source} does not fit the model of the config, which has no layer {shown(name)}.")
        if not isinstance(changes, dict):
            raise ConfigError(
                f"{source} does not fit the model of the config: channels.{name} must be a mapping of sizes; got "
                f"{shown(changes)}."
            )
        module = modules[name]
        sizes = _sizes(module)
        for key, value in changes.items():
            if key not in sizes or not _fits(value, sizes[key]):
                raise ConfigError(
                    f"{source} does not fit the model of the config: channels.{name}.{key} is {shown(value)}; the "
                    f"model's is {shown(sizes.get(key))}, and a pruned one is smaller."
                )
            _resize(module, key, value)


def _sizes(module: nn.Module) -> dict[str, int | list[int]]:
    """Return the sizes of a layer and the shapes of its own tensors."""
    found: dict[str, int | list[int]] = {key: list(tensor.shape) for key, tensor in _tensors(module).items()}
    for key in SIZES:
        value = getattr(module, key, None)
        if isinstance(value, tuple | list) and all(isinstance(item, int) for item in value):
            found[key] = list(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            found[key] = value
    return found


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}


def _fits(value: Any, own: int | list[int]) -> bool:
    """Return whether a size is of the same form as the model's, at least 1 and not larger."""
    if isinstance(own, list):
        return isinstance(value, list) and len(value) == len(own) and all(map(_fits, value, own))
    return type(value) is int and 1 <= value <= own


def _resize(module: nn.Module, key: str, value: int | list[int]) -> None:
    tensor = _tensors(module).get(key)
    if tensor is None:
        own = getattr(module, key)
        setattr(module, key, tuple(value) if isinstance(own, tuple) and isinstance(value, list) else value)
        return
    assert isinstance(value, list)
    part = tensor.detach()[tuple(slice(size) for size in value)].clone(memory_format=torch.contiguous_format)
    trained = isinstance(tensor, nn.Parameter)
    setattr(module, key, nn.Parameter(part, requires_grad=tensor.requires_grad) if trained else part)
