"""Statistics of paired comparisons against scipy, closed forms and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.stats import MOST_EXACT, mean_interval, sign_flip_p
from effbench.study.interaction import interaction
from effbench.study.statistics import (
    crossed_interval,
    holm,
    max_t_p_values,
    sample_error,
    sign_flip_p_values,
    t_p_value,
    win_probability,
    win_share,
    worst_rank_differences,
)
from effbench.study.table import StudyRules
from effbench.study.targets import target_differences
from tests.study.planted import confirmation, study

shares = st.floats(0, 1)
whole = st.integers(-40, 40).map(float)


# --- sign flips -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.lists(whole, min_size=1, max_size=9))
def test_p_values_of_rows_are_those_of_single_tests(values):
    found = sign_flip_p_values(np.array([values, [-value / 10 for value in values]]))
    assert found.tolist() == pytest.approx([sign_flip_p(values)] * 2, abs=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.lists(whole, min_size=2, max_size=8))
def test_a_single_contrast_has_the_sign_flip_tests_p(values):
    assert max_t_p_values(np.array([values])) == pytest.approx([sign_flip_p(values)], abs=1e-12)


@pytest.mark.slow
def test_p_values_of_17_pairs_try_all_patterns():
    values = np.random.default_rng(1).normal(0.4, 1, 17)
    exact = sum(abs(values @ signs) >= abs(values.sum()) - 1e-9 for signs in _patterns(17)) / 2**17
    assert sign_flip_p_values(values[None]) == pytest.approx([exact], abs=1e-12)


def _patterns(count):
    return 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)


def test_many_seeds_get_p_values_near_the_t_tests():
    values = np.random.default_rng(2).normal(0.3, 1, (20, 3 * MOST_EXACT))
    theirs = scipy.stats.ttest_1samp(values, 0, axis=1).pvalue
    assert sign_flip_p_values(values) == pytest.approx(theirs, abs=0.02)
    assert sign_flip_p_values(-values) == pytest.approx(sign_flip_p_values(values), abs=1e-12)


@pytest.mark.slow
def test_max_t_keeps_the_family_wise_error_of_many_contrasts():
    """30 correlated contrasts of 8 seeds: some p value is below 0.05 in at most 5 % of studies without effect."""
    chance = np.random.default_rng(3)
    data = chance.normal(size=(1000, 6, 8))
    mixed = np.einsum("ca,sak->sck", chance.normal(size=(30, 6)), data)
    rate = np.mean([max_t_p_values(study).min() <= 0.05 for study in mixed])
    assert 0.02 < rate <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1000)


# --- Holm -------------------------------------------------------------------------------------------------------------


def test_holm_gives_the_values_of_rs_p_adjust():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(shares, min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_holm_rejects_what_its_definition_rejects(p_values, alpha):
    """Step down from the smallest p; stop at the first above alpha / (number left)."""
    rejected, left = set(), len(p_values)
    for index in sorted(range(len(p_values)), key=p_values.__getitem__):
        if p_values[index] * left > alpha:
            break
        rejected.add(index)
        left -= 1
    assert {index for index, p in enumerate(holm(p_values)) if p <= alpha} == rejected


@given(st.lists(shares, min_size=1, max_size=12), st.randoms())
def test_holm_is_monotone_and_blind_to_order(p_values, chance):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    ordered = sorted(zip(p_values, adjusted, strict=True))
    assert all(first[1] <= second[1] for first, second in itertools.pairwise(ordered))
    order = list(range(len(p_values)))
    chance.shuffle(order)
    assert holm([p_values[index] for index in order]) == [adjusted[index] for index in order]


# --- P(A beats B) -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 8, 20])
@pytest.mark.parametrize("ratio", [0.0, 0.4, 1.5])
def test_win_probability_has_the_noncentral_t_interval(n, ratio):
    values = np.random.default_rng(n).normal(size=n)
    values = (values - values.mean()) / values.std(ddof=1) + ratio
    t = ratio * math.sqrt(n)

    def end(share):
        root = scipy.optimize.brentq(lambda ncp: scipy.stats.nct.cdf(t, n - 1, ncp) - share, t - 6, t + 8)
        return scipy.stats.norm.cdf(root / math.sqrt(n))

    found = win_probability(values.tolist())
    assert (found.estimate, found.low, found.high) == pytest.approx((end(0.5), end(0.975), end(0.025)), abs=2e-3)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.lists(whole, min_size=2, max_size=12), st.floats(0.01, 100))
def test_win_probability_is_antisymmetric_and_without_unit(values, unit):
    found, swapped = win_probability(values), win_probability([-value for value in values])
    assert (swapped.low, swapped.estimate, swapped.high) == pytest.approx(
        (1 - found.high, 1 - found.estimate, 1 - found.low), abs=1e-6
    )
    assert win_probability([unit * value for value in values]).estimate == pytest.approx(found.estimate, abs=1e-6)
    assert 0 <= found.low <= found.estimate <= found.high <= 1


def test_win_probability_without_variance_is_sure_or_even():
    assert win_probability([0.1] * 8).low > 0.99
    assert win_probability([0.0] * 8).estimate == pytest.approx(0.5)
    assert (win_probability([0.1]).low, win_probability([0.1]).high) == (0, 1)


def test_a_tie_counts_half():
    assert win_share(3, 2, 8).estimate == 0.5


@given(st.lists(st.tuples(st.none() | shares, st.none() | shares), min_size=1, max_size=10))
def test_a_run_without_result_is_the_worst_outcome(pairs):
    a, b = zip(*pairs, strict=True)
    found, swapped = worst_rank_differences(a, b), worst_rank_differences(b, a)
    assert found == [-value for value in swapped]
    for (left, right), value in zip(pairs, found, strict=True):
        if (left is None) != (right is None):
            assert value * (1 if right is None else -1) == max(map(abs, found)) > 0


# --- intervals --------------------------------------------------------------------------------------------------------


@pytest.mark.spread(1)
@pytest.mark.slow
@pytest.mark.parametrize("k", [6, 8, 12])
def test_intervals_over_seeds_cover_what_they_say(k):
    """93 to 97 % of 95 % intervals hold the planted difference and the planted P(A beats B)."""
    drawn = np.random.default_rng(k).normal(0.6, 1.0, (1000, k)).tolist()
    truth = scipy.stats.norm.cdf(0.6)
    differences = [mean_interval(values) for values in drawn]
    chances = [win_probability(values) for values in drawn]
    assert 0.93 < np.mean([each.low <= 0.6 <= each.high for each in differences]) < 0.97
    assert 0.93 < np.mean([each.low <= truth <= each.high for each in chances]) < 0.97


@pytest.mark.parametrize("n", [6, 8, 12])
def test_counted_wins_cover_what_they_say_on_average(n):
    """Exact: over the true shares 93 to 97 %. Of so few values no interval covers alike for each share."""
    found, shares_ = [win_share(wins, 0, n) for wins in range(n + 1)], np.linspace(0.05, 0.95, 91)
    held = [np.array([each.low <= share <= each.high for each in found]) for share in shares_]
    covered = [scipy.stats.binom.pmf(range(n + 1), n, share) @ own for share, own in zip(shares_, held, strict=True)]
    assert 0.93 < np.mean(covered) < 0.97
    assert min(covered) > 0.89


@pytest.mark.slow
@pytest.mark.parametrize("k", [6, 8, 12])
def test_contrasts_cover_what_they_say(k):
    """18 contrasts of 3 x 4 arms without interaction."""
    chance, covered = np.random.default_rng(k), []
    names = [f"{model}/{optimizer}" for model in "xyz" for optimizer in "abcd"]
    for _ in range(80):
        values = chance.normal(0.7, 0.01, (12, k)) + chance.normal(0, 0.02, k)
        found = interaction(study(dict(zip(names, values.tolist(), strict=True))), StudyRules())
        covered += [each.difference.low <= 0 <= each.difference.high for each in found.contrasts]
    assert 0.93 < np.mean(covered) < 0.97


@pytest.mark.slow
@pytest.mark.parametrize("k", [6, 8, 12])
def test_differences_of_times_cover_what_they_say(k):
    """Exponential times of rates 1 and 2 up to 1.2."""
    chance, covered = np.random.default_rng(k), []
    truth = (1 - math.exp(-1.2)) - (1 - math.exp(-2.4)) / 2
    for _ in range(600):
        runs = [
            confirmation(arm, seed, steps_to_target=time if time < 1.2 else None, steps=1.2)
            for arm, rate in (("a", 1.0), ("b", 2.0))
            for seed, time in enumerate(chance.exponential(1 / rate, k).tolist())
        ]
        table = study({"a": [0.8], "b": [0.8]}, confirmations=tuple(runs), target=0.7, target_source="given")
        difference = target_differences(table, StudyRules())[0].difference
        covered.append(difference.low <= truth <= difference.high)
    assert 0.93 < np.mean(covered) < 0.97


def crossed_study(chance, k, n):
    """0, 1 or -1 for each seed and sample: samples differ in how often each arm has them right."""
    a, b = 0.1 + 0.8 * chance.beta(4, 1, n), 0.1 + 0.8 * chance.beta(3, 1, n)
    lucky = chance.normal(0, 0.02, (2, k, 1))
    return (chance.random((k, n)) < a + lucky[0]) * 1.0 - (chance.random((k, n)) < b + lucky[1])


@pytest.mark.slow
@pytest.mark.parametrize("k", [6, 8, 12])
def test_crossed_intervals_cover_new_seeds_and_new_samples(k):
    """Over all samples the means differ by 0.8 (4/5 - 3/4)."""
    chance, truth = np.random.default_rng(100 + k), 0.04
    found = [crossed_interval(crossed_study(chance, k, 400))[0] for _ in range(1000)]
    assert 0.93 < np.mean([each.low <= truth <= each.high for each in found]) < 0.975


def test_the_crossed_interval_is_that_of_resampling_crosswise():
    """The pigeonhole bootstrap (Owen 2007) of many seeds and samples has its standard error."""
    chance = np.random.default_rng(5)
    data = chance.normal(0, 1, (40, 1)) + chance.normal(0, 4, (1, 500)) + chance.normal(0, 1, (40, 500))
    means = []
    for _ in range(2000):
        rows, columns = chance.integers(0, 40, 40), chance.integers(0, 500, 500)
        means.append(np.bincount(rows, minlength=40) @ data @ np.bincount(columns, minlength=500) / 20_000)
    found, p = crossed_interval(data)
    assert p == pytest.approx(2 * scipy.stats.t.sf(abs(data.mean()) / np.std(means), 39), abs=0.03)
    half = scipy.stats.t.ppf(0.975, 39) * np.std(means)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.08)
    assert sample_error(data) == pytest.approx(4 / math.sqrt(500), rel=0.1)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 9), st.integers(2, 40), st.integers(0, 10**6))
def test_crossed_intervals_are_never_narrower_than_over_seeds(k, n, seed):
    data = np.random.default_rng(seed).integers(-1, 2, (k, n)).astype(float)
    (crossed, p), seeds = crossed_interval(data), mean_interval(data.mean(axis=1).tolist())
    assert (p <= 0.05) == (crossed.low > 0 or crossed.high < 0)
    assert p >= t_p_value(data.mean(axis=1).tolist()) - 1e-9
    assert crossed.estimate == pytest.approx(seeds.estimate, abs=1e-12)
    assert crossed.high - crossed.low >= (seeds.high - seeds.low) * (1 - 1e-9)


def test_shared_seeds_narrow_the_interval():
    """A part that both arms share by the seed drops out of the paired difference."""
    chance = np.random.default_rng(6)
    shared = chance.normal(0, 2, 12)
    a, b = shared + chance.normal(0.5, 0.5, 12), shared + chance.normal(0, 0.5, 12)
    paired = mean_interval((a - b).tolist())
    unpaired = scipy.stats.ttest_ind(a, b).confidence_interval()
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 2
