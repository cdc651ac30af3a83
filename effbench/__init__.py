"""effbench trains model x optimizer pairings and measures what they cost.

compose(overrides) -> Config, train(config or overrides) -> Run, load_run(folder) -> Run. As the verbs with their names:
evaluate_run(folder, split) -> metrics, predict_files(folder, paths) -> answers, export_run(folder, format) -> record.
Importing effbench does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effbench import log as _log

if TYPE_CHECKING:
    from effbench.api import bench_run, compose, compress_run, evaluate_run, export_run, load_run, predict_files, train
    from effbench.config.schema import Config
    from effbench.errors import ConfigError, EffbenchError
    from effbench.run.run import Run
    from effbench.training.callbacks import Callback, Context

    __version__: str

__all__ = [
    "Callback",
    "Config",
    "ConfigError",
    "Context",
    "EffbenchError",
    "Run",
    "bench_run",
    "compose",
    "compress_run",
    "evaluate_run",
    "export_run",
    "load_run",
    "predict_files",
    "train",
]
# Where each public name is defined: it is imported when it is first used.
_HOMES = {
    "Callback": "effbench.training.callbacks",
    "Context": "effbench.training.callbacks",
    "Config": "effbench.config.schema",
    "ConfigError": "effbench.errors",
    "EffbenchError": "effbench.errors",
    "Run": "effbench.run.run",
    **dict.fromkeys(
        (
            "bench_run",
            "compose",
            "compress_run",
            "evaluate_run",
            "export_run",
            "load_run",
            "predict_files",
            "train",
        ),
        "effbench.api",
    ),
}

_log.install()


def __getattr__(name: str) -> Any:
    import importlib  # here, as everything below: `import effbench` takes milliseconds, torch seconds

    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "optimizers":
        return importlib.import_module("effbench.optimizers")
    if name == "__version__":
        from importlib.metadata import version

        return version("effbench")
    raise AttributeError(f"module 'effbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "optimizers", "__version__"])
