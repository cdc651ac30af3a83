"""The live view of a study on a terminal: arms, runs, best so far, time left. Elsewhere log lines tell."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effbench.escaping import for_terminal
from effbench.log import LOGGER, print_above_bar
from effbench.report.spread import seconds
from effbench.report.text_table import TextColumn, text_table
from effbench.study.deployment import measures_deployment
from effbench.study.ledger import Ledger
from effbench.study.plan import StudyPlan

if TYPE_CHECKING:
    from rich.live import Live


@dataclass(frozen=True)
class Progress:
    """One arm's progress.

    Attributes:
        arm: its name.
        tuned: tuning runs that have ended.
        best: best validation metric so far.
        final: final runs that have ended.
        missed: runs of both kinds without result.
    """

    arm: str
    tuned: int
    best: float | None
    final: int
    missed: int


def progress_of(plan: StudyPlan, ledger: Ledger) -> list[Progress]:
    """Return the progress of every arm."""
    found = []
    for arm in plan.arms:
        tuned = [outcome["value"] for _, outcome in ledger.outcomes("tune", arm.name).values()]
        final = [outcome["value"] for _, outcome in ledger.outcomes("confirm", arm.name).values()]
        # a diverged trial has no value, but has used its share of the budget: it counts as tuned
        values = [value for value in tuned if value is not None]
        best = (max(values) if plan.mode == "max" else min(values)) if values else None
        found.append(Progress(arm.name, len(tuned), best, len(final), sum(each is None for each in (*tuned, *final))))
    return found


class Board:
    """Shows nothing: for a stderr that is no terminal."""

    def show(
        self, plan: StudyPlan, ledger: Ledger, running: Sequence[str], left_s: float | None, others: int = 0
    ) -> None:
        """Draw the state anew.

        Args:
            plan: the plan.
            ledger: its tasks.
            running: what runs on this machine.
            left_s: estimated seconds until the end, or None.
            others: other workers that work at it now.
        """


class TerminalBoard(Board):
    """The state of the study below the log lines.

    Args:
        live: rich's display. It has no thread of its own: runs are forked from this process.
    """

    def __init__(self, live: Live):
        self._live = live

    def show(
        self, plan: StudyPlan, ledger: Ledger, running: Sequence[str], left_s: float | None, others: int = 0
    ) -> None:
        # rich is imported where it draws: most studies run without a terminal
        from rich.console import Group
        from rich.text import Text

        found = progress_of(plan, ledger)
        table = text_table(_columns(plan, found), self._live.console.width, _styles(plan, found))
        # above the table, because of a table that is higher than the terminal rich leaves the end out
        said = ["", *map(for_terminal, _lines(plan, found, running, left_s, others))]
        lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in said]
        self._live.update(Group(*lines, table), refresh=True)


def _lines(
    plan: StudyPlan, found: Sequence[Progress], running: Sequence[str], left_s: float | None, others: int
) -> list[str]:
    """Return what is said above the table."""
    keys = plan.keys
    ended, wanted = sum(each.tuned + each.final for each in found), len(found) * (keys.trials + keys.seeds)
    left, also = "", " and deployment" if measures_deployment(plan) else ""
    if left_s is not None and ended < wanted:
        left = f"; about {f'{left_s:.0f} s' if left_s < 100 else seconds(left_s)} left"
        left += f", then step times{also} are measured" if keys.timing_rounds else ""
    # a label is padded for the columns of the log
    names = ", ".join(" ".join(label.split()) for label in running)
    workers = f"; {1 + others} workers" if others else ""
    lines = [f"{plan.name}: {ended} of {wanted} runs ended{workers}{left}", f"running here: {names or 'nothing'}"]
    if best := _best(plan, found):
        lines.append(f"best tuning run so far: {best.arm}, val/{plan.metric} {_value_text(plan, best)}")
    return lines


def _best(plan: StudyPlan, found: Sequence[Progress]) -> Progress | None:
    sign = 1 if plan.mode == "max" else -1
    return max(
        (each for each in found if each.best is not None), key=lambda each: sign * (each.best or 0), default=None
    )


def _value_text(plan: StudyPlan, progress: Progress) -> str:
    return "" if progress.best is None else plan.display.with_unit(progress.best)


def _columns(plan: StudyPlan, found: Sequence[Progress]) -> list[TextColumn]:
    trials, seeds = plan.keys.trials, plan.keys.seeds
    return [
        TextColumn("arm", [for_terminal(each.arm) for each in found], is_number=False),
        TextColumn("tuned", [f"{each.tuned}/{trials}" for each in found]),
        TextColumn(f"best val/{plan.metric}", [_value_text(plan, each) for each in found]),
        TextColumn("final", [f"{each.final}/{seeds}" for each in found]),
        TextColumn("no result", [str(each.missed or "") for each in found], drop_order=1),
    ]


def _styles(plan: StudyPlan, found: Sequence[Progress]) -> list[str | None]:
    best = _best(plan, found)
    return ["bold" if each is best else None for each in found]


@contextmanager
def board() -> Iterator[Board]:
    """Show a live table during the block, on a terminal that shows log lines."""
    if not (sys.stderr.isatty() and LOGGER.isEnabledFor(logging.INFO)):  # -q: no lines, no table
        yield Board()
        return
    from rich.console import Console
    from rich.live import Live

    # stderr, because stdout is for the result, which --json makes a program's input
    console = Console(stderr=True, highlight=False, emoji=False)
    # No thread (auto_refresh): a run that is forked while another thread holds rich's lock would wait for it for ever.
    # Transient: the result's own table follows. No redirection: runs would inherit it.
    with Live(
        console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as live:
        # log lines scroll above the table; written directly they would be drawn over
        print_above_bar(lambda line: console.print(line, markup=False))
        try:
            yield TerminalBoard(live)
        finally:
            print_above_bar(None)
