"""What makes a study's comparison unfair or unsafe, named with a remedy.

The checks read only the table, so they also find what a storage or a folder was given by hand.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from effbench.stats import mean, median
from effbench.study.power import least_seeds, smallest_p
from effbench.study.results import Objection
from effbench.study.runs import UNFINISHED, result_of, runs_by_arm
from effbench.study.table import Arm, Confirmation, Range, Setting, StudyRules, StudyTable, Trial, finite

EDGE = 0.05  # of the range (of its logarithm if sampled so): nearer to an end, the best may lie outside
_SAME_SECONDS = 0.05  # relative difference of training times that counts as equal
_TELLING = 50  # test samples from which equal predictions of two seeds are no coincidence


def objections(table: StudyTable, rules: StudyRules | None = None) -> list[Objection]:
    """Return every objection to the study, in order of the checks.

    Args:
        table: of the study.
        rules: of the study, for the least number of seeds; None for the default ones.
    """
    rules = rules or StudyRules()
    return [
        *_seeds(table, rules),
        *_trials(table),
        *_target(table),
        *_mixed(table),
        *_repeated(table),
        *_settings(table),
        *_edges(table),
        *_budget(table),
        *_measurements(table),
    ]


def at_edge(value: Setting, space: Range) -> str | None:
    """Return 'upwards' or 'downwards' if a setting lies at an end of its range beyond which better ones may be.

    A lower end of 0 of a range that is not logarithmic is no such end: there is nothing below it.

    Args:
        value: the chosen setting.
        space: its range.
    """
    if isinstance(value, str | bool) or not space.low < space.high:
        return None
    low, high, at = (
        (math.log(space.low), math.log(space.high), math.log(value)) if space.log and value > 0 else
        (space.low, space.high, float(value))
    )  # fmt: skip
    share = (at - low) / (high - low)
    if share >= 1 - EDGE:
        return "upwards"
    return "downwards" if share <= EDGE and (space.log or space.low != 0) else None


def _seeds(table: StudyTable, rules: StudyRules) -> Iterable[Objection]:
    runs, planned = runs_by_arm(table), set(table.planned_seeds)
    if not table.confirmations:
        return
    for arm, by_seed in runs.items():
        lacking, extra = sorted(planned - set(by_seed)), sorted(set(by_seed) - planned)
        if lacking or extra:
            parts = [f"lacks {_listed(lacking)}"] * bool(lacking) + [f"has {_listed(extra)} beside the plan"] * bool(
                extra
            )
            yield Objection(
                "unequal seeds", (arm,), f"{arm} {' and '.join(parts)}.",
                "Run the study again: it runs the seeds that are missing and compares seeds common to both arms only.",
            )  # fmt: skip
    tuned = {trial.seed for trial in table.trials}
    if reused := sorted(tuned & {seed for by_seed in runs.values() for seed in by_seed}):
        yield Objection(
            "seeds not fresh", (), f"Confirmation runs use {_listed(reused)}, with which settings were tuned.",
            "Confirm with seeds that tuning did not use: the best trial's seed was picked for its luck.",
        )  # fmt: skip
    least = least_seeds(len(table.pairs), rules.alpha)
    if table.pairs and len(planned) < least:
        yield Objection(
            "too few seeds", (),
            f"{len(planned)} seeds give a sign-flip p of {smallest_p(len(planned)):.3g} at best, too large for "
            f"{len(table.pairs)} comparisons.",
            f"Use at least {least} seeds, or compare fewer arms.",
        )  # fmt: skip


def _trials(table: StudyTable) -> Iterable[Objection]:
    counts = Counter(trial.arm for trial in table.trials if trial.status not in UNFINISHED)
    if not table.trials:
        return
    for arm in table.arms:
        if counts[arm.name] != table.planned_trials:
            more = "more" if counts[arm.name] > table.planned_trials else "fewer"
            yield Objection(
                "unequal trials", (arm.name,),
                f"{arm.name} has {counts[arm.name]} trials, {more} than the {table.planned_trials} of the plan.",
                "Give each arm the same number of trials: the best of more trials is better by luck.",
            )  # fmt: skip


def _target(table: StudyTable) -> Iterable[Objection]:
    remedy = "Choose the target on validation, or give it before the study."
    if table.target_source == "test":
        yield Objection("target chosen on test", (), f"The target {table.target:.4g} comes from test metrics.", remedy)
        return
    if table.target is None:
        return
    # a target that was typed in, but is exactly what some arm reaches on test
    for arm, by_seed in runs_by_arm(table).items():
        tests, validations = (
            [value for run in by_seed.values() if (value := result_of(run, split)) is not None]
            for split in ("test", "validation")
        )
        if len(tests) > 1 and _is_statistic(table.target, tests) and not _is_statistic(table.target, validations):
            yield Objection(
                "target chosen on test", (arm,),
                f"The target {table.target:.6g} is the mean, median, least or best test metric of {arm}.", remedy,
            )  # fmt: skip


def _is_statistic(target: float, values: Sequence[float]) -> bool:
    found = [mean(values), median(values), min(values), max(values)] if values else []
    return any(math.isclose(target, value, rel_tol=1e-9) for value in found)


def _mixed(table: StudyTable) -> Iterable[Objection]:
    every: list[Trial | Confirmation] = [*table.trials, *table.confirmations]
    for kind, field, remedy in (
        ("mixed commits", "commit", "Run the study with one commit; a changed program is another study."),
        ("mixed machines", "machine", "Compare seconds within one machine only, or count steps instead."),
    ):
        values = Counter(str(getattr(run, field)) for run in every if getattr(run, field))
        if len(values) > 1:
            counted = ", ".join(f"{value[:12]} ({count} runs)" for value, count in values.most_common())
            uneven = _unevenly(every, field)
            where = f" Not every arm has them alike: {', '.join(uneven)}." if uneven else ""
            yield Objection(
                kind, tuple(uneven), f"The runs come from {len(values)} {field}s: {counted}.{where}", remedy
            )


def _unevenly(runs: Sequence[Trial | Confirmation], field: str) -> list[str]:
    """Return the arms whose set of values of a field differs from that of all runs."""
    of_arm: dict[str, set[str]] = {}
    for run in runs:
        of_arm.setdefault(run.arm, set()).add(str(getattr(run, field)))
    whole = set().union(*of_arm.values())
    return sorted(arm for arm, values in of_arm.items() if values != whole)


def _repeated(table: StudyTable) -> Iterable[Objection]:
    remedy = "Keep one: the first was counted. Delete the others, or run them with seeds of their own."
    pairs = Counter((run.arm, run.seed) for run in table.confirmations)
    for (arm, seed), count in pairs.items():
        if count > 1:
            yield Objection("run repeated", (arm,), f"{arm} has {count} confirmation runs with seed {seed}.", remedy)
    numbers = Counter((trial.arm, trial.number) for trial in table.trials)
    for (arm, number), count in numbers.items():
        if count > 1:
            yield Objection("run repeated", (arm,), f"{arm} has {count} trials with number {number}.", remedy)
    every: list[Trial | Confirmation] = [*table.trials, *table.confirmations]
    folders = Counter(run.run for run in every if run.run)
    for folder, count in folders.items():
        if count > 1:
            arms = tuple(sorted({run.arm for run in every if run.run == folder}))
            yield Objection("run repeated", arms, f"The run folder {folder} stands for {count} runs.", remedy)
    seen: dict[tuple[object, ...], Confirmation] = {}
    for run in table.confirmations:
        if run.correct is None or len(run.correct) < _TELLING:
            continue
        first = seen.setdefault((run.arm, run.validation, run.correct), run)
        if first.seed != run.seed:
            yield Objection(
                "run repeated", (run.arm,),
                f"{run.arm} has the same predictions for seeds {first.seed} and {run.seed}.",
                "Check that the seed reaches the run: two seeds never agree on every sample.",
            )  # fmt: skip


def _settings(table: StudyTable) -> Iterable[Objection]:
    for arm in table.arms:
        chosen = [run.settings for run in table.confirmations if run.arm == arm.name and run.settings]
        if any(settings != chosen[0] for settings in chosen):
            yield Objection(
                "settings changed", (arm.name,), f"The confirmation runs of {arm.name} have different settings.",
                "Run the setting that tuning chose with every seed.",
            )  # fmt: skip
        best = _best_trial(table, arm.name)
        if chosen and best is not None and any(chosen[0].get(key) != value for key, value in best.settings.items()):
            yield Objection(
                "setting not from tuning", (arm.name,),
                f"{arm.name} was confirmed with {_written(chosen[0])}; its best trial has {_written(best.settings)}.",
                "Confirm each arm with the best setting of its trials.",
            )  # fmt: skip


def _best_trial(table: StudyTable, arm: str) -> Trial | None:
    """Return the trial with the best validation metric; None without one, or if several share it."""
    sign = 1.0 if table.mode == "max" else -1.0
    valued = [
        (sign * value, each) for each in table.trials if each.arm == arm and (value := finite(each.value)) is not None
    ]
    if not valued:
        return None
    top = max(value for value, _ in valued)
    best = [each for value, each in valued if value == top]
    return best[0] if len(best) == 1 else None


def _edges(table: StudyTable) -> Iterable[Objection]:
    for arm in table.arms:
        for key, value, direction in _at_edges(table, arm):
            space = arm.space[key]
            end = "upper" if direction == "upwards" else "lower"
            yield Objection(
                "setting at the edge", (arm.name,),
                f"The best {key} of {arm.name}, {value:.3g}, is at the {end} end of its range "
                f"[{space.low:.3g}, {space.high:.3g}]: a better one may lie outside.",
                f"widen {key} {direction}",
            )  # fmt: skip


def _at_edges(table: StudyTable, arm: Arm) -> list[tuple[str, float, str]]:
    chosen = next((run.settings for run in table.confirmations if run.arm == arm.name and run.settings), None)
    if chosen is None:
        best = _best_trial(table, arm.name)
        chosen = best.settings if best is not None else {}
    found = []
    for key, space in arm.space.items():
        value = chosen.get(key)
        if value is not None and not isinstance(value, str) and (direction := at_edge(value, space)):
            found.append((key, float(value), direction))
    return found


def _budget(table: StudyTable) -> Iterable[Objection]:
    every: list[Trial | Confirmation] = [*table.trials, *table.confirmations]
    done = [run for run in every if run.status == "completed"]
    uneven: set[str] = set()
    if table.planned_epochs is not None:
        uneven = {run.arm for run in done if run.epochs is not None and abs(run.epochs - table.planned_epochs) > 1e-6}
        what = f"{table.planned_epochs:g} epochs"
    elif table.planned_seconds is not None:
        limit = table.planned_seconds * (1 + _SAME_SECONDS)
        uneven = {run.arm for run in done if run.seconds > limit}
        what = f"{table.planned_seconds:g} seconds"
    for arm in sorted(uneven):
        yield Objection(
            "unequal budget", (arm,), f"Runs of {arm} did not train for {what}, as planned.",
            "Give each run the same epochs or the same training seconds.",
        )  # fmt: skip


def _measurements(table: StudyTable) -> Iterable[Objection]:
    for cost in table.costs:
        if cost.contaminated:
            yield Objection(
                "contaminated measurement", (cost.arm,),
                f"Other work or clock drift was seen while the cost of {cost.arm} was measured.",
                "Measure again on a machine that does nothing else; its times are left out of the fronts.",
            )  # fmt: skip


def _listed(seeds: Sequence[int]) -> str:
    shown = ", ".join(map(str, seeds[:6])) + (", ..." if len(seeds) > 6 else "")
    return f"seed {shown}" if len(seeds) == 1 else f"seeds {shown}"


def _written(settings: dict[str, Setting]) -> str:
    return ", ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in settings.items()
    )
