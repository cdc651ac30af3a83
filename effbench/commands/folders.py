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


def with_data(run: Run, overrides: dict[str, str], device: str) -> Run:
    """The run with values of its data section replaced, read as YAML, and on another device."""
    from dataclasses import replace

    import yaml

    from effbench.config.compose import parse
    from effbench.errors import unknown_name

    content = run.config.to_dict()
    for key, value in overrides.items():
        if key not in content["data"]:
            raise ConfigError(unknown_name("data key", key, content["data"]))
        content["data"][key] = yaml.safe_load(value)
    content["device"]["name"] = device
    return replace(run, config=parse(content))
