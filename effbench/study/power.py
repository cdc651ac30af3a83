"""How many seeds a study needs, and what it can find with those it has.

The rule that is planned for is the verdict's (comparisons.py): the sign-flip test and the t test must agree, after
Holm's correction. Planned is one true difference among the comparisons, for which Holm's first step counts:
p <= alpha / comparisons.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from effbench.errors import ConfigError
from effbench.study.statistics import sign_flip_p_values
from effbench.study.table import StudyRules

MOST_SEEDS = 10_000  # beyond it a study is out of reach

# Up to here the sign-flip test is simulated, because it has few possible p values. Above, the t test alone is planned
# for: it finds at most 2 points more (measured with 17 to 40 seeds and 1 to 30 comparisons).
_FEW = 16
_FAST = 12  # up to here that takes milliseconds
_DRAWS, _FEWER_DRAWS = 10_000, 4_000  # standard error of the power: 0.004 and 0.006 at 0.8
_DRAWS_OF_A_SEARCH = 2_000


def smallest_p(seeds: int) -> float:
    """Return the smallest two-sided p of the sign-flip test with so many seeds: 2 / 2^K."""
    return 2.0 ** (1 - seeds)


def least_seeds(comparisons: int, alpha: float = 0.05) -> int:
    """Return the least number of seeds with which any of so many comparisons can be decided under Holm's correction.

    One comparison needs 6 (5 give p = 0.0625 at best), six need 8.
    """
    # from 2 / 2^K <= alpha / comparisons; 1e-9, so that an alpha of 2 / 2^K itself is enough
    return 1 + math.ceil(math.log2(max(1, comparisons) / alpha) - 1e-9)


def check_seeds(seeds: int, comparisons: int, alpha: float = 0.05, key: str = "seeds") -> None:
    """Refuse a study that could not reach a verdict.

    Args:
        seeds: planned seeds of the final runs.
        comparisons: number of pairs that are compared.
        alpha: family-wise error rate.
        key: config key for the message.

    Raises:
        ConfigError: too few seeds; it names the least number.
    """
    least = least_seeds(comparisons, alpha)
    # only the sign-flip test has such a limit; t alone could "find" something with 3 seeds, if noise were normal
    if seeds < least:
        counted = "1 comparison" if comparisons == 1 else f"{comparisons} comparisons"
        raise ConfigError(
            f"{key} must be at least {least} for {counted}: with {seeds} the smallest two-sided p of the sign-flip "
            f"test is {smallest_p(seeds):.3g}, and Holm's correction asks for {alpha / max(1, comparisons):.2g}; "
            f"got {seeds}. Set {key} to {least}, or compare fewer arms."
        )


def power(
    effect: float,
    deviation: float,
    seeds: int,
    comparisons: int = 1,
    rules: StudyRules | None = None,
    sample_error: float = 0.0,
) -> float:
    """Return the probability that the verdict finds the better of two settings, for normally distributed differences.

    Whether it names the arm too depends on how much the settings of its space matter, which no plan knows; what that
    costs is in tuning.py.

    Args:
        effect: true difference of the two arms' means.
        deviation: standard deviation of the paired differences over seeds, in the same unit.
        seeds: seeds of the final runs.
        comparisons: number of pairs that are compared.
        rules: alpha; None for the default ones.
        sample_error: standard error that comes from the choice of test samples, which all seeds share.
    """
    rules = rules or StudyRules()
    if seeds < least_seeds(comparisons, rules.alpha) or effect == 0:
        return 0.0
    # 13 to 16 seeds have up to 32,768 sign patterns a draw: fewer draws
    draws = _DRAWS if seeds <= _FAST or seeds > _FEW else _FEWER_DRAWS
    return _power(abs(effect), deviation, sample_error, seeds, rules.alpha / max(1, comparisons), draws)


def distinguishable(
    deviation: float, seeds: int, comparisons: int = 1, rules: StudyRules | None = None
) -> float | None:
    """Return the smallest difference that is found with probability rules.power; None below `least_seeds`.

    Args:
        deviation: standard deviation of the paired differences over seeds.
        seeds: seeds of the final runs.
        comparisons: number of pairs that are compared.
        rules: alpha and power; None for the default ones.
    """
    rules = rules or StudyRules()
    if seeds < least_seeds(comparisons, rules.alpha):
        return None
    # tests do not change with the unit, so one search for difference / deviation serves every deviation
    return deviation * _ratio_found(seeds, rules.alpha / max(1, comparisons), rules.power)


def seeds_needed(
    effect: float,
    deviation: float,
    comparisons: int = 1,
    rules: StudyRules | None = None,
    sample_error: float = 0.0,
) -> int | None:
    """Return the seeds with which a difference is found with probability rules.power; at most MOST_SEEDS.

    None: no number would do, because the test samples are too few (sample_error), or there is no effect.

    Args:
        effect: true difference to be found.
        deviation: standard deviation of the paired differences over seeds.
        comparisons: number of pairs that are compared.
        rules: alpha and power; None for the default ones.
        sample_error: standard error that comes from the choice of test samples, which all seeds share.
    """
    rules = rules or StudyRules()
    least, alpha = least_seeds(comparisons, rules.alpha), rules.alpha / max(1, comparisons)
    if effect == 0:
        return None

    def enough(seeds: int, error: float = sample_error, few: int = _FAST) -> bool:
        return _power(abs(effect), deviation, error, seeds, alpha, _DRAWS_OF_A_SEARCH, few) >= rules.power

    # are the test samples the reason? Without their error, enough seeds always do
    if not enough(MOST_SEEDS):
        return None if enough(MOST_SEEDS, 0.0) else MOST_SEEDS
    if least <= _FAST and enough(_FAST):
        return next(seeds for seeds in range(least, _FAST + 1) if enough(seeds))
    # bisection, with the t test alone above _FAST; then upwards with the flips as far as they matter
    low, high = max(least - 1, _FAST), MOST_SEEDS  # low is too few, or not allowed
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    while high <= _FEW and not enough(high, few=_FEW):
        high += 1
    return high


@lru_cache(maxsize=1024)
def _ratio_found(seeds: int, alpha: float, wanted: float) -> float:
    """Return the difference in standard deviations that is found with the wanted probability, by bisection."""
    low, high = 0.0, 20.0
    for _ in range(13):  # halvings of 20 standard deviations: to 0.0024
        middle = (low + high) / 2
        found = _power(middle, 1.0, 0.0, seeds, alpha, _DRAWS_OF_A_SEARCH) >= wanted
        low, high = (low, middle) if found else (middle, high)
    return high


def _power(
    effect: float, deviation: float, sample_error: float, seeds: int, alpha: float, draws: int, few: int = _FEW
) -> float:
    """Return the share of simulated studies in which both p values are at most alpha, in favour of the better arm.

    Above `few` seeds the t test alone counts. The seed of the draws depends on nothing but the number of seeds, so the
    power rises evenly with the effect.
    """
    from scipy.special import stdtrit

    chance = np.random.default_rng(seeds)
    # the samples' error is one draw a study, shared by its seeds; each seed adds its own
    shared = effect + sample_error * chance.standard_normal(draws)
    if seeds <= few:
        values_MK = shared[:, None] + deviation * chance.standard_normal((draws, seeds))
        means, variances = values_MK.mean(axis=1), values_MK.var(axis=1, ddof=1) / seeds
    else:
        # mean and variance of normal values are independent and need no single values: 10,000 seeds cost two numbers
        means = shared + deviation / math.sqrt(seeds) * chance.standard_normal(draws)
        variances = deviation**2 * chance.chisquare(seeds - 1, draws) / (seeds - 1) / seeds
    found = means > float(stdtrit(seeds - 1, 1 - alpha / 2)) * np.sqrt(variances)
    if sample_error > 0:  # the crossed test, with its degrees of freedom
        both = variances + sample_error**2
        # equal differences have no variance over seeds; the square of the ratio would overflow
        dof = np.minimum(np.minimum(both / np.maximum(variances, 1e-300), 1e6) ** 2 * (seeds - 1), 1e6)
        found &= means > stdtrit(dof, 1 - alpha / 2) * np.sqrt(both)
    if seeds > few:
        return float(found.mean())
    # The sign-flip p matters only where the t tests agree. If a is better on every seed, only the observed pattern has
    # a sum as large, so p is the smallest one without trying any (140 planted pairs with clear differences: an
    # analysis of 4 s instead of 37).
    values_MK, limit = values_MK[found], alpha * (1 + 1e-9)
    mixed = (values_MK <= 0).any(axis=1)
    sure = np.count_nonzero(~mixed) * (smallest_p(seeds) <= limit)
    return float((sure + np.count_nonzero(sign_flip_p_values(values_MK[mixed]) <= limit)) / draws)
