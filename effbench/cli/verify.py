"""effbench verify: check a run folder, or prove that a config resumes exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from effbench.cache_dir import expanded
from effbench.cli.flags import VERB_FLAGS, parse_flags, refuse_config_dir, show_help
from effbench.errors import ConfigError
from effbench.escaping import for_terminal

if TYPE_CHECKING:
    from effbench.report.verify import Check

HELP = """usage: effbench verify RUN [--json]
       effbench verify resume [GROUP=NAME | KEY=VALUE ...] [steps=8] [at=5] [--config-dir DIR] [--json]

verify RUN     checks the digests of every checkpoint, the links best and last, the config, that metrics.csv is complete
               and that summary.json agrees with it
verify resume  trains your config twice for `steps` steps: once without interruption, once killed (SIGKILL) after step
               `at` and resumed; both must agree bit for bit in weights, average, optimizer, schedule and metrics.csv

The exit code is 1 if a check fails. A run folder named `resume` is ./resume."""


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["verify"])
    if arguments.has("help") or not arguments.overrides:
        return show_help(HELP, arguments.has("help"))
    first, *rest = arguments.overrides
    if first != "resume" and rest:
        raise ConfigError(f"verify takes one run; got {rest[0]!r} too.")
    if first != "resume":
        refuse_config_dir(arguments, "a run")
    # after the check of the words, because it imports torch
    from effbench.report.verify import as_json, failures, verify_run

    if first == "resume":
        from effbench.run.verify_resume import verify_resume

        checks = verify_resume(rest, arguments.get("config_dir"))
    else:
        checks = verify_run(expanded(first))
    if arguments.has("json"):
        print(for_terminal(as_json(checks)))
    else:
        _print(checks)
    return int(any(failures(checks)))


def _print(checks: Sequence[Check]) -> None:
    from effbench.report.text_table import console, print_sentence

    out, width = console(), max(len(check.name) for check in checks)
    for check in checks:
        mark, style = ("ok", "green") if check.problem is None else ("WRONG", "red")
        print_sentence(out, check.problem or check.detail, f"{mark:<5}  {check.name:<{width}}  ", style)
