"""effbench train -m: every combination, each job in a process of its own, a table of all at the end.

Jobs are forked from this process, which has imported torch but computed nothing: they start at once, and their
memory and failures are theirs alone. With hydra/launcher=… or hydra/sweeper=… the sweep is Hydra's.
"""

from __future__ import annotations

import importlib
import json
import logging
import multiprocessing
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from effbench.cache_dir import expanded
from effbench.config.compose import compose_raw, parse, plain
from effbench.config.recipes import quoted
from effbench.config.refusals import Refusals
from effbench.console import writes_unicode
from effbench.disk import set_aside
from effbench.errors import ConfigError, EffbenchError
from effbench.escaping import for_terminal
from effbench.gc_pause import uncollected
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
from effbench.log import LOGGER, at_level
from effbench.records import FINISHED, require_writable, write_summary
from effbench.redaction import redact
from effbench.report.sweep import Job, as_values, print_sweep, sweep_rows, write_sweep
from effbench.run.hydra_app import as_hydra_app
from effbench.run.launch import Composed, composed, record_job, train_composed, train_one
from effbench.run.load import targets_from
from effbench.run.lock import holding
from effbench.run.overrides import go_on_with, is_ephemeral, merge_overrides, override_key, recorded_overrides
from effbench.run.signals import ENDING, heeded

log = logging.getLogger(__name__)

IMPORTS = (
    "effbench.run.session", "effbench.models.torchvision_zoo", "effbench.data.images.fashion_mnist", "torch._dynamo",
    "matplotlib.figure", "matplotlib.backends.backend_agg",
)  # fmt: skip


def sweep(overrides: Sequence[str], config_dir: str | None = None, as_json: bool = False) -> int:
    """Runs the jobs one after the other; 1 if any of them failed, 2 if none of them could even be tried.

    as_json: the rows are all there is on stdout; what the jobs tell joins the narration on stderr.
    """
    overrides, earlier = _without_resume(overrides)
    _check_possible(overrides)
    if earlier is not None:
        return _go_on(earlier, overrides, config_dir, as_json)
    combinations = expand(overrides, config_dir)
    refused = _refused(dict(enumerate(combinations)), config_dir)
    for text in refused.values():
        if "hydra.sweep.subdir" in text:  # Hydra's launcher would make that job's folder before the job is refused
            raise ConfigError(text)
    folder = _sweep_folder(overrides, config_dir)
    with holding(folder):
        if any(word.startswith(("hydra/launcher=", "hydra/sweeper=")) for word in overrides):
            return _with_hydra(overrides, config_dir, folder, as_json)
        planned = plan(combinations, folder)
        write_plan(folder, overrides, planned)
        return _run(folder, planned, refused, _passing(overrides), config_dir, as_json)


def _without_resume(overrides: Sequence[str]) -> tuple[list[str], Path | None]:
    """The words without sweep.resume=DIR, and that folder."""
    found = [word.partition("=")[2].strip("'\"") for word in overrides if word.startswith("sweep.resume=")]
    rest = [word for word in overrides if not word.startswith("sweep.resume=")]
    if found and not found[-1]:
        raise ConfigError("sweep.resume= names no sweep: give a sweep's folder, or leave it out to start anew.")
    return rest, expanded(found[-1]) if found and found[-1] != "null" else None


def _go_on(folder: Path, overrides: Sequence[str], config_dir: str | None, as_json: bool) -> int:
    """sweep.resume: done jobs are left alone, begun ones resumed, the others run; further combinations are added."""
    asked, recorded = read_plan(folder)
    with holding(folder):
        wanted = merge_overrides(asked, overrides)
        more = any(not is_ephemeral(word) for word in overrides)
        planned = extended(recorded, expand(wanted, config_dir), folder) if more else recorded
        common = _passing(overrides)
        left = [item for item in planned if standing(item.job.folder) != "done"]
        words = {item.job.number: [*item.words, *common] for item in left}
        refused = _refused(words, config_dir, done=len(planned) - len(left))
        write_plan(folder, wanted, planned)
        return _run(folder, planned, refused, common, config_dir, as_json)


def _passing(overrides: Sequence[str]) -> list[str]:
    """The words that each job is given as they are, but for the folder, which is the sweep's to say."""
    return [word for word in overrides if is_ephemeral(word) and not word.startswith(("hydra.sweep.", "hydra.run."))]


def _refused(jobs: Mapping[int, Sequence[str]], config_dir: str | None, done: int = 0) -> dict[int, str]:
    """What is wrong with the jobs that cannot be tried, by their numbers. Raises ConfigError where all are so.

    done: how many more there are that need not be tried.
    """
    refusals = Refusals(config_dir)
    refused = {number: text for number, words in jobs.items() if (text := refusals.of(words))}
    if refused and len(refused) == len(jobs) and not done:
        raise ConfigError("\n".join(dict.fromkeys(refused.values())))
    return refused


def _run(
    folder: Path,
    planned: Sequence[JobSpec],
    refused: Mapping[int, str],
    common: Sequence[str],
    config_dir: str | None,
    as_json: bool,
) -> int:
    for number, text in refused.items():
        log.warning(f"job {number} will be refused: {text}")
    ahead = _Ahead([_words_anew(item, common) for item in planned if item.job.number not in refused], config_dir)
    with _relaying() as relay:
        for item in planned:
            if relay.signals:
                break
            log.info(f"job {item.job.number} ({item.job.number + 1} of {len(planned)}): {' '.join(item.job.overrides)}")
            with _no_result_but_ours(as_json):
                _run_job(item, refused.get(item.job.number), common, ahead, relay)
        code = _finish(folder, [item.job for item in planned if (item.job.folder / "summary.json").exists()], as_json)
    if relay.signals:
        left_out = sum(standing(item.job.folder) == "new" for item in planned)
        log.info(f"interrupted; {left_out} of {len(planned)} jobs were not started")
        allowed = [name for word in common if override_key(word) == "allow_targets" for name in _targets(word)]
        log.info(f"go on with: {go_on_with(['-m', f'sweep.resume={folder}'], config_dir, allowed)}")
        return 128 + relay.signals[0]
    return code


def _targets(word: str) -> list[str]:
    return targets_from(word.partition("=")[2])


class _Ahead:
    """Composes the next job's config while a job runs: a quarter of the time that a job takes to its first step."""

    def __init__(self, in_order: Sequence[Sequence[str]], config_dir: str | None):
        self.config_dir = config_dir
        self._followers = {tuple(words): list(after) for words, after in pairwise(in_order)}
        self._ready: tuple[list[str], Composed] | None = None

    def take(self, words: Sequence[str]) -> Composed | None:
        """The config for these words, if they are those that were prepared."""
        ready, self._ready = self._ready, None
        return ready[1] if ready and ready[0] == list(words) else None

    def prepare_after(self, words: Sequence[str]) -> None:
        """What is wrong with it is for the job itself to tell."""
        following = self._followers.get(tuple(words))
        with suppress(Exception):
            self._ready = (following, composed(following, self.config_dir)) if following else None


def _words_anew(item: JobSpec, common: Sequence[str]) -> list[str]:
    return [*item.words, *common, f"hydra.run.dir={quoted(item.job.folder)}"]


def _run_job(item: JobSpec, refusal: str | None, common: Sequence[str], ahead: _Ahead, relay: _Relay) -> None:
    """One job, from where it stands."""
    job, before = item.job, standing(item.job.folder)
    if before == "done":
        log.info("done before")
        return
    if before == "failed":
        log.info(f"its failed attempt is kept as {set_aside(job.folder).name}")
    if refusal is not None:
        log.info(f"refused: {refusal}")
        _record(job.folder, ConfigError(refusal))
        return
    words = [f"resume={quoted(job.folder)}", *common] if before == "begun" else _words_anew(item, common)
    _in_own_process(job, words, ahead, relay)


def _check_possible(overrides: Sequence[str]) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a sweep (-m) starts processes of its own and cannot run under torchrun; sweep without it.")
    if any(word.startswith("resume=") for word in overrides):
        raise ConfigError("resume=RUN continues one run, without -m; a sweep goes on with -m sweep.resume=DIR.")


def _in_own_process(job: Job, words: Sequence[str], ahead: _Ahead, relay: _Relay) -> None:
    """Forks, trains, waits. A job that dies without a word (killed, out of memory) is recorded too."""
    _import_for_all_jobs()
    whole = ahead.take(words)
    process = multiprocessing.get_context("fork").Process(
        target=_child, args=(job, list(words), whole, ahead.config_dir)
    )
    if not relay.start(process):
        return
    ahead.prepare_after(words)
    process.join()
    relay.process = None
    told_to_end = relay.signals and process.exitcode in (-relay.signals[0], 128 + relay.signals[0])
    if process.exitcode and not told_to_end and not (job.folder / "summary.json").exists():
        code = process.exitcode
        text = f"the job's process ended with exit code {code}" if code > 0 else f"killed by signal {-code}"
        _record(job.folder, EffbenchError(text))


def _import_for_all_jobs() -> None:
    """What each job would import anew: torch imports its compiler when the first optimizer is made, 1.5 s."""
    with uncollected():
        for name in IMPORTS:
            importlib.import_module(name)


class _Relay:
    """Passes signals on to the job at work, which hears them from here alone."""

    def __init__(self) -> None:
        self.signals: list[int] = []  # that asked for an end
        self.process: BaseProcess | None = None

    def hear(self, number: int, _frame: FrameType | None) -> None:
        self.signals.append(number)
        if self.process is not None and self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)

    def start(self, process: BaseProcess) -> bool:
        """Unless an end was asked for before; what comes meanwhile waits until it can be passed on."""
        with _held_back():
            if self.signals:
                return False
            process.start()
            self.process = process
        return True


@contextmanager
def _relaying() -> Iterator[_Relay]:
    relay = _Relay()
    old = {number: signal.signal(number, relay.hear) for number in heeded()}
    try:
        yield relay
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def _held_back() -> Iterator[None]:
    """Signals wait for the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _child(job: Job, words: list[str], whole: Composed | None, config_dir: str | None) -> None:
    os.setpgid(0, 0)  # Ctrl-C reaches a whole process group
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in ENDING[1:]:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    _end_with_parent()
    try:
        code = train_composed(whole, config_dir=config_dir) if whole else train_one(words, config_dir)
    except EffbenchError as error:
        log.error(error)
        if not (job.folder / "summary.json").exists():
            _record(job.folder, error)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _end_with_parent() -> None:
    """A sweep that is killed takes its job along, saved, so that a resumed sweep does not find it at work still."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _record(folder: Path, error: EffbenchError) -> None:
    """A summary for a job that could not write one, unless another process is at work in its folder."""
    with holding(folder):
        write_summary(folder, {"status": "failed", "error": str(error), "metrics": {}, "argv": sys.argv})


@contextmanager
def _no_result_but_ours(as_json: bool) -> Iterator[None]:
    """Sends what is printed to stderr, by a forked job too, where stdout must hold nothing but our JSON."""
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        yield


def _with_hydra(overrides: Sequence[str], config_dir: str | None, folder: Path, as_json: bool) -> int:
    """Hydra's launcher starts the jobs (joblib, submitit, …); each writes its own run folder, the table is ours.

    Hydra's sweeper writes the command line as it is (multirun.yaml): with a secret in it, the sweep is refused.
    """
    if secret := [word for word in overrides if redact(word) != word]:
        raise ConfigError(
            f"{redact(secret[0])} holds a secret, and hydra/launcher would write it down. Sweep without hydra/launcher."
        )
    extra = [f"hydra.sweep.dir={quoted(folder)}", "hydra/job_logging=none", "hydra.output_subdir=null"]
    level = LOGGER.level
    if level > logging.INFO:
        extra.append("hydra/hydra_logging=none")

    def task(raw: Any) -> None:
        with at_level(level):  # a launcher's process knows nothing of --quiet
            _hydra_task(raw)

    with _no_result_but_ours(as_json):
        code = as_hydra_app(["--multirun", *overrides, *extra], task, config_dir)
    runs = sorted((path.parents[1] for path in folder.glob("*/.hydra/overrides.yaml")), key=_as_numbered)
    jobs = [Job(number, recorded_overrides(run) or [], run) for number, run in enumerate(runs)]
    return code or _finish(folder, jobs, as_json)


def _as_numbered(folder: Path) -> tuple[int, str]:
    """Hydra numbers its jobs 0, 1, …, 10: 10 comes after 2."""
    return len(folder.name), folder.name


def _hydra_task(raw: Any) -> None:
    """One job, in whatever process the launcher chose; a failure is recorded and the sweep goes on."""
    from hydra.core.hydra_config import HydraConfig

    from effbench.run.session import train

    folder = Path(HydraConfig.get().runtime.output_dir)
    record_job(raw, folder)
    try:
        train(parse(plain(raw)), folder)
    except EffbenchError as error:
        log.error(error)
        if not (folder / "summary.json").exists():
            _record(folder, error)


def _sweep_folder(overrides: Sequence[str], config_dir: str | None) -> Path:
    own = [word for word in overrides if word.startswith("hydra.")]
    folder = Path(compose_raw(own, config_dir).hydra.sweep.dir)
    if any(folder.glob("[0-9]*")) or (folder / NAME).exists():
        raise ConfigError(
            f"{folder} holds a sweep already. Go on with it by sweep.resume={folder}, or choose another folder with "
            "hydra.sweep.dir=DIR."
        )
    require_writable(folder)
    return folder


def _finish(folder: Path, jobs: Sequence[Job], as_json: bool) -> int:
    """sweep.csv, and its rows on stdout as a table or as JSON; 1 if any job failed."""
    rows = sweep_rows(jobs)
    path = write_sweep(folder, rows)
    if as_json:
        print(json.dumps(as_values(rows), indent=2, ensure_ascii=not writes_unicode()))
    elif not rows:
        print("no job has a result yet")
        print(path)
    else:
        print_sweep(rows)
        print(for_terminal(f"all on one page: effbench report {shlex.quote(str(folder))}"))
        print(path)
    return int(any(row["status"] not in FINISHED for row in rows))
