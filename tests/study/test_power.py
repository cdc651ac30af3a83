"""Planned seeds and power against simulated studies.

White-box: the simulation itself is compared with one that tries every sign pattern.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.errors import ConfigError
from effbench.study.power import _power, check_seeds, distinguishable, least_seeds, power, seeds_needed, smallest_p
from effbench.study.statistics import crossed_interval, holm, sign_flip_p_values
from effbench.study.table import StudyRules
from tests.study.planted import winners


@given(st.integers(1, 500), st.sampled_from([0.01, 0.05, 0.1]))
def test_least_seeds_are_the_first_that_holm_can_reject(comparisons, alpha):
    """One comparison with the smallest possible p, all others with p = 1."""
    least = least_seeds(comparisons, alpha)

    def decided(seeds):
        return holm([smallest_p(seeds)] + [1.0] * (comparisons - 1))[0] <= alpha * (1 + 1e-9)

    assert decided(least)
    assert not decided(least - 1)


def test_five_seeds_are_refused_with_the_least_number():
    assert (least_seeds(1), least_seeds(6)) == (6, 8)
    with pytest.raises(ConfigError, match=r"study\.seeds must be at least 8 for 6 comparisons.*0\.0625.*got 5"):
        check_seeds(5, 6, key="study.seeds")
    with pytest.raises(ConfigError, match="at least 6 for 1 comparison:"):
        check_seeds(1, 1)
    check_seeds(8, 6)


def found_share(ratio, seeds, comparisons, studies=800, seed=9):
    """Share of simulated studies whose verdict names the better arm of the first of several comparisons."""
    differences = np.random.default_rng(seed).normal(size=(studies, comparisons, seeds))
    differences[:, 0] += ratio
    return np.mean(winners(differences)[:, 0] == 1)


@pytest.mark.spread(3)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("ratio", "seeds", "comparisons"),
    [
        (1.8, 6, 1),
        (1.0, 8, 1),
        (2.0, 8, 6),
        (1.5, 10, 6),
        (1.0, 12, 3),
        (1.0, 13, 1),
        (1.3, 14, 18),
        (1.0, 16, 10),
        (0.6, 30, 3),
    ],
)
def test_power_is_that_of_simulated_studies(ratio, seeds, comparisons):
    assert power(ratio * 0.01, 0.01, seeds, comparisons) == pytest.approx(
        found_share(ratio, seeds, comparisons), abs=0.05
    )


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "comparisons"), [(2.0, 1), (1.2, 3), (0.5, 1)])
def test_the_seeds_needed_find_the_difference(ratio, comparisons):
    needed = seeds_needed(ratio, 1.0, comparisons)
    assert found_share(ratio, needed, comparisons) == pytest.approx(0.8, abs=0.1 if needed <= 12 else 0.05)
    assert power(ratio, 1.0, needed, comparisons) >= 0.78
    assert power(ratio, 1.0, needed - 1, comparisons) < 0.82


@pytest.mark.slow
def test_the_distinguishable_difference_has_the_wanted_power():
    for seeds in (8, 12, 20):
        assert power(distinguishable(0.3, seeds, 4), 0.3, seeds, 4) == pytest.approx(0.8, abs=0.03)
    assert distinguishable(0.3, 6, 4) is None
    assert power(1.0, 0.3, 6, 4) == 0


def test_more_seeds_do_not_help_a_small_test_set():
    assert seeds_needed(0.005, 0.01, sample_error=0.004) is None
    few, more = seeds_needed(0.02, 0.01), seeds_needed(0.02, 0.01, sample_error=0.006)
    assert few is not None
    assert more is not None
    assert few < more


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(st.floats(0.05, 3), st.sampled_from([6, 9, 20]), st.floats(0.01, 100))
def test_power_has_no_unit(ratio, seeds, unit):
    assert power(ratio * unit, unit, seeds) == pytest.approx(power(ratio, 1.0, seeds), abs=1e-3)


def test_stricter_rules_need_more_seeds():
    strict = StudyRules(alpha=0.01)
    assert seeds_needed(1.0, 1.0, 1, strict) > seeds_needed(1.0, 1.0, 1)


@pytest.mark.slow
def test_power_counts_the_uncertainty_of_the_test_set():
    """Seeds, samples and single runs vary; the verdict asks that the crossed interval excludes 0 too."""
    chance, k, n, hits = np.random.default_rng(11), 10, 300, 0
    for _ in range(500):
        data = 0.25 + chance.normal(0, 0.1, (k, 1)) + chance.normal(0, 1.2, (1, n)) + chance.normal(0, 1.0, (k, n))
        won = winners(data.mean(axis=1)[None, None])[0, 0] == 1
        hits += bool(won and crossed_interval(data)[1] <= 0.05)
    deviation = np.sqrt(0.1**2 + 1.0 / n)
    planned = power(0.25, deviation, k, sample_error=1.2 / np.sqrt(n))
    assert hits / 500 == pytest.approx(planned, abs=0.05)
    assert planned < power(0.25, deviation, k) - 0.05


def test_power_is_that_of_trying_every_sign_pattern():
    """A lead on every seed is judged without trying patterns: the number must stay the same."""
    draws, seeds, alpha = 2000, 7, 0.05
    for effect in (0.5, 1.5, 3.0):
        chance = np.random.default_rng(seeds)
        chance.standard_normal(draws)  # the samples' error, which is 0 here
        values_MK = effect + chance.standard_normal((draws, seeds))
        t_test = scipy.stats.ttest_1samp(values_MK, 0, axis=1)
        found = (t_test.pvalue <= alpha) & (t_test.statistic > 0) & (sign_flip_p_values(values_MK) <= alpha)
        assert _power(effect, 1.0, 0.0, seeds, alpha, draws) == found.mean()
