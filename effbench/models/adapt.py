"""Existing weights: load a local file, freeze parameters by pattern, set the train mode of the rest."""

from __future__ import annotations

import difflib
import re
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from effbench.errors import ConfigError
from effbench.models.weight_files import named_as, read_weights_file

_SHOWN = 5  # keys or names listed in one message
_COUNTER = ".num_batches_tracked"  # of batch norm, which only momentum=None reads
_AUXILIARY = re.compile(r"^aux", re.IGNORECASE)  # GoogLeNet's aux1, Inception's AuxLogits: used in training only


@dataclass(frozen=True)
class Loaded:
    """What was loaded into a model.

    Attributes:
        tensors: number of tensors taken from the file.
        fresh: keys of the head that keep their new initialisation.
        left_out: auxiliary heads of the file that the model does not have.
        source: the file or checkpoint.
    """

    tensors: int
    fresh: tuple[str, ...]
    left_out: tuple[str, ...]
    source: str

    def __str__(self) -> str:
        text = f"{self.tensors} tensors of {self.source}"
        text += f"; newly initialised: {', '.join(self.fresh)}" if self.fresh else ""
        return text + (f"; left out, auxiliary heads: {', '.join(self.left_out)}" if self.left_out else "")


def load_pretrained(model: nn.Module, path: str | Path) -> Loaded:
    """Load weights from a local .safetensors, .pt or .pth file, as `load_state` does.

    Raises:
        DataError: the file is missing, damaged or holds more than weights.
        ConfigError: the weights do not fit the model.
    """
    return load_state(model, read_weights_file(Path(path)), str(path))


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> Loaded:
    """Copy weights into the model; prefixes of wrappers such as DDP are removed from their names.

    The classifier head keeps its new initialisation if the weights have no head, or one for another number of classes.

    Args:
        model: the model. After a ConfigError it is partly loaded: do not use it.
        state: name -> tensor.
        source: where the weights come from, for messages.

    Raises:
        ConfigError: any other tensor does not fit; the message lists up to 5 keys with both shapes.
    """
    own = model.state_dict()
    state = named_as(state, own)
    parts = {key.partition(".")[0] for key in own}
    left_out = {key for key in state if _AUXILIARY.match(key) and key.partition(".")[0] not in parts}
    state = _without(state, left_out)
    fresh = _fresh_head_keys(model, own, state)
    # not left to load_state_dict, whose RuntimeError lists every key in lines of its own
    shapes = {
        key: f"{key}: file {tuple(state[key].shape)}, model {tuple(own[key].shape)}"
        for key in own
        if key in state and key not in fresh and own[key].shape != state[key].shape
    }
    fitting = _without(state, fresh | shapes.keys())
    # before load_state_dict, which would accept these values
    _refuse(source, list(_bad_values(own, fitting)))

    # load_state_dict uses this attribute to convert old layouts; safetensors files do not hold it.
    fitting._metadata = getattr(state, "_metadata", None) or own._metadata  # type: ignore[attr-defined]
    result = model.load_state_dict(fitting, strict=False)
    problems = list(shapes.values())
    problems += [
        f"{key}: file has none, model {tuple(own[key].shape)}"
        for key in result.missing_keys
        if key not in fresh | shapes.keys() and not key.endswith(_COUNTER)  # files from before 2018 lack it
    ]
    problems += [f"{key}: file {tuple(state[key].shape)}, model has none" for key in result.unexpected_keys]
    _refuse(source, problems)
    heads = sorted({key.partition(".")[0] for key in left_out})
    return Loaded(len(fitting), tuple(sorted(fresh)), tuple(heads), source)


def _fresh_head_keys(model: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> set[str]:
    """Return the keys of each head that the file does not have, or has for another number of classes."""
    fresh: set[str] = set()
    for head in head_names(model):
        keys = {key for key in own if key.startswith(f"{head}.")}
        # every tensor differs in its first dimension, the classes, and in nothing else: another width is an error
        other_classes = all(
            key in state and own[key].shape[1:] == state[key].shape[1:] and own[key].shape[:1] != state[key].shape[:1]
            for key in keys
        )
        if other_classes or not keys & state.keys():
            fresh |= keys
    return fresh


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the output layers: the model's or timm's record, else the last linear layer or convolution.

    A model records them in `head_layers`, such as an embedding that is also the output layer.
    """
    if own := getattr(model, "head_layers", None):
        return tuple(own)
    # timm records several for models with a second, distilled head
    recorded = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    if recorded:
        return (recorded,) if isinstance(recorded, str) else tuple(recorded)
    # a convolution: SqueezeNet's head is a 1 x 1 convolution
    weighted = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return tuple(weighted[-1:])


def _bad_values(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield quantised weights, which need their scales, and weights that are not finite."""
    for key, value in state.items():
        if key in own and own[key].is_floating_point():
            if not value.is_floating_point():
                yield f"{key}: file {str(value.dtype).removeprefix('torch.')}, model {own[key].dtype}"
            # as float32: isfinite is missing for float8
            elif not value.float().isfinite().all():
                yield f"{key}: file holds values that are not finite"


def _without(state: Mapping[str, Tensor], keys: Collection[str]) -> OrderedDict[str, Tensor]:
    """Return the state without these keys, but with its record of layouts."""
    kept = OrderedDict((key, value) for key, value in state.items() if key not in keys)
    kept._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]
    return kept


def _refuse(source: str, problems: list[str]) -> None:
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ConfigError(
            f"model.pretrained: '{source}' does not fit the model in {len(problems)} tensors: "
            f"{'; '.join(problems[:_SHOWN])}{more}. "
            "It must come from the same model with the same options, image size and channels."
        )


def freeze(model: nn.Module, patterns: Sequence[str] | str) -> int:
    """Stop gradients of the parameters whose names match a shell pattern, such as 'features.*'.

    Call it before the optimizer is built.

    Returns:
        The number of frozen scalars.

    Raises:
        ConfigError: a pattern matches nothing, or the patterns match everything.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    named = dict(model.named_parameters())
    frozen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in named if fnmatchcase(name, pattern)}
        if not matched:
            message = f"model.freeze pattern '{pattern}' matches none of the model's {len(named)} parameters."
            if any(name.startswith(f"{pattern}.") for name in named):
                raise ConfigError(f"{message} For all parameters below it write '{pattern}.*'.")
            near = difflib.get_close_matches(pattern, named, n=_SHOWN, cutoff=0.3) or list(named)[:_SHOWN]
            raise ConfigError(f"{message} Near it: {', '.join(near)}.")
        frozen |= matched
    # a model without parameters is refused elsewhere, by the optimizer's groups
    if named and len(frozen) == len(named):
        raise ConfigError(f"model.freeze {patterns} freezes every parameter: nothing would be left to train.")
    for name in frozen:
        named[name].requires_grad_(False)
    return sum(named[name].numel() for name in frozen)


def set_train_mode(model: nn.Module) -> None:
    """Call model.train(), but leave norm layers in eval mode if all their own parameters are frozen.

    The running statistics of such a layer belong to the frozen weights and must not change. A norm layer without
    parameters (affine=False) is trained as usual.
    """
    model.train()
    for module in model.modules():
        # _NormBase: batch and instance norm; layer norm has no running statistics
        if isinstance(module, _NormBase) and is_frozen(module):
            module.eval()


def is_frozen(module: nn.Module) -> bool:
    """Return True if the module has parameters and none of them is trained."""
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)
