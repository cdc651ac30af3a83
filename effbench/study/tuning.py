"""The luck of tuning: would the arms, tuned again, have led to the same finding?

Each arm is tuned once, and its chosen setting is run with many seeds: seeds do not show what another tuning would have
chosen, though tuning is a source of variance like them (arXiv:2103.03098). It is estimated by resampling the trials.
Each trial is drawn a Poisson(1) number of times (Hanley & MacGibbon 2006, Comput. Methods Programs Biomed. 83:57), so
the i-th best of them is the one that is chosen with probability e^-(i - 1) (1 - e^-1). An arm whose r best trials are
all ahead of the other arm's leads in 1 - e^-r of the resampled tunings or more, whatever the number of trials; drawing
n of n trials would ask for fewer with fewer trials.

How large the lead has to be was simulated (tests/study/luck.py: 4,000 studies a case of 2 to 12 equal arms whose best
settings lie at different places; 8, 16 or 32 Sobol' points in one to three settings with curved effects of many sizes;
8 or 10 seeds). The first rule, a lead of 0.95, named an arm in up to 15 % of studies of 4 arms and 31 % of 6. An arm is
compared with all others, each tuned once: 1 - 0.05 / (arms - 1) named one in at most 2 % of studies with 16 trials, 4
arms and three settings; 4 % where trials have twice the noise of final runs. Two arms need 1 - 0.05 / 2, because either
may be the lucky one. Of the differences of 2 and 3 standard deviations (of paired differences) that the tests find, it
names 95 % and all, where a setting half its range off costs 3.5 of them; 64 % and 95 %, where it costs 9.

That holds for points spread evenly, with the best settings inside their ranges; an arm whose best settings lie in a
corner of its space is harder to tune, which is no luck (up to 10 % of studies). It does not hold for a time to target
that depends much on a setting on which quality does not depend: tuning chooses that setting blindly, and one of equal
arms was named in 13 to 34 % of studies (1,000 a case). Independent random points have more luck: 30 % of studies. But
of two equal arms, all orders of their trials are then equally likely: the r best of both are all of one arm with
probability 2^(1 - r) or less, which gives the lead by Bonferroni's method over all pairs of arms.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from effbench.study.runs import trial_values, trials_of
from effbench.study.statistics import Array
from effbench.study.table import Sampler, StudyRules, StudyTable, Trial

Unit = Literal["steps", "seconds"]


@dataclass(frozen=True)
class Chosen:
    """What tuning again would choose.

    Attributes:
        outcomes: larger is better.
        shares: their probabilities.
    """

    outcomes: Array
    shares: Array

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """Places of the outcomes, smallest first."""
        return np.argsort(self.outcomes, kind="stable")

    @cached_property
    def sorted(self) -> Array:
        """The outcomes, smallest first."""
        return self.outcomes[self.order]

    @cached_property
    def below(self) -> Array:
        """P(outcome among the n smallest), for n = 0, 1, ..."""
        return np.concatenate([[0.0], np.cumsum(self.shares[self.order])])


Differences = dict[tuple[str, str, float, float], Chosen]  # arm, arm, their rates -> distribution of the difference


def lead_needed(arms: int, rules: StudyRules, sampler: Sampler = "qmc") -> float:
    """Return the share of resampled tunings in which a finding about arms, and not settings, has to hold.

    Args:
        arms: number of arms that are compared with each other.
        rules: of the study.
        sampler: of the trials' settings.
    """
    if sampler == "random":
        # r = log2(arms (arms - 1) / error) trials ahead, and r of them make a lead of 1 - e^-r
        return float(1 - ((1 - rules.tuning) / max(2, arms * (arms - 1))) ** (1 / math.log(2)))
    return 1 - (1 - rules.tuning) / max(2, arms - 1)


def arms_compared(pairs: Collection[tuple[str, str]]) -> int:
    """Return how many different arms the pairs have."""
    return len({arm for pair in pairs for arm in pair})


def least_trials(arms: int, rules: StudyRules, sampler: Sampler = "qmc") -> int:
    """Return the number of best trials that, all ahead of another arm's, are enough: with fewer no arm is named.

    Args:
        arms: number of arms compared.
        rules: of the study.
        sampler: how settings are chosen.
    """
    return math.ceil(-math.log(1 - lead_needed(arms, rules, sampler)))


def quality_lead(table: StudyTable, a: str, b: str) -> float | None:
    """Return the probability that tuning again finds a better validation metric for a than for b; None without trials.

    Args:
        table: of the study.
        a: name of an arm.
        b: name of the other.
    """
    values = {arm: trial_values(table, arm) for arm in (a, b)}
    if not all(values.values()):
        return None
    sign = 1.0 if table.mode == "max" else -1.0
    first, second = (
        _chosen([None if value is None else sign * value for value in own], own, rate, table.mode)
        for own, rate in zip(values.values(), _rates(values), strict=True)
    )
    return _ahead(first, second)


def time_lead(table: StudyTable, a: str, b: str, unit: Unit) -> float | None:
    """Return the probability that tuning again chooses a setting of a that reaches the target before that of b.

    Settings are chosen by their validation metric, as tuning does; a trial without target is later than all others.
    None without trials, or if the table holds no times of these arms.

    Args:
        table: of the study.
        a: name of an arm.
        b: name of the other.
        unit: of the times.
    """
    values = {arm: trial_values(table, arm) for arm in (a, b)}
    times = {arm: _times(table, arm, unit) for arm in (a, b)}
    if not all(values.values()) or all(time is None for own in times.values() for time in own):
        return None
    first, second = (
        _chosen([None if time is None else -time for time in times[arm]], values[arm], rate, table.mode)
        for arm, rate in zip(values, _rates(values), strict=True)
    )
    return _ahead(first, second)


def contrast_lead(
    table: StudyTable, cells: tuple[str, str, str, str], known: Differences | None = None
) -> float | None:
    """Return the probability that tuning again finds best metrics with (1st - 2nd) - (3rd - 4th) > 0.

    In the metric's own sign. None unless each arm has a trial with a result.

    Args:
        table: of the study.
        cells: names of four arms.
        known: differences of two arms, which are part of several contrasts; filled here.
    """
    known = {} if known is None else known
    values = {arm: trial_values(table, arm) for arm in cells}
    if any(all(value is None for value in own) for own in values.values()):
        return None
    rates = dict(zip(values, _rates(values), strict=True))
    for first, second in (cells[:2], cells[2:]):
        if (first, second, rates[first], rates[second]) not in known:
            one, other = (
                _with_result(_chosen(values[arm], values[arm], rates[arm], table.mode)) for arm in (first, second)
            )
            known[first, second, rates[first], rates[second]] = _minus(one, other)
    one, other = (known[first, second, rates[first], rates[second]] for first, second in (cells[:2], cells[2:]))
    return _ahead(one, other)


def _with_result(chosen: Chosen) -> Chosen:
    """Return the distribution without the draws in which nothing has a result: there is no difference from nothing."""
    finite = np.isfinite(chosen.outcomes)
    return Chosen(chosen.outcomes[finite], chosen.shares[finite] / chosen.shares[finite].sum())


def _rates(values: Mapping[str, Sequence[float | None]]) -> list[float]:
    """Return the mean number of draws of a trial of each arm: 1 for equal numbers of trials.

    While tuning goes on, the arm with more trials would lead by their number: as many different ones are drawn of each.
    """
    least = min(map(len, values.values()))
    return [-math.log(1 - (1 - math.exp(-1)) * least / len(own)) for own in values.values()]


def _chosen(outcomes: Sequence[float | None], values: Sequence[float | None], rate: float, mode: str) -> Chosen:
    """Return the outcomes that tuning would choose, and how often; -inf: no result, or no trial with one was drawn."""
    sign = 1.0 if mode == "max" else -1.0
    ranked = [(sign * value, at) for at, value in enumerate(values) if value is not None]
    # of equal values the first, as the study chooses
    order = [at for _, at in sorted(ranked, key=lambda pair: (-pair[0], pair[1]))]
    found = [outcomes[at] for at in order]
    # the best drawn one is at rank i or later with probability e^(-rate i)
    later = np.exp(-rate * np.arange(len(order) + 1))
    shares = np.append(later[:-1] - later[1:], later[-1])
    return Chosen(np.array([*(-np.inf if value is None else value for value in found), -np.inf], float), shares)


def _ahead(first: Chosen, second: Chosen) -> float:
    """Return P(first > second); a tie is half a lead."""
    # in order on both sides: 63,000 differences of 250 trials each are found faster than at random places
    x, y = first.sorted, second.sorted
    upto = np.searchsorted(y, x, "right")
    less = upto.copy()
    tied = np.flatnonzero((upto > 0) & (y[upto - 1] == x))
    less[tied] = np.searchsorted(y, x[tied], "left")
    both = np.empty_like(x)
    both[first.order] = second.below[less] + second.below[upto]
    return float(first.shares @ both) / 2


def _minus(first: Chosen, second: Chosen) -> Chosen:
    """Return the distribution of the difference."""
    outcomes = np.subtract.outer(first.outcomes, second.outcomes).ravel()
    return Chosen(outcomes, np.multiply.outer(first.shares, second.shares).ravel())


def _times(table: StudyTable, arm: str, unit: Unit) -> list[float | None]:
    """Return the time to the target of each finished trial of an arm, in the order of `trial_values`."""
    step_s = {cost.arm: cost.step_seconds.estimate for cost in table.costs}

    def time(trial: Trial) -> float | None:
        if trial.steps_to_target is None or unit == "steps":
            return trial.steps_to_target
        # steps x the step time measured alone, as for the final runs
        return trial.steps_to_target * step_s.get(arm, trial.seconds / max(1, trial.steps))

    return [time(trial) for trial in trials_of(table, arm)]
