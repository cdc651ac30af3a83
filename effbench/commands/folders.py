"""Runs by their folder, as the verbs name them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from effbench.errors import ConfigError

if TYPE_CHECKING:
    from effbench.runs import Run


def load_run(folder: str | Path) -> Run:
    """The run in `folder`. Raises ConfigError where there is none."""
    import yaml

    from effbench.config.compose import parse
    from effbench.records import read_summary
    from effbench.runs import Run

    path = Path(folder)
    read_summary(path)
    try:
        content = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path / 'config.yaml'} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path / 'config.yaml'} is not a config.")
    content["allow_targets"] = []  # a stranger's run must not widen what may be built
    return Run(path, parse(content))
