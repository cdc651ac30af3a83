"""The comparisons of a study's arms over paired seeds, with Holm's correction and winners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from effbench.stats import Interval, deviation, mean_interval
from effbench.study.power import seeds_needed
from effbench.study.results import Comparison, Winner
from effbench.study.runs import Runs, common_seeds, result_of, runs_by_arm
from effbench.study.samples import Samples
from effbench.study.statistics import (
    Array,
    crossed,
    holm,
    sign_flip_p_values,
    t_p_value,
    win_probability,
    win_share,
    worst_rank_differences,
)
from effbench.study.table import Confirmation, StudyRules, StudyTable
from effbench.study.tuning import arms_compared, lead_needed, quality_lead
from effbench.study.verdicts import verdict


@dataclass(frozen=True)
class Pair:
    """The runs of two arms with common seeds.

    Attributes:
        a: name of an arm.
        b: name of the other.
        runs: (run of a, run of b) by seed.
        values: (test metric of a, of b) by seed; None for a run without result.
        goodness: a - b by seed with worst ranks for misses, larger is better.
        finished: a - b in the metric's unit for the seeds where both have a result.
    """

    a: str
    b: str
    runs: list[tuple[Confirmation, Confirmation]]
    values: list[tuple[float | None, float | None]]
    goodness: list[float]
    finished: list[float]


def compare_arms(table: StudyTable, rules: StudyRules, samples: Samples | None = None) -> list[Comparison]:
    """Return the comparison of each pair of the table, with p values that Holm's method corrects for their number.

    The p of a comparison is the larger of the sign-flip test's and the t test's, because both have to agree before an
    arm is said to beat another (arXiv:2511.19794); the t test counts the uncertainty of the test samples where
    predictions are known. They compare the two settings that tuning chose. An arm is named the winner only if it also
    leads in nearly all resampled tunings (tuning.py): four equal arms, tuned with 16 trials each, otherwise "beat" each
    other in 5 to 99 % of simulated studies, because their tunings were more or less lucky.

    Args:
        table: of the study.
        rules: of the study.
        samples: of the study, if there are some already.
    """
    runs, samples = runs_by_arm(table), samples or Samples(table)
    pairs = [paired(table, runs, a, b) for a, b in table.pairs]
    p_values = p_of_each([pair.goodness for pair in pairs], rules.seed)
    found = [_comparison(rules, pair, p, samples, table) for pair, p in zip(pairs, p_values, strict=True)]
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


def paired(table: StudyTable, runs: Runs, a: str, b: str) -> Pair:
    """Return the runs of two arms with common seeds, and their differences.

    Args:
        table: of the study.
        runs: of each arm, by seed.
        a: name of an arm.
        b: name of the other.
    """
    pairs = [(runs[a][seed], runs[b][seed]) for seed in common_seeds(runs, (a, b))]
    values = [(result_of(left), result_of(right)) for left, right in pairs]
    # tests need "larger is better" to give misses the worst rank; intervals keep the metric's own sign and unit
    sign = 1.0 if table.mode == "max" else -1.0
    good = [[None if value is None else sign * value for value in pair] for pair in values]
    goodness = worst_rank_differences([left for left, _ in good], [right for _, right in good])
    finished = [left - right for left, right in values if left is not None and right is not None]
    return Pair(a, b, pairs, values, goodness, finished)


def _comparison(rules: StudyRules, pair: Pair, p: float, samples: Samples, table: StudyTable) -> Comparison:
    """Return a comparison before Holm's correction and without winner."""
    count, goodness = len(pair.runs), pair.goodness
    missed_a, missed_b = (sum(values[side] is None for values in pair.values) for side in (0, 1))
    wins, ties = sum(value > 0 for value in goodness), sum(value == 0 for value in goodness)
    missed = missed_a + missed_b > 0
    difference: Interval | None = None
    with_samples: Interval | None = None
    error = 0.0
    # of all seeds, misses included: over the few finished pairs alone, p would grow with every miss of the worse arm
    p_t = t_p_value(goodness) if count > 1 else None
    if len(pair.finished) > 1:
        difference = mean_interval(pair.finished, rules.confidence)
        # all seeds have the same test samples: more seeds do not average out the luck of these samples
        by_sample = difference_by_sample(pair, samples)
        if by_sample is not None:
            with_samples, p_crossed, error = crossed(by_sample, rules.confidence)
            # a miss has no samples, and finished pairs alone do not decide
            p_t = p_t if p_t is None or missed else max(p_t, p_crossed)
    # a worst rank has a direction, but no size: counting wins needs no normal distribution
    if missed:
        probability = win_share(wins, ties, count, rules.confidence)
    else:
        probability = win_probability(goodness, rules.confidence)
    return Comparison(
        a=pair.a,
        b=pair.b,
        difference=difference,
        with_test_samples=with_samples,
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
        tuned_ahead=quality_lead(table, pair.a, pair.b),
        seeds_needed=None,
        difference_to_tell=None,
    )


def _decided(each: Comparison, table: StudyTable, rules: StudyRules, pair: Pair, p_holm: float) -> Comparison:
    """Return the comparison with its corrected p and its winner, or with the seeds that would tell one."""
    better: Winner = "none"
    # alpha = 0.0625 is a possible p of five seeds: rounding must not decide
    if p_holm <= rules.alpha * (1 + 1e-9):
        better = "a" if sum(pair.goodness) > 0 else "b"
    if better != "none":
        # P(B beats A) = 1 - P(A beats B), and the ends of its interval change places
        chance, ahead = each.probability, each.tuned_ahead
        share, low = (chance.estimate, chance.low) if better == "a" else (1 - chance.estimate, 1 - chance.high)
        leads = None if ahead is None else ahead if better == "a" else 1 - ahead
        enough = lead_needed(arms_compared(table.pairs), rules, table.sampler)
        return replace(
            each,
            p_holm=p_holm,
            better_setting=better,
            winner=better if leads is None or leads >= enough else "none",
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


def difference_by_sample(pair: Pair, samples: Samples) -> Array | None:
    """Return correct(a) - correct(b), a row a seed, a column a test sample; None where `Samples.of` has none.

    Args:
        pair: of two arms.
        samples: of the study.
    """
    finished = [
        runs
        for runs, (left, right) in zip(pair.runs, pair.values, strict=True)
        if left is not None and right is not None
    ]
    left, right = (samples.of([runs[side] for runs in finished]) for side in (0, 1))
    # in bytes: of floats, eight times as much memory would be moved, and the difference is exact in both
    return None if left is None or right is None or left.shape != right.shape else (left - right).astype(float)
