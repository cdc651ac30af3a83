"""Statistics against numpy, scipy and closed forms."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.stats import (
    MOST_EXACT,
    deviation,
    mean,
    mean_interval,
    median,
    median_interval,
    share_interval,
    sign_flip_p,
    t_quantile,
)

numbers = st.floats(-1e6, 1e6)
several = st.lists(numbers, min_size=2, max_size=40)


@given(several)
def test_mean_deviation_and_median_are_numpys(values):
    scale = max(map(abs, values)) + 1e-300
    assert mean(values) == pytest.approx(np.mean(values), rel=1e-9, abs=1e-9 * scale)
    assert deviation(values) == pytest.approx(np.std(values, ddof=1), rel=1e-6, abs=1e-9 * scale)
    assert median(values) == np.median(values)


@given(st.integers(1, 400), st.floats(0.01, 0.999))
def test_quantiles_of_student_are_scipys(dof, confidence):
    assert t_quantile(dof, confidence) == pytest.approx(scipy.stats.t.ppf((1 + confidence) / 2, dof), rel=1e-7)


@given(several, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_of_a_mean_is_scipys(values, confidence):
    found, scale = mean_interval(values, confidence), max(map(abs, values)) + 1e-300
    half = scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert found.estimate == pytest.approx(np.mean(values), abs=1e-9 * scale)
    assert found.high - found.low == pytest.approx(2 * half, rel=1e-6, abs=1e-8 * scale)


def test_the_mean_of_one_value_is_known_not_at_all():
    assert (mean_interval([3.0]).low, mean_interval([3.0]).high) == (-math.inf, math.inf)


def test_a_mean_interval_holds_the_mean_as_often_as_it_says():
    drawn = np.random.default_rng(0).normal(5, 2, (2000, 4))
    hits = sum(found.low <= 5 <= found.high for found in map(mean_interval, drawn.tolist()))
    assert hits / 2000 == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 2000))


@settings(deadline=None)
@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.9, 0.95]))
def test_the_interval_of_a_share_is_scipys_wilson_interval(counts, confidence):
    found = share_interval(*counts, confidence)
    theirs = scipy.stats.binomtest(*counts).proportion_ci(confidence, method="wilson")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_the_interval_of_a_median_is_that_of_order_statistics():
    """Of 1 to 101 the binomial one is 41 to 61: 50.5 -+ 1.96 sqrt(101) / 2."""
    found = median_interval(list(range(1, 102)))
    assert (found.estimate, found.n) == (51, 101)
    assert found.low == pytest.approx(41, abs=1)
    assert found.high == pytest.approx(61, abs=1)


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(0.5, 2), min_size=1, max_size=30))
def test_an_interval_holds_its_median_and_is_found_again(values):
    found = median_interval(values)
    assert min(values) <= found.low <= found.estimate <= found.high <= max(values)
    assert median_interval(values) == found


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(-40, 40).map(float), min_size=2, max_size=8))
def test_an_exact_sign_flip_p_is_scipys_permutation_test(values):
    theirs = scipy.stats.permutation_test(
        (np.array(values),), np.sum, permutation_type="samples", alternative="two-sided", n_resamples=math.inf
    ).pvalue
    assert sign_flip_p(values) == pytest.approx(theirs, abs=1e-12)
    assert sign_flip_p([value / 10 for value in values]) == sign_flip_p(values)  # where scipy's sums are rounded


@pytest.mark.slow
@settings(deadline=None, max_examples=5)
@given(st.integers(0, 99))
def test_a_sampled_sign_flip_p_is_near_that_of_the_t_test(seed):
    values = np.random.default_rng(seed).normal(0.3, 1, MOST_EXACT + 10).tolist()
    assert sign_flip_p(values) == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, abs=0.03)
    assert sign_flip_p(values) == sign_flip_p(values)


@pytest.mark.process
def test_statistics_import_neither_torch_nor_numpy():
    script = "import sys, effbench.stats; assert not {'torch', 'numpy', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
