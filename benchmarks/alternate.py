"""Two arms measured in alternation (A B B A …), each time in a fresh process, and the ratio with its interval."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RESAMPLES = 10_000


@dataclass(frozen=True)
class Ratio:
    """median of a/b over pairs, with a bootstrap 95 % interval of that median."""

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.4f} [{self.low:.4f}, {self.high:.4f}], n = {self.pairs} pairs"


def alternate(a: Callable[[], float], b: Callable[[], float], pairs: int) -> list[tuple[float, float]]:
    """(value of a, value of b) of each pair; the order turns with each, so that a drift of the machine cancels."""
    values = []
    for number in range(pairs):
        if number % 2:
            second, first = b(), a()
        else:
            first, second = a(), b()
        values.append((first, second))
        print(f"pair {number + 1}: {first:.4g} / {second:.4g} = {first / second:.4f}", flush=True)
    return values


def ratio(values: Sequence[tuple[float, float]], seed: int = 0) -> Ratio:
    """The median of the pairs' ratios; its interval by resampling the pairs (Efron 1979)."""
    ratios = [a / b for a, b in values]
    chance = random.Random(seed)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    low, high = medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]
    return Ratio(statistics.median(ratios), low, high, len(ratios))
