"""What the analysis of a study finds, as plain data with JSON: the page, the console and the verdicts read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from effbench.pareto import FrontPoint
from effbench.stats import Interval
from effbench.study.versioned_json import from_json, to_json

RESULT_SCHEMA = 1  # a new field with a default leaves it; a field that means something else raises it

# 'none' is not "equal": no number of seeds shows that two arms are equal
Winner = Literal["a", "b", "none"]


@dataclass(frozen=True)
class Quality:
    """The quality of an arm over its final runs.

    Attributes:
        arm: name of the arm.
        rank: place by the mean test metric among the arms of its model, from 1; arms with runs that diverged or failed
            come after the others, those with the smaller share of them first. None without a finished run.
        test: mean test metric with its t interval, or that of crossed resampling where the predictions of the test
            samples are known; None without a finished run.
        validation: mean of the best validation metrics with its t interval.
        tuned: best validation metric of the tuning, which is too good by selection; None without one.
        finished: runs with a result.
        diverged: runs that diverged.
        failed: runs that failed or were interrupted.
        diverged_trials: tuning runs that diverged.
        missed: runs that diverged or failed, each of which counts as the worst.
    """

    arm: str
    # among the arms of one model: a rank over all models would mostly compare the networks
    rank: int | None
    test: Interval | None
    validation: Interval | None
    # for the gap to `validation`: a large one says that tuning found a lucky run rather than a good setting
    tuned: float | None
    # a mean over the finished runs hides the others, so their numbers stand beside it
    finished: int
    diverged: int
    failed: int
    diverged_trials: int
    missed: int = 0


@dataclass(frozen=True)
class Comparison:
    """The comparison of two arms over paired seeds.

    Attributes:
        a: name of an arm.
        b: name of the other.
        difference: mean test metric of a - b over the seeds where both finished, with its t interval; None below 2.
        with_test_samples: the same for new seeds and new test samples; None without predictions for each sample.
        sample_error: standard error of the difference that comes from the choice of test samples; 0 if not known.
        p_sign_flip: two-sided p of the sign-flip test; a run without result counts as the worst.
        p_t: two-sided p of the t test over the same values; without misses it counts the test samples, where they are
            known; None below 2 seeds.
        p: the larger of the two: both tests must agree.
        p_holm: p after Holm's correction over all comparisons of the study.
        probability: P(a beats b) on a new seed.
        wins: seeds on which a is better; a finished run is better than one without result.
        ties: seeds on which neither is better.
        losses: seeds on which b is better.
        missed_a: runs of a without result.
        missed_b: runs of b without result.
        better_setting: 'a' or 'b' if p_holm is at most StudyRules.alpha: the setting that tuning chose is better.
        winner: better_setting, if its arm also leads in nearly all resampled tunings (tuning.py).
        meaningful: the winner's probability is at least StudyRules.meaningful.
        tuned_ahead: probability that the best trial of a is ahead of that of b in resampled tunings; None without
            trials.
        seeds_needed: seeds that would tell `difference_to_tell` apart; None if no number would, or not applicable.
        difference_to_tell: in the metric's unit.
        sentence: the verdict in words.
    """

    a: str
    b: str
    difference: Interval | None
    # both intervals are kept: if only the second holds 0, more test samples would help rather than more seeds
    with_test_samples: Interval | None
    sample_error: float
    # both p values are kept, so that a reader sees which of the tests decided
    p_sign_flip: float
    p_t: float | None
    p: float
    p_holm: float
    probability: Interval
    # their sum is the number of seeds that were run with both arms
    wins: int
    ties: int
    losses: int
    missed_a: int
    missed_b: int
    # two steps: the settings differ by the tests, the arms differ if tuning again would lead to the same
    better_setting: Winner
    winner: Winner
    meaningful: bool
    tuned_ahead: float | None
    # None has two meanings, and `difference_to_tell` tells them apart: it is None where nothing was asked
    seeds_needed: int | None
    difference_to_tell: float | None
    sentence: str = ""

    @property
    def seeds(self) -> int:
        """Seeds that were run with both arms."""
        return self.wins + self.ties + self.losses

    @property
    def interval(self) -> Interval | None:
        """The difference with the interval that counts every known source of variance."""
        # the wider one, if it is known: a verdict is meant for new test samples too
        return self.with_test_samples or self.difference


@dataclass(frozen=True)
class InteractionContrast:
    """(model_1 with optimizer_1 - model_1 with optimizer_2) - (the same for model_2), per seed.

    Attributes:
        models: (model_1, model_2).
        optimizers: (optimizer_1, optimizer_2).
        difference: of the differences, with its t interval, or that of crossed resampling.
        p: adjusted over all contrasts of the study; the larger of that of sign flips of whole seeds (max-t) and, where
            predictions are known, that of the crossed test (Holm).
        sentence: in words.
        tuned_ahead: probability that the best trials have a contrast above 0 in resampled tunings; None without trials.
        told: the contrast is one of the arms, because it also has its sign in nearly all resampled tunings (tuning.py).
    """

    # swapping both pairs gives the same contrast, swapping one its negative: each is listed once
    models: tuple[str, str]
    optimizers: tuple[str, str]
    difference: Interval
    p: float
    sentence: str = ""
    tuned_ahead: float | None = None
    told: bool = False


@dataclass(frozen=True)
class InteractionCell:
    """How far the metric of a model with an optimizer is above what the two average effects say.

    Attributes:
        model: of the arm.
        optimizer: of the arm.
        effect: cell - mean of the model - mean of the optimizer + grand mean, with its t interval, or that of
            crossed resampling.
    """

    model: str
    optimizer: str
    # not adjusted for the number of cells: cells show where to look, contrasts decide
    effect: Interval


@dataclass(frozen=True)
class Interaction:
    """The model x optimizer interaction over the seeds where every cell finished.

    Attributes:
        models: of the complete grid.
        optimizers: of the complete grid.
        cells: for a heat map, row by row.
        contrasts: differences of differences for each two models and two optimizers.
        p: of the whole: no interaction at all.
        seeds: number of complete seeds.
        left_out: seeds left out because a run of the grid has no result.
        sentence: in words.
        told: a contrast is told: the interaction is one of the arms, not only of the settings that tuning chose.
    """

    models: tuple[str, ...]
    optimizers: tuple[str, ...]
    cells: tuple[InteractionCell, ...]
    contrasts: tuple[InteractionContrast, ...]
    p: float
    # with many seeds left out the interaction is that of the seeds on which nothing diverged
    seeds: int
    left_out: int
    sentence: str = ""
    told: bool = False


@dataclass(frozen=True)
class SurvivalPoint:
    """One step of a Kaplan-Meier curve.

    Attributes:
        time: steps or seconds.
        share: estimated share of runs that have not reached the target by then.
        low: lower end of its interval.
        high: upper end.
    """

    time: float
    # of those that are left, as survival analysis has it; the figure shows 1 - share
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class TargetTimes:
    """How long an arm takes to the target.

    Attributes:
        arm: name of the arm.
        unit: 'steps' or 'seconds'.
        horizon: the time up to which all arms of its model were observed.
        restricted_mean: mean of min(time, horizon) with its t interval; None below 2 runs.
        reached: runs that reached the target, at any time.
        runs: final runs, diverged ones included.
        curve: Kaplan-Meier curve up to the last run's end.
    """

    arm: str
    unit: Literal["steps", "seconds"]
    # one for all arms of a model: means up to different horizons cannot be compared
    horizon: float
    restricted_mean: Interval | None
    reached: int
    runs: int
    curve: tuple[SurvivalPoint, ...]


@dataclass(frozen=True)
class TargetDifference:
    """The difference of restricted mean times to the target of two arms, paired over seeds.

    Attributes:
        a: name of an arm.
        b: name of the other.
        unit: 'steps' or 'seconds'.
        horizon: the time up to which both were observed.
        difference: of a - b with its t interval; below 0 where a is faster.
        ratio: restricted mean of b divided by that of a; None if a's is 0.
        p: the larger two-sided p of the sign-flip test and the t test.
        p_holm: after Holm's correction over the comparisons in this unit.
        winner: faster_setting, if its arm is also faster in nearly all resampled tunings (tuning.py).
        doubt: why the seconds of these arms cannot be compared, whatever p is; '' if they can.
        sentence: in words.
        faster_setting: 'a' or 'b' if p_holm is at most StudyRules.alpha and nothing is doubted: the setting that tuning
            chose is faster.
        tuned_ahead: probability that the chosen trial of a reaches the target before that of b in resampled tunings;
            None if not known.
    """

    a: str
    b: str
    unit: Literal["steps", "seconds"]
    horizon: float
    difference: Interval
    # without an interval: one for a ratio is unbounded where the smaller time may be near 0 (Fieller 1954)
    ratio: float | None
    p: float
    p_holm: float
    winner: Winner
    doubt: str = ""
    sentence: str = ""
    faster_setting: Winner = "none"
    tuned_ahead: float | None = None


@dataclass(frozen=True)
class BudgetPoint:
    """The best validation metric of n tuning runs drawn from an arm's trials.

    Attributes:
        arm: name of the arm.
        trials: n.
        best: median over the draws; None if most draws hold only diverged runs.
        low: lower end of the range of the draws.
        high: upper end.
        wins: probability that this arm's best is the best among the arms of its model.
    """

    arm: str
    trials: int
    best: float | None
    # the range of what a tuning of this size finds, not an interval for its mean
    low: float | None
    high: float | None
    wins: float


@dataclass(frozen=True)
class Objection:
    """Something that makes the comparison unfair or unsafe.

    Attributes:
        kind: short name, such as 'unequal seeds'.
        arms: the arms concerned; () for the whole study.
        sentence: what was found.
        remedy: what to do.
    """

    kind: str
    # several, if they have the same fault: the sentence names them all and can stand alone
    arms: tuple[str, ...]
    sentence: str
    remedy: str


@dataclass(frozen=True)
class StudyResult:
    """All findings of a study.

    Attributes:
        qualities: one an arm.
        comparisons: one a pair of the table.
        interaction: None unless there are two models with two common optimizers.
        target_times: of each arm in steps and in seconds; () without target.
        target_differences: of each pair in steps and in seconds.
        budget: of each arm at each budget.
        front: of each arm against each cost.
        objections: see fairness.py.
        verdicts: the sentences to read first.
    """

    # in the order of the page; tuples, because a result is never changed after it was written
    qualities: tuple[Quality, ...]
    comparisons: tuple[Comparison, ...]
    interaction: Interaction | None
    target_times: tuple[TargetTimes, ...]
    target_differences: tuple[TargetDifference, ...]
    budget: tuple[BudgetPoint, ...]
    front: tuple[FrontPoint, ...]
    objections: tuple[Objection, ...]
    # equal findings share a sentence here; each has one of its own above
    verdicts: tuple[str, ...]


def result_to_json(result: StudyResult) -> str:
    """Return the result as strict JSON."""
    return to_json(result, RESULT_SCHEMA)


def result_from_json(text: str) -> StudyResult:
    """Read `result_to_json`'s JSON.

    Raises:
        DataError: the text is not a study's result, or of a newer version.
    """
    return from_json(StudyResult, text, RESULT_SCHEMA, "a study's result")
