"""The tables of a study's result, as texts: for the page, for Markdown and for the console."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from effbench.report.spread import seconds
from effbench.stats import Interval
from effbench.study.results import Quality, StudyResult
from effbench.study.space import words_of
from effbench.study.table import StudyTable
from effbench.units import human_bytes, human_count


@dataclass(frozen=True)
class Grid:
    """A table of the page.

    Attributes:
        heading: title.
        lead: what it shows.
        heads: titles of the columns.
        numeric: one bit a column: numbers are aligned right.
        rows: texts.
        priority: on the console, order of removal of each column, 0: never.
    """

    heading: str
    lead: str
    heads: Sequence[str]
    numeric: Sequence[bool]
    rows: Sequence[Sequence[str]]
    priority: Sequence[int] = ()


def ranking(table: StudyTable, result: StudyResult) -> Grid:
    """Return the arms by rank, with quality, target and cost beside each other."""
    cost = {each.arm: each for each in table.costs}
    times = {each.arm: each for each in result.target_times if each.unit == "steps"}

    def row(quality: Quality) -> list[str]:
        own, time = cost.get(quality.arm), times.get(quality.arm)
        return [
            str(quality.rank or ""),
            quality.arm,
            _interval(quality.test, table),
            _value(quality.validation.estimate if quality.validation else None, table),
            _value(quality.tuned, table),
            f"{time.restricted_mean.estimate:.0f}" if time and time.restricted_mean else "",
            f"{time.reached} of {time.runs}" if time else "",
            f"{own.step_seconds.estimate * 1000:.2f}{' !' if own.contaminated else ''}" if own else "",
            human_bytes(own.optimizer_state_bytes) if own else "",
            f"{quality.finished} of {len(table.planned_seeds)}",
        ]

    target = "" if table.target is None else f" Target: validation {_value(table.target, table)} ({_target(table)})."
    lead = (
        f"Mean test {table.metric} over {len(table.planned_seeds)} seeds of each arm's best of {table.planned_trials} "
        f"settings, with its interval. Seconds: {table.clock}.{target}"
    )
    heads = [
        "rank",
        "arm",
        f"test {table.metric}",
        "val",
        "tuned",
        "steps to\ntarget",
        "reached",
        "ms a\nstep",
        "state",
        "n",
    ]
    numeric = [True, False, *[True] * 8]
    priority = [5, 0, 0, 3, 6, 1, 4, 2, 7, 8]
    return Grid("Ranking", lead, heads, numeric, [row(each) for each in result.qualities], priority)


def _target(table: StudyTable) -> str:
    if table.target_source == "given":
        return "given"
    return f"median best of {table.baseline} on {table.target_source}"


def details(table: StudyTable, result: StudyResult) -> list[Grid]:
    """Return comparisons, budget, interaction and costs; without those that are empty."""
    scale = 100 if table.as_percent else 1
    unit = "pt" if table.as_percent else ""

    def difference(interval: Interval | None) -> str:
        if interval is None:
            return ""
        low, middle, high = (f"{scale * each:+.2f}" for each in (interval.low, interval.estimate, interval.high))
        return f"{middle} {unit} [{low}, {high}]"

    comparisons = [
        [
            f"{each.a} - {each.b}",
            difference(each.difference),
            difference(each.with_test_samples),
            f"{each.p:.4f}",
            f"{each.p_holm:.4f}",
            f"{each.probability.estimate:.2f} [{each.probability.low:.2f}, {each.probability.high:.2f}]",
            f"{each.wins} / {each.ties} / {each.losses}",
            {"a": each.a, "b": each.b, "none": "not distinguishable"}[each.winner],
        ]
        for each in result.comparisons
    ]
    grids = [
        Grid(
            "Comparisons",
            "Differences of the test metric over paired seeds with t intervals; with new test samples too by crossed "
            "resampling; p of the two-sided sign-flip test, and after Holm's correction over all of these.",
            ["pair", "difference", "with test samples", "p", "p (Holm)", "P(first beats second)", "win / tie / loss",
             "better"],
            [False, True, True, True, True, True, True, False],
            comparisons,
        ),
        _budget(table, result),
        _interaction(result, scale, unit),
        _costs(table),
    ]  # fmt: skip
    return [grid for grid in grids if grid.rows]


def _budget(table: StudyTable, result: StudyResult) -> Grid:
    budgets = sorted({point.trials for point in result.budget})
    cells = {(point.arm, point.trials): point for point in result.budget}
    rows = [
        [
            arm.name,
            *(
                f"{_value(point.best, table)} ({point.wins:.0%})" if (point := cells.get((arm.name, budget))) else ""
                for budget in budgets
            ),
        ]
        for arm in table.arms
    ]
    lead = "Median best validation metric of so many tuning runs, by resampling; in brackets how often the arm is best."
    heads = ["arm", *(f"{budget} run{'s' * (budget != 1)}" for budget in budgets)]
    return Grid("Best against tuning budget", lead, heads, [False, *[True] * len(budgets)], rows if budgets else [])


def _interaction(result: StudyResult, scale: float, unit: str) -> Grid:
    found = result.interaction
    if found is None:
        return Grid("Interaction", "", [], [], [])
    cells = {(cell.model, cell.optimizer): cell.effect for cell in found.cells}

    def text(effect: Interval) -> str:
        return f"{scale * effect.estimate:+.2f} {unit} [{scale * effect.low:+.2f}, {scale * effect.high:+.2f}]"

    rows = [[model, *(text(cells[model, optimizer]) for optimizer in found.optimizers)] for model in found.models]
    lead = f"{found.sentence}. How much better a pair does than the averages of its model and its optimizer say."
    return Grid(
        "Interaction of model and optimizer",
        lead,
        ["", *found.optimizers],
        [False, *[True] * len(found.optimizers)],
        rows,
    )


def _costs(table: StudyTable) -> Grid:
    rows = [
        [
            cost.arm,
            _milliseconds(cost.step_seconds),
            f"{cost.images_per_second:.0f}",
            human_bytes(cost.peak_memory_bytes),
            human_bytes(cost.optimizer_state_bytes),
            human_count(cost.parameters),
            human_count(cost.macs),
            "" if cost.latency_p50_seconds is None else f"{cost.latency_p50_seconds * 1000:.2f} ms",
            "yes" if cost.contaminated else "no",
        ]
        for cost in table.costs
    ]
    heads = [
        "arm",
        "ms a step",
        "images/s",
        "peak memory",
        "optimizer state",
        "parameters",
        "MACs",
        "latency p50",
        "disturbed",
    ]
    lead = "Measured alone on the machine, in turns over the arms. Disturbed: other work or a changing clock was seen."
    return Grid("Cost", lead, heads, [False, *[True] * 7, False], rows)


def every_run(table: StudyTable) -> list[Grid]:
    """Return every setting tried and every final run, with where it comes from."""
    trials = [
        [trial.arm, str(trial.number), _value(trial.value, table), trial.status, " ".join(words_of(trial.settings)),
         trial.run, trial.digest[:12], trial.commit[:20]]
        for trial in table.trials
    ]  # fmt: skip
    runs = [
        [run.arm, str(run.seed), _value(run.validation, table), _value(run.test, table),
         "" if run.steps_to_target is None else f"{run.steps_to_target:.0f}", str(run.steps), seconds(run.seconds),
         run.status, run.run, run.digest[:12], run.commit[:20], run.machine]
        for run in table.confirmations
    ]  # fmt: skip
    return [
        Grid("Final runs", "Each arm's best setting with new seeds; only these read the test split.",
             ["arm", "seed", "val", "test", "steps to target", "steps", "time", "status", "run", "config", "commit",
              "machine"],
             [False, *[True] * 6, *[False] * 5], runs),
        Grid("Every setting tried", "Tuning runs: they read train and validation samples only.",
             ["arm", "number", "val", "status", "settings", "run", "config", "commit"],
             [False, True, True, *[False] * 5], trials),
    ]  # fmt: skip


def _value(value: float | None, table: StudyTable) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.2f} %" if table.as_percent else f"{value:.4g}"


def _interval(interval: Interval | None, table: StudyTable) -> str:
    if interval is None:
        return "-"
    if table.as_percent:
        return f"{100 * interval.estimate:.2f} % [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
    return f"{interval.estimate:.4g} [{interval.low:.4g}, {interval.high:.4g}]"


def _milliseconds(interval: Interval) -> str:
    low, middle, high = (f"{1000 * each:.2f}" for each in (interval.low, interval.estimate, interval.high))
    return f"{middle} [{low}, {high}]"
