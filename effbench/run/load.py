"""Runs by their folder, as the verbs name them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.cache_dir import expanded
from effbench.errors import ConfigError

if TYPE_CHECKING:
    from effbench.run.run import Run


def load_run(folder: str | Path, allow_targets: Sequence[str] = ()) -> Run:
    """The run in `folder`. Raises ConfigError where there is none.

    allow_targets: your own modules that its config may name; what the folder itself says of them does not count.
    """
    from effbench.config.compose import parse
    from effbench.records import read_summary

    path = expanded(folder)
    read_summary(path)
    # Nothing that reads a run calls its callbacks: their modules need not be there.
    config = parse({**recorded_config(path), "allow_targets": list(allow_targets), "callbacks": {}})
    from effbench.run.run import Run  # torch, not before all is checked

    return Run(path, config)


def recorded_config(folder: Path) -> dict[str, Any]:
    """config.yaml as plain containers, with the keys that it is too old to have; what it allows is left out."""
    from effbench.config.versions import upgraded
    from effbench.config.yaml_text import read_record

    content = read_record(folder / "config.yaml")
    content["allow_targets"] = []  # a stranger's run must not widen what may be built
    return upgraded(content, str(folder / "config.yaml"))


def with_data(run: Run, overrides: dict[str, str], device: str) -> Run:
    """The run with values of its data section replaced, read as YAML, and on another device."""
    from dataclasses import replace

    from effbench.config.compose import parse
    from effbench.config.words import is_path
    from effbench.errors import unknown_name

    content = run.config.to_dict()
    for key, value in overrides.items():
        if key not in content["data"]:
            raise ConfigError(unknown_name("data key", key, content["data"]))
        content["data"][key] = _text(value) if is_path(f"data.{key}") else _value(f"data.{key}", value)
    if content["data"].get("white_level", 0) is None:
        content["data"]["white_level"] = list(run.white_level)  # pictures of more than 8 bits as the run saw them
    content["device"]["name"] = device
    return replace(run, config=parse(content))


def targets_from(text: str) -> list[str]:
    """The modules that an `allow_targets=[a.b, c]` of the command line names."""
    value = _value("allow_targets", text)
    if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        raise ConfigError(f"allow_targets must be a list of modules, such as [mylab.models]; got {text!r}.")
    return value


def _text(value: str) -> str | None:
    """A path as it stands on the command line, without quotes around it."""
    bare = value[1:-1] if value[:1] in ("'", '"') and value[-1:] == value[:1] else value
    return None if value.lower() == "null" else bare


def _value(key: str, text: str) -> Any:
    from effbench.config.yaml_text import parse_yaml

    return parse_yaml(text, f"{key}={text[:100]}")
