"""effbench: which model, which optimizer, at what cost?

compose(overrides) -> Config, train(config) -> Run, load_run(folder) -> Run. Importing effbench imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effbench.commands.folders import load_run
    from effbench.commands.training import train
    from effbench.config.compose import compose

__all__ = ["compose", "load_run", "train"]
_HOMES = {
    "compose": "effbench.config.compose",
    "train": "effbench.commands.training",
    "load_run": "effbench.commands.folders",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "optimizers":
        return importlib.import_module("effbench.optimizers")
    raise AttributeError(f"module 'effbench' has no attribute {name!r}")
