"""What makes a study's comparison unfair or unsafe, named with a remedy.

The checks read only the table, so they also find what a storage or a folder was given by hand. Arms with the same
fault share one objection: a page with a line an arm hides the faults that differ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from effbench.stats import mean, median
from effbench.study.mixtures import drawn_test, mixed, mixed_data
from effbench.study.power import least_seeds, smallest_p
from effbench.study.results import Objection
from effbench.study.runs import UNFINISHED, result_of, runs_by_arm
from effbench.study.table import Confirmation, Range, Setting, StudyRules, StudyTable, Trial, finite
from effbench.study.wording import listed
from effbench.units import counted

Key = TypeVar("Key", bound=Hashable)

EDGE = 0.05  # of the range (of its logarithm if sampled so): nearer to an end, the best may lie outside
_SAME_SECONDS = 0.05  # relative difference of training times that counts as equal: clocks and caches drift so much
_END_OF = {"upwards": "upper", "downwards": "lower"}
_ROUND = 3  # significant digits of a target that people choose, such as 0.925
_TELLING = 50  # test samples; with fewer, two seeds may err on the same ones by chance


def objections(table: StudyTable, rules: StudyRules | None = None) -> list[Objection]:
    """Return every objection to the study, in order of the checks.

    Args:
        table: of the study.
        rules: of the study, for the least number of seeds; None for the default ones.
    """
    rules = rules or StudyRules()
    # what makes a verdict impossible or wrong comes first, what only makes a cost unknown last
    return [
        *_seeds(table, rules),
        *_trials(table),
        *_target(table),
        *mixed(table),
        *mixed_data(table),
        *drawn_test(table),
        *_repeated(table),
        *_alike(table),
        *_one_class(table),
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
    # a bool is an int in Python, but has no neighbour beyond its range
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
    # before the first final run every arm lacks every seed: an unfinished study is no unfair one
    if not table.confirmations:
        return
    differing = {
        arm: (tuple(sorted(planned - set(by_seed))), tuple(sorted(set(by_seed) - planned)))
        for arm, by_seed in runs.items()
        if set(by_seed) != planned
    }
    for (lacking, extra), arms in _by_fault(differing).items():
        one = len(arms) == 1
        lacks = f"{'lacks' if one else 'lack'} {_seeds_text(lacking)}" if lacking else ""
        has = f"{'has' if one else 'have'} {_seeds_text(extra)} beside the plan" if extra else ""
        yield Objection(
            "unequal seeds", arms, f"{listed(arms)} {' and '.join(filter(None, (lacks, has)))}.",
            "Run the study again: it runs the seeds that are missing and compares seeds common to both arms only.",
        )  # fmt: skip
    # the best trial won with its seed, so a final run with this seed repeats its luck (selection bias)
    tuned = {trial.seed for trial in table.trials}
    if reused := sorted(tuned & {seed for by_seed in runs.values() for seed in by_seed}):
        yield Objection(
            "seeds not fresh", (), f"Final runs use {_seeds_text(reused)}, with which settings were tuned.",
            "Run the chosen settings with seeds that tuning did not use: the best tuning run was picked for its luck.",
        )  # fmt: skip
    # power.check_seeds refuses such a plan; a table from elsewhere, or one with rules of its own, still may have it
    least = least_seeds(len(table.pairs), rules.alpha)
    if table.pairs and len(planned) < least:
        yield Objection(
            "too few seeds", (),
            f"{len(planned)} seeds give a sign-flip p of {smallest_p(len(planned)):.3g} at best, too large for "
            f"{len(table.pairs)} comparisons.",
            f"Use at least {least} seeds, or compare fewer arms.",
        )  # fmt: skip


def _trials(table: StudyTable) -> Iterable[Objection]:
    # rankings of optimizers follow their tuning budgets (arXiv:2007.01547), so the budgets have to be equal; a diverged
    # trial has used its share of the budget
    counts = Counter(trial.arm for trial in table.trials if trial.status not in UNFINISHED)
    if not table.trials:
        return
    differing = {arm.name: counts[arm.name] for arm in table.arms if counts[arm.name] != table.planned_trials}
    for count, arms in _by_fault(differing).items():
        more = "more" if count > table.planned_trials else "fewer"
        yield Objection(
            "unequal tuning", arms,
            f"{listed(arms)} {'has' if len(arms) == 1 else 'have'} {counted(count, 'tuning run')}, {more} than the "
            f"{table.planned_trials} of the plan.",
            "Give each arm the same number of tuning runs: the best of more runs is better by luck.",
        )  # fmt: skip


def _target(table: StudyTable) -> Iterable[Objection]:
    remedy = "Choose the target on validation, or give it before the study."
    if table.target_source == "test":
        found = f"The target {_target_text(table, table.target)} comes from test metrics."
        yield Objection("target chosen on test", (), found, remedy)
        return
    # A target by rule is no choice, and a round number may hit a test metric by chance.
    if table.target_source != "given":
        return
    # a target that was typed in, but is to 9 digits what some arm reaches on test, and on no validation split
    for arm, by_seed in runs_by_arm(table).items():
        target = table.target_of(arm)
        if target is None or float(f"{target:.{_ROUND}g}") == target:
            continue
        tests, validations = (
            [value for run in by_seed.values() if (value := result_of(run, split)) is not None]
            for split in ("test", "validation")
        )
        # with one run, mean, median and best are the same number, which a round target may hit
        if len(tests) > 1 and _is_statistic(target, tests) and not _is_statistic(target, validations):
            yield Objection(
                "target chosen on test", (arm,),
                f"The target {_target_text(table, target)} is the mean, median, least or best test metric of {arm}.",
                remedy,
            )  # fmt: skip


def _target_text(table: StudyTable, target: float | None) -> str:
    return "" if target is None else table.display.with_unit(target)


def _is_statistic(target: float, values: Sequence[float]) -> bool:
    found = [mean(values), median(values), min(values), max(values)] if values else []
    return any(math.isclose(target, value, rel_tol=1e-9) for value in found)


def _repeated(table: StudyTable) -> Iterable[Objection]:
    remedy = "Keep one: the first was counted. Delete the others, or run them with seeds of their own."
    pairs = Counter((run.arm, run.seed) for run in table.confirmations)
    for (arm, seed), count in pairs.items():
        if count > 1:
            yield Objection("run repeated", (arm,), f"{arm} has {count} final runs with seed {seed}.", remedy)
    numbers = Counter((trial.arm, trial.number) for trial in table.trials)
    for (arm, number), count in numbers.items():
        if count > 1:
            yield Objection("run repeated", (arm,), f"{arm} has {count} tuning runs with number {number}.", remedy)
    # one folder for two runs: somebody copied a result, or a storage was merged by hand
    every: list[Trial | Confirmation] = [*table.trials, *table.confirmations]
    folders = Counter(run.run for run in every if run.run)
    for folder, count in folders.items():
        if count > 1:
            arms = tuple(sorted({run.arm for run in every if run.run == folder}))
            yield Objection("run repeated", arms, f"The run folder {folder} stands for {count} runs.", remedy)
    # Two seeds have other weights and batches, so they err on other samples; if not, the seed did not reach the run. If
    # all samples are right, or none, there is nothing to compare: two good runs of an easy task agree. So do two runs
    # that predict one class (_one_class).
    seen: dict[tuple[object, ...], Confirmation] = {}
    for run in table.confirmations:
        if not _is_telling(run):
            continue
        first = seen.setdefault((run.arm, run.validation, run.correct), run)
        if first.seed != run.seed:
            yield Objection(
                "run repeated", (run.arm,),
                f"{run.arm} is right on the same test samples with seeds {first.seed} and {run.seed}.",
                "Check that the seed reaches the run.",
            )  # fmt: skip


def _is_telling(run: Confirmation) -> bool:
    """Return True if two runs that are right on the same test samples as this one can hardly be so by chance."""
    correct = run.correct
    return not (run.one_class or correct is None or len(correct) < _TELLING or correct.count(1) in (0, len(correct)))


def _alike(table: StudyTable) -> Iterable[Objection]:
    """Yield an objection for each pair of arms whose final runs are equal on every seed, such as a schedule that waits
    for more epochs than the runs have: what tells them apart was never tried."""
    runs = runs_by_arm(table)
    for a, b in table.pairs:
        seeds = sorted(set(runs[a]) & set(runs[b]))
        equal = all(
            _is_telling(left) and (left.validation, left.correct) == (right.validation, right.correct)
            for left, right in ((runs[a][seed], runs[b][seed]) for seed in seeds)
        )
        if len(seeds) > 1 and equal:
            yield Objection(
                "arms without difference", (a, b),
                f"{a} and {b} are right on the same test samples with every seed: what tells them apart had no effect.",
                "Let it act (more epochs, or another setting of the arm), or leave one of the two out.",
            )  # fmt: skip


def _one_class(table: StudyTable) -> Iterable[Objection]:
    # not a miss, because it has a metric; but it has learnt nothing, and a mean over seeds hides it
    seeds_of = {
        arm.name: sorted({run.seed for run in table.confirmations_by_arm.get(arm.name, ()) if run.one_class})
        for arm in table.arms
    }
    if found := {arm: seeds for arm, seeds in seeds_of.items() if seeds}:
        where = listed([f"{arm} ({_seeds_text(seeds)})" for arm, seeds in found.items()])
        yield Objection(
            "one class predicted", tuple(found), f"Final runs of {where} predict one class for all test samples.",
            "Train longer, or widen the range of the learning rate: these runs have learnt nothing.",
        )  # fmt: skip


def _settings(table: StudyTable) -> Iterable[Objection]:
    chosen_by_arm = {
        arm.name: [run.settings for run in table.confirmations_by_arm.get(arm.name, ()) if run.settings]
        for arm in table.arms
    }
    changed = [arm for arm, chosen in chosen_by_arm.items() if any(settings != chosen[0] for settings in chosen)]
    if changed:
        within = "" if len(changed) == 1 else " within an arm"
        yield Objection(
            "settings changed", tuple(changed),
            f"The final runs of {listed(changed)} have different settings{within}.",
            "Run the setting that tuning chose with every seed.",
        )  # fmt: skip
    elsewhere: dict[str, str] = {}
    for arm in table.arms:
        chosen, best = chosen_by_arm[arm.name], _best_trial(table, arm.name)
        # the chosen setting may hold more than the trial: fixed settings of the arm
        if chosen and best is not None and any(chosen[0].get(key) != value for key, value in best.settings.items()):
            was, has = (
                ", ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in each)
                for each in (chosen[0].items(), best.settings.items())
            )
            elsewhere[arm.name] = f"The final runs of {arm.name} have {was}; its best tuning run has {has}."
    if elsewhere:
        remedy = "Run each arm's final runs with the best setting of its tuning."
        yield Objection("setting not from tuning", tuple(elsewhere), " ".join(elsewhere.values()), remedy)


def _best_trial(table: StudyTable, arm: str) -> Trial | None:
    """Return the trial with the best validation metric; None without one, or if several share it."""
    # of several, no one can say which one tuning should have chosen, so nothing is objected
    sign = 1.0 if table.mode == "max" else -1.0
    trials = table.trials_by_arm.get(arm, ())
    valued = [(sign * value, each) for each in trials if (value := finite(each.value)) is not None]
    if not valued:
        return None
    top = max(value for value, _ in valued)
    best = [each for value, each in valued if value == top]
    return best[0] if len(best) == 1 else None


def _edges(table: StudyTable) -> Iterable[Objection]:
    """Name settings at an end of their range, one objection a key and end: it has one remedy."""
    at_ends: dict[tuple[str, str], dict[str, str]] = {}
    for arm in table.arms:
        chosen = next((run.settings for run in table.confirmations_by_arm.get(arm.name, ()) if run.settings), None)
        if chosen is None:  # tuning goes on: the best so far tells early that a range is too narrow
            best = _best_trial(table, arm.name)
            chosen = best.settings if best is not None else {}
        for key, space in arm.space.items():
            value = chosen.get(key)
            if value is not None and (direction := at_edge(value, space)):
                where = f"{arm.name} ({float(value):.3g} in [{space.low:.3g}, {space.high:.3g}])"
                at_ends.setdefault((key, direction), {})[arm.name] = where
    for (key, direction), where_of in at_ends.items():
        yield Objection(
            "setting at the edge", tuple(where_of),
            f"The best {key} of {listed(list(where_of.values()))} is at the {_END_OF[direction]} end of its range: a "
            "better one may lie outside.",
            f"widen {key} {direction}",
        )  # fmt: skip


def _budget(table: StudyTable) -> Iterable[Objection]:
    every: list[Trial | Confirmation] = [*table.trials, *table.confirmations]
    # early stopping may be what an arm stands for, and a diverged run cannot use up its budget
    done = [run for run in every if run.status == "completed"]
    uneven: set[str] = set()
    if table.planned_epochs is not None:
        uneven = {run.arm for run in done if run.epochs is not None and abs(run.epochs - table.planned_epochs) > 1e-6}
        what = f"{table.planned_epochs:g} epochs"
    elif table.planned_seconds is not None:
        # The engine turns seconds into steps by the step time measured alone, so all runs of an arm have equal steps.
        # Their own seconds prove nothing: runs that share the machine slow each other down.
        found: dict[str, set[int]] = {arm.name: set() for arm in table.arms}
        for run in done:
            found.setdefault(run.arm, set()).add(run.steps)
        steps_of = {arm: sorted(steps) for arm, steps in found.items()}
        uneven = {arm.name for arm in table.arms if len(steps_of[arm.name]) > 1}
        for cost in table.costs:
            if cost.contaminated or not steps_of[cost.arm]:
                continue
            fewest, most = steps_of[cost.arm][0], steps_of[cost.arm][-1]
            step = cost.step_seconds
            # half a step: a budget is rounded to whole steps; the interval's ends: a step time has an error, too
            too_long = (most - 0.5) * step.low > table.planned_seconds * (1 + _SAME_SECONDS)
            too_short = (fewest + 0.5) * step.high < table.planned_seconds * (1 - _SAME_SECONDS)
            if too_long or too_short:
                uneven.add(cost.arm)
        what = f"{table.planned_seconds:g} seconds"
    if uneven:
        arms = tuple(arm.name for arm in table.arms if arm.name in uneven)
        yield Objection(
            "unequal budget", arms, f"Runs of {listed(arms)} did not train for {what}, as planned.",
            "Give each run the same epochs or the same training seconds.",
        )  # fmt: skip


def _measurements(table: StudyTable) -> Iterable[Objection]:
    arms = tuple(cost.arm for cost in table.costs if cost.contaminated)
    if arms:
        yield Objection(
            "contaminated measurement", arms,
            f"Other work or clock drift was seen while the cost of {listed(arms)} was measured.",
            f"Measure again on a machine that does nothing else (flag --costs); {'its' if len(arms) == 1 else 'their'} "
            "times are left out of the fronts, and no arm wins in seconds.",
        )  # fmt: skip


def _by_fault(fault_of: Mapping[str, Key]) -> dict[Key, tuple[str, ...]]:
    """Return fault -> its arms, in order."""
    found: dict[Key, tuple[str, ...]] = {}
    for arm, fault in fault_of.items():
        found[fault] = (*found.get(fault, ()), arm)
    return found


def _seeds_text(seeds: Sequence[int]) -> str:
    shown = ", ".join(map(str, seeds[:6])) + (", ..." if len(seeds) > 6 else "")
    return f"seed {shown}" if len(seeds) == 1 else f"seeds {shown}"
