"""resume=auto in a fixed folder: one command that can be given again and again until its run is finished."""

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
    """The folder of hydra.run.dir, where a run of this config has something to go on from; None where it starts.

    Raises ConfigError where another run or a sweep lies there, EffbenchError where the run diverged.
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
    """Raises ConfigError where the run in `folder` is of another config, wherever its data lie and its threads run."""
    before = recorded_config(folder)
    changed = [
        (key, old, new)
        for key, old, new in differing(before, now)
        if not key.startswith(PLACES) and new != AUTO  # the run has its number on record, and keeps it
    ]
    if changed:
        listed = "\n".join(f"  {key}: {old} there, {new} asked for" for key, old, new in changed)
        raise ConfigError(
            f"{folder} holds a run of another config:\n{listed}\nTo go on with it under these settings, give "
            f"resume={folder}; for a run of its own, another folder with hydra.run.dir=DIR."
        )
