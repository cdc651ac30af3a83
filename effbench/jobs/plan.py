"""Which jobs a sweep has: every combination of the swept values, each with its folder, on record in sweep.json.

sweep.json    the words of the command line and of each job: what `sweep.resume=DIR` goes on from
000_…/        a run's folder a job
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
from effbench.errors import ConfigError
from effbench.guarded import MissingFileError, read_text
from effbench.records import FINISHED, read_summary, write_text
from effbench.redaction import redact
from effbench.report.sweep import Job
from effbench.run.overrides import is_ephemeral, recorded

NAME = "sweep.json"
SCHEMA = 1
MOST_BYTES = 100_000_000  # of sweep.json: 1,000 a job
DONE = (*FINISHED, "diverged")  # running them again would end the same


@dataclass(frozen=True)
class JobSpec:
    """A job and all words of its command line, but for where it lies and what may be built."""

    job: Job
    words: Sequence[str]


def expand(overrides: Sequence[str], config_dir: str | None = None) -> list[list[str]]:
    """Every combination of the swept values (a,b  range(1,4)  glob(*)), as overrides; by Hydra's own rules."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.errors import HydraException

    with loader(config_dir) as config_loader:
        groups = set(config_loader.list_groups(""))
        try:
            [combinations] = BasicSweeper.split_arguments(list(parsed(map(as_meant, overrides), config_loader)), None)
        except HydraException as error:
            raise ConfigError(f"cannot read the sweep: {str(error).splitlines()[0]}") from error

    def is_shared(word: str) -> bool:  # a glob also matches the files that only hold what others share
        group, _, name = word.partition("=")
        return group in groups and name.startswith("_")

    kept = [words for words in combinations if not any(map(is_shared, words))]
    if not kept:
        raise ConfigError(f"{' '.join(overrides)} matches nothing. `effbench train --help` lists the groups.")
    return kept


def plan(combinations: Sequence[Sequence[str]], folder: Path, beside: Sequence[JobSpec] = ()) -> list[JobSpec]:
    """A job a combination, numbered and named beside those that there are already."""
    lasting = [[word for word in words if not is_ephemeral(word)] for words in combinations]
    common = set.intersection(*map(set, lasting), *(set(item.words) for item in beside))
    numbered = enumerate(lasting, start=len(beside))
    return [JobSpec(_job(number, words, common, folder), words) for number, words in numbered]


def _job(number: int, words: Sequence[str], common: set[str], folder: Path) -> Job:
    """Named by what sets it apart, in characters that every file system takes."""
    apart = redact([word for word in words if word not in common] or list(words))
    name = re.sub(r"[^\w.=,+-]+", "_", ",".join(apart), flags=re.ASCII)[:100].strip("_")
    return Job(number, apart, folder / "_".join(filter(None, (f"{number:03d}", name))))


def write_plan(folder: Path, overrides: Sequence[str], planned: Sequence[JobSpec]) -> None:
    """sweep.json: the words that the sweep was asked for with, and its jobs."""
    asked = redact([word for word in overrides if not is_ephemeral(word)])
    jobs = [
        {"folder": item.job.folder.name, "apart": list(item.job.overrides), "overrides": redact(list(item.words))}
        for item in planned
    ]
    content = {"schema_version": SCHEMA, "overrides": asked, "jobs": jobs}
    text = json.dumps(content, indent=2, ensure_ascii=False)
    write_text(folder / NAME, text + "\n")


def read_plan(folder: Path) -> tuple[list[str], list[JobSpec]]:
    """(the words that were asked for, the jobs) on record.

    Raises ConfigError where `folder` holds no sweep that can be gone on with.
    """
    path = folder / NAME
    try:
        content = json.loads(read_text(path, MOST_BYTES))
        if content["schema_version"] != SCHEMA:
            raise ConfigError(f"{path} has schema_version {content['schema_version']!r}; this effbench reads {SCHEMA}.")
        asked = recorded([str(word) for word in content["overrides"]], str(path))
        return asked, [_recorded(number, entry, folder) for number, entry in enumerate(content["jobs"])]
    except MissingFileError as error:
        text = f"sweep.resume={folder}: there is no sweep in that folder (it holds no {NAME})."
        raise ConfigError(text) from error
    except KeyError as error:
        raise ConfigError(f"{path} is damaged: it has no {error}. Start the sweep anew in another folder.") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: {error}. Start the sweep anew in another folder.") from error


def _recorded(number: int, entry: dict[str, str | list[str]], folder: Path) -> JobSpec:
    name = str(entry["folder"])
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is not the name of a folder")
    words = recorded([str(word) for word in entry["overrides"]], str(folder / NAME))
    return JobSpec(Job(number, [str(word) for word in entry["apart"]], folder / name), words)


def extended(recorded: Sequence[JobSpec], combinations: Sequence[Sequence[str]], folder: Path) -> list[JobSpec]:
    """The recorded jobs, and behind them those combinations that are not among them.

    Secrets, which the record does not hold, are those of the combination that is the same but for them.
    """
    lasting = [[word for word in words if not is_ephemeral(word)] for words in combinations]
    given = {frozenset(redact(words)): words for words in lasting}
    known = {frozenset(item.words) for item in recorded}
    whole = [replace(item, words=given.get(frozenset(item.words), item.words)) for item in recorded]
    new = [words for redacted, words in given.items() if redacted not in known]
    return [*whole, *(plan(new, folder, beside=recorded) if new else [])]


def standing(folder: Path) -> str:
    """How far a job is: 'done', 'begun' (it has a checkpoint to go on from), 'failed' before it had one, or 'new'."""
    status = read_summary(folder)["status"] if (folder / "summary.json").is_file() else None
    if status in DONE:
        return "done"
    if any((folder / "checkpoints").glob("step-*")):
        return "begun"
    return "new" if status is None else "failed"
