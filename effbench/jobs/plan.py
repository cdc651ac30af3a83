"""The jobs of a sweep: every combination of the swept values, each with a folder, recorded in sweep.json.

sweep.json    the overrides of the command line and of each job; sweep.resume=DIR reads it
000_…/        one run folder a job
sweep.csv     the result
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from effbench.config.compose import loader, parsed
from effbench.config.words import as_meant
from effbench.errors import ConfigError, first_line
from effbench.guarded import MissingFileError, checked_version, read_text
from effbench.records import FINISHED, read_summary, write_text
from effbench.redaction import redact
from effbench.report.sweep import Job
from effbench.run.overrides import is_ephemeral, recorded

NAME = "sweep.json"
SCHEMA = 1
MOST_BYTES = 100_000_000  # of sweep.json: 100,000 jobs of 1,000 bytes
DONE = (*FINISHED, "diverged")  # a second run would have the same result


@dataclass(frozen=True)
class JobSpec:
    """A job with all its overrides, except the folder and allow_targets.

    Attributes:
        job: number, distinguishing overrides and folder.
        words: all overrides.
    """

    job: Job
    words: Sequence[str]


def expand(overrides: Sequence[str], config_dir: str | None = None) -> list[list[str]]:
    """Return every combination of the swept values (a,b  range(1,4)  glob(*)) as overrides, by Hydra's rules.

    Args:
        overrides: words of the command line.
        config_dir: folder with the user's groups.

    Raises:
        ConfigError: the sweep cannot be parsed, or it matches nothing.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.errors import HydraException

    # Hydra's own function, so that glob, range and quotes mean the same as with its launchers.
    with loader(config_dir) as config_loader:
        groups = set(config_loader.list_groups(""))
        try:
            [combinations] = BasicSweeper.split_arguments(list(parsed(map(as_meant, overrides), config_loader)), None)
        except HydraException as error:
            raise ConfigError(f"cannot read the sweep: {first_line(error)}") from error

    # A glob also matches files such as _base.yaml, which hold shared keys and are no choices.
    kept = [
        words
        for words in combinations
        if not any(
            group in groups and name.startswith("_") for group, _, name in (word.partition("=") for word in words)
        )
    ]
    if not kept:
        raise ConfigError(f"{' '.join(overrides)} matches nothing. `effbench train --help` lists the groups.")
    return kept


def plan(combinations: Sequence[Sequence[str]], folder: Path, beside: Sequence[JobSpec] = ()) -> list[JobSpec]:
    """Return one job a combination.

    Args:
        combinations: overrides of each job.
        folder: the sweep's folder.
        beside: existing jobs; the new ones get the next numbers.
    """
    lasting = [[word for word in words if not is_ephemeral(word)] for words in combinations]
    # Words of all jobs tell none of them apart.
    common = set.intersection(*map(set, lasting), *(set(item.words) for item in beside))
    numbered = enumerate(lasting, start=len(beside))
    return [JobSpec(_job(number, words, common, folder), words) for number, words in numbered]


def _job(number: int, words: Sequence[str], common: set[str], folder: Path) -> Job:
    """Name the job by the overrides that other jobs do not share, in characters that every file system allows."""
    # The name of a folder is visible to all who can list it: no secret may stand in it.
    apart = redact([word for word in words if word not in common] or list(words))
    # 100 characters: many file systems allow 255 bytes a name
    name = re.sub(r"[^\w.=,+-]+", "_", ",".join(apart), flags=re.ASCII)[:100].strip("_")
    # The number comes first: it keeps two names apart that are equal after the cut.
    return Job(number, apart, folder / "_".join(filter(None, (f"{number:03d}", name))))


def write_plan(folder: Path, overrides: Sequence[str], planned: Sequence[JobSpec]) -> None:
    """Write sweep.json, without secrets.

    Args:
        folder: the sweep's folder.
        overrides: words of the command line.
        planned: the jobs.
    """
    asked = redact([word for word in overrides if not is_ephemeral(word)])
    jobs = [
        {"folder": item.job.folder.name, "apart": list(item.job.overrides), "overrides": redact(list(item.words))}
        for item in planned
    ]
    content = {"schema_version": SCHEMA, "overrides": asked, "jobs": jobs}
    text = json.dumps(content, indent=2, ensure_ascii=False)
    write_text(folder / NAME, text + "\n")


def read_plan(folder: Path) -> tuple[list[str], list[JobSpec]]:
    """Return (overrides of the command line, jobs) from sweep.json.

    Raises:
        ConfigError: the folder holds no sweep, or sweep.json is damaged or of another version.
    """
    path = folder / NAME
    try:
        content = json.loads(read_text(path, MOST_BYTES))
        checked_version(content["schema_version"], SCHEMA, str(path))
        asked = recorded([str(word) for word in content["overrides"]], str(path))
        jobs = []
        for number, entry in enumerate(content["jobs"]):
            name = str(entry["folder"])
            # sweep.json may be untrusted: its folders must not lead out of the sweep.
            if Path(name).name != name or name in ("", ".", ".."):
                raise ValueError(f"{name!r} is not the name of a folder")
            words = recorded([str(word) for word in entry["overrides"]], str(path))
            jobs.append(JobSpec(Job(number, [str(word) for word in entry["apart"]], folder / name), words))
        return asked, jobs
    except MissingFileError as error:
        text = f"sweep.resume={folder}: there is no sweep in that folder (it holds no {NAME})."
        raise ConfigError(text) from error
    except KeyError as error:
        raise ConfigError(f"{path} is damaged: it has no {error}. Start a new sweep in another folder.") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: {error}. Start a new sweep in another folder.") from error


def extended(recorded: Sequence[JobSpec], combinations: Sequence[Sequence[str]], folder: Path) -> list[JobSpec]:
    """Return the recorded jobs and, after them, combinations that are not recorded yet.

    The record holds no secrets: a recorded job takes them from the combination that is otherwise equal.

    Args:
        recorded: jobs of sweep.json.
        combinations: overrides of each job, with secrets.
        folder: the sweep's folder.
    """
    lasting = [[word for word in words if not is_ephemeral(word)] for words in combinations]
    # Sets, because a user may give the same words in another order.
    given = {frozenset(redact(words)): words for words in lasting}
    known = {frozenset(item.words) for item in recorded}
    whole = [replace(item, words=given.get(frozenset(item.words), item.words)) for item in recorded]
    new = [words for redacted, words in given.items() if redacted not in known]
    return [*whole, *(plan(new, folder, beside=recorded) if new else [])]


def standing(folder: Path) -> str:
    """Return the state of a job: 'done', 'begun' (it has a checkpoint), 'failed' (it has none) or 'new'."""
    status = read_summary(folder)["status"] if (folder / "summary.json").is_file() else None
    if status in DONE:
        return "done"
    # Whatever its summary says: a job that was killed, interrupted or failed goes on from its checkpoint.
    if any((folder / "checkpoints").glob("step-*")):
        return "begun"
    return "new" if status is None else "failed"
