"""Load a run by its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.cache_dir import expanded
from effbench.errors import ConfigError

if TYPE_CHECKING:
    from effbench.run.run import Run

DRAW_KEYS = ("split_seed", "val_fraction", "test_fraction")  # of the data section: which samples a split gets


def load_run(folder: str | Path, allow_targets: Sequence[str] = ()) -> Run:
    """Load the run in `folder`.

    Args:
        folder: folder of a run.
        allow_targets: your modules that its config may name. The list in the folder itself is ignored.

    Returns:
        The run. That of a quantized run answers by its file, on the CPU.

    Raises:
        ConfigError: the folder holds no run, its config is refused, or an argument has another type.
    """
    from effbench.config.arguments import check_list, check_path
    from effbench.config.compose import parse
    from effbench.records import read_summary
    from effbench.report.compression import compressed_file

    check_path("folder", folder)
    check_list("allow_targets", allow_targets, str, "a list of modules, ['mylab.models']")
    path = expanded(folder)
    read_summary(path)  # names a folder that holds no run
    # A loaded run never calls its callbacks, so their modules need not exist.
    config = parse({**recorded_config(path), "allow_targets": list(allow_targets), "callbacks": {}})
    # each imports torch, so only after the checks
    if (file := compressed_file(path)) is not None:
        from effbench.export.opening import open_export
        from effbench.run.exported_run import ExportedRun

        return ExportedRun(path, config, open_export(file))
    from effbench.run.run import Run

    return Run(path, config)


def recorded_config(folder: Path) -> dict[str, Any]:
    """Read config.yaml as plain containers, with defaults for newer keys. Its allow_targets is emptied."""
    from effbench.config.versions import upgraded
    from effbench.config.yaml_text import read_record

    content = read_record(folder / "config.yaml")
    content["allow_targets"] = []  # an untrusted run must not extend the allowlist
    return upgraded(content, str(folder / "config.yaml"))


def with_data(run: Run, overrides: dict[str, str], device: str) -> Run:
    """Return the run with another device and with values of its data section replaced.

    Args:
        run: the run.
        overrides: key of the data section -> value, read as YAML.
        device: value of device.name.

    Returns:
        A copy of the run.

    Raises:
        ConfigError: a key is unknown or a value is refused.
    """
    from dataclasses import replace

    from effbench.config.compose import parse
    from effbench.config.words import PATH_KEYS
    from effbench.config.yaml_text import parse_yaml
    from effbench.errors import unknown_name

    content = run.config.to_dict()
    before = dict(content["data"])
    for key, text in overrides.items():
        if key not in content["data"]:
            raise ConfigError(unknown_name("data key", key, content["data"]))
        if f"data.{key}" in PATH_KEYS:
            # A path is text, even if YAML would read a number or a boolean; quotes of the command line come off.
            bare = text[1:-1] if text[:1] in ("'", '"') and text[-1:] == text[:1] else text
            content["data"][key] = None if text.lower() == "null" else bare
        else:
            content["data"][key] = parse_yaml(text, f"data.{key}={text[:100]}")
    if content["data"].get("white_level", 0) is None:
        content["data"]["white_level"] = list(run.white_level)  # scale images above 8 bits as the run did
    content["device"]["name"] = device
    redrawn = [f"data.{key}" for key in DRAW_KEYS if before.get(key) != content["data"].get(key)]
    return replace(run, config=parse(content), redrawn=tuple(redrawn))


def targets_from(text: str) -> list[str]:
    """Return the modules in `allow_targets=[a.b, c]` of the command line."""
    from effbench.config.yaml_text import parse_yaml

    value = parse_yaml(text, f"allow_targets={text[:100]}")
    if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        raise ConfigError(f"allow_targets must be a list of modules, such as [mylab.models]; got {text!r}.")
    return value
