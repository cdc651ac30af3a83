"""effbench verify: check a run folder, or prove that a config resumes exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from effbench.cache_dir import expanded
from effbench.cli.flags import VERB_FLAGS, parse_flags, show_help
from effbench.errors import ConfigError
from effbench.escaping import for_terminal

if TYPE_CHECKING:
    from effbench.report.verify import Check

HELP = """usage: effbench verify RUN [--json]
       effbench verify resume [GROUP=NAME | KEY=VALUE ...] [steps=8] [at=5] [--config-dir DIR] [--json]

verify RUN     checks the digests of every checkpoint, the links best and last, the config, that metrics.csv is complete
               and that summary.json agrees with it
verify resume  trains your config for a few steps twice, once killed (SIGKILL) after step `at` and resumed, and compares
               bit for bit: weights, average, optimizer, schedule, rows of metrics.csv

The exit code is 1 if a check fails. A run folder named `resume` is ./resume."""


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["verify"])
    if arguments.has("help") or not arguments.overrides:
        return show_help(HELP, arguments.has("help"))
    first, *rest = arguments.overrides
    if first == "resume":
        from effbench.run.verify_resume import verify_resume

        checks = verify_resume(rest, arguments.get("config_dir"))
    elif rest:
        raise ConfigError(f"verify takes one run; got {rest[0]!r} too.")
    else:
        from effbench.report.verify import verify_run

        checks = verify_run(expanded(first))
    return _report(checks, arguments.has("json"))


def _report(checks: list[Check], json: bool) -> int:
    from effbench.report.verify import as_json, failures

    print(for_terminal(as_json(checks))) if json else _print(checks)
    return int(any(failures(checks)))


def _print(checks: Sequence[Check]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for check in checks:
        good = check.problem is None
        table.add_row(
            "[green]ok[/]" if good else "[red]WRONG[/]", *map(_shown, (check.name, check.problem or check.detail))
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000
    console.print(table)


def _shown(text: str) -> str:
    """Escape names and values, which come from the run's files."""
    from rich.markup import escape

    return escape(for_terminal(text))
