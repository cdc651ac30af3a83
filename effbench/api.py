"""The Python API, for scripts and notebooks. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effbench.cache_dir import expanded
from effbench.config.arguments import check_list, check_path
from effbench.config.compose import compose
from effbench.errors import ConfigError
from effbench.run.evaluate import evaluate_run
from effbench.run.export import export_run
from effbench.run.load import load_run
from effbench.run.predict import predict_files

if TYPE_CHECKING:
    from effbench.config.schema import Config
    from effbench.run.run import Run
    from effbench.training.callbacks import Callback

__all__ = ["compose", "evaluate_run", "export_run", "load_run", "predict_files", "train"]


def train(
    config: Config | Sequence[str] = (),
    folder: Path | str | None = None,
    config_dir: Path | str | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train and return the run.

    Args:
        config: overrides, as on the command line, or a composed config. "resume=RUN" starts from RUN's overrides.
        folder: the run folder; None: outputs/<date>/<time>. Like the override hydra.run.dir=DIR, so "resume=auto"
            continues in it.
        config_dir: folder with your own groups, for overrides.
        callbacks: objects in addition to the config's callbacks. They are not recorded: a resumed run needs them again.

    Raises:
        ConfigError: the config cannot work; raised before training starts.
        EffbenchError: the run failed; its summary.json has status 'failed'.

    Example:
        train(["model=mlp", "optimizer=lion"]).summary["metrics"]
    """
    from effbench.config.schema import Config

    for name, path in (("folder", folder), ("config_dir", config_dir)):
        if path is not None:
            check_path(name, path)
    check_list("callbacks", callbacks, object, "a list of effbench.Callback objects")
    if not isinstance(config, Config):
        from effbench.config.compose import check_words
        from effbench.config.recipes import quoted
        from effbench.run.launch import composed
        from effbench.run.overrides import lasting

        check_words(config)
        place = [] if folder is None else [f"hydra.run.dir={quoted(expanded(folder))}"]
        raw, config = composed([*config, *place], None if config_dir is None else str(config_dir))
        from effbench.run import session as training  # imports torch: only after the checks

        return training.train(config, Path(str(raw.hydra.run.dir)), lasting(raw.hydra.overrides.task), callbacks)

    if config_dir is not None:
        raise ConfigError("config_dir is for overrides; a Config has been composed already: compose(…, config_dir).")
    if config.resume == "auto":
        raise ConfigError('resume=auto needs the overrides: effbench.train(["resume=auto", …]), not a composed Config.')
    if config.resume and folder is not None and expanded(folder).resolve() != expanded(config.resume).resolve():
        raise ConfigError(f"resume={config.resume} continues in that folder; got folder={folder}. Leave folder out.")
    from effbench.run import session as training

    return training.train(config, folder, callbacks=callbacks)
