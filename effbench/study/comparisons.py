"""The comparisons of a study's arms over paired seeds, with Holm's correction and winners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from effbench.stats import Interval, deviation, mean_interval
from effbench.study.budget import best_against_budget
from effbench.study.power import seeds_needed
from effbench.study.results import Comparison, Winner
from effbench.study.runs import Runs, common_seeds, result_of, runs_by_arm, trial_values
from effbench.study.statistics import (
    Array,
    crossed_interval,
    holm,
    sample_error,
    sign_flip_p_values,
    t_p_value,
    win_probability,
    win_share,
    worst_rank_differences,
)
from effbench.study.table import Confirmation, StudyRules, StudyTable
from effbench.study.verdicts import verdict

_AS_GIVEN = 1e-4  # a metric that is the mean of `correct` to this accuracy is the accuracy


@dataclass(frozen=True)
class _Pair:
    """The runs of two arms with common seeds.

    Attributes:
        a: name of an arm.
        b: name of the other.
        runs: (run of a, run of b) by seed.
        goodness: a - b by seed with worst ranks for misses, larger is better.
        finished: a - b in the metric's unit for the seeds where both have a result.
    """

    a: str
    b: str
    runs: list[tuple[Confirmation, Confirmation]]
    goodness: list[float]
    finished: list[float]


def compare_arms(table: StudyTable, rules: StudyRules) -> list[Comparison]:
    """Return the comparison of each pair of the table, with p values that Holm's method corrects for their number.

    The p of a comparison is the larger of the sign-flip test's and the t test's, because both have to agree before an
    arm is said to beat another (arXiv:2511.19794); the t test counts the uncertainty of the test samples where
    predictions are known. They compare the two settings that tuning chose. Tuning is a source of variance too
    (arXiv:2103.03098): an arm is named the winner only if its best trial leads in nearly all resampled tunings. Four
    equal arms with separate tunings of 16 trials otherwise "beat" each other in 14 to 18 % of simulated studies, with
    this rule in 2 % (one setting that matters, quasi-random trials; with several settings more remains).

    Args:
        table: of the study.
        rules: of the study.
    """
    runs = runs_by_arm(table)
    pairs = [_pair(table, runs, a, b) for a, b in table.pairs]
    p_values = p_of_each([pair.goodness for pair in pairs], rules.seed)
    bits: dict[int, Array] = {}  # a run takes part in as many pairs as there are other arms: converted once
    found = [_comparison(table, rules, pair, p, bits) for pair, p in zip(pairs, p_values, strict=True)]
    # one family over all models: a reader sees all pairs in one table and would pick the smallest p out of it
    decided = [
        _decided(each, table, rules, pair, p_holm)
        for each, pair, p_holm in zip(found, pairs, holm([each.p for each in found]), strict=True)
    ]
    return [replace(each, sentence=verdict(each, table, rules)) for each in decided]


def p_of_each(differences: Sequence[Sequence[float]], seed: int) -> list[float]:
    """Return the sign-flip p value of each list; lists of one length are computed together.

    Args:
        differences: one list a comparison; an empty one has p = 1.
        seed: of random sign patterns.
    """
    # an unfinished study has pairs with different numbers of seeds
    p_values = [1.0] * len(differences)
    for count in {len(each) for each in differences}:
        places = [index for index, each in enumerate(differences) if len(each) == count]
        block = np.array([differences[index] for index in places], float).reshape(len(places), count)
        for index, p in zip(places, sign_flip_p_values(block, seed), strict=True):
            p_values[index] = float(p)
    return p_values


def _pair(table: StudyTable, runs: Runs, a: str, b: str) -> _Pair:
    pairs = [(runs[a][seed], runs[b][seed]) for seed in common_seeds(runs, (a, b))]
    values = [(result_of(left), result_of(right)) for left, right in pairs]
    # tests need "larger is better" to give misses the worst rank; intervals keep the metric's own sign and unit
    sign = 1.0 if table.mode == "max" else -1.0
    good = [[None if value is None else sign * value for value in pair] for pair in values]
    goodness = worst_rank_differences([left for left, _ in good], [right for _, right in good])
    finished = [left - right for left, right in values if left is not None and right is not None]
    return _Pair(a, b, pairs, goodness, finished)


def _comparison(table: StudyTable, rules: StudyRules, pair: _Pair, p: float, bits: dict[int, Array]) -> Comparison:
    """Return a comparison before Holm's correction and without winner."""
    count, goodness = len(pair.runs), pair.goodness
    missed_a, missed_b = (sum(result_of(runs[side]) is None for runs in pair.runs) for side in (0, 1))
    wins, ties = sum(value > 0 for value in goodness), sum(value == 0 for value in goodness)
    difference: Interval | None = None
    crossed: Interval | None = None
    p_t: float | None = None
    error = 0.0
    if len(pair.finished) > 1:
        difference, p_t = mean_interval(pair.finished, rules.confidence), t_p_value(pair.finished)
        # all seeds have the same test samples: more seeds do not average out the luck of these samples
        by_sample = _by_sample(table, pair, bits)
        if by_sample is not None:
            crossed, p_crossed = crossed_interval(by_sample, rules.confidence)
            p_t, error = max(p_t, p_crossed), sample_error(by_sample)
    # a worst rank has a direction, but no size: counting wins needs no normal distribution
    if missed_a or missed_b:
        probability = win_share(wins, ties, count, rules.confidence)
    else:
        probability = win_probability(goodness, rules.confidence)
    return Comparison(
        a=pair.a,
        b=pair.b,
        difference=difference,
        with_test_samples=crossed,
        sample_error=error,
        p_sign_flip=p,
        p_t=p_t,
        # sign flips hold for any symmetric noise but have few values; t is exact for normal noise only: both must agree
        p=p if p_t is None else max(p, p_t),
        p_holm=1.0,
        probability=probability,
        wins=wins,
        ties=ties,
        losses=count - wins - ties,
        missed_a=missed_a,
        missed_b=missed_b,
        better_setting="none",
        winner="none",
        meaningful=False,
        tuned_ahead=_tuned_ahead(table, pair.a, pair.b),
        seeds_needed=None,
        difference_to_tell=None,
    )


def _decided(each: Comparison, table: StudyTable, rules: StudyRules, pair: _Pair, p_holm: float) -> Comparison:
    """Return the comparison with its corrected p and its winner, or with the seeds that would tell one."""
    better: Winner = "none"
    # alpha = 0.0625 is a possible p of five seeds: rounding must not decide
    if p_holm <= rules.alpha * (1 + 1e-9):
        better = "a" if sum(pair.goodness) > 0 else "b"
        # with misses, the two tests may point to different arms
        larger = (better == "a") == (table.mode == "max")
        if each.difference is not None and (each.difference.estimate > 0) != larger:
            better = "none"
    if better != "none":
        # P(B beats A) = 1 - P(A beats B), and the ends of its interval change places
        chance, ahead = each.probability, each.tuned_ahead
        share, low = (chance.estimate, chance.low) if better == "a" else (1 - chance.estimate, 1 - chance.high)
        leads = None if ahead is None else ahead if better == "a" else 1 - ahead
        return replace(
            each,
            p_holm=p_holm,
            better_setting=better,
            winner=better if leads is None or leads >= rules.tuning else "none",
            # stricter than arXiv:2103.03098, which asks 0.75 of the interval's upper end
            meaningful=share >= rules.meaningful and low > 0.5,
        )
    to_tell: float | None = None
    needed: int | None = None
    if each.difference is not None:
        # the observed difference is a guess of the true one, and of few seeds a poor one; a study that names the
        # difference it cares about gets the answer to its own question
        to_tell = rules.relevant_difference or abs(each.difference.estimate) or None
    if to_tell is not None:
        needed = seeds_needed(to_tell, deviation(pair.finished), len(table.pairs), rules, each.sample_error)
    return replace(each, p_holm=p_holm, seeds_needed=needed, difference_to_tell=to_tell)


def _by_sample(table: StudyTable, pair: _Pair, bits: dict[int, Array]) -> Array | None:
    """Return correct(a) - correct(b), a row a seed, a column a test sample.

    None where the test samples differ between seeds (resampling seeds then covers them), or where the metric is not
    the share of correct samples.
    """
    if not table.same_test_samples:
        return None
    rows = []
    for left, right in pair.runs:
        if result_of(left) is None or result_of(right) is None:
            continue
        arrays = []
        for run in (left, right):
            if not run.correct or run.test is None:
                return None
            # a run cannot be a key, because its settings are a dict; the table keeps it alive, so its id is its own
            if id(run) not in bits:
                bits[id(run)] = np.array(run.correct, float)
            # another metric, such as macro F1, is no mean over samples, and has no variance over them of this form
            if abs(float(bits[id(run)].mean()) - run.test) > _AS_GIVEN:
                return None
            arrays.append(bits[id(run)])
        if arrays[0].shape != arrays[1].shape:
            return None
        rows.append(arrays[0] - arrays[1])
    same = len(rows) > 1 and len({row.shape for row in rows}) == 1 and rows[0].size > 1
    return np.array(rows) if same else None


def _tuned_ahead(table: StudyTable, a: str, b: str) -> float | None:
    """Return the probability that a's best trial is ahead of b's in resampled tunings of all trials."""
    values = {arm: trial_values(table, arm) for arm in (a, b)}
    if not all(values.values()):
        return None
    # as many trials for both: while tuning goes on, the arm with more of them would lead by their number
    budget = max(1, min(len(trials) for trials in values.values()))
    first, second = best_against_budget(values, budget, table.mode)
    # if every trial of both diverged nobody wins: neither is ahead
    total = first.wins + second.wins
    return first.wins / total if total > 0 else 0.5
