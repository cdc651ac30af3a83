"""The tables of a study that have a row a run: what was chosen, what failed, and where every number comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from effbench.records import FINISHED
from effbench.report.collect import shortened
from effbench.report.spread import seconds
from effbench.study.grids import Grid, anchors_of, value_text, without_columns, without_empty_columns
from effbench.study.space import words_of
from effbench.study.table import StudyTable

_LONGEST_REASON = 300  # letters: the first lines of an error say what is wrong


def every_run(table: StudyTable) -> list[Grid]:
    """Return the chosen settings, the runs without a result, every final run and every setting tried."""
    return [grid for grid in (_chosen(table), _without_result(table), _final_runs(table), _tuning_runs(table)) if grid]


def _chosen(table: StudyTable) -> Grid | None:
    """Return each arm's best setting; None before the first final run."""
    rows = []
    for arm in table.arms:
        run = next((run for run in table.confirmations if run.arm == arm.name), None)
        if run is None:
            continue
        # of equal values the first, as the engine chooses
        alike = (trial for trial in table.trials if trial.arm == arm.name and trial.settings == run.settings)
        number = next((str(trial.number) for trial in alike), "")
        rows.append([arm.name, number, " ".join(words_of(run.settings)), " ".join(arm.overrides)])
    lead = "The setting that tuning chose, by the number of its tuning run, and what the arm stands for."
    grid = Grid("Chosen settings", lead, ["arm", "tuning\nrun", "setting", "arm's overrides"],
                [False, True, False, False], rows)  # fmt: skip
    return without_empty_columns(grid) if rows else None


def _without_result(table: StudyTable) -> Grid | None:
    """Return the runs that diverged or failed, with the reason; None without any."""
    rows = [
        [trial.arm, f"tuning run {trial.number}", str(trial.seed), str(trial.steps), trial.status,
         shortened(trial.reason, _LONGEST_REASON), trial.run]
        for trial in table.trials if trial.status not in FINISHED
    ]  # fmt: skip
    rows += [
        [run.arm, "final run", str(run.seed), str(run.steps), run.status, shortened(run.reason, _LONGEST_REASON),
         run.run]
        for run in table.confirmations if run.status not in FINISHED
    ]  # fmt: skip
    heads = ["arm", "what", "seed", "steps", "status", "reason", "run"]
    grid = Grid("Diverged or failed", "Runs without a result: each counts as the worst.", heads,
                [False, False, True, True, False, False, False], rows)  # fmt: skip
    return without_empty_columns(grid) if rows else None


def _final_runs(table: StudyTable) -> Grid:
    # 12 digits of a config's digest name it among all runs of a study; a commit may end with ' (changed)'
    rows = [
        [run.arm, str(run.seed), value_text(run.validation, table), value_text(run.test, table),
         "" if run.steps_to_target is None else f"{run.steps_to_target:.0f}", str(run.steps), seconds(run.seconds),
         run.status, run.run, run.digest[:12], run.commit[:20], run.machine]
        for run in table.confirmations
    ]  # fmt: skip
    unit = _unit(table)
    heads = ["arm", "seed", f"val{unit}", f"test{unit}", "steps to\ntarget", "steps", "time", "status", "run", "config",
             "commit", "machine"]  # fmt: skip
    lead = "Each arm's best setting with new seeds; only these read the test split."
    # the first run of each arm, to which the ranking leads
    left = anchors_of(table)
    anchors = [left.pop(run.arm, "") for run in table.confirmations]
    grid = Grid("Final runs", lead, heads, [False, *[True] * 6, *[False] * 5], rows, anchors=anchors)
    return _said_once(grid, ("steps", "status", "commit", "machine"))


def _tuning_runs(table: StudyTable) -> Grid:
    rows = [
        [trial.arm, str(trial.number), value_text(trial.value, table), trial.status, " ".join(words_of(trial.settings)),
         str(trial.seed), str(trial.steps), seconds(trial.seconds), trial.run, trial.digest[:12], trial.commit[:20],
         trial.machine]
        for trial in table.trials
    ]  # fmt: skip
    heads = ["arm", "number", f"val{_unit(table)}", "status", "settings", "seed", "steps", "time", "run", "config",
             "commit", "machine"]  # fmt: skip
    lead = "Tuning runs: they read train and validation samples only."
    grid = Grid("Every setting tried", lead, heads,
                [False, True, True, False, False, True, True, True, *[False] * 4], rows)  # fmt: skip
    return _said_once(grid, ("status", "seed", "steps", "commit", "machine"))


def _unit(table: StudyTable) -> str:
    """Return the metric's unit as it stands in the head of a column; '' for none."""
    return f" ({table.unit})" if table.unit else ""


def _said_once(grid: Grid, names: Sequence[str]) -> Grid:
    """Return the table without those of the named columns that are equal in all rows; its lead says their value."""
    # a commit and a machine fill half of the width, and they differ in studies with objections only
    places = [grid.heads.index(name) for name in names]
    values = {place: {row[place] for row in grid.rows} for place in places if len(grid.rows) > 1}
    same = {grid.heads[place]: found.pop() for place, found in values.items() if len(found) == 1}
    told = ", ".join(f"{name} {value}" for name, value in same.items() if value)
    return without_columns(replace(grid, lead=f"{grid.lead} All: {told}." if told else grid.lead), same)
