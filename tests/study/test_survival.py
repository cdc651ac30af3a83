"""Times to a target against hand-made product limits and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.study.survival import restricted_mean, restricted_times, survival_curve

runs = st.lists(st.tuples(st.integers(1, 30).map(float), st.booleans()), min_size=2, max_size=12)


def product_limit(times, reached, at):
    share = 1.0
    for moment in sorted({time for time, hit in zip(times, reached, strict=True) if hit and time <= at}):
        hits = sum(time == moment and hit for time, hit in zip(times, reached, strict=True))
        share *= 1 - hits / sum(time >= moment for time in times)
    return share


@settings(deadline=None, max_examples=50)
@given(runs)
def test_the_curve_is_the_product_limit_within_its_interval(sample):
    times, reached = zip(*sample, strict=True)
    curve = survival_curve(times, reached)
    assert [point.time for point in curve] == sorted(set(times))
    for point in curve:
        assert point.share == pytest.approx(product_limit(times, reached, point.time), abs=1e-12)
        assert 0 <= point.low <= point.share + 1e-12
        assert point.share - 1e-12 <= point.high <= 1


@settings(deadline=None, max_examples=50)
@given(runs, st.floats(1, 40))
def test_restricted_times_are_jackknife_values_of_the_area(sample, horizon):
    times, reached = map(list, zip(*sample, strict=True))

    def area(kept):
        own_times, own_hits = [times[i] for i in kept], [reached[i] for i in kept]
        steps = [0.0, *sorted({t for t in own_times if t < horizon}), horizon]
        return sum(
            (right - left) * product_limit(own_times, own_hits, left) for left, right in itertools.pairwise(steps)
        )

    n, everyone = len(times), list(range(len(times)))
    wanted = [n * area(everyone) - (n - 1) * area([i for i in everyone if i != index]) for index in everyone]
    assert restricted_times(times, reached, horizon) == pytest.approx(wanted, abs=1e-8)


def exponential(chance, shape, rate, horizon, censoring=None):
    times = chance.exponential(1 / rate, shape)
    ends = np.full(shape, horizon) if censoring is None else np.minimum(chance.exponential(censoring, shape), horizon)
    return np.minimum(times, ends), times <= ends


@pytest.mark.slow
@pytest.mark.parametrize("censoring", [None, 3.0])
def test_restricted_means_are_unbiased(censoring):
    """Exponential times of rate 1 up to 1.2: (1 - exp(-1.2)) / 1, also if runs are cut off at random times."""
    truth, chance = 1 - math.exp(-1.2), np.random.default_rng(0)
    times, reached = exponential(chance, (250, 12), 1.0, 1.2, censoring)
    found = [restricted_mean(t, r, 1.2).estimate for t, r in zip(times, reached, strict=True)]
    assert np.mean(found) == pytest.approx(truth, abs=3 * np.std(found) / math.sqrt(len(found)))


@pytest.mark.slow
@pytest.mark.parametrize("k", [6, 8, 12])
def test_restricted_means_cover_what_they_say(k):
    truth, chance = 1 - math.exp(-1.2), np.random.default_rng(k)
    times, reached = exponential(chance, (1500, k), 1.0, 1.2)
    found = [restricted_mean(t, r, 1.2) for t, r in zip(times, reached, strict=True)]
    assert 0.93 < np.mean([each.low <= truth <= each.high for each in found]) < 0.97


@pytest.mark.slow
@pytest.mark.parametrize("k", [6, 8, 12])
def test_points_of_the_curve_cover_what_they_say(k):
    """Exponential times, runs cut off at random times: 93 % or more hold the true share, before the first hit too."""
    chance, covered = np.random.default_rng(k), {0.3: [], 1.0: []}
    for times, reached in zip(*exponential(chance, (150, k), 1.0, 1.5, 2.0), strict=True):
        curve = survival_curve(times, reached)
        for at, found in covered.items():
            last = [point for point in curve if point.time <= at][-1:]
            found += [point.low <= math.exp(-at) <= point.high for point in last]
    assert min(map(np.mean, covered.values())) >= 0.93


def test_before_the_first_hit_the_share_is_not_sure():
    """Five runs are followed beyond 2 without a hit: with a share of 0.478 that would have a chance of 2.5 %."""
    first = survival_curve([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [False, False, True, True, True, True])[1]
    assert (first.share, first.high) == (1, 1)
    assert first.low**5 == pytest.approx(0.025)


def test_runs_that_all_miss_stay_at_one():
    curve = survival_curve([5.0, 5.0, 3.0], [False] * 3)
    assert {(point.share, point.high) for point in curve} == {(1.0, 1.0)}
    assert restricted_mean([5.0, 5.0], [False, False], 5.0).estimate == 5.0
