"""The allowlist for `_target_`: which classes and functions a config may name.

`check_targets` checks names only, when the config is read and before anything is imported. `resolve` looks the object
up without calling it and checks the module that defines it, so an alias such as `torchvision.models.os.system` is
refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from effbench.errors import ConfigError, EffbenchError

# A * stands for one name: the folder of a modality.
MODULES = {
    "model": ("effbench.models", "torchvision.models", "timm.models"),
    "optimizer": ("effbench.optimizers", "torch.optim", "timm.optim"),
    "scheduler": ("effbench.schedulers", "torch.optim.lr_scheduler"),
    "data": ("effbench.data",),
    "augment": ("effbench.data.*.augment",),
    "task": ("effbench.tasks", "effbench.metrics"),
    "loss": ("effbench.tasks", "torch.nn.modules.loss"),
}
SHORT_NAMES = {"loss": ("torch.nn",)}  # as torch's documentation names them; the module that defines it still decides
SEVERAL = {"callbacks": ("effbench.callbacks",)}  # groups with several named objects, each with a _target_
_ALL = MODULES | SEVERAL
RESERVED = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")  # keys that make Hydra build an object
RUN_FILES = ("summary.json", "manifest.json", ".hydra")  # found in a run folder, which may be untrusted
MAX_NODES, MAX_DEPTH = 20_000, 30  # lists and mappings of a config

_beside: list[Path] = []  # each --config-dir and its parent


def is_own(target: str) -> bool:
    """Return True for a `_target_` in effbench itself."""
    return target.startswith("effbench.")


def look_beside(config_dir: Path) -> None:
    """Search modules of allow_targets also in `config_dir` and its parent, from now on."""
    folder = config_dir.resolve()
    _beside.extend(place for place in (folder, folder.parent) if place not in _beside)


def check_targets(content: Mapping[str, Any]) -> None:
    """Check a config by names only, before anything is imported.

    A `_target_` outside of its group's modules is refused, and so are nested keys that build objects.

    Args:
        content: the config as plain containers. Values of a wrong type are left to the schema.

    Raises:
        ConfigError: a name is not allowed.
    """
    # allow_targets comes from the command line or from Python: `recorded_config` empties that of a run's folder.
    mine = content.get("allow_targets")
    allow_targets = [name for name in mine if isinstance(name, str)] if isinstance(mine, list | tuple) else []
    # The parts that are built, by key: optimizer, callbacks.NAME.
    parts: dict[str, Any] = {group: content.get(group) for group in MODULES}
    for group in SEVERAL:
        section = content.get(group)
        parts |= {f"{group}.{name}": part for name, part in section.items()} if isinstance(section, Mapping) else {}
    for key, section in parts.items():
        target = section.get("_target_") if isinstance(section, Mapping) else None
        group = key.partition(".")[0]
        allowed = (*_ALL[group], *allow_targets)
        if isinstance(target, str) and not _may_be(target, (*allowed, *SHORT_NAMES.get(group, ()))):
            raise ConfigError(_refusal(key, target, allowed))

    # Anywhere else these keys would make Hydra build an object.
    for path in _reserved(content):
        depth = 3 if path[0] in SEVERAL else 2
        if path[0] in SEVERAL and path[1:] == ("_target_",):
            continue  # callbacks._target_: the schema's message names the right form
        if not (len(path) == depth and path[0] in _ALL and path[-1] == "_target_"):
            raise ConfigError(
                f"{'.'.join(path)} is not allowed: only {', '.join(MODULES)} and each of callbacks have a _target_, "
                "one each, and no option builds an object. Give the option a plain value."
            )


def _reserved(content: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the path of each key of RESERVED, at any depth.

    Raises ConfigError for a config that is endless or too large: YAML anchors can make one that contains itself, or
    that expands to billions of entries.
    """
    pending: list[tuple[tuple[str, ...], Any]] = [((), content)]
    for count, (path, value) in enumerate(iter(lambda: pending.pop() if pending else None, None)):
        if count > MAX_NODES or len(path) > MAX_DEPTH:
            raise ConfigError(f"{'.'.join(path[:3])} holds too much: {MAX_NODES} lists and {MAX_DEPTH} levels at most.")
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            here = (*path, str(key))
            if key in RESERVED:
                yield here
            if isinstance(item, Mapping | list | tuple):
                pending.append((here, item))


def _may_be(target: str, allowed: Sequence[str]) -> bool:
    """Return True if the name is public and below an allowed module."""
    # A name with a leading _ is no part of a library's interface: torch.optim._functional, or __globals__.
    return any(
        all(part.isidentifier() and not part.startswith("_") for part in target.split(".")[module.count(".") + 1 :])
        for module in allowed
        if _is_in(target, module) and target.count(".") > module.count(".")
    )


def _is_in(name: str, module: str) -> bool:
    """Return True if the dotted name is the module or below it."""
    parts, wanted = name.split("."), module.split(".")
    return len(parts) >= len(wanted) and all(own in ("*", part) for own, part in zip(wanted, parts, strict=False))


def resolve(group: str, target: str, allow_targets: Sequence[str] = ()) -> Callable[..., Any]:
    """Return the class or function that `target` names, without calling it.

    Args:
        group: config key with the _target_, such as 'optimizer' or 'callbacks.mine'; 'task.metrics' for a metric.
        target: the dotted name.
        allow_targets: the user's modules.

    Raises:
        ConfigError: it is not allowed, does not exist or cannot be imported.
    """
    usual = _ALL[group.partition(".")[0]]
    allowed = (*usual, *allow_targets)
    if not _may_be(target, (*allowed, *SHORT_NAMES.get(group, ()))):
        raise ConfigError(_refusal(group, target, allowed))
    if not _may_be(target, usual):
        _make_importable(target.partition(".")[0])
    found = _look_up(group, target)
    # The module that defines it decides, not the name under which it was found: torchvision.models.os is os.
    home = getattr(found, "__module__", None) or ""
    is_kind = inspect.isclass(found) or inspect.isfunction(found)
    is_inside = any(_is_in(home, module) for module in allowed)
    if not is_kind or not is_inside or _is_helper(found, home):
        raise ConfigError(_refusal(group, target, allowed))
    return found  # type: ignore[no-any-return]


def _is_helper(found: Any, home: str) -> bool:
    """Return True for a function of torchvision or timm that builds no model: some of them unpickle files."""
    library, name = home.partition(".")[0], found.__name__
    if library == "torchvision" and inspect.isfunction(found):
        from torchvision.models import get_model_builder, list_models

        # `is`: another function of a builder's name is no builder.
        return name not in list_models() or get_model_builder(name) is not found
    if library == "timm" and inspect.isfunction(found):
        from timm.models import is_model, model_entrypoint

        return not is_model(name) or model_entrypoint(name) is not found
    return False


def _make_importable(name: str) -> None:
    """Append the folder of a user's module to sys.path: near --config-dir, or the current folder.

    Only the user can name modules in allow_targets. Modules are never taken from a run folder.
    """
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return
    for folder in (*_beside, Path.cwd()):
        # The current folder may be a run's: whoever wrote that run must not choose what is imported.
        of_a_run = any((folder / file).exists() for file in RUN_FILES)
        if not of_a_run and PathFinder.find_spec(name, [str(folder)]) is not None:
            # Last, so that the folder hides no installed module.
            sys.path.append(str(folder))
            importlib.invalidate_caches()
            return


def _look_up(group: str, target: str) -> Any:
    """Import the longest prefix that is a module, then follow attributes."""
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError as error:
            # The prefix itself is no module: try a shorter one. A module that it imports may be missing, too.
            if error.name and ".".join(parts[:cut]).startswith(error.name):
                continue
            raise ConfigError(f"{_key(group)} {target!r} cannot be imported: {error}.") from error
        except EffbenchError:  # an extra is missing, which the message names
            raise
        except Exception as error:  # a module may do anything when it is imported
            raise ConfigError(f"{_key(group)} {target!r} cannot be imported: {error!r}.") from error
        for part in parts[cut:]:
            if not hasattr(found, part):
                raise ConfigError(f"{_key(group)} {target!r} does not exist: {found.__name__} has no {part!r}.")
            found = getattr(found, part)
        return found
    name = parts[0]
    raise ConfigError(
        f"{_key(group)} {target!r} does not exist: there is no module {name!r}. Put {name}.py into the current "
        "folder (with --config-dir also into that folder, or next to it), install it, or name its folder in PYTHONPATH."
    )


def _key(group: str) -> str:
    # a metric is named in a list, not in a _target_
    return group if group == "task.metrics" else f"{group}._target_"


def _refusal(group: str, target: str, allowed: Sequence[str]) -> str:
    return (
        f"{_key(group)} {target!r} is not allowed. Allowed is what these modules define: {', '.join(allowed)}. "
        "To use a module of your own, name it in allow_targets=[your.module]."
    )
