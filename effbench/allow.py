"""Which names a `_target_` may hold: an allowlist, because a blocklist is no boundary.

The name is resolved without calling anything, and what it *is* decides: its own module must be allowed, so an alias
such as `torchvision.models.os.system` is judged as `os.system`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from effbench.errors import ConfigError

MODULES = {
    "model": ("effbench.models", "torchvision.models", "timm.models"),
    "optimizer": ("effbench.optimizers", "torch.optim", "timm.optim"),
    "scheduler": ("effbench.schedulers", "torch.optim.lr_scheduler"),
    "data": ("effbench.data",),
}


def resolve(group: str, target: str, allow_targets: Sequence[str] = ()) -> Callable[..., Any]:
    """The class or function that `target` names, not called. Raises ConfigError where it is not allowed."""
    allowed = (*MODULES[group], *allow_targets)
    if not _inside(target, allowed):
        raise ConfigError(_refusal(group, target, allowed))
    found = _look_up(group, target)
    home = getattr(found, "__module__", None) or ""
    private = target.rpartition(".")[2].startswith("_")
    kind = inspect.isclass(found) or inspect.isfunction(found)
    if not kind or private or not _inside(home, allowed) or _is_helper(found, home):
        raise ConfigError(_refusal(group, target, allowed))
    return found  # type: ignore[no-any-return]


def _is_helper(found: Any, home: str) -> bool:
    """Whether it is a function of torchvision or timm that builds no model: some of them unpickle files."""
    library, name = home.partition(".")[0], found.__name__
    if library == "torchvision" and inspect.isfunction(found):
        from torchvision.models import get_model_builder, list_models

        return name not in list_models() or get_model_builder(name) is not found
    if library == "timm" and inspect.isfunction(found):
        from timm.models import is_model, model_entrypoint

        return not is_model(name) or model_entrypoint(name) is not found
    return False


def _inside(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _look_up(group: str, target: str) -> Any:
    """Imports the longest prefix that is a module, then follows attributes."""
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError as error:
            if error.name and ".".join(parts[:cut]).startswith(error.name):
                continue
            raise ConfigError(f"{group}._target_ {target!r} cannot be imported: {error}.") from error
        except Exception as error:  # a module may do anything when it is imported
            raise ConfigError(f"{group}._target_ {target!r} cannot be imported: {error!r}.") from error
        for part in parts[cut:]:
            if not hasattr(found, part):
                raise ConfigError(f"{group}._target_ {target!r} does not exist: {found.__name__} has no {part!r}.")
            found = getattr(found, part)
        return found
    raise ConfigError(f"{group}._target_ {target!r} does not exist.")


def _refusal(group: str, target: str, allowed: Sequence[str]) -> str:
    return (
        f"{group}._target_ {target!r} is not allowed. Allowed is what these modules define: {', '.join(allowed)}. "
        "To use a module of your own, name it in allow_targets=[your.module]."
    )
