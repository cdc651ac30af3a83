"""resume=auto in a fixed folder: one command to repeat until the run is finished."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from effbench.cache_dir import is_file, is_folder
from effbench.config.compare import PLACES, differing
from effbench.config.compose import compose_raw, parse, plain
from effbench.disk import set_aside
from effbench.errors import ConfigError, EffbenchError, shown
from effbench.records import read_summary
from effbench.run.load import recorded_config
from effbench.run.overrides import words_of_older

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
    if is_file(folder / "sweep.json"):
        raise ConfigError(f"{folder} holds a sweep. Choose another folder with hydra.run.dir=DIR.")
    if is_file(folder / "config.yaml"):
        # A batch system repeats the same command: a changed setting means another experiment, which must not continue
        # this one. With resume=RUN the user has named the run, and changes are allowed.
        now, older = parse(plain(raw)).to_dict(), words_of_older(folder)
        changed = [
            f"  {key}: {shown(old, quotes=False)} in that run, {shown(new, quotes=False)} now"
            for key, old, new in differing(recorded_config(folder), now)
            # the run keeps its recorded number for `auto`, and what it did before there was a key
            if not (key.startswith(PLACES) or new == AUTO or key in older)
        ]
        if changed:
            listed = "\n".join(changed)
            raise ConfigError(
                f"{folder} holds a run of another config:\n{listed}\nTo resume that run with these settings, write "
                f"{shlex.quote(f'resume={folder}')}; for a new run, choose another folder with hydra.run.dir=DIR."
            )

    # A diverged run has a checkpoint, but from there the same settings lead to the same end.
    summary = read_summary(folder) if is_file(folder / "summary.json") else {}
    if summary.get("status") == "diverged":
        raise EffbenchError(
            f"resume=auto: the run in {folder} diverged ({summary.get('stop_reason')}), and a repetition would diverge "
            "too. Start a new run in another folder, or resume this one with other settings: "
            f"{shlex.quote(f'resume={folder}')}"
        )
    checkpoints = folder / "checkpoints"
    if is_folder(checkpoints) and any(checkpoints.glob("step-*")):
        return folder
    if summary and os.environ.get("RANK", "0") == "0":
        log.info(f"the run in {folder} failed before its first checkpoint; it is kept as {set_aside(folder).name}")
    log.info(f"resume=auto: {folder} holds no checkpoint; starting a new run there")
    return None
