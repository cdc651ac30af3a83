"""Starting from weights that exist: loading a local file, freezing by pattern, training what is left."""

from __future__ import annotations

import difflib
import pickle
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from effbench.errors import ConfigError, DataError
from effbench.places import expanded

_SHOWN = 5  # keys or names listed in one message
_WRAPPERS = ("state_dict", "model", "model_state_dict")  # where training scripts put the weights in a file
_PREFIXES = ("module.", "_orig_mod.")  # left by DistributedDataParallel and torch.compile


@dataclass(frozen=True)
class Loaded:
    """tensors: how many came from the file. fresh: the head's keys that kept their new initialisation."""

    tensors: int
    fresh: tuple[str, ...]


def load_pretrained(model: nn.Module, path: str | Path) -> Loaded:
    """Copies the weights of a local .safetensors, .pt or .pth file into the model.

    The classifier head stays freshly initialised if the file has none or one for another number of
    classes. Raises DataError for a file that is missing, damaged or holds more than weights, and
    ConfigError, with up to 5 keys and both shapes, if anything else does not fit; the model is then
    partly loaded and not to be used.
    """
    path = expanded(path)
    state = _read(path)
    own = model.state_dict()
    fresh = _fresh_head_keys(model, own, state)
    shapes = _shape_mismatches(own, state, fresh)
    fitting = OrderedDict((key, value) for key, value in state.items() if key not in fresh | shapes.keys())
    # load_state_dict converts old layouts by this attribute; safetensors has no room for it.
    fitting._metadata = getattr(state, "_metadata", None) or own._metadata  # type: ignore[attr-defined]
    result = model.load_state_dict(fitting, strict=False)
    problems = list(shapes.values())
    problems += [
        f"{key}: file has none, model {_shape(own[key])}"
        for key in result.missing_keys
        if key not in fresh | shapes.keys()
    ]
    problems += [f"{key}: file {_shape(state[key])}, model has none" for key in result.unexpected_keys]
    _refuse(path, problems)
    return Loaded(len(fitting), tuple(sorted(fresh)))


def freeze(model: nn.Module, patterns: Sequence[str] | str) -> int:
    """Stops gradients for parameters whose names match a shell pattern ('features.*'); returns the scalars frozen.

    Raises ConfigError for a pattern that matches nothing and for patterns that match everything. Call it
    before the optimizer is built.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    named = dict(model.named_parameters())
    frozen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in named if fnmatchcase(name, pattern)}
        if not matched:
            raise ConfigError(_nothing_matches(pattern, list(named)))
        frozen |= matched
    if named and len(frozen) == len(named):
        raise ConfigError(f"model.freeze {patterns} freezes every parameter: nothing would be left to train.")
    for name in frozen:
        named[name].requires_grad_(False)
    return sum(named[name].numel() for name in frozen)


def set_train_mode(model: nn.Module) -> None:
    """model.train(), but a norm layer whose own parameters are all frozen stays in eval mode.

    Its running statistics belong to the frozen weights and must not drift. One without parameters of its
    own (affine=False) is trained as usual.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, _NormBase) and _is_frozen(module):
            module.eval()


def _is_frozen(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def _nothing_matches(pattern: str, names: list[str]) -> str:
    message = f"model.freeze pattern '{pattern}' matches none of the model's {len(names)} parameters."
    if any(name.startswith(f"{pattern}.") for name in names):
        return f"{message} For all that is below it write '{pattern}.*'."
    near = difflib.get_close_matches(pattern, names, n=_SHOWN, cutoff=0.3) or names[:_SHOWN]
    return f"{message} Near it: {', '.join(near)}."


def _read(path: Path) -> Mapping[str, Tensor]:
    """The file's tensors by name, on the CPU."""
    if not path.is_file():
        raise DataError(f"model.pretrained: there is no file '{path}'.")
    if path.suffix == ".safetensors":
        return _without_prefix(_read_safetensors(path))
    if path.suffix in (".pt", ".pth"):
        return _without_prefix(_weights_in(path, _read_pickle(path)))
    raise ConfigError(f"model.pretrained must be a .safetensors, .pt or .pth file; got '{path}'.")


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        tensors: Mapping[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"model.pretrained: '{path}' cannot be read as safetensors: {error}.") from error
    return tensors


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"model.pretrained: '{path}' holds more than weights (pickled code or objects), or is damaged; it was "
            "not run. Save model.state_dict() alone, best as .safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"model.pretrained: '{path}' is damaged or cut short: {reason}.") from error


def _weights_in(path: Path, content: Any) -> Mapping[str, Tensor]:
    """The state dict itself, or the one that a training script wrapped among other things."""
    for candidate in (content, *(content.get(key) for key in _WRAPPERS if isinstance(content, dict))):
        if isinstance(candidate, dict) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
            return candidate
    found = f"keys {list(content)[:_SHOWN]}" if isinstance(content, dict) else f"a {type(content).__name__}"
    raise DataError(f"model.pretrained: '{path}' must hold a state dict of tensors; found {found}.")


def _without_prefix(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            return {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def head_names(model: nn.Module) -> tuple[str, ...]:
    """The modules that map features to classes: timm's own record of it, else the last linear or convolution."""
    recorded = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    if recorded:
        return (recorded,) if isinstance(recorded, str) else tuple(recorded)
    weighted = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return tuple(weighted[-1:])


def _fresh_head_keys(model: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> set[str]:
    """The keys of each head that the file lacks altogether or has for another number of classes."""
    fresh: set[str] = set()
    for head in head_names(model):
        keys = {key for key in own if key.startswith(f"{head}.")}
        if not keys & state.keys() or _differ_in_classes(keys, own, state):
            fresh |= keys
    return fresh


def _differ_in_classes(keys: Iterable[str], own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    """Whether every tensor of the head differs in its first dimension, the classes, and in nothing else."""
    return all(
        key in state and own[key].shape[1:] == state[key].shape[1:] and own[key].shape[:1] != state[key].shape[:1]
        for key in keys
    )


def _shape_mismatches(own: Mapping[str, Tensor], state: Mapping[str, Tensor], fresh: set[str]) -> dict[str, str]:
    return {
        key: f"{key}: file {_shape(state[key])}, model {_shape(own[key])}"
        for key in own
        if key in state and key not in fresh and own[key].shape != state[key].shape
    }


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ConfigError(
            f"model.pretrained: '{path}' does not fit the model in {len(problems)} tensors: "
            f"{'; '.join(problems[:_SHOWN])}{more}. "
            "It must come from the same model with the same options, image size and channels."
        )
