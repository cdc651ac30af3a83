"""The analysis of a study: its table and its rules -> all findings, with verdicts in words.

Three families of tests are corrected each for its own number: the pairwise comparisons of quality and those of the
times to the target by Holm's method, the interaction by max-t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from effbench.stats import Interval, mean_interval
from effbench.study.budget import best_against_budget, budgets
from effbench.study.comparisons import compare_arms
from effbench.study.fairness import objections
from effbench.study.front import fronts
from effbench.study.interaction import interaction
from effbench.study.results import BudgetPoint, Quality, StudyResult
from effbench.study.runs import groups, result_of, runs_by_arm, trial_values
from effbench.study.samples import Samples
from effbench.study.statistics import crossed_interval
from effbench.study.table import Confirmation, StudyRules, StudyTable
from effbench.study.targets import target_differences, target_times
from effbench.study.verdicts import budget_verdict, error_rates, summary


def analyse(table: StudyTable, rules: StudyRules | None = None) -> StudyResult:
    """Return everything that the study's runs tell.

    Args:
        table: trials, final runs and costs; an unfinished study is analysed as far as it is.
        rules: as frozen before the first trial; None for the default ones.
    """
    rules, samples = rules or StudyRules(), Samples(table)
    # only final runs are compared: the best of many tuning runs is too good, because it was picked for being good
    comparisons = compare_arms(table, rules, samples)
    interplay = interaction(table, rules, samples)
    differences = target_differences(table, rules)
    points = _budget_points(table, rules)
    # who leads after how much tuning comes last: it is about validation and luck, not about which arm is better
    verdicts = [
        *summary(table, rules, comparisons, interplay, differences),
        *error_rates(comparisons, interplay, differences, rules),
        *_budget_verdicts(table, points),
    ]
    return StudyResult(
        qualities=tuple(_qualities(table, rules, samples)),
        comparisons=tuple(comparisons),
        interaction=interplay,
        target_times=tuple(target_times(table, rules)),
        target_differences=tuple(differences),
        budget=tuple(points),
        front=tuple(fronts(table, rules, comparisons, samples)),
        objections=tuple(objections(table, rules)),
        verdicts=tuple(verdicts),
    )


def _qualities(table: StudyTable, rules: StudyRules, samples: Samples) -> list[Quality]:
    # the intervals are of each arm alone, over seeds; arms are told apart by paired differences (comparisons.py), whose
    # intervals are narrower, because they lack what a seed does to all arms
    runs, sign = runs_by_arm(table), 1.0 if table.mode == "max" else -1.0
    found = {}
    for arm in table.arms:
        chosen = [run for _, run in sorted(runs[arm.name].items())]
        finished = [run for run in chosen if result_of(run) is not None]
        validation = [value for run in chosen if (value := result_of(run, "validation")) is not None]
        tuned = [sign * value for value in trial_values(table, arm.name) if value is not None]
        every = table.confirmations_by_arm.get(arm.name, ())
        found[arm.name] = Quality(
            arm=arm.name,
            rank=None,
            test=_test_interval(samples, finished, rules.confidence),
            validation=mean_interval(validation, rules.confidence) if validation else None,
            tuned=sign * max(tuned) if tuned else None,
            finished=len(finished),
            diverged=sum(run.status == "diverged" for run in chosen),
            # interrupted runs do not count yet (runs.py), so they are not among the chosen ones
            failed=sum(run.status in ("failed", "interrupted") for run in every),
            diverged_trials=sum(trial.status == "diverged" for trial in table.trials_by_arm.get(arm.name, ())),
            missed=len(chosen) - len(finished),
        )
    # ranks are within a model: over models they would rank networks
    return [each for group in groups(table.arms) for each in _ranked([found[arm.name] for arm in group], sign)]


def _test_interval(samples: Samples, runs: Sequence[Confirmation], confidence: float) -> Interval | None:
    """Return an arm's mean test metric, for new seeds and, where predictions are known, new test samples."""
    scores = samples.of(runs)
    if scores is not None:
        return crossed_interval(scores.astype(float), confidence)[0]
    values = [value for run in runs if (value := result_of(run)) is not None]
    return mean_interval(values, confidence) if values else None


def _ranked(qualities: Sequence[Quality], sign: float) -> list[Quality]:
    """Return the arms of a model, best first; those without a result last."""

    def order(quality: Quality) -> tuple[float, float]:
        # The mean leaves out the runs without result, each of which counts as the worst in every comparison.
        share = quality.missed / (quality.missed + quality.finished)
        return share, -sign * quality.test.estimate if quality.test else 0.0

    with_result = sorted((each for each in qualities if each.test is not None), key=order)
    # by the estimate: a rank is an order for the table, not a claim; equal ranks for what is not told apart would not
    # be an order, because "not distinguishable" is not transitive
    ranked = [replace(each, rank=place) for place, each in enumerate(with_result, start=1)]
    return [*ranked, *(each for each in qualities if each.test is None)]


def _budget_points(table: StudyTable, rules: StudyRules) -> list[BudgetPoint]:
    points = []
    for group in groups(table.arms):
        # within a model, as ranks: an arm competes with the arms that could replace it
        values = {arm.name: trial_values(table, arm.name) for arm in group}
        for budget in budgets(rules.budgets, table.planned_trials):
            points += best_against_budget(values, budget, table.mode, rules.confidence)
    return points


def _budget_verdicts(table: StudyTable, points: Sequence[BudgetPoint]) -> list[str]:
    sentences = []
    for group in groups(table.arms):
        names = {arm.name for arm in group}
        own = [point for point in points if point.arm in names]
        # a single arm leads itself
        if len({point.arm for point in own}) > 1:
            sentences.append(budget_verdict(own, table.arms))
    return sentences
