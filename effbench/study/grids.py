"""The tables of a study's result, as texts: for the page, for Markdown and for the console.

One table serves all three, so a number is written the same way wherever it is read. Numbers of different files agree
in their digits: percent with two decimals, because 10,000 test samples have steps of 0.01 %.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace

from effbench.pareto import FrontPoint
from effbench.report.spread import seconds
from effbench.stats import Interval
from effbench.study.deployment import AGAIN
from effbench.study.front import FILE
from effbench.study.results import Quality, StudyResult
from effbench.study.runs import groups
from effbench.study.table import StudyTable, baselines
from effbench.study.verdicts import seconds_doubt
from effbench.study.wording import difference_unit, listed
from effbench.units import human_bytes, human_count

LEVELS = 4  # shades of a heat map in one direction, as many as the page's styles have
# headings that have figures
RANKING, TARGET, BUDGET, FRONT = "Ranking", "Time to target", "Best against tuning budget", "Pareto fronts"


def _ms(seconds_: float) -> str:
    return f"{1000 * seconds_:.3g} ms"


# field of Cost -> (its name, how it is written), as tables and figures of the front have them
COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "step_seconds": ("time a step", _ms),
    "peak_memory_bytes": ("peak memory", human_bytes),
    "optimizer_state_bytes": ("optimizer state", human_bytes),
    "parameters": ("parameters", human_count),
    "macs": ("MACs", human_count),
    "latency_p50_seconds": ("latency", _ms),
    FILE: ("file size", human_bytes),
}


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
        levels: of a heat map, one number a cell: -LEVELS (far below) to LEVELS, 0: no colour; () for no heat map.
        anchors: one name a row, to which links lead; '' for none.
        links: one name a row, to which its arm leads; () for no links.
    """

    heading: str
    lead: str
    heads: Sequence[str]
    numeric: Sequence[bool]
    rows: Sequence[Sequence[str]]
    priority: Sequence[int] = ()
    levels: Sequence[Sequence[int]] = ()
    anchors: Sequence[str] = ()
    links: Sequence[str] = ()


def ranking(table: StudyTable, result: StudyResult) -> Grid:
    """Return the arms by rank, with quality, target and cost beside each other."""
    cost = {each.arm: each for each in table.costs}
    # in steps: they do not depend on the machine, nor on what else it did
    times = {each.arm: each for each in result.target_times if each.unit == "steps"}

    def row(quality: Quality) -> list[str]:
        # an unfinished study has arms without costs or times: their cells are empty, not 0
        own, time = cost.get(quality.arm), times.get(quality.arm)
        return [
            f"{quality.rank}{' x' * bool(quality.missed)}" if quality.rank else "",
            quality.arm,
            _interval(quality.test, table),
            value_text(quality.validation.estimate if quality.validation else None, table),
            value_text(quality.tuned, table),
            f"{time.restricted_mean.estimate:.0f}" if time and time.restricted_mean else "",
            f"{time.reached} of {time.runs}" if time else "",
            f"{own.step_seconds.estimate * 1000:.2f}{' !' * own.contaminated}{' *' * own.defaults}" if own else "",
            human_bytes(own.optimizer_state_bytes) if own else "",
            f"{quality.finished} of {len(table.planned_seeds)}",
        ]

    within = " Ranks are within a model." if len(groups(table.arms)) > 1 else ""
    if any(each.missed for each in result.qualities):
        within += " 'x': runs diverged or failed; the mean leaves them out, so such arms come after the others."
    marks = " '!': the step time was disturbed." if any(each.contaminated for each in table.costs) else ""
    marks += " '*': it is that of the default settings." if any(each.defaults for each in table.costs) else ""
    # Each arm's own interval also holds the variation of seeds that all arms share; paired differences do not. So arms
    # whose intervals overlap may still differ.
    lead = (
        f"Mean test {table.metric} over {len(table.planned_seeds)} seeds of each arm's best of {table.planned_trials} "
        f"settings, with its interval.{within} Seconds: {table.clock}.{_target_text(table)}{marks}"
    )
    # line breaks in heads: a column should not be wider than its numbers
    heads = [
        "rank",
        "arm",
        f"test {table.display.axis}",
        "val",
        "tuned",
        "steps to\ntarget",
        "reached",
        "ms a\nstep",
        "state",
        "n",
    ]
    numeric = [True, False, *[True] * 8]
    # at 80 columns the arm, its test metric and the steps to the target stay longest; n goes first
    priority = [5, 0, 0, 3, 6, 1, 4, 2, 7, 8]
    rows, anchors = [row(each) for each in result.qualities], anchors_of(table)
    links = [anchors[each.arm] if each.finished else "" for each in result.qualities]
    return Grid(RANKING, lead, heads, numeric, rows, priority, links=links)


def anchors_of(table: StudyTable) -> dict[str, str]:
    """Return arm -> the name of its first final run in the page: a number, because names of arms are the user's."""
    return {arm.name: f"final-{number}" for number, arm in enumerate(table.arms)}


def details(table: StudyTable, result: StudyResult) -> list[Grid]:
    """Return comparisons, times to the target, budget, interaction, costs and fronts; without those that are empty."""
    grids = [
        _comparisons(table, result),
        _target_times(table, result),
        _target_differences(result),
        _budget(table, result),
        _interaction(table, result),
        _contrasts(table, result),
        _costs(table),
        _fronts(table, result),
    ]
    return [without_empty_columns(grid) for grid in grids if grid.rows]


def _target_text(table: StudyTable) -> str:
    """Return the sentence on the target, with a space before it; '' without target."""
    if not table.has_target:
        return ""
    if table.target is not None:
        levels, whose = table.display.with_unit(table.target), [table.baseline or ""]
    else:
        by_model = {arm.model: table.targets[arm.name] for arm in table.arms if arm.name in table.targets}
        levels = ", ".join(f"{table.display.with_unit(value)} for {model}" for model, value in by_model.items())
        whose = [arm for model, arm in baselines(table.arms, table.baseline).items() if model in by_model]
    source = "given" if table.target_source == "given" else f"median best of {listed(whose)} on {table.target_source}"
    return f" Target: validation {levels} ({source})."


def _comparisons(table: StudyTable, result: StudyResult) -> Grid:
    rows = [
        [
            f"{each.a} - {each.b}",
            _difference(each.difference, table),
            _difference(each.with_test_samples, table),
            f"{each.p:.4f}",
            f"{each.p_holm:.4f}",
            f"{each.probability.estimate:.2f} [{each.probability.low:.2f}, {each.probability.high:.2f}]",
            # over seeds; it tells a steady small lead from a large one on two seeds
            f"{each.wins} / {each.ties} / {each.losses}",
            {"a": each.a, "b": each.b, "none": "not distinguishable"}[each.winner],
            "" if each.better_setting == "none" else "yes" if each.meaningful else "no",
        ]
        for each in result.comparisons
    ]
    crossed = any(each.with_test_samples is not None for each in result.comparisons)
    samples = (
        "with new test samples too by crossed resampling"
        if crossed
        else "for new seeds only, because each seed has test samples of its own"
        if table.test_split or not table.same_test_samples
        else "for new seeds only, because the runs have no answers to count for each test sample"
    )
    return Grid(
        "Comparisons",
        f"Differences of the test metric over paired seeds with t intervals; {samples}; p of the two-sided sign-flip "
        "test, and after Holm's correction over all of these. Meaningful: the better one wins on enough new seeds "
        "(arXiv:2103.03098), surely on more than half of them.",
        ["pair", "difference", "with test samples", "p", "p (Holm)", "P(first beats second)", "win / tie / loss",
         "better", "meaningful"],
        [False, True, True, True, True, True, True, False, False],
        rows,
    )  # fmt: skip


def _target_times(table: StudyTable, result: StudyResult) -> Grid:
    times = {(each.arm, each.unit): each for each in result.target_times}
    rows = []
    for arm in table.arms:
        steps, in_seconds = times.get((arm.name, "steps")), times.get((arm.name, "seconds"))
        if steps is None or in_seconds is None:
            continue
        # seconds that nobody can trust are in the JSON only, with the reason
        told = not seconds_doubt([arm.name], table)
        rows.append(
            [
                arm.name,
                f"{steps.reached} of {steps.runs}",
                _time_interval(steps.restricted_mean, _steps),
                _steps(steps.horizon),
                _time_interval(in_seconds.restricted_mean, seconds) if told else "",
                seconds(in_seconds.horizon) if told else "",
            ]
        )
    lead = (
        "Mean time to the target with its interval. A run that has not reached it by then counts with the time up to "
        "which all arms of the model were seen. The curves are Kaplan-Meier estimates with their intervals."
    )
    heads = ["arm", "reached", "steps", "up to", "training time", "up to\n(time)"]
    return Grid(TARGET, lead, heads, [False, *[True] * 5], rows)


def _target_differences(result: StudyResult) -> Grid:
    rows = []
    for each in result.target_differences:
        write = _signed(_steps if each.unit == "steps" else seconds)
        named = {"a": each.a, "b": each.b, "none": "not distinguishable"}[each.winner]
        rows.append(
            [
                f"{each.a} - {each.b}",
                each.unit,
                _time_interval(each.difference, write),
                "" if each.ratio is None else f"{each.ratio:.2f}",
                f"{each.p:.4f}",
                f"{each.p_holm:.4f}",
                f"cannot be told: {each.doubt}" if each.doubt else named,
            ]
        )
    lead = (
        "Differences of the mean times above over paired seeds, with t intervals; times of the second by times of the "
        "first; p as for the comparisons, and after Holm's correction over the differences in this unit."
    )
    heads = ["pair", "unit", "difference", "ratio", "p", "p (Holm)", "faster"]
    return Grid("Differences of time to target", lead, heads, [False, False, *[True] * 4, False], rows)


def _steps(value: float) -> str:
    return f"{value:,.0f}"


def _signed(write: Callable[[float], str]) -> Callable[[float], str]:
    return lambda value: f"{'-' if value < 0 else '+' * (value > 0)}{write(abs(value))}"


def _time_interval(interval: Interval | None, write: Callable[[float], str]) -> str:
    if interval is None:
        return ""
    return f"{write(interval.estimate)} [{write(interval.low)}, {write(interval.high)}]"


def _difference(interval: Interval | None, table: StudyTable) -> str:
    """Write a difference of the metric; '' for none."""
    if interval is None:
        return ""
    # with signs at both ends, because whether 0 is inside is what a reader looks for
    scale, unit = difference_unit(table.display)
    digits = 2 if table.as_percent else table.digits
    low, middle, high = (f"{scale * each:+.{digits}f}" for each in (interval.low, interval.estimate, interval.high))
    return f"{middle}{unit} [{low}, {high}]"


def without_empty_columns(grid: Grid) -> Grid:
    """Return the table without columns that no row fills, such as intervals with test samples of a regression."""
    # only where every row is empty: a single unknown value is a finding
    empty = [head for at, head in enumerate(grid.heads) if not any(row[at] for row in grid.rows)]
    return without_columns(grid, empty)


def without_columns(grid: Grid, names: Container[str]) -> Grid:
    """Return the table without the columns of these titles."""
    kept = [at for at, head in enumerate(grid.heads) if head not in names]
    heads, numeric = [grid.heads[at] for at in kept], [grid.numeric[at] for at in kept]
    rows = [[row[at] for at in kept] for row in grid.rows]
    levels = [[row[at] for at in kept] for row in grid.levels]
    priority = [grid.priority[at] for at in kept] if grid.priority else ()
    return replace(grid, heads=heads, numeric=numeric, rows=rows, levels=levels, priority=priority)


def _budget(table: StudyTable, result: StudyResult) -> Grid:
    # arms in the order of the plan, budgets across: a row shows what more tuning is worth to an arm
    budgets = sorted({point.trials for point in result.budget})
    cells = {(point.arm, point.trials): point for point in result.budget}
    rows = [
        [
            arm.name,
            *(
                f"{value_text(point.best, table)} ({point.wins:.0%})"
                if (point := cells.get((arm.name, budget)))
                else ""
                for budget in budgets
            ),
        ]
        for arm in table.arms
    ]
    # validation, of the tuning runs: it shows whether another budget would have chosen another arm, not which is better
    lead = (
        f"Median best validation {table.display.axis} of so many tuning runs, by resampling; in brackets how often the "
        "arm is best."
    )
    heads = ["arm", *(f"{budget} run{'s' * (budget != 1)}" for budget in budgets)]
    return Grid(BUDGET, lead, heads, [False, *[True] * len(budgets)], rows if budgets else [])


def _interaction(table: StudyTable, result: StudyResult) -> Grid:
    found = result.interaction
    if found is None:
        return Grid("Interaction", "", [], [], [])
    # rows are models and columns optimizers, as in a two-way table; double centring has taken out both averages
    cells = {(cell.model, cell.optimizer): cell.effect for cell in found.cells}
    rows = [
        [model, *(_difference(cells[model, optimizer], table) for optimizer in found.optimizers)]
        for model in found.models
    ]
    # shades by size against the largest; the number stands in the cell, so nothing depends on seeing them
    largest = max(abs(effect.estimate) for effect in cells.values()) or 1.0
    shade = LEVELS / largest * (1 if table.mode == "max" else -1)
    levels = [
        [0, *(round(shade * cells[model, optimizer].estimate) for optimizer in found.optimizers)]
        for model in found.models
    ]
    lead = (
        f"{found.sentence}. How far the test {table.metric} of a pair is above what the averages of its model and its "
        "optimizer say; these intervals are not corrected for their number. Blue: better than they say, orange: worse."
    )
    heads = ["", *found.optimizers]
    numeric = [False, *[True] * len(found.optimizers)]
    return Grid("Interaction of model and optimizer", lead, heads, numeric, rows, levels=levels)


def _contrasts(table: StudyTable, result: StudyResult) -> Grid:
    contrasts = result.interaction.contrasts if result.interaction else ()
    rows = [
        [" - ".join(each.optimizers), " - ".join(each.models), _difference(each.difference, table), f"{each.p:.4f}"]
        for each in sorted(contrasts, key=lambda each: each.p)
    ]
    lead = (
        "How much larger the difference of two optimizers is on the first model than on the second, over paired seeds, "
        "with its interval. p is corrected for the number of these rows; the smallest is that of the interaction."
    )
    heads = ["optimizers", "models", "difference of differences", "p"]
    return Grid("Where the difference depends on the model", lead, heads, [False, False, True, True], rows)


def _costs(table: StudyTable) -> Grid:
    rows = [
        [
            cost.arm,
            f"{1000 * cost.step_seconds.estimate:.2f} [{1000 * cost.step_seconds.low:.2f}, "
            f"{1000 * cost.step_seconds.high:.2f}]",
            f"{cost.samples_per_second:.0f}",
            human_bytes(cost.peak_memory_bytes),
            human_bytes(cost.optimizer_state_bytes),
            human_count(cost.parameters),
            human_count(cost.macs),
            # that of a deployment stands in the table of deployment
            "" if cost.latency_p50_seconds is None or cost.deployed else f"{cost.latency_p50_seconds * 1000:.2f} ms",
            # of times; memory, parameters and MACs do not depend on what else runs
            "yes" if cost.contaminated else "no",
        ]
        for cost in table.costs
    ]
    units = {cost.unit for cost in table.costs}
    heads = [
        "arm",
        "ms a step",
        f"{units.pop() if len(units) == 1 else 'sample'}s/s",
        "peak memory",
        "optimizer state",
        "parameters",
        "MACs",
        "latency p50",
        "disturbed",
    ]
    lead = "Measured alone on the machine, in turns over the arms. Disturbed: other work or a changing clock was seen."
    if defaults := [cost.arm for cost in table.costs if cost.defaults]:
        lead += (
            f" Measured with default settings, because short runs with the best setting failed or none was known: "
            f"{listed(defaults)}."
        )
    for failure in dict.fromkeys(cost.deployment_failure for cost in table.costs if cost.deployment_failure):
        lead += f" Deployment was not measured: {failure} {AGAIN}"
    return Grid("Cost", lead, heads, [False, *[True] * 7, False], rows)


def fronts_shown(result: StudyResult) -> list[str]:
    """Return the costs in which arms differ, as far as they are known; the others have no front."""
    by_cost: dict[str, list[FrontPoint]] = {}
    for point in result.front:
        by_cost.setdefault(point.cost, []).append(point)
    values = {cost: {each.value.estimate for each in points if each.value} for cost, points in by_cost.items()}
    # a latency that differs by less than its noise is the same for all arms, see front.py
    return [
        cost
        for cost, points in by_cost.items()
        if len(values[cost]) > 1 and len({(each.value.low, each.value.high) for each in points if each.value}) > 1
    ]


def _fronts(table: StudyTable, result: StudyResult) -> Grid:
    """Return each arm's place on the front of quality and each cost."""
    shown = fronts_shown(result)
    points = {(point.arm, point.cost): point for point in result.front}

    def text(point: FrontPoint) -> str:
        # two names are enough to see why; the JSON holds all of them
        # 'unknown' stays in the table: a disturbed time is a reason to measure again
        more = f" and {len(point.by) - 2} more" if len(point.by) > 2 else ""
        return f"{point.status} by {', '.join(point.by[:2])}{more}" if point.by else point.status

    known = dict.fromkeys(point.cost for point in result.front)
    left_out = [COSTS[cost][0] for cost in known if cost not in shown]
    lead = (
        f"Test {table.metric} against each cost. An arm is dominated if another one is clearly better in one of the "
        "two and not worse in the other, perhaps dominated if it cannot be told apart from that one in the other."
        + (f" Equal for all arms, or not known: {', '.join(left_out)}." if left_out else "")
    )
    rows = [[arm.name, *(text(points[arm.name, cost]) for cost in shown)] for arm in table.arms]
    heads = ["arm", *(COSTS[cost][0] for cost in shown)]
    return Grid(FRONT, lead, heads, [False] * len(heads), rows if shown else [])


def value_text(value: float | None, table: StudyTable) -> str:
    """Write a metric without its unit, which the column's head has; '-' for none."""
    return "-" if value is None else table.display.text(value)


def _interval(interval: Interval | None, table: StudyTable) -> str:
    if interval is None:
        return "-"
    # the unit once: '77.4 % [76.8, 78.0]' stays readable in a table of ten columns
    if table.as_percent:
        return f"{100 * interval.estimate:.2f} % [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
    estimate, low, high = map(table.display.text, (interval.estimate, interval.low, interval.high))
    return f"{estimate} [{low}, {high}]"
