"""Best against budget: the closed form against resampled trials."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.study.budget import best_against_budget, budgets

trials = st.lists(st.none() | st.integers(0, 6).map(float), min_size=1, max_size=8)


def resampled(values, budget, sign, draws=4000):
    """(quantiles of each arm's best, its share of wins) by drawing trials with replacement."""
    chance = np.random.default_rng(0)
    best = np.array([
        np.array([-np.inf if value is None else sign * value for value in each])[
            chance.integers(0, len(each), (draws, budget))
        ].max(axis=1)
        for each in values
    ])  # fmt: skip
    leads = (best == best.max(axis=0)) & np.isfinite(best)
    return np.median(best, axis=1), (leads / np.maximum(1, leads.sum(axis=0))).mean(axis=1)


@settings(deadline=None, max_examples=25)
@given(st.lists(trials, min_size=2, max_size=4), st.integers(1, 6), st.sampled_from(["max", "min"]))
def test_best_and_wins_are_those_of_resampled_trials(values, budget, mode):
    sign = 1 if mode == "max" else -1
    found = best_against_budget({str(arm): each for arm, each in enumerate(values)}, budget, mode)
    _, wins = resampled(values, budget, sign)
    assert [point.wins for point in found] == pytest.approx(wins.tolist(), abs=0.04)
    for point, each in zip(found, values, strict=True):
        finite = sorted(value for value in each if value is not None)
        assert point.best is None or point.best in finite
        assert (point.best is None) == ((each.count(None) / len(each)) ** budget >= 0.5)


def test_the_median_of_the_best_of_n_is_an_order_statistic():
    """Of 100 trials 1 ... 100 the best of 10 is at most 93 in 48 % and at most 94 in 54 % of draws."""
    (point,) = best_against_budget({"a": [float(value) for value in range(1, 101)]}, 10, "max")
    assert (point.best, point.wins) == (94, pytest.approx(1))
    assert point.low == next(v for v in range(1, 101) if (v / 100) ** 10 >= 0.025)


@settings(deadline=None, max_examples=25)
@given(st.lists(trials, min_size=2, max_size=5), st.integers(1, 20), st.randoms())
def test_wins_are_shares_that_no_order_changes(values, budget, chance):
    named = {f"arm {index}": each for index, each in enumerate(values)}
    found = {point.arm: point for point in best_against_budget(named, budget, "max")}
    nobody = np.prod([(each.count(None) / len(each)) ** budget for each in values])
    assert sum(point.wins for point in found.values()) == pytest.approx(1 - nobody)
    shuffled = list(named.items())
    chance.shuffle(shuffled)
    for point in best_against_budget(dict(shuffled), budget, "max"):
        assert point.wins == pytest.approx(found[point.arm].wins, abs=1e-9)
        assert point.best == found[point.arm].best


def test_the_winner_may_change_with_the_budget():
    """One arm is good everywhere, the other has one setting that is better."""
    values = {"steady": [0.80] * 10, "picky": [0.5] * 9 + [0.9]}
    first, last = (best_against_budget(values, budget, "max") for budget in (1, 20))
    assert first[0].wins == pytest.approx(0.9)
    assert last[1].wins == pytest.approx(1 - 0.9**20)


def test_all_trials_are_the_last_budget():
    assert budgets((1, 2, 5, 10), 16) == [1, 2, 5, 10, 16]
    assert budgets((1, 2, 5, 10), 5) == [1, 2, 5]
    assert budgets((1,), 0) == []
