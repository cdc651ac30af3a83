"""Turn resume=RUN and resume=auto into the overrides of the resumed run."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from effbench.cache_dir import expanded
from effbench.config.compose import compose_raw
from effbench.config.recipes import quoted, unquoted
from effbench.errors import ConfigError
from effbench.run.overrides import lasting, merge_overrides, override_key, recorded_overrides, words_of_older

log = logging.getLogger(__name__)


def with_resume(overrides: Sequence[str], config_dir: str | None = None) -> list[str]:
    """Return the overrides with those of the resumed run.

    For resume=RUN: the overrides of RUN, then these, and RUN as the output folder. resume=auto continues in
    hydra.run.dir if that is given; else it takes the newest unfinished run under outputs/ with the same overrides. If
    there is none, it starts a new run.

    Args:
        overrides: words of the command line.
        config_dir: folder with the user's config groups.

    Raises:
        ConfigError: there is no run to resume in the given folder.
    """
    if any(word.startswith("sweep.resume=") for word in overrides):
        raise ConfigError("sweep.resume=DIR resumes a sweep, which needs -m: effbench train -m sweep.resume=DIR")
    wanted = [unquoted(word.removeprefix("resume=")) for word in overrides if word.startswith("resume=")]
    mine = [word for word in overrides if not word.startswith("resume=")]
    if not wanted or wanted[-1] == "null":
        return mine
    if not wanted[-1]:
        raise ConfigError("resume= names no run: give a run's folder, auto, or null to start a new run.")

    placed = [word for word in mine if override_key(word) == "hydra.run.dir"]
    if wanted[-1] != "auto":
        folder = expanded(wanted[-1])
        # hydra.run.dir must name the same folder. Hydra composes it: it may refer to the date or to other keys.
        if placed and Path(compose_raw(placed, config_dir).hydra.run.dir).resolve() != folder.resolve():
            raise ConfigError(
                f"resume={folder} continues in that folder; got {placed[-1]}. Leave {placed[-1]} out; or write "
                "resume=auto with it, which resumes the run in that folder, or starts one there."
            )
        return _resumed(folder, [word for word in mine if word not in placed])
    if placed:
        # Imported here: it composes the config, which takes a third of a second.
        from effbench.run.requeue import unfinished_in

        found = unfinished_in(mine, config_dir)
        return mine if found is None else [*mine, *_as_begun(found, mine), f"resume={quoted(found)}"]
    newest = newest_unfinished(Path("outputs"), mine)
    if newest is not None:
        return _resumed(newest, mine)
    log.info("resume=auto: no unfinished run of this config under outputs/; starting a new run")
    return mine


def _resumed(folder: Path, mine: Sequence[str]) -> list[str]:
    earlier = recorded_overrides(folder)
    if earlier is None and (folder / "sweep.json").is_file():
        raise ConfigError(
            f"resume={folder}: that folder holds a sweep; resume it with: effbench train -m "
            f"{shlex.quote(f'sweep.resume={folder}')}"
        )
    if earlier is None:
        raise ConfigError(
            f"resume={folder}: there is no run in that folder (it holds neither .hydra/overrides.yaml nor config.yaml)."
        )
    words = merge_overrides(earlier, mine)
    # By default the output folder would be a new one.
    return [*words, *_as_begun(folder, words), f"resume={quoted(folder)}", f"hydra.run.dir={quoted(folder)}"]


def _as_begun(folder: Path, words: Sequence[str]) -> list[str]:
    """Return the overrides by which a run of an older effbench goes on as it was begun, if `words` do not set them."""
    given = {override_key(word) for word in words}
    return [word for key, word in words_of_older(folder).items() if key not in given]


def newest_unfinished(outputs: Path, overrides: Sequence[str]) -> Path | None:
    """Return the newest run under `outputs` with these overrides that was interrupted or killed after a checkpoint."""
    from effbench.records import read_summary
    from effbench.redaction import redact

    same = [path.parents[1] for path in outputs.glob("*/*/.hydra/overrides.yaml")]
    # The record holds no secrets, so the given words are compared without theirs.
    for folder in sorted(same, key=lambda run: run.stat().st_mtime, reverse=True):
        if not any((folder / "checkpoints").glob("step-*")):
            continue
        try:
            if recorded_overrides(folder) != redact(lasting(overrides)):
                continue
            status = read_summary(folder)["status"] if (folder / "summary.json").is_file() else "interrupted"
        except ConfigError as error:
            # One damaged record must not keep all other runs from being resumed.
            log.warning(f"resume=auto passes over {folder}: {error}")
            continue
        if status == "interrupted":
            return folder
    return None
