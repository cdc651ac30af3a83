"""effbench train -m: every combination, each job in a process of its own, a table of all at the end.

Jobs are forked from this process, which has imported torch but computed nothing: they start at once, and their
memory and failures are theirs alone. With hydra/launcher=… or hydra/sweeper=… the sweep is Hydra's.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effbench.commands.train import train_one
from effbench.config.compose import compose_raw, loader, parse, plain
from effbench.errors import ConfigError, EffbenchError
from effbench.records import require_writable, write_summary
from effbench.report.sweep import Job, print_sweep, sweep_rows, write_sweep


def sweep(overrides: Sequence[str], config_dir: str | None = None) -> int:
    """Runs the jobs one after the other; 1 if any of them failed, 2 if none of them could even be tried."""
    if any(word.startswith(("hydra/launcher=", "hydra/sweeper=")) for word in overrides):
        return _with_hydra(overrides, config_dir)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a sweep (-m) starts processes of its own and cannot run under torchrun; sweep without it.")
    combinations = expand(overrides, config_dir)
    refused = {number: text for number, words in enumerate(combinations) if (text := _refusal(words, config_dir))}
    if len(refused) == len(combinations):
        raise ConfigError("\n".join(dict.fromkeys(refused.values())))
    own = [word for word in overrides if word.startswith("hydra.")]
    folder = Path(compose_raw(own, config_dir).hydra.sweep.dir)
    require_writable(folder)
    common = set.intersection(*map(set, combinations))
    jobs = [_job(number, words, common, folder) for number, words in enumerate(combinations)]
    for job, words in zip(jobs, combinations, strict=True):
        _tell(f"job {job.number + 1}/{len(jobs)}: {' '.join(job.overrides)}")
        if job.number in refused:
            _tell(f"refused: {refused[job.number]}")
            _record(job, ConfigError(refused[job.number]))
        else:
            _in_own_process(job, words, config_dir)
    rows = sweep_rows(jobs)
    path = write_sweep(folder, rows)
    print_sweep(rows)
    print(path)
    return int(any(row["status"] not in ("completed", "stopped_early") for row in rows))


def expand(overrides: Sequence[str], config_dir: str | None = None) -> list[list[str]]:
    """Every combination of the swept values (a,b  range(1,4)  glob(*)), as overrides; by Hydra's own rules."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from effbench.config.recipes import absolute_recipe

    with loader(config_dir) as config_loader:
        try:
            parsed = OverridesParser.create(config_loader).parse_overrides(list(map(absolute_recipe, overrides)))
            [combinations] = BasicSweeper.split_arguments(parsed, None)
        except HydraException as error:
            raise ConfigError(f"cannot read the sweep: {str(error).splitlines()[0]}") from error
    # A glob also matches the files that only hold what others share.
    return [words for words in combinations if not any("=_" in word for word in words)]


def _refusal(words: Sequence[str], config_dir: str | None) -> str | None:
    try:
        parse(plain(compose_raw(words, config_dir)))
    except ConfigError as error:
        return str(error)
    return None


def _job(number: int, words: Sequence[str], common: set[str], folder: Path) -> Job:
    """Named by what sets it apart, in characters that every file system takes."""
    apart = [word for word in words if word not in common] or list(words)
    name = re.sub(r"[^\w.=,+-]+", "_", ",".join(apart))[:100]
    return Job(number, apart, folder / f"{number:03d}_{name}")


def _in_own_process(job: Job, words: Sequence[str], config_dir: str | None) -> None:
    """Forks, trains, waits. A job that dies without a word (killed, out of memory) is recorded too."""
    import effbench.commands.training  # noqa: F401 - imported once, here, for all jobs

    process = multiprocessing.get_context("fork").Process(target=_child, args=(job, list(words), config_dir))
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        process.join()  # the job got the signal too, and saves
        raise
    if process.exitcode and not (job.folder / "summary.json").exists():
        code = process.exitcode
        text = f"the job's process ended with exit code {code}" if code > 0 else f"killed by signal {-code}"
        _record(job, EffbenchError(text))


def _child(job: Job, words: list[str], config_dir: str | None) -> None:
    try:
        code = train_one([*words, f"hydra.run.dir='{job.folder}'"], config_dir)
    except EffbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        if not (job.folder / "summary.json").exists():
            _record(job, error)
        code = error.exit_code
    sys.exit(code)


def _record(job: Job, error: EffbenchError) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    write_summary(job.folder, {"status": "failed", "error": str(error), "metrics": {}, "argv": sys.argv})


def _with_hydra(overrides: Sequence[str], config_dir: str | None) -> int:
    """Hydra's launcher starts the jobs (joblib, submitit, …); each writes its own run folder."""
    import hydra

    from effbench.config.compose import ROOT
    from effbench.config.paths import conf_dir
    from effbench.config.recipes import absolute_recipe, register_recipes

    register_recipes(Path(config_dir) if config_dir else None)
    sys.argv = ["effbench train", "--multirun", *map(absolute_recipe, overrides)]
    hydra.main(config_path=str(conf_dir()), config_name=ROOT, version_base="1.3")(_hydra_task)()
    return 0


def _hydra_task(raw: Any) -> None:
    from hydra.core.hydra_config import HydraConfig

    from effbench.commands.training import train

    train(parse(plain(raw)), HydraConfig.get().runtime.output_dir)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
