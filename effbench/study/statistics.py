"""Paired comparisons of arms: sign-flip tests, Holm's correction, P(A beats B), crossed and max-t statistics.

Pure functions over numbers. Shape suffixes: M comparisons, C contrasts, K seeds, N test samples, P sign patterns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from effbench.stats import MOST_EXACT, RESAMPLES, Interval, deviation, mean, share_interval

Array = NDArray[np.float64]

_BLOCK = 4_000_000  # numbers held at once: 32 MB
_ROUNDING = 1e-12  # 0.1 + 0.2 counts as 0.3
_QUANTILES = 200  # of chi: P(A beats B) to 0.002
_SURE = 40.0  # standard deviations from 0 beyond which P(A beats B) is 1 in every digit shown


def worst_rank_differences(a: Sequence[float | None], b: Sequence[float | None]) -> list[float]:
    """Return a - b for each seed, where a run without result counts as the worst outcome.

    After Lachin (1999, Controlled Clinical Trials 20:408), worst-rank scores: a seed on which only one of the two has a
    result counts as the whole range of the results seen, in favour of the run that finished; without any result on
    either side as 0. Swapping the labels a and b of a seed changes only its sign, so the sign-flip test stays exact.

    Args:
        a: values by seed, larger is better; None: diverged or failed.
        b: values of the other arm for the same seeds.
    """
    # of all results, not of the paired differences alone: with few finished pairs these would make a miss count little
    seen = [value for value in (*a, *b) if value is not None]
    # of one result there is no range, and any size will do
    largest = (max(seen) - min(seen) if seen else 0.0) or 1.0
    return [
        x - y if x is not None and y is not None else largest * ((x is not None) - (y is not None))
        for x, y in zip(a, b, strict=True)
    ]


def sign_flip_p_values(differences_MK: Array, seed: int = 0) -> Array:
    """Return the two-sided p value of the sign-flip test (Fisher 1935) of each row; see `stats.sign_flip_p`.

    All patterns are tried for up to MOST_EXACT seeds, RESAMPLES random ones for more.

    Args:
        differences_MK: paired differences; a row a comparison, a column a seed.
        seed: of the random patterns.
    """
    rows, count = differences_MK.shape
    if count == 0:
        return np.ones(rows)
    # the matrix product adds in another order than sum(): without the margin the observed pattern could miss itself
    least = np.abs(differences_MK.sum(axis=1)) - _ROUNDING * np.abs(differences_MK).sum(axis=1)
    hits, patterns = np.zeros(rows), 0
    for signs_KP in _sign_patterns(count, seed):
        patterns += signs_KP.shape[1]
        # 1,000 planted studies at once would be 0.5 GB a block of patterns
        step = max(1, _BLOCK // signs_KP.shape[1])
        for start in range(0, rows, step):
            part = slice(start, start + step)
            hits[part] += (np.abs(differences_MK[part] @ signs_KP) >= least[part, None]).sum(axis=1)
    # random patterns need not hold the observed one, which counts as one of them (Phipson & Smyth 2010)
    p: Array = hits / patterns if count <= MOST_EXACT else (hits + 1) / (patterns + 1)
    return p


def max_t_p_values(contrasts_CK: Array, seed: int = 0) -> Array:
    """Return p values of contrasts, adjusted for their number by the largest |t| over all of them.

    Westfall & Young (1993), single step, with Fisher's sign flips: all contrasts of a seed flip together, which keeps
    their correlation. The smallest of the values tests that no contrast differs from 0. The sum of squares does not
    change under flips, so |t| grows with |sum| / sqrt(sum of squares), which is compared here.

    Args:
        contrasts_CK: a row a contrast, a column a seed.
        seed: of the random patterns.
    """
    # a contrast that is 0 on every seed keeps size 0: it is never the largest, and its p is 1
    size = np.sqrt((contrasts_CK**2).sum(axis=1))
    scaled = contrasts_CK / np.where(size > 0, size, 1)[:, None]
    observed = np.abs(scaled.sum(axis=1)) - _ROUNDING
    hits, patterns = np.zeros(len(contrasts_CK)), 0
    for signs_KP in _sign_patterns(contrasts_CK.shape[1], seed):
        patterns += signs_KP.shape[1]
        # one pattern for all contrasts: those of a seed share its runs, so their signs are not independent
        largest_P = np.abs(scaled @ signs_KP).max(axis=0)
        hits += (largest_P[None] >= observed[:, None]).sum(axis=1)
    p: Array = hits / patterns if contrasts_CK.shape[1] <= MOST_EXACT else (hits + 1) / (patterns + 1)
    return p


def _sign_patterns(count: int, seed: int) -> Iterator[Array]:
    """Yield blocks (K, P) of sign patterns: one of each pair of opposite ones, or random ones for many seeds."""
    if count > MOST_EXACT:
        yield _random_patterns(count, seed)
        return
    # the first seed keeps its sign: the opposite pattern has the same |sum|, so p is a multiple of 2^(1 - K)
    total, block = 2 ** (count - 1), 2**16  # 65,536 patterns of 20 seeds are 10 MB
    for start in range(0, total, block):
        numbers = np.arange(start, min(start + block, total))
        bits = (numbers[None] >> np.arange(count - 1)[:, None]) & 1
        yield np.concatenate([np.ones((1, len(numbers))), 1.0 - 2.0 * bits])


@lru_cache(maxsize=1)
def _random_patterns(count: int, seed: int) -> Array:
    """Return random patterns (K, P); a study asks for the same ones in each family of tests, 20 MB for 250 seeds."""
    found: Array = np.random.default_rng(seed).choice([-1.0, 1.0], size=(count, RESAMPLES))
    found.setflags(write=False)
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number by Holm's step-down method (1979, Scand. J. Statist. 6:65).

    Rejecting those at or below alpha keeps the family-wise error rate at alpha, whatever their dependence.
    """
    # the smallest is multiplied by M, the next by M - 1, ...; none may fall below one before it, or a larger p could be
    # rejected where a smaller one is not
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def win_probability(differences: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the probability that a new seed's difference is above 0, for normally distributed differences.

    arXiv:2103.03098 reports P(A > B) and calls it meaningful from 0.75 on; it counts wins, which with 8
    seeds can only give multiples of 1/8 and an interval of no width if all are won. Here P = Phi(mu / sigma), and the
    interval is that of the noncentral t distribution for mu / sigma (exact for normal differences; Johnson & Welch
    1940, Biometrika 31:362). The estimate is its median, so that P(B beats A) = 1 - P(A beats B).

    Args:
        differences: by seed, positive where A is better.
        confidence: of the interval.
    """
    from scipy.special import ndtr

    n = len(differences)
    # one difference has no spread: all that is known is who won
    if n < 2:
        won = sum((value > 0) + (value == 0) / 2 for value in differences)
        return Interval(won / n if n else 0.5, 0.0, 1.0, n)
    middle, spread = mean(differences), deviation(differences)
    ratio = middle / spread if spread > abs(middle) / _SURE else math.copysign(_SURE, middle) * (middle != 0)
    t = ratio * math.sqrt(n)
    # T = (Z + ncp) / r with r = chi / sqrt(dof): P(T >= t) = P(t r - Z <= ncp), so the interval's ends are quantiles of
    # t r - Z, found here by bisection with r at evenly spaced quantiles.
    r = _chi_quantiles(n - 1)
    wanted = np.array([0.5, (1 - confidence) / 2, (1 + confidence) / 2])
    reach = abs(t) * r[-1] + 10
    low, high = np.full(3, -reach), np.full(3, reach)
    for _ in range(35):  # halvings of a range of at most some hundreds: to 1e-8
        tried = (low + high) / 2
        below = ndtr(tried[:, None] - t * r[None]).mean(axis=1) < wanted
        low, high = np.where(below, tried, low), np.where(below, high, tried)
    # what was found is mu / sigma sqrt(n), the noncentrality; a single new seed has mu / sigma
    estimate, lower, upper = (float(value) for value in ndtr(low / math.sqrt(n)))
    return Interval(estimate, lower, upper, n)


@lru_cache(maxsize=64)
def _chi_quantiles(dof: int) -> Array:
    """Return evenly spaced quantiles of chi / sqrt(dof)."""
    from scipy.special import gammaincinv

    # chi-squared quantiles
    found: Array = np.sqrt(2 * gammaincinv(dof / 2, (np.arange(_QUANTILES) + 0.5) / _QUANTILES) / dof)
    return found


def win_share(wins: int, ties: int, n: int, confidence: float = 0.95) -> Interval:
    """Return P(A beats B) by counting, with Wilson's interval; a tie is half a win.

    It is for pairs where a run has no result, so that a difference has no size. A share has few possible values: with
    6 to 12 seeds the interval covers 96 % on average over all true shares, 90 to 99 % for a single one.

    Args:
        wins: seeds on which A is better.
        ties: seeds on which neither is.
        n: all seeds, at least one.
        confidence: of the interval.
    """
    return share_interval(wins + ties / 2, n, confidence)


def t_p_value(differences: Sequence[float]) -> float:
    """Return the two-sided p of Student's t test of at least two paired differences."""
    return _p_of_t(mean(differences), deviation(differences) / math.sqrt(len(differences)), len(differences) - 1)


def crossed_interval(differences_KN: Array, confidence: float = 0.95) -> tuple[Interval, float]:
    """Return the mean difference over seeds and test samples, with its interval and p for new seeds and new samples.

    It is the limit of resampling seeds and samples crosswise (the pigeonhole bootstrap, Owen 2007, arXiv:0712.1111)
    without its bias for few seeds: the variance of the mean in the two-way random effects model without replication is
    (MS_seeds + MS_samples - MS_rest) / (K N) (Cornfield & Tukey 1956), with Satterthwaite's (1946) degrees of freedom.
    It is never narrower than the t interval over seeds, and so conservative: 95 % intervals cover up to 97.5 %.

    Args:
        differences_KN: scores of A - B, a row a seed, a column a test sample; at least 2 x 2.
        confidence: of the interval.
    """
    interval, p, _ = crossed(differences_KN, confidence)
    return interval, p


def crossed(differences_KN: Array, confidence: float = 0.95) -> tuple[Interval, float, float]:
    """Return `crossed_interval`'s two values and `sample_error`'s; all three follow from the same sums of squares.

    Args:
        differences_KN: as for `crossed_interval`.
        confidence: of the interval.
    """
    from scipy.special import stdtrit

    k, n = differences_KN.shape
    grand, ms_seeds, ms_samples, ms_rest = _mean_squares(differences_KN)
    sizes = [(ms_seeds, float(k - 1))]
    if ms_samples > ms_rest:  # samples vary beyond what the runs on them do
        # the rest is in both mean squares and would be counted twice
        size = ms_seeds + ms_samples - ms_rest
        parts = ms_seeds**2 / (k - 1) + ms_samples**2 / (n - 1) + ms_rest**2 / ((k - 1) * (n - 1))
        # a difference of mean squares is not covered by Satterthwaite's approximation: it may give fewer degrees of
        # freedom than the seeds alone have
        sizes.append((size, max(size**2 / parts, float(k - 1))))
    # the wider of the two: a component of variance that is estimated too small by chance must not help
    errors = [(math.sqrt(size / (k * n)), dof) for size, dof in sizes]
    half = max(float(stdtrit(dof, (1 + confidence) / 2)) * error for error, dof in errors)
    p = max(_p_of_t(grand, error, dof) for error, dof in errors)
    return Interval(grand, grand - half, grand + half, k), p, math.sqrt(max(0.0, ms_samples - ms_rest) / (k * n))


def sample_error(differences_KN: Array) -> float:
    """Return the standard error of the mean difference that comes from the choice of test samples alone.

    More seeds do not reduce it. It is the samples' component of `crossed_interval`'s variance.

    Args:
        differences_KN: as for `crossed_interval`.
    """
    return crossed(differences_KN)[2]


def _mean_squares(differences_KN: Array) -> tuple[float, float, float, float]:
    """Return the mean, and the mean squares of seeds, of samples and of the rest."""
    k, n = differences_KN.shape
    grand = differences_KN.mean()
    # centred first: sums of squares of raw scores would lose the digits that differ
    centred = differences_KN - grand
    seeds_K, samples_N = centred.mean(axis=1), centred.mean(axis=0)
    ms_seeds = n * float(seeds_K @ seeds_K) / (k - 1)
    ms_samples = k * float(samples_N @ samples_N) / (n - 1)
    # what neither a seed nor a sample explains; by subtraction, so rounding may leave it below 0
    np.square(centred, out=centred)
    rest = float(centred.sum()) - (k - 1) * ms_seeds - (n - 1) * ms_samples
    return float(grand), ms_seeds, ms_samples, max(0.0, rest) / ((k - 1) * (n - 1))


def _p_of_t(middle: float, error: float, dof: float) -> float:
    from scipy.special import stdtr

    # equal differences have no error: certain, unless all of them are 0
    return 2 * float(stdtr(dof, -abs(middle) / error)) if error > 0 else float(middle == 0)
