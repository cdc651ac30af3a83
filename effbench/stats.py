"""Means, deviations, confidence intervals and paired comparisons, for reports, benchmarks and studies.

Closed forms and resampling over at most thousands of numbers: no torch, no numpy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 10_000
MOST_EXACT = 14  # pairs whose 2^n sign patterns are all tried


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; of a single value that value, an int too."""
    return math.fsum(values) / len(values) if len(values) > 1 else values[0]


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation (n - 1) of at least two values.

    Not statistics.stdev: it calculates in fractions, too slow for thousands of groups.
    """
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval [low, high]; n: how many values it is based on."""

    estimate: float
    low: float
    high: float
    n: int

    def times(self, factor: float) -> Interval:
        """The interval in another unit; factor: positive."""
        return Interval(self.estimate * factor, self.low * factor, self.high * factor, self.n)

    def __str__(self) -> str:
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}], n = {self.n}"


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean with Student's t interval, infinitely wide for a single value."""
    n, middle = len(values), float(mean(values))
    half = t_quantile(n - 1, confidence) * deviation(values) / math.sqrt(n) if n > 1 else math.inf
    return Interval(middle, middle - half, middle + half, n)


def median_interval(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Interval:
    """The median with its percentile bootstrap interval (Efron 1979), the same for the same values and seed."""
    import random

    chance, n = random.Random(seed), len(values)
    medians = sorted(median(chance.choices(values, k=n)) for _ in range(RESAMPLES))
    tail = (1 - confidence) / 2
    return Interval(median(values), medians[int(tail * RESAMPLES)], medians[int((1 - tail) * RESAMPLES) - 1], n)


def share_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """successes / n, such as an accuracy over n test samples, with Wilson's score interval (1927)."""
    from statistics import NormalDist

    z, share = NormalDist().inv_cdf((1 + confidence) / 2), successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), n)


@dataclass(frozen=True)
class PairedComparison:
    """difference: mean of a - b with its t interval. p_value: two-sided, of the sign-flip test."""

    difference: Interval
    p_value: float


def compare_paired(a: Sequence[float], b: Sequence[float], confidence: float = 0.95, seed: int = 0) -> PairedComparison:
    """Compares two configurations over the same seeds or rounds: a[i] and b[i] belong together.

    Raises:
        ValueError: where a and b are not of one length.
    """
    differences = [left - right for left, right in zip(a, b, strict=True)]
    return PairedComparison(mean_interval(differences, confidence), sign_flip_p(differences, seed))


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p value of 'differences are symmetric about 0' (Fisher 1935): how often random signs give a sum as far
    from 0. All sign patterns up to MOST_EXACT differences, RESAMPLES random ones beyond.
    """
    import random

    n, observed = len(differences), abs(math.fsum(differences))
    least = observed * (1 - 1e-9)  # sums of the same numbers in another order are equal
    if n <= MOST_EXACT:
        patterns = list(itertools.product((1, -1), repeat=n))
        return sum(_flipped(differences, signs) >= least for signs in patterns) / len(patterns)
    chance = random.Random(seed)
    hits = sum(_flipped(differences, chance.choices((1, -1), k=n)) >= least for _ in range(RESAMPLES))
    return (hits + 1) / (RESAMPLES + 1)


def _flipped(differences: Sequence[float], signs: Sequence[int]) -> float:
    return abs(math.fsum(value * sign for value, sign in zip(differences, signs, strict=True)))


def t_quantile(dof: int, confidence: float) -> float:
    """The t with P(|T| < t) = confidence, T of Student's distribution with `dof` degrees of freedom."""
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / sqrt(dof)
    for _ in range(100):
        angle = (low + high) / 2
        low, high = (angle, high) if _t_probability(dof, angle) < confidence else (low, angle)
    return math.sqrt(dof) * math.tan(low)


def _t_probability(dof: int, angle: float) -> float:
    """P(|T| < sqrt(dof) tan(angle)), the finite series for whole degrees of freedom (Abramowitz & Stegun 26.7.3-4)."""
    odd, cos_squared = dof % 2, math.cos(angle) ** 2
    term = math.cos(angle) if odd else 1.0
    total = term if dof > 1 else 0.0
    for power in range(2 + odd, dof - 1, 2):
        term *= cos_squared * (power - 1) / power
        total += term
    series = math.sin(angle) * total
    return 2 / math.pi * (angle + series) if odd else series
