"""resume=auto in a fixed folder: one command to repeat until the run is finished."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from effbench.config.compare import PLACES, differing
from effbench.config.compose import compose_raw, parse, plain
from effbench.disk import set_aside
from effbench.errors import ConfigError, EffbenchError
from effbench.records import read_summary
from effbench.run.load import recorded_config

log = logging.getLogger(__name__)

AUTO = "auto"


def unfinished_in(words: Sequence[str], config_dir: str | None) -> Path | None:
    """Return the folder of hydra.run.dir if it holds a checkpoint of a run with this config.

    Args:
        words: overrides, without resume.
        config_dir: folder with the user's config groups.

    Returns:
        The folder to resume in; None if a new run starts there.

    Raises:
        ConfigError: the folder holds another run, or a sweep.
        EffbenchError: the run in the folder diverged.
    """
    raw = compose_raw(words, config_dir)
    folder = Path(raw.hydra.run.dir)
    if (folder / "sweep.json").is_file():
        raise ConfigError(f"{folder} holds a sweep. Choose another folder with hydra.run.dir=DIR.")
    if (folder / "config.yaml").is_file():
        _check_same(folder, parse(plain(raw)).to_dict())
    summary = read_summary(folder) if (folder / "summary.json").is_file() else {}
    if summary.get("status") == "diverged":
        raise EffbenchError(
            f"resume=auto: the run in {folder} diverged ({summary.get('stop_reason')}), and would again. Start another "
            "in another folder, or go on with other settings by resume=" + str(folder)
        )
    if any((folder / "checkpoints").glob("step-*")):
        return folder
    if summary and os.environ.get("RANK", "0") == "0":
        log.info(f"{folder} failed before it had a checkpoint; kept as {set_aside(folder).name}")
    log.info(f"resume=auto: no checkpoint to go on from in {folder}; starting there")
    return None


def _check_same(folder: Path, now: dict[str, object]) -> None:
    """Raise ConfigError if the recorded config differs, except in PLACES such as data.root and device.threads."""
    before = recorded_config(folder)
    changed = [
        (key, old, new)
        for key, old, new in differing(before, now)
        if not key.startswith(PLACES) and new != AUTO  # the run keeps its recorded number for `auto`
    ]
    if changed:
        listed = "\n".join(f"  {key}: {old} there, {new} asked for" for key, old, new in changed)
        raise ConfigError(
            f"{folder} holds a run of another config:\n{listed}\nTo go on with it under these settings, give "
            f"resume={folder}; for a run of its own, another folder with hydra.run.dir=DIR."
        )
