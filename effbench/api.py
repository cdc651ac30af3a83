"""What a script or a notebook trains with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effbench.errors import ConfigError

if TYPE_CHECKING:
    from effbench.config.schema import Config
    from effbench.runs import Run


def train(
    config: Config | Sequence[str] = (), folder: Path | str | None = None, config_dir: Path | str | None = None
) -> Run:
    """Trains and returns the run: train(["model=mlp", "optimizer=lion"]), or train(config) with a composed one.

    folder: of the run; outputs/<date>/<time> unless given. config_dir: a folder of your own groups, for overrides.
    Raises ConfigError before any time is spent on what cannot work, EffbenchError where the run fails; the folder
    then holds a summary.json with status 'failed'.
    """
    from effbench.config.compose import compose
    from effbench.config.schema import Config

    if not isinstance(config, Config):
        config = compose(config, config_dir)
    elif config_dir is not None:
        raise ConfigError("config_dir is for overrides; a Config has been composed already: compose(…, config_dir).")
    from effbench.commands import training

    return training.train(config, folder)
