"""effbench train -m: train every combination, each job in a separate process, and rank them in a table.

With hydra/launcher=… or hydra/sweeper=… Hydra runs the sweep.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.cache_dir import expanded, is_folder, is_there
from effbench.config.compose import compose_raw, parse, plain
from effbench.config.recipes import quoted, unquoted
from effbench.config.refusals import Refusals
from effbench.disk import set_aside
from effbench.errors import ConfigError, EffbenchError
from effbench.escaping import for_terminal
from effbench.jobs.plan import (
    NAME,
    JobSpec,
    expand,
    extended,
    plan,
    read_plan,
    standing,
    write_plan,
)
from effbench.jobs.processes import Relay, called, job_process, record_failure, record_unrecorded, relaying, stamp
from effbench.log import LOGGER, at_level
from effbench.records import FINISHED, require_writable
from effbench.redaction import redact
from effbench.report.sweep import Job, as_values, print_sweep, sweep_rows, write_sweep
from effbench.run.hydra_app import as_hydra_app
from effbench.run.launch import Composed, composed, record_job
from effbench.run.load import targets_from
from effbench.run.lock import holding
from effbench.run.overrides import is_ephemeral, merge_overrides, override_key, recorded_overrides, resume_command
from effbench.strict_json import print_json

if TYPE_CHECKING:
    from effbench.config.schema import Config

# Seconds for the check of the jobs' options, which takes 3 ms a job: what lasts longer hangs, and is left to the job.
CHECK_S, CHECK_A_JOB_S = 120.0, 10.0

log = logging.getLogger(__name__)


def sweep(overrides: Sequence[str], config_dir: str | None = None, as_json: bool = False) -> int:
    """Run the jobs one after the other.

    Args:
        overrides: words of the command line, with the swept values.
        config_dir: folder with the user's groups.
        as_json: stdout holds only the rows as JSON; output of the jobs goes to stderr.

    Returns:
        The exit code: 0, 1 if a job failed, 128 + signal if interrupted.

    Raises:
        ConfigError: no job can run (exit code 2).
    """
    resumed = [unquoted(word.partition("=")[2]) for word in overrides if word.startswith("sweep.resume=")]
    overrides = [word for word in overrides if not word.startswith("sweep.resume=")]
    if resumed and not resumed[-1]:
        raise ConfigError("sweep.resume= names no sweep: give a sweep's folder, or leave it out to start a new sweep.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "a sweep (-m) starts its own processes and cannot run under torchrun; start it without torchrun."
        )
    if any(word.startswith("resume=") for word in overrides):
        raise ConfigError("resume=RUN continues one run, without -m; to resume a sweep, write -m sweep.resume=DIR.")
    if resumed and resumed[-1] != "null":
        return _resume(expanded(resumed[-1]), overrides, config_dir, as_json)

    combinations = expand(overrides, config_dir)
    refused = _refused(dict(enumerate(combinations)), config_dir)
    for text in refused.values():
        if "hydra.sweep.subdir" in text:  # Hydra's launcher would make that job's folder before the job is refused
            raise ConfigError(text)

    # Hydra composes the folder's name: it may refer to the date or to other keys of `hydra`.
    own = [word for word in overrides if word.startswith("hydra.")]
    folder = Path(compose_raw(own, config_dir).hydra.sweep.dir)
    if is_folder(folder) and (any(folder.glob("[0-9]*")) or is_there(folder / NAME)):
        raise ConfigError(
            f"{folder} holds a sweep already. Resume it with -m {shlex.quote(f'sweep.resume={folder}')}, or choose "
            "another folder with hydra.sweep.dir=DIR."
        )
    require_writable(folder)
    # The lock is held to the end: a second process must not write to the sweep's table.
    with holding(folder):
        if any(word.startswith(("hydra/launcher=", "hydra/sweeper=")) for word in overrides):
            return _with_hydra(overrides, config_dir, folder, as_json)
        planned = plan(combinations, folder)
        write_plan(folder, overrides, planned)
        return _run(folder, planned, refused, _ephemeral_words(overrides), config_dir, as_json)


def _resume(folder: Path, overrides: Sequence[str], config_dir: str | None, as_json: bool) -> int:
    """Resume a sweep: skip done jobs, resume begun ones, run the others, add new combinations."""
    asked, recorded = read_plan(folder)
    with holding(folder):
        wanted = merge_overrides(asked, overrides)
        # Without words of its own the command repeats the recorded jobs, whatever the groups' files hold by now.
        more = any(not is_ephemeral(word) for word in overrides)
        planned = extended(recorded, expand(wanted, config_dir), folder) if more else recorded
        common = _ephemeral_words(overrides)
        # Composing a config takes time, so those of done jobs are not checked again.
        left = [item for item in planned if standing(item.job.folder) != "done"]
        words = {item.job.number: [*item.words, *common] for item in left}
        refused = _refused(words, config_dir, done=len(planned) - len(left))
        write_plan(folder, wanted, planned)
        return _run(folder, planned, refused, common, config_dir, as_json)


def _ephemeral_words(overrides: Sequence[str]) -> list[str]:
    """Return the words passed to every job unchanged, without the folder, which the sweep sets."""
    return [word for word in overrides if is_ephemeral(word) and not word.startswith(("hydra.sweep.", "hydra.run."))]


def _refused(jobs: Mapping[int, Sequence[str]], config_dir: str | None, done: int = 0) -> dict[int, str]:
    """Return job number -> error for jobs that cannot run. Raise ConfigError if no job can run.

    done: number of further jobs that are finished already.
    """
    refusals = Refusals(config_dir)
    configs: dict[int, Config] = {}
    refused: dict[int, str] = {}
    for number, words in jobs.items():
        try:
            configs[number] = refusals.checked(words)
        except ConfigError as error:
            refused[number] = str(error)
    if configs:
        # A process of its own: the check takes optimizer steps, and jobs are forked from this process, which must not
        # have started torch's threads. If it dies of a user's code, so will the job, with a record.
        limit_s = CHECK_S + CHECK_A_JOB_S * len(configs)
        with relaying() as relay, suppress(EffbenchError):
            refused |= called(relay, _refused_parts, configs, limit_s=limit_s) or {}
        if relay.signals:
            raise relay.interruption()
    if refused and len(refused) == len(jobs) and not done:
        raise ConfigError("\n".join(dict.fromkeys(refused.values())))
    return refused


def _refused_parts(configs: Mapping[int, Config]) -> dict[int, str]:
    # --json: a user's module that prints must not write into the result. Notes come again from the jobs themselves.
    with redirect_stdout(sys.stderr), at_level(logging.ERROR):
        from effbench.run.validate import refused_early

        return refused_early(configs)


def _run(
    folder: Path,
    planned: Sequence[JobSpec],
    refused: Mapping[int, str],
    common: Sequence[str],
    config_dir: str | None,
    as_json: bool,
) -> int:
    # A refused job does not keep the others from running; it is recorded as failed in its turn.
    for number, text in sorted(refused.items()):
        log.warning(f"job {number} will be refused: {text}")
    next_config = _NextConfig(
        [_words_of_new_run(item, common) for item in planned if item.job.number not in refused], config_dir
    )
    with relaying() as relay:
        for item in planned:
            if relay.signals:
                break
            log.info(f"job {item.job.number} ({item.job.number + 1} of {len(planned)}): {' '.join(item.job.overrides)}")
            # Also in forked jobs: with --json stdout holds nothing but the sweep's result.
            with redirect_stdout(sys.stderr) if as_json else nullcontext():
                _run_job(item, refused.get(item.job.number), common, next_config, relay)
        # The table is written with what there is, also after a signal.
        code = _finish(folder, [item.job for item in planned if (item.job.folder / "summary.json").exists()], as_json)
    if relay.signals:
        left_out = sum(standing(item.job.folder) == "new" for item in planned)
        log.info(f"interrupted; {left_out} of {len(planned)} jobs were not started")
        texts = [word.partition("=")[2] for word in common if override_key(word) == "allow_targets"]
        allowed = [name for text in texts for name in targets_from(text)]
        log.info(f"resume with: {resume_command(['-m', f'sweep.resume={folder}'], config_dir, allowed)}")
        return 128 + relay.signals[0]  # the exit code that shells use for a signal
    return code


class _NextConfig:
    """Composes the config of the next job while a job runs: that is a quarter of a job's time to its first step."""

    def __init__(self, in_order: Sequence[Sequence[str]], config_dir: str | None):
        self.config_dir = config_dir
        # The words of a job -> those of the next one
        self._followers = {tuple(words): list(after) for words, after in pairwise(in_order)}
        self._ready: tuple[list[str], Composed] | None = None

    def take(self, words: Sequence[str]) -> Composed | None:
        """Return the prepared config if it is for these words."""
        ready, self._ready = self._ready, None
        return ready[1] if ready and ready[0] == list(words) else None

    def prepare_after(self, words: Sequence[str]) -> None:
        """Prepare the job after these words. The job itself reports an error in its config."""
        following = self._followers.get(tuple(words))
        with suppress(Exception):
            self._ready = (following, composed(following, self.config_dir)) if following else None


def _words_of_new_run(item: JobSpec, common: Sequence[str]) -> list[str]:
    return [*item.words, *common, f"hydra.run.dir={quoted(item.job.folder)}"]


def _run_job(item: JobSpec, refusal: str | None, common: Sequence[str], next_config: _NextConfig, relay: Relay) -> None:
    """Run one job in a process of its own, or resume it."""
    job, before = item.job, standing(item.job.folder)
    if before == "done":
        log.info("already done")
        return
    # Its folder is not free for the new attempt, and its record may tell why it failed.
    if before == "failed":
        log.info(f"the failed attempt is kept as {set_aside(job.folder).name}")
    if refusal is not None:
        log.info(f"refused: {refusal}")
        record_failure(job.folder, ConfigError(refusal))
        return
    words = [f"resume={quoted(job.folder)}", *common] if before == "begun" else _words_of_new_run(item, common)

    whole = next_config.take(words)
    process, written = job_process(job.folder, words, whole, next_config.config_dir), stamp(job.folder)
    if not relay.start(process):
        return
    next_config.prepare_after(words)
    process.join()
    relay.processes.remove(process)

    # A job that died without a record (killed, out of memory) is recorded here. One that ended by the relayed signal
    # has saved its state: that is no failure.
    if process.exitcode and not relay.told_to_end(process):
        code = process.exitcode
        text = f"the job's process ended with exit code {code}" if code > 0 else f"killed by signal {-code}"
        record_unrecorded(job.folder, written, EffbenchError(text))


def _with_hydra(overrides: Sequence[str], config_dir: str | None, folder: Path, as_json: bool) -> int:
    """Let Hydra's launcher start the jobs (joblib, submitit, …); effbench writes the run folders and the table.

    Hydra's sweeper records the command line unchanged (multirun.yaml), so a sweep with a secret in it is refused.
    """
    if secret := [word for word in overrides if redact(word) != word]:
        raise ConfigError(
            f"{redact(secret[0])} holds a secret, and hydra/launcher would record it. Sweep without hydra/launcher."
        )
    # Without .hydra and logging by Hydra: record_job writes the record without secrets.
    extra = [f"hydra.sweep.dir={quoted(folder)}", "hydra/job_logging=none", "hydra.output_subdir=null"]
    level = LOGGER.level
    if level > logging.INFO:
        extra.append("hydra/hydra_logging=none")

    def task(raw: Any) -> None:
        with at_level(level):  # a launcher's process knows nothing of --quiet
            _hydra_task(raw)

    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        code = as_hydra_app(["--multirun", *overrides, *extra], task, config_dir)
    runs = [path.parents[1] for path in folder.glob("*/.hydra/overrides.yaml")]
    runs.sort(key=lambda run: (len(run.name), run.name))  # Hydra numbers its folders 0, 1, …: 10 comes after 2
    # Read back from the folders: jobs may have run in other processes, or on other machines.
    jobs = [Job(number, recorded_overrides(run) or [], run) for number, run in enumerate(runs)]
    return code or _finish(folder, jobs, as_json)


def _hydra_task(raw: Any) -> None:
    """Run one job in the process that the launcher chose. A failure is recorded and the sweep continues."""
    from hydra.core.hydra_config import HydraConfig

    from effbench.run.session import train

    folder = Path(HydraConfig.get().runtime.output_dir)
    record_job(raw, folder)
    try:
        train(parse(plain(raw)), folder)
    except EffbenchError as error:
        log.error(error)
        if not (folder / "summary.json").exists():
            record_failure(folder, error)


def _finish(folder: Path, jobs: Sequence[Job], as_json: bool) -> int:
    """Write sweep.csv and print its rows as a table or as JSON. Return 1 if a job failed."""
    rows = sweep_rows(jobs)
    path = write_sweep(folder, rows)
    if as_json:
        print_json(as_values(rows))
    elif not rows:
        print("no job has a result yet")
        print(path)
    else:
        print_sweep(rows)
        print(for_terminal(f"all on one page: effbench report {shlex.quote(str(folder))}"))
        print(path)
    return int(any(row["status"] not in FINISHED for row in rows))
