"""effbench study: which arm is better? Tuning with an equal budget, paired runs with new seeds, a verdict."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence

from effbench.cli.flags import VERB_FLAGS, Arguments, parse_flags, show_help
from effbench.config.study_files import options
from effbench.errors import ConfigError

log = logging.getLogger(__name__)

HELP = """usage: effbench study study=NAME [study.KEY=VALUE ...] [GROUP=NAME | KEY=VALUE ...] [--plan | --costs]
                      [--json] [--config-dir DIR]

  effbench study study=smoke                            a whole study in about a minute
  effbench study study=optimizers --plan                arms, runs, time and power; nothing is trained but a few steps
  effbench study study=optimizers study.workers=2 data=cifar10
  effbench study study=optimizers study.models=[cnn,mlp] study.seeds=10 study.folder=mine

Each arm (a model with an optimizer, or a named list of overrides) is tuned with the same number of runs, which read
train and validation samples only. Its best setting is then run with new seeds that all arms share; only these runs read
the test split, and only they are compared. Words that are not study.* are overrides of every run.
The same command goes on with an interrupted study, and joins it as a worker from another terminal or machine.

flags: --plan             print what would be run, how long it takes and what it can tell apart
       --costs            measure step times, memory and latency of all arms again, when all runs have ended: after
                          "other work or clock drift was seen", or on another machine
       --json             the result as JSON on stdout
       --config-dir DIR   folder with your own groups: DIR/study/mine.yaml, DIR/search_space/mine.yaml, DIR/model/...

studies: {studies}"""


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["study"])
    if arguments.has("help") or not arguments.overrides:
        return show_help(help_text(arguments.overrides, arguments.get("config_dir")), arguments.has("help"))
    return study(arguments)


def help_text(words: Sequence[str], config_dir: str | None) -> str:
    """Return the help with the names of all studies, and the keys of the one in `words`, or those that all share."""
    from effbench.cli.help_pages import choice_page  # here: only the help needs it

    found = options("study", config_dir)
    # of several the last one counts, as in the overrides of a run
    chosen = [word.removeprefix("study=") for word in words if word.startswith("study=")]
    keys = choice_page("study", chosen[-1] if chosen and chosen[-1] in found else "_base", config_dir)
    return f"{HELP.replace('{studies}', ', '.join(sorted(found)))}\n\n{keys}"


def study(arguments: Arguments) -> int:
    """Run or plan the study of the arguments and return the exit code."""
    from effbench.study.planning import planned

    plan = planned(arguments.overrides, arguments.get("config_dir"))  # all mistakes in words, before torch is imported

    from effbench.study.run import plan_only, run_study

    # Printed when the study is interrupted: the same command goes on with it. shlex: a shell would split [a, b].
    folder = arguments.get("config_dir")
    place = ["--config-dir", folder] if folder else []
    costs = arguments.has("costs")
    command = shlex.join(["effbench", "study", *arguments.overrides, *place, *(["--costs"] if costs else [])])
    if arguments.has("plan"):
        if costs:
            raise ConfigError("give --plan or --costs: one plans a study, the other measures one that has ended.")
        return plan_only(plan, arguments.has("json"))
    return run_study(plan, command, arguments.has("json"), costs)
