"""effbench train: train one config, or with -m every combination of comma-separated values."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from effbench.cli.flags import VERB_FLAGS, Arguments, parse_flags
from effbench.config.compose import compose_raw
from effbench.errors import ConfigError, unknown_name
from effbench.run.hydra_app import as_hydra_app
from effbench.run.launch import composed, train_composed
from effbench.run.resume_words import with_resume

log = logging.getLogger(__name__)

HELP = """usage: effbench train [GROUP=NAME | KEY=VALUE ...] [-m] [--json] [--cfg job] [--config-dir DIR]

  effbench train                                       MobileNetV3-small + AdamW on the embedded Fashion-MNIST
  effbench train data=text_csv data.file=reviews.csv   your own texts, with the model for texts (ngrams)
  effbench train recipe=swin_lion trainer.max_epochs=3
  effbench train model=resnet18 optimizer=lion optimizer.lr=3e-4 augment=strong
  effbench train -m optimizer=sgd,adamw,lion,adan      a sweep: one run each, a table at the end
  effbench train resume=outputs/2026-01-31/12-00-00-000000
  effbench train -m sweep.resume=outputs/2026-01-31/12-00-00-000000_sweep

flags: -m, --multirun       every combination of comma-separated values
       --json               the result as JSON on stdout: summary.json, with -m the rows of sweep.csv
       -q, --quiet          only warnings and errors on stderr, no progress bar
       -v, --verbose        also debugging lines, each line with its logger's name
       --cfg job            print the config and exit
       --info [PAGE]        Hydra's view of groups, defaults, search path
       --config-dir DIR     folder with your own groups (DIR/model/mine.yaml) and recipes (DIR/recipe/mine.yaml)
       --help GROUP         the keys of a group, or of one of its choices: --help optimizer, --help optimizer=lion

groups (one of each):
"""

CFG_PAGES = ("job", "hydra", "all")


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["train"])
    if arguments.has("help"):
        print(help_text(arguments.overrides, arguments.get("config_dir")))
        return 0
    if arguments.has("completion"):
        from effbench.cli import completion

        return completion.main(["-sc", arguments.values["completion"]])
    as_json = arguments.has("json")
    # pages of Hydra, which train nothing
    if arguments.has("cfg") or arguments.has("info"):
        if as_json:
            raise ConfigError("--json is for the result of training; --cfg and --info train nothing. Leave it out.")
        return ask_hydra(arguments)
    if arguments.has("multirun"):
        from effbench.jobs.sweep import sweep

        return sweep(arguments.overrides, arguments.get("config_dir"), as_json)
    config_dir = arguments.get("config_dir")
    # composed first, without torch: a mistake in a word is reported in a second
    return train_composed(composed(arguments.overrides, config_dir), as_json, config_dir)


def help_text(words: Sequence[str], config_dir: str | None = None) -> str:
    """Return the help for groups, choices and keys; without `words`, the usage and all keys."""
    from effbench.cli import help_pages
    from effbench.config.compose import check_folder, group_options

    if config_dir:
        check_folder(config_dir)
    if words:
        return help_pages.page(words, config_dir)
    options = group_options(config_dir)
    width = max(map(len, options)) + 2
    groups = [
        line for group, names in options.items() for line in help_pages.wrapped(f"  {group}", ", ".join(names), width)
    ]
    # the longest part comes last, so that a pager shows the usage first
    keys = "keys, with their defaults (effbench help train GROUP=NAME: those of another choice):"
    return "\n\n".join([HELP + "\n".join(groups), keys, help_pages.overview(config_dir)])


def ask_hydra(arguments: Arguments) -> int:
    """Run Hydra's --cfg or --info on the same config. For a sweep they show the first job."""
    from effbench.jobs.plan import expand

    config_dir, page = arguments.get("config_dir"), arguments.get("cfg")
    if page is not None and page not in CFG_PAGES:
        raise ConfigError(unknown_name("page of --cfg", page, CFG_PAGES))
    # resume= stands for the recorded overrides of that run
    overrides = with_resume(arguments.overrides, config_dir)
    if arguments.has("multirun"):
        # Hydra's pages show one config, and a sweep has as many as jobs
        jobs = expand(overrides, config_dir)
        log.info(f"the first of {len(jobs)} jobs")
        overrides = jobs[0]
    compose_raw(overrides, config_dir)  # reports a mistyped key as train does
    names = {"cfg": "--cfg", "info": "--info", "package": "--package"}
    flags = [word for key, flag in names.items() if arguments.has(key) for word in (flag, arguments.get(key)) if word]
    if arguments.has("resolve"):
        flags.append("--resolve")
    return as_hydra_app([*flags, *overrides], lambda _: None, config_dir)
