"""effbench train -m: every combination, each job in a process of its own, a table of all at the end.

Jobs are forked from this process, which has imported torch but computed nothing: they start at once, and their
memory and failures are theirs alone. With hydra/launcher=… or hydra/sweeper=… the sweep is Hydra's.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from effbench.commands.train import as_hydra_app, recorded_overrides, train_one
from effbench.config.compose import compose_raw, loader, parse, parsed, plain
from effbench.config.recipes import absolute_recipe, quoted
from effbench.errors import ConfigError, EffbenchError
from effbench.records import require_writable, write_summary
from effbench.report.sweep import Job, print_sweep, sweep_rows, write_sweep

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def sweep(overrides: Sequence[str], config_dir: str | None = None) -> int:
    """Runs the jobs one after the other; 1 if any of them failed, 2 if none of them could even be tried."""
    _check_possible(overrides)
    combinations = expand(overrides, config_dir)
    refused = {number: text for number, words in enumerate(combinations) if (text := _refusal(words, config_dir))}
    if len(refused) == len(combinations):
        raise ConfigError("\n".join(dict.fromkeys(refused.values())))
    folder = _sweep_folder(overrides, config_dir)
    if any(word.startswith(("hydra/launcher=", "hydra/sweeper=")) for word in overrides):
        return _with_hydra(overrides, config_dir, folder)
    common = set.intersection(*map(set, combinations))
    jobs = [_job(number, words, common, folder) for number, words in enumerate(combinations)]
    signals: list[int] = []
    tried = 0
    for job, words in zip(jobs, combinations, strict=True):
        if signals:
            break
        tried += 1
        _tell(f"job {job.number} ({tried} of {len(jobs)}): {' '.join(job.overrides)}")
        if job.number in refused:
            _tell(f"refused: {refused[job.number]}")
            _record(job.folder, ConfigError(refused[job.number]))
        else:
            signals = _in_own_process(job, words, config_dir)
    code = _finish(folder, jobs[:tried])
    if signals:
        _tell(f"interrupted; {len(jobs) - tried} of {len(jobs)} jobs were not started")
        return 128 + signals[0]
    return code


def _check_possible(overrides: Sequence[str]) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a sweep (-m) starts processes of its own and cannot run under torchrun; sweep without it.")
    if any(word.startswith("resume=") for word in overrides):
        raise ConfigError("a sweep (-m) starts new runs; resume=RUN continues one, without -m.")


def expand(overrides: Sequence[str], config_dir: str | None = None) -> list[list[str]]:
    """Every combination of the swept values (a,b  range(1,4)  glob(*)), as overrides; by Hydra's own rules."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.errors import HydraException

    with loader(config_dir) as config_loader:
        groups = set(config_loader.list_groups(""))
        try:
            [combinations] = BasicSweeper.split_arguments(
                list(parsed(map(absolute_recipe, overrides), config_loader)), None
            )
        except HydraException as error:
            raise ConfigError(f"cannot read the sweep: {str(error).splitlines()[0]}") from error

    def is_shared(word: str) -> bool:  # a glob also matches the files that only hold what others share
        group, _, name = word.partition("=")
        return group in groups and name.startswith("_")

    kept = [words for words in combinations if not any(map(is_shared, words))]
    if not kept:
        raise ConfigError(f"{' '.join(overrides)} matches nothing. `effbench train --help` lists the groups.")
    return kept


def _refusal(words: Sequence[str], config_dir: str | None) -> str | None:
    try:
        parse(plain(compose_raw(words, config_dir)))
    except ConfigError as error:
        return str(error)
    return None


def _job(number: int, words: Sequence[str], common: set[str], folder: Path) -> Job:
    """Named by what sets it apart, in characters that every file system takes."""
    apart = [word for word in words if word not in common] or [word for word in words if not word.startswith("hydra")]
    name = re.sub(r"[^\w.=,+-]+", "_", ",".join(apart), flags=re.ASCII)[:100].strip("_")
    return Job(number, apart, folder / "_".join(filter(None, (f"{number:03d}", name))))


def _in_own_process(job: Job, words: Sequence[str], config_dir: str | None) -> list[int]:
    """Forks, trains, waits; returns the signals that asked for an end, which the job was told of.

    A job that dies without a word (killed, out of memory) is recorded too.
    """
    _import_for_all_jobs()
    process = multiprocessing.get_context("fork").Process(target=_child, args=(job, list(words), config_dir))
    with _passing_on(process) as signals:
        process.start()
        process.join()
    if process.exitcode and not (job.folder / "summary.json").exists():
        code = process.exitcode
        text = f"the job's process ended with exit code {code}" if code > 0 else f"killed by signal {-code}"
        _record(job.folder, EffbenchError(text))
    return signals


def _import_for_all_jobs() -> None:
    """What each job would import anew: torch imports its compiler when the first optimizer is made, 1.5 s."""
    for name in ("effbench.commands.training", "torch._dynamo", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        importlib.import_module(name)


@contextmanager
def _passing_on(process: BaseProcess) -> Iterator[list[int]]:
    """The job hears of each signal once, from here alone: a second one would keep it from saving."""
    signals: list[int] = []

    def tell(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, number)

    old = {number: signal.signal(number, tell) for number in ENDING}
    try:
        yield signals
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _child(job: Job, words: list[str], config_dir: str | None) -> None:
    os.setpgid(0, 0)  # Ctrl-C reaches a whole process group
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        code = train_one([*words, f"hydra.run.dir={quoted(job.folder)}"], config_dir)
    except EffbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        if not (job.folder / "summary.json").exists():
            _record(job.folder, error)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _record(folder: Path, error: EffbenchError) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_summary(folder, {"status": "failed", "error": str(error), "metrics": {}, "argv": sys.argv})


def _with_hydra(overrides: Sequence[str], config_dir: str | None, folder: Path) -> int:
    """Hydra's launcher starts the jobs (joblib, submitit, …); each writes its own run folder, the table is ours."""
    extra = [f"hydra.sweep.dir={quoted(folder)}", "hydra/job_logging=none"]
    code = as_hydra_app(["--multirun", *overrides, *extra], _hydra_task, config_dir)
    runs = sorted((path.parents[1] for path in folder.glob("*/.hydra/overrides.yaml")), key=_as_numbered)
    return code or _finish(folder, [Job(number, recorded_overrides(run) or [], run) for number, run in enumerate(runs)])


def _as_numbered(folder: Path) -> tuple[int, str]:
    """Hydra numbers its jobs 0, 1, …, 10: 10 comes after 2."""
    return len(folder.name), folder.name


def _hydra_task(raw: Any) -> None:
    """One job, in whatever process the launcher chose; a failure is recorded and the sweep goes on."""
    from hydra.core.hydra_config import HydraConfig

    from effbench.commands.training import train

    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        train(parse(plain(raw)), folder)
    except EffbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        if not (folder / "summary.json").exists():
            _record(folder, error)


def _sweep_folder(overrides: Sequence[str], config_dir: str | None) -> Path:
    own = [word for word in overrides if word.startswith("hydra.")]
    folder = Path(compose_raw(own, config_dir).hydra.sweep.dir)
    if any(folder.glob("[0-9]*")):
        raise ConfigError(f"{folder} holds a sweep already. Choose another folder with hydra.sweep.dir=DIR.")
    require_writable(folder)
    return folder


def _finish(folder: Path, jobs: Sequence[Job]) -> int:
    """sweep.csv and the table; 1 if any job failed."""
    rows = sweep_rows(jobs)
    path = write_sweep(folder, rows)
    print_sweep(rows)
    print(path)
    return int(any(row["status"] not in ("completed", "stopped_early") for row in rows))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
