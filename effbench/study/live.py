"""The live view of a study on a terminal: arms, runs, best so far, time left. Elsewhere log lines tell."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from effbench.escaping import for_terminal
from effbench.log import LOGGER, print_above_bar
from effbench.report.spread import number_text, seconds
from effbench.study.ledger import Ledger
from effbench.study.plan import StudyPlan


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

    def show(self, plan: StudyPlan, ledger: Ledger, running: list[str], left_s: float | None) -> None:
        """Draw the state anew.

        Args:
            plan: the plan.
            ledger: its tasks.
            running: what runs on this machine.
            left_s: estimated seconds until the end, or None.
        """


class TerminalBoard(Board):
    """A table below the log lines.

    Args:
        live: rich's display. It has no thread of its own: runs are forked from this process.
    """

    def __init__(self, live: Any):
        self._live = live

    def show(self, plan: StudyPlan, ledger: Ledger, running: list[str], left_s: float | None) -> None:
        # rich is imported where it draws: most studies run without a terminal
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
        for head in ("arm", "tuned", f"best val/{plan.metric}", "final", "no result"):
            table.add_column(head, justify="left" if head == "arm" else "right", no_wrap=True)
        for each in progress_of(plan, ledger):
            best = "" if each.best is None else number_text(f"val/{plan.metric}", each.best)
            of = f"{each.tuned}/{plan.keys.trials}", f"{each.final}/{plan.keys.seeds}"
            # Text: rich reads brackets in a plain string as markup
            table.add_row(Text(each.arm), of[0], best, of[1], str(each.missed or ""))
        left = "" if left_s is None else f"about {seconds(left_s)} left; "
        table.caption = Text(for_terminal(f"{left}running: {', '.join(running) or 'nothing here'}"))
        self._live.update(table, refresh=True)


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
        print_above_bar(lambda line: console.print(line, markup=False, soft_wrap=True))
        try:
            yield TerminalBoard(live)
        finally:
            print_above_bar(None)
