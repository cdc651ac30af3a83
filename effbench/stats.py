"""Means, deviations, confidence intervals and paired comparisons, for reports, benchmarks and studies.

Closed forms and resampling over at most thousands of numbers: no torch, no numpy.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

RESAMPLES = 10_000
MOST_EXACT = 20  # pairs whose 2^n sign patterns are all tried


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean; of a single value the value itself, without rounding."""
    # fsum rounds once: the mean does not depend on the order of the values
    return math.fsum(values) / len(values) if len(values) > 1 else values[0]


def deviation(values: Sequence[float]) -> float:
    """Return the sample standard deviation (n - 1) of at least two values.

    `statistics.stdev` uses fractions, too slow for thousands of groups.
    """
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval [low, high].

    Attributes:
        estimate: the estimated value.
        low: lower end.
        high: upper end.
        n: how many values it is based on.
    """

    estimate: float
    low: float
    high: float
    n: int

    def times(self, factor: float) -> Interval:
        """Return the interval in another unit; `factor` is positive."""
        return Interval(self.estimate * factor, self.low * factor, self.high * factor, self.n)

    def __str__(self) -> str:
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}], n = {self.n}"


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean with Student's t interval, which is infinitely wide for a single value."""
    n, middle = len(values), float(mean(values))
    # Student's t, not the normal distribution: of 3 seeds the interval is 2.2 times as wide
    half = t_quantile(n - 1, confidence) * deviation(values) / math.sqrt(n) if n > 1 else math.inf
    return Interval(middle, middle - half, middle + half, n)


def median_interval(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Interval:
    """Return the median with its percentile bootstrap interval (Efron 1979).

    Args:
        values: at least one value.
        confidence: of the interval, in (0, 1).
        seed: of the resampling; the same seed gives the same interval.
    """
    import random

    # a generator of its own: the global one belongs to whoever seeded it
    chance, n = random.Random(seed), len(values)
    medians = sorted(median(chance.choices(values, k=n)) for _ in range(RESAMPLES))
    tail = (1 - confidence) / 2
    return Interval(median(values), medians[int(tail * RESAMPLES)], medians[int((1 - tail) * RESAMPLES) - 1], n)


def share_interval(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Return successes / n, such as an accuracy over n test samples, with Wilson's score interval (1927).

    Args:
        successes: number of successes; a tie is half a success.
        n: number of trials.
        confidence: of the interval, in (0, 1).
    """
    from statistics import NormalDist

    # Wilson's: the textbook's share +- z s has no width at 0 and 1, which small test sets reach
    z, share = NormalDist().inv_cdf((1 + confidence) / 2), successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), n)


def paired_share_interval(lost: int, gained: int, n: int, confidence: float = 0.95) -> Interval:
    """Return (lost - gained) / n, such as accuracy that a second model loses on the same samples, with its interval.

    It is the adjusted Wald interval of Agresti and Min (2005, doi:10.1002/sim.1781), which has a width also where no
    sample changed.

    Args:
        lost: samples that only the first model answers right.
        gained: samples that only the second one answers right.
        n: number of samples.
        confidence: of the interval, in (0, 1).
    """
    from statistics import NormalDist

    # half a sample is added to each of the four cells of the table: right and wrong, by the first and by the second
    z, whole, off, on = NormalDist().inv_cdf((1 + confidence) / 2), n + 2, lost + 0.5, gained + 0.5
    middle = (off - on) / whole
    half = z * math.sqrt(off + on - (off - on) ** 2 / whole) / whole
    return Interval((lost - gained) / n, max(-1.0, middle - half), min(1.0, middle + half), n)


def positive_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the geometric mean of positive numbers, such as times or ratios, with Student's t interval of their logs.

    Its lower end is positive, and the interval of the reciprocals is the reciprocal one.
    """
    logs = mean_interval([math.log(value) for value in values], confidence)
    # exp of a difference of logs beyond a float's range is an infinite end, as for a single value
    low, high = (math.exp(min(end, 700.0)) if end < 700.0 else math.inf for end in (logs.low, logs.high))
    return Interval(math.exp(logs.estimate), low, high, logs.n)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed (nearest rank).

    Args:
        ordered: values in ascending order, at least one.
        share: in (0, 1], such as 0.99.
    """
    # 1e-9: 0.9 * 10 is a little above 9 in floats
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float:
    """Return the two-sided p value of the sign-flip test (Fisher 1935) that the differences are symmetric about 0.

    It is the share of sign patterns whose sum is at least as far from 0: of all patterns for up to MOST_EXACT
    differences, of RESAMPLES random ones for more.
    """
    import random

    n, size = len(differences), math.fsum(map(abs, differences))
    least = abs(math.fsum(differences)) - 1e-12 * size  # 0.1 + 0.2 counts as 0.3
    if n == 0:
        return 1.0
    if n <= MOST_EXACT:
        sums = [differences[0]]  # the opposite of a pattern has the same distance: half of them suffice
        for value in differences[1:]:
            sums = [total + value for total in sums] + [total - value for total in sums]
        return sum(abs(total) >= least for total in sums) / len(sums)
    chance, hits = random.Random(seed), 0
    for _ in range(RESAMPLES):
        signs = chance.choices((1, -1), k=n)
        hits += abs(math.fsum(map(operator.mul, differences, signs))) >= least
    # + 1 for the observed signs, which the random patterns need not hold (Phipson and Smyth 2010)
    return (hits + 1) / (RESAMPLES + 1)


@lru_cache(maxsize=1024)
def t_quantile(dof: int, confidence: float) -> float:
    """Return t with P(|T| < t) = confidence, for Student's distribution with `dof` degrees of freedom."""
    # bisection over the angle whose tangent is t / sqrt(dof), because it is bounded; 100 halvings exhaust a float
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        angle = (low + high) / 2
        low, high = (angle, high) if _t_probability(dof, angle) < confidence else (low, angle)
    return math.sqrt(dof) * math.tan(low)


def _t_probability(dof: int, angle: float) -> float:
    """Return P(|T| < sqrt(dof) tan(angle)), by the finite series of Abramowitz & Stegun 26.7.3-4."""
    odd, cos_squared = dof % 2, math.cos(angle) ** 2
    term = math.cos(angle) if odd else 1.0
    total = term if dof > 1 else 0.0
    for power in range(2 + odd, dof - 1, 2):
        term *= cos_squared * (power - 1) / power
        total += term
    series = math.sin(angle) * total
    return 2 / math.pi * (angle + series) if odd else series
