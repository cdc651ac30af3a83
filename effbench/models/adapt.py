"""Starting from weights that exist: loading a local file, freezing by pattern, training what is left."""

from __future__ import annotations

import difflib
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from effbench.errors import ConfigError
from effbench.models.weight_files import named_as, read_weights_file

_SHOWN = 5  # keys or names listed in one message


_COUNTER = ".num_batches_tracked"
_AUXILIARY = re.compile(r"^aux", re.IGNORECASE)  # GoogLeNet's aux1, Inception's AuxLogits: for training alone


@dataclass(frozen=True)
class Loaded:
    """tensors: how many came from the file. fresh: the head's keys that kept their new initialisation.

    left_out: auxiliary heads of the file that the model does without. source: the file or checkpoint.
    """

    tensors: int
    fresh: tuple[str, ...]
    left_out: tuple[str, ...]
    source: str

    def __str__(self) -> str:
        text = f"{self.tensors} tensors of {self.source}"
        text += f"; freshly drawn: {', '.join(self.fresh)}" if self.fresh else ""
        return text + (f"; left out, auxiliary heads: {', '.join(self.left_out)}" if self.left_out else "")


def load_pretrained(model: nn.Module, path: str | Path) -> Loaded:
    """`load_state` of a local .safetensors, .pt or .pth file.

    Raises DataError for a file that is missing, damaged or holds more than weights.
    """
    return load_state(model, read_weights_file(Path(path)), str(path))


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> Loaded:
    """Copies weights into the model, whatever wrapped it when they were saved.

    source: where they are from, for messages. The classifier head stays freshly initialised if they have none or one
    for another number of classes. Raises ConfigError, with up to 5 keys and both shapes, if anything else does not
    fit; the model is then partly loaded and not to be used.
    """
    own = model.state_dict()
    state = named_as(state, own)
    left_out = _auxiliary_heads(own, state)
    state = _without(state, left_out)
    fresh = _fresh_head_keys(model, own, state)
    shapes = _shape_mismatches(own, state, fresh)
    fitting = _without(state, fresh | shapes.keys())
    _refuse(source, list(_bad_values(own, fitting)))
    # load_state_dict converts old layouts by this attribute; safetensors has no room for it.
    fitting._metadata = getattr(state, "_metadata", None) or own._metadata  # type: ignore[attr-defined]
    result = model.load_state_dict(fitting, strict=False)
    problems = list(shapes.values())
    problems += [
        f"{key}: file has none, model {_shape(own[key])}"
        for key in result.missing_keys
        if key not in fresh | shapes.keys() and not key.endswith(_COUNTER)  # which batch norms of before 2018 lack
    ]
    problems += [f"{key}: file {_shape(state[key])}, model has none" for key in result.unexpected_keys]
    _refuse(source, problems)
    heads = sorted({key.partition(".")[0] for key in left_out})
    return Loaded(len(fitting), tuple(sorted(fresh)), tuple(heads), source)


def _bad_values(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    """Quantised weights, which are nothing without their scales, and those of a run that diverged."""
    for key, value in state.items():
        if key in own and own[key].is_floating_point():
            if not value.is_floating_point():
                yield f"{key}: file {str(value.dtype).removeprefix('torch.')}, model {own[key].dtype}"
            elif not value.float().isfinite().all():
                yield f"{key}: file holds values that are not finite"


def _auxiliary_heads(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> set[str]:
    parts = {key.partition(".")[0] for key in own}
    return {key for key in state if _AUXILIARY.match(key) and key.partition(".")[0] not in parts}


def _without(state: Mapping[str, Tensor], keys: Collection[str]) -> OrderedDict[str, Tensor]:
    kept = OrderedDict((key, value) for key, value in state.items() if key not in keys)
    kept._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]
    return kept


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
        if isinstance(module, _NormBase) and is_frozen(module):
            module.eval()


def is_frozen(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def _nothing_matches(pattern: str, names: list[str]) -> str:
    message = f"model.freeze pattern '{pattern}' matches none of the model's {len(names)} parameters."
    if any(name.startswith(f"{pattern}.") for name in names):
        return f"{message} For all that is below it write '{pattern}.*'."
    near = difflib.get_close_matches(pattern, names, n=_SHOWN, cutoff=0.3) or names[:_SHOWN]
    return f"{message} Near it: {', '.join(near)}."


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


def _refuse(source: str, problems: list[str]) -> None:
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ConfigError(
            f"model.pretrained: '{source}' does not fit the model in {len(problems)} tensors: "
            f"{'; '.join(problems[:_SHOWN])}{more}. "
            "It must come from the same model with the same options, image size and channels."
        )
