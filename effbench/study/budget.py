"""Best result against tuning budget, by resampling the trials of a study (arXiv:1909.03004).

The trials of an arm are treated as draws from its space. Of n of them, drawn with replacement, the best is the i-th
of T ordered values with probability (i/T)^n - ((i-1)/T)^n: the limit of infinitely many resamples, so no seed is
needed. Diverged trials are draws too, and lose to every finite value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from effbench.study.results import BudgetPoint
from effbench.study.statistics import Array


def best_against_budget(
    values: Mapping[str, Sequence[float | None]], budget: int, mode: str, confidence: float = 0.95
) -> list[BudgetPoint]:
    """Return the best of `budget` trials for each arm, and how often each arm wins.

    Args:
        values: arm -> best validation metric of each of its trials; None: diverged or failed.
        budget: number of trials drawn.
        mode: 'max' if larger is better.
        confidence: share of the draws between the low and the high end.
    """
    sign = 1.0 if mode == "max" else -1.0  # from here on larger is better
    ordered = {
        # -inf: a diverged trial was paid for, and loses
        arm: np.sort([-np.inf if value is None else sign * value for value in trials])
        for arm, trials in values.items()
        if trials
    }
    wins = _win_probabilities(list(ordered.values()), budget)
    tail = (1 - confidence) / 2
    points = []
    for (arm, trials), won in zip(ordered.items(), wins, strict=True):
        # P(the best of `budget` draws is at most the i-th value), for i = 1 ... T
        shares = (np.arange(1, len(trials) + 1) / len(trials)) ** budget
        worst, middle, best = (
            float(sign * value) if np.isfinite(value) else None
            for value in (trials[min(int(np.searchsorted(shares, p)), len(trials) - 1)] for p in (tail, 0.5, 1 - tail))
        )
        # the order that the metric has: for a loss the best is the lowest
        low, high = (worst, best) if sign > 0 else (best, worst)
        points.append(BudgetPoint(arm, budget, middle, low, high, won))
    return points


def budgets(wanted: Sequence[int], planned: int) -> list[int]:
    """Return the budgets at which arms are compared: the wanted ones below the planned number, and that."""
    return sorted({budget for budget in wanted if 0 < budget < planned} | ({planned} if planned > 0 else set()))


def _win_probabilities(ordered: Sequence[Array], budget: int) -> list[float]:
    """Return for each arm the probability that its best of `budget` trials is the best; ties are shared.

    With N other arms equal to the best, an arm's share is 1 / (1 + N), whose mean over independent arms is the integral
    over x in [0, 1] of the product of P(less) + P(equal) x: a polynomial, which Gauss-Legendre nodes integrate exactly.
    """
    values = np.unique(np.concatenate([each[np.isfinite(each)] for each in ordered] or [np.empty(0)]))
    upto_AV = np.array([(np.searchsorted(each, values, "right") / len(each)) ** budget for each in ordered])
    less_AV = np.array([(np.searchsorted(each, values, "left") / len(each)) ** budget for each in ordered])
    # A arms x V values: the probability that the arm's best is exactly this value
    equal_AV = upto_AV - less_AV
    # m nodes are exact for polynomials up to degree 2m - 1; here the degree is at most the number of other arms
    nodes, weights = np.polynomial.legendre.leggauss(len(ordered) // 2 + 1)
    factors_AVX = less_AV[..., None] + equal_AV[..., None] * ((nodes + 1) / 2)
    wins = []
    for index in range(len(ordered)):
        others_VX = np.prod(np.delete(factors_AVX, index, axis=0), axis=0)
        wins.append(float(equal_AV[index] @ (others_VX @ (weights / 2))))
    return wins
