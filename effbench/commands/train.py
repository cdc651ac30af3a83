"""effbench train: trains one config, or with -m every combination of the values given with commas."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.commands.arguments import (
    CONFIG_FLAGS,
    Arguments,
    go_on_with,
    merged,
    override_key,
    passing,
    recorded,
    split,
)
from effbench.commands.locking import holding
from effbench.config.compose import compose_raw, parse, plain
from effbench.config.recipes import quoted
from effbench.config.words import as_meant
from effbench.config.yaml_text import parse_yaml
from effbench.console import writes_unicode
from effbench.errors import ConfigError, EffbenchError, MissingExtraError, unknown_name
from effbench.guarded import MissingFileError, read_text
from effbench.places import expanded
from effbench.startup import uncollected

if TYPE_CHECKING:
    from effbench.config.schema import Config
    from effbench.runs import Run

HELP = """usage: effbench train [GROUP=NAME | KEY=VALUE ...] [-m] [--json] [--cfg job] [--config-dir DIR]

  effbench train                                       MobileNetV3-small + AdamW on the embedded Fashion-MNIST
  effbench train recipe=swin_lion trainer.max_epochs=3
  effbench train model=resnet18 optimizer=lion optimizer.lr=3e-4 augment=strong
  effbench train -m optimizer=sgd,adamw,lion,adan      a sweep: one run each, a table at the end
  effbench train resume=outputs/2026-01-31/12-00-00-000000
  effbench train -m sweep.resume=outputs/2026-01-31/12-00-00-000000_sweep

flags: -m, --multirun       every combination of comma-separated values
       --json               the result as JSON on stdout: summary.json, with -m the rows of sweep.csv
       --cfg job            print the config and leave
       --info [PAGE]        Hydra's own view of groups, defaults, search path
       --config-dir DIR     a folder of your own groups (DIR/model/mine.yaml) and recipes (DIR/recipe/mine.yaml)
       --help GROUP         the keys of a group, or of one of its choices: --help optimizer, --help optimizer=lion

groups (one of each):
"""

Composed = tuple[Any, "Config"]  # as Hydra composed it, its own node included, and as checked
CFG_PAGES = ("job", "hydra", "all")


def main(words: Sequence[str]) -> int:
    arguments = split(words, [*CONFIG_FLAGS, "json"])
    if arguments.has("help"):
        print(help_text(arguments.overrides, arguments.get("config_dir")))
        return 0
    if arguments.has("completion"):
        from effbench.commands import completion

        return completion.main(["-sc", arguments.values["completion"]])
    as_json = arguments.has("json")
    if arguments.has("cfg") or arguments.has("info"):
        if as_json:
            raise ConfigError("--json is for the result of training; --cfg and --info train nothing. Leave it out.")
        return ask_hydra(arguments)
    if arguments.has("multirun"):
        from effbench.commands.sweep import sweep

        return sweep(arguments.overrides, arguments.get("config_dir"), as_json)
    return train_one(arguments.overrides, arguments.get("config_dir"), as_json)


def help_text(words: Sequence[str], config_dir: str | None = None) -> str:
    """Of `words` (groups, choices, keys) what their files say; of none, how to call train, and all keys."""
    from effbench.commands import config_help

    if config_dir:
        from effbench.config.compose import check_folder

        check_folder(config_dir)
    if words:
        return config_help.page(words, config_dir)
    keys = "keys, with their defaults (effbench help train GROUP=NAME: those of another choice):"
    return "\n\n".join([HELP + groups_table(config_dir), keys, config_help.overview(config_dir)])


def groups_table(config_dir: str | None = None) -> str:
    """The groups and what each offers, wrapped to the terminal's width."""
    from effbench.commands.config_help import wrapped
    from effbench.config.compose import group_options

    options = group_options(config_dir)
    width = max(map(len, options)) + 2
    return "\n".join(
        line for group, names in options.items() for line in wrapped(f"  {group}", ", ".join(names), width)
    )


def train_one(overrides: Sequence[str], config_dir: str | None = None, as_json: bool = False) -> int:
    """One run in this process; returns the exit code."""
    return train_composed(composed(overrides, config_dir), as_json, config_dir)


def composed(overrides: Sequence[str], config_dir: str | None = None) -> Composed:
    """The config of one run, checked before torch is imported, and before any folder is made."""
    overrides = with_resume(overrides, config_dir)
    with uncollected():
        raw = compose_raw(overrides, config_dir)
        return raw, parse(plain(raw))


def train_composed(whole: Composed, as_json: bool = False, config_dir: str | None = None) -> int:
    raw, config = whole
    if raw.hydra.job.chdir:
        raise ConfigError(
            "hydra.job.chdir must stay false: paths such as data.root=DIR are relative to where you call."
        )
    if raw.hydra.output_subdir != ".hydra":
        raise ConfigError(
            "hydra.output_subdir must stay .hydra: resume=RUN reads there what the run was started with; got "
            f"{'null' if raw.hydra.output_subdir is None else raw.hydra.output_subdir}."
        )
    if not str(raw.hydra.run.dir).strip():
        raise ConfigError("hydra.run.dir is empty; for the folder you are in, write hydra.run.dir=.")
    folder = Path(raw.hydra.run.dir)
    with holding(folder):
        run = run_as_hydra_job(raw, config, folder)
    return report(run, as_json, config_dir) if run else 0


def with_resume(overrides: Sequence[str], config_dir: str | None = None) -> list[str]:
    """For resume=RUN: RUN's own overrides first, then these, and its folder as the output folder.

    resume=auto goes on in hydra.run.dir where that is given; else it takes the newest unfinished run under outputs/
    that was started with the same overrides. It starts afresh where there is none.
    """
    if any(word.startswith("sweep.resume=") for word in overrides):
        raise ConfigError("sweep.resume=DIR goes on with a sweep, by: effbench train -m sweep.resume=DIR")
    wanted = [word.removeprefix("resume=").strip("'\"") for word in overrides if word.startswith("resume=")]
    mine = [word for word in overrides if not word.startswith("resume=")]
    if not wanted or wanted[-1] == "null":
        return mine
    if not wanted[-1]:
        raise ConfigError("resume= names no run: give a run's folder, auto, or null to start anew.")
    placed = any(override_key(word) == "hydra.run.dir" for word in mine)
    if wanted[-1] != "auto":
        folder = expanded(wanted[-1])
        return _resumed(folder, _without_place(mine, folder, config_dir) if placed else mine)
    if placed:
        from effbench.commands.requeue import unfinished_in

        found = unfinished_in(mine, config_dir)
        return mine if found is None else [*mine, f"resume={quoted(found)}"]
    newest = newest_unfinished(Path("outputs"), mine)
    if newest is not None:
        return _resumed(newest, mine)
    print("resume=auto: no unfinished run of this config under outputs/; starting afresh", file=sys.stderr)
    return mine


def _resumed(folder: Path, mine: Sequence[str]) -> list[str]:
    earlier = recorded_overrides(folder)
    if earlier is None and (folder / "sweep.json").is_file():
        raise ConfigError(f"resume={folder}: a sweep goes on with: effbench train -m sweep.resume={folder}")
    if earlier is None:
        raise ConfigError(
            f"resume={folder}: there is no run in that folder (it holds neither .hydra/overrides.yaml nor config.yaml)."
        )
    return [*merged(earlier, mine), f"resume={quoted(folder)}", f"hydra.run.dir={quoted(folder)}"]


def _without_place(words: Sequence[str], folder: Path, config_dir: str | None) -> list[str]:
    """The words without hydra.run.dir, which may only say the same as resume=RUN."""
    place = [word for word in words if override_key(word) == "hydra.run.dir"]
    given = Path(compose_raw(place, config_dir).hydra.run.dir)
    if given.resolve() != folder.resolve():
        raise ConfigError(
            f"resume={folder} goes on in that folder, so {place[-1]} cannot hold. Leave it out; or give resume=auto "
            "beside it, which goes on with what lies there, or starts there."
        )
    return [word for word in words if word not in place]


def recorded_overrides(folder: Path) -> list[str] | None:
    """What a run was started with; None where the folder holds no run. Of one begun in Python, config.yaml tells it."""
    path = folder / ".hydra" / "overrides.yaml"
    try:
        words = parse_yaml(read_text(path), str(path), recorded=True)
    except MissingFileError:
        return _overrides_of_config(folder)
    if not isinstance(words or [], list):
        raise ConfigError(f"{path} is not a list of overrides.")
    return [as_meant(word) for word in recorded([str(word) for word in words or []], str(path))]


def _overrides_of_config(folder: Path) -> list[str] | None:
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    from effbench.commands.folders import recorded_config
    from effbench.config.as_overrides import words_for

    return recorded(words_for(recorded_config(folder)), str(path))


def lasting(words: Iterable[str]) -> list[str]:
    """What tells runs apart: not where they lie, nor what may be built, which is not for a run's folder to say."""
    return [as_meant(word) for word in words if not passing(word)]


def newest_unfinished(outputs: Path, overrides: Sequence[str]) -> Path | None:
    """The newest run under `outputs` with these overrides that was interrupted or killed after a checkpoint."""
    from effbench.records import read_summary
    from effbench.redaction import redact

    same = [path.parents[1] for path in outputs.glob("*/*/.hydra/overrides.yaml")]
    for folder in sorted(same, key=lambda run: run.stat().st_mtime, reverse=True):
        saved = any((folder / "checkpoints").glob("step-*"))
        if not saved or recorded_overrides(folder) != redact(lasting(overrides)):
            continue
        if not (folder / "summary.json").is_file() or read_summary(folder)["status"] == "interrupted":
            return folder
    return None


def run_as_hydra_job(raw: Any, config: Config, folder: Path) -> Run | None:
    """Trains with Hydra's record of the job (.hydra/) beside ours; ranks other than 0 leave no record."""
    with uncollected():
        from effbench.commands.training import train
        from effbench.records import prepare_run_folder, require_writable
        from effbench.training.distributed import environment_rank

    if environment_rank() > 0:
        train(config, folder)
        return None
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    (require_writable if config.resume else prepare_run_folder)(folder)
    outcome: list[Run | BaseException] = []
    words = lasting(raw.hydra.overrides.task)

    def task(composed: Any) -> None:
        try:
            if not config.resume:  # else the record of the first sitting stays until this one has begun
                record_job(composed, folder)
            outcome.append(train(config, folder, words))
        except BaseException as error:  # noqa: BLE001 - Hydra would print and swallow it
            outcome.append(error)

    _run_job(raw, task)
    result = outcome[0]
    refused = isinstance(result, ConfigError | MissingExtraError)
    if refused and not config.resume:
        _forget(folder, missing)
    if isinstance(result, BaseException):
        raise result
    return result


def _run_job(raw: Any, task: Callable[[Any], None]) -> None:
    """Hydra's own frame around a job, without its record, which would hold secrets."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.utils import run_job
    from hydra.types import HydraContext

    from effbench.config.compose import loader

    raw.hydra.output_subdir = None
    with loader() as config_loader:
        context = HydraContext(config_loader=config_loader, callbacks=Callbacks())
        run_job(task, raw, "hydra.run.dir", None, context, configure_logging=False)


def record_job(composed: Any, folder: Path) -> None:
    """.hydra/ as Hydra writes it, without secrets: config.yaml, hydra.yaml, overrides.yaml. Within Hydra's job only."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from effbench.records import write_text
    from effbench.redaction import redact

    whole: Any = HydraConfig.instance().cfg
    own = OmegaConf.to_container(OmegaConf.masked_copy(whole, ["hydra"]), enum_to_str=True)
    assert isinstance(own, dict)
    own["hydra"]["output_subdir"] = ".hydra"  # as the user set it; this function stands in for what it asks for
    parts = {"config": OmegaConf.to_container(composed, enum_to_str=True), "hydra": own}
    (folder / ".hydra").mkdir(exist_ok=True)
    for name, content in {**parts, "overrides": own["hydra"]["overrides"]["task"]}.items():
        write_text(folder / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(OmegaConf.create(redact(content))))


def _forget(folder: Path, made: Sequence[Path]) -> None:
    """A refused run leaves nothing: only Hydra's record can be there. made: the folders that are new, inner first."""
    import shutil

    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    for path in made:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def report(run: Run, as_json: bool = False, config_dir: str | None = None) -> int:
    """Prints the result on stdout, as a table or as summary.json; returns the run's exit code."""
    import json

    from effbench.commands.signals import EXIT_CODES
    from effbench.report.result import print_result

    if as_json:
        print(json.dumps(run.summary, indent=2, ensure_ascii=not writes_unicode()))
    else:
        print_result(run.folder, run.summary)
    status = run.summary["status"]
    if status == "interrupted":
        command = go_on_with([f"resume={run.folder}"], config_dir, run.config.allow_targets)
        print(f"interrupted; go on with: {command}", file=sys.stderr)
        return EXIT_CODES.get(run.summary["stop_reason"], 1)
    if status == "diverged":
        raise EffbenchError(f"the run diverged: {run.summary['stop_reason']}.")
    return 0


def ask_hydra(arguments: Arguments) -> int:
    """--cfg and --info are Hydra's own; they see the same config. Of a sweep, they show the first job."""
    from effbench.commands.sweep_plan import expand

    config_dir, page = arguments.get("config_dir"), arguments.get("cfg")
    if page is not None and page not in CFG_PAGES:
        raise ConfigError(unknown_name("page of --cfg", page, CFG_PAGES))
    overrides = with_resume(arguments.overrides, config_dir)
    if arguments.has("multirun"):
        jobs = expand(overrides, config_dir)
        print(f"the first of {len(jobs)} jobs", file=sys.stderr)
        overrides = jobs[0]
    compose_raw(overrides, config_dir)  # a mistyped key is named as everywhere
    names = {"cfg": "--cfg", "info": "--info", "package": "--package"}
    flags = [word for key, flag in names.items() if arguments.has(key) for word in (flag, arguments.get(key)) if word]
    if arguments.has("resolve"):
        flags.append("--resolve")
    return as_hydra_app([*flags, *overrides], lambda _: None, config_dir)


def as_hydra_app(
    words: Sequence[str], task: Callable[[Any], None], config_dir: str | None, program: str = "effbench train"
) -> int:
    """Runs `task` the way Hydra runs an application's main; 2 where Hydra refuses."""
    import hydra

    from effbench.config.compose import ROOT
    from effbench.config.hydra_loader import guarded
    from effbench.config.paths import conf_dir
    from effbench.config.recipes import register_recipes

    register_recipes(expanded(config_dir) if config_dir else None)
    argv, sys.argv = sys.argv, [program, *map(as_meant, words)]
    try:
        with guarded():
            hydra.main(config_path=str(conf_dir()), config_name=ROOT, version_base="1.3")(task)()
    except SystemExit as stop:
        return 2 if stop.code else 0
    finally:
        sys.argv = argv
    return 0
