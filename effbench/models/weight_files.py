"""Weight files: find the state dict in a file, and give its tensors the names of the model."""

from __future__ import annotations

import logging
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from effbench.errors import ConfigError, DataError
from effbench.guarded import kind_of

log = logging.getLogger(__name__)

_SHOWN = 5  # keys listed in one message
_WEIGHTS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
_AVERAGED = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "params_ema")
_DEPTH = 4  # levels of nested containers
_PREFIXES = ("module.", "model.", "net.", "network.")  # left by DistributedDataParallel, AveragedModel, Lightning
_WRAPPERS = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
_BOOKKEEPING = ("n_averaged", "_ema_steps")  # counters in torch's AveragedModel and in effbench's average
# Names in torchvision's published DenseNet weights: norm.1 is norm1 today.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12](?:\..*)?)$")


def read_weights_file(path: Path) -> Mapping[str, Tensor]:
    """Return the state dict of a .safetensors, .pt or .pth file, on the CPU.

    If a file holds several, the first that is not an average is taken, and a message names the others.

    Raises:
        DataError: the file is missing or damaged, or holds no weights or more than weights.
        ConfigError: another file type.
    """
    if kind_of(path, "model.pretrained") != "a file":
        raise DataError(f"model.pretrained: there is no file '{path}'.")
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise ConfigError(
            f"model.pretrained must be a .safetensors, .pt or .pth file, or a run's folder; got '{path}'."
        )
    if path.suffix == ".safetensors":
        try:
            tensors: Mapping[str, Tensor] = load_file(path)
        except (SafetensorError, OSError) as error:
            raise DataError(f"model.pretrained: '{path}' cannot be read as safetensors: {error}.") from error
        return tensors
    try:
        # weights_only: a full unpickling may execute code of the file
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"model.pretrained: '{path}' holds more than weights (pickled code or objects), or is damaged; it was "
            "not run. Save model.state_dict() alone, best as .safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"model.pretrained: '{path}' is damaged or cut short: {reason}.") from error
    return _state_in(path, content)


def named_as(state: Mapping[str, Tensor], own: Collection[str]) -> Mapping[str, Tensor]:
    """Return the state with the model's names, without prefixes of wrappers and names of old layouts.

    Args:
        state: name -> tensor.
        own: names of the model. A prefix is removed only if more names fit then.
    """
    state = _renamed(state, lambda name: _OLD_DENSENET.sub(r"\1\2", _WRAPPERS.sub("", name).removeprefix(".")))
    # unless the model has a parameter of that name itself
    for name in _BOOKKEEPING:
        if name not in own:
            state.pop(name, None)
    names = frozenset(own)
    best, most = state, len(names & state.keys())
    # several, because wrappers are nested; the best so far, because a model may have a module named `model` itself
    while prefix := next((p for p in _PREFIXES if state and all(name.startswith(p) for name in state)), None):
        state = _renamed(state, lambda name, prefix=prefix: name.removeprefix(prefix))  # type: ignore[misc]
        if len(names & state.keys()) >= most:
            best, most = state, len(names & state.keys())
    return best


def _renamed(state: Mapping[str, Tensor], rename: Callable[[str], str]) -> OrderedDict[str, Tensor]:
    """Rename the tensors and the versions of module layouts, which load_state_dict uses to convert them."""
    named = OrderedDict((rename(name), tensor) for name, tensor in state.items())
    if len(named) != len(state):
        raise DataError("model.pretrained: two of the file's tensors have the same name without their wrappers' names.")
    versions = getattr(state, "_metadata", None)
    if versions:
        # its keys are modules, and prefixes end with a dot
        renamed = {rename(f"{module}.").rstrip("."): version for module, version in versions.items()}
        named._metadata = OrderedDict(renamed)  # type: ignore[attr-defined]
    return named


def _state_in(path: Path, content: Any) -> Mapping[str, Tensor]:
    """Return the state dict: the content, or the one that a training script saved among other things."""
    found = list(_states_in(content))
    if found:
        (place, state), *others = found
        if others:
            names = ", ".join(f"'{other}'" for other, _ in others)
            log.info(
                f"pretrained: {path} holds several sets of weights: '{place}' is used, not {names} (to use another, "
                "save it alone)"
            )
        return state
    what = f"keys {list(content)[:_SHOWN]}" if isinstance(content, dict) else f"a {type(content).__name__}"
    raise DataError(f"model.pretrained: '{path}' must hold a state dict of tensors; found {what}.")


def _states_in(content: Any, depth: int = _DEPTH, place: str = "") -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield (key with its parents, state dict) for each state dict; averages come last."""
    # a pickle may contain itself, so the depth is limited
    if not isinstance(content, dict) or not content or not depth:
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        yield place, content
        return
    # trained weights before averages: what is taken without being asked for is what was trained
    for key in (*_WEIGHTS, *_AVERAGED):
        yield from _states_in(content.get(key), depth - 1, f"{place}.{key}" if place else key)
