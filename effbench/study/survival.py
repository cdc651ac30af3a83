"""Times to a target with censoring: Kaplan-Meier curves and restricted means.

A run that ends without the target is censored at its end. One that diverged or stopped early by its own rule would
never reach it: it is censored at the horizon.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from effbench.stats import Interval, mean_interval
from effbench.study.results import SurvivalPoint
from effbench.study.statistics import Array


def survival_curve(times: Sequence[float], reached: Sequence[bool], confidence: float = 0.95) -> list[SurvivalPoint]:
    """Return the Kaplan-Meier estimate (1958) of the share that has not reached the target, with its interval.

    The interval is the log-log ("exponential Greenwood") one of scipy.stats.ecdf, which stays within [0, 1]; where it
    is not defined, it is exact for a share of 1 (Clopper & Pearson 1934, with the runs still followed), and
    [0, the last upper end] for a share of 0. With 6 to 12 runs, 93 to 100 % of 95 % intervals hold the true share.

    Args:
        times: time to the target, or the time at which a run was censored.
        reached: False where it was censored.
        confidence: of each point's interval.
    """
    from scipy.stats import CensoredData, ecdf

    sample = CensoredData.right_censored(np.asarray(times, float), ~np.asarray(reached, bool))
    found = ecdf(sample).sf
    # the log-log interval divides by log(share), which is 0 or infinite at a share of 1 or 0; these ends are set below
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The confidence interval is undefined", RuntimeWarning)
        ends = found.confidence_interval(confidence, method="log-log")
    # scipy's quantiles are all distinct times: at a time of censoring only, the share stays as it was
    points, last_high = [], 1.0
    for time, share, low, high in zip(
        found.quantiles, found.probabilities, ends.low.probabilities, ends.high.probabilities, strict=True
    ):
        if np.isnan(low) or np.isnan(high):
            # all of n runs still without the target: a share below low would give this in (1 - confidence) / 2 of cases
            n = sum(each >= time for each in times)
            low, high = (((1 - confidence) / 2) ** (1 / n), 1.0) if share == 1 else (0.0, last_high)
        last_high = float(high)
        points.append(SurvivalPoint(float(time), float(share), float(low), float(high)))
    return points


def restricted_times(times: Sequence[float], reached: Sequence[bool], horizon: float) -> Array:
    """Return one value a run whose mean is the restricted mean time: the mean of min(time, horizon).

    They are min(time, horizon) themselves where every run was followed to the target or the horizon. If some were
    censored earlier they are pseudo-observations (Andersen, Hansen & Klein 2004, Lifetime Data Anal. 10:335):
    n m - (n - 1) m_without_i, with m the area under the Kaplan-Meier curve up to the horizon.

    Args:
        times: time to the target, or the time at which a run was censored.
        reached: False where it was censored.
        horizon: of the mean.
    """
    all_times, events = np.asarray(times, float), np.asarray(reached, bool)
    n = len(all_times)
    # a censoring before the horizon is rare here: runs have equal budgets, so most are followed to the horizon, and
    # then the plain mean is exact, whatever the distribution of the times
    if n == 1 or np.all(events | (all_times >= horizon)):
        clipped: Array = np.minimum(all_times, horizon)
        return clipped
    whole = _area(all_times, events, horizon)
    # one jackknife value a run, so that runs can be paired by seed; unbiased in tests/study/test_survival.py
    others = [np.arange(n) != index for index in range(n)]
    without = np.array([_area(all_times[kept], events[kept], horizon) for kept in others])
    pseudo_observations: Array = n * whole - (n - 1) * without
    return pseudo_observations


def restricted_mean(
    times: Sequence[float], reached: Sequence[bool], horizon: float, confidence: float = 0.95
) -> Interval:
    """Return the restricted mean time to the target (Irwin 1949) with a t interval over runs.

    Args:
        times: time to the target, or the time at which a run was censored.
        reached: False where it was censored.
        horizon: of the mean; a run that needs longer counts with the horizon.
        confidence: of the interval.
    """
    return mean_interval(restricted_times(times, reached, horizon).tolist(), confidence)


def _area(times: Array, events: Array, horizon: float) -> float:
    """Return the area under the Kaplan-Meier curve up to the horizon; after the last run it stays level."""
    from scipy.stats import CensoredData, ecdf

    # level after the last run, as Gill's estimate; Efron's would drop to 0 there and call a miss a hit
    found = ecdf(CensoredData.right_censored(times, np.logical_not(events))).sf
    # a staircase: its area is the sum of width times height, from 1 at time 0
    inside = found.quantiles < horizon
    starts = np.concatenate([[0.0], found.quantiles[inside], [horizon]])
    shares = np.concatenate([[1.0], found.probabilities[inside]])
    return float(np.diff(starts) @ shares)
