"""Pareto fronts of quality against a cost: which of several arms, runs or files no other one beats in both.

A front of estimates alone would name what is ahead by the noise of a few seeds or rounds. Here an arm leaves the front
only if another one is clearly better; what cannot be told apart stays.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Literal

from effbench.stats import Interval

# 'perhaps dominated' keeps apart what a plain front of estimates would mix: sure losers and near ones
FrontStatus = Literal["on the front", "perhaps dominated", "dominated", "unknown"]


@dataclass(frozen=True)
class FrontPoint:
    """The place of an arm, or a run, against one cost.

    Attributes:
        arm: its name.
        cost: name of the cost, such as a field of a study's Cost.
        value: the cost with its interval.
        status: 'dominated' by an arm that is clearly better in one and not worse in the other, 'perhaps dominated' by
            one that is clearly better in one and cannot be told apart in the other, else 'on the front'; 'unknown'
            where a measurement is missing or contaminated.
        by: the arms that dominate it.
    """

    arm: str
    cost: str
    value: Interval | None
    status: FrontStatus
    # all of them, so that a reader can leave one out; pages show two
    by: tuple[str, ...]


def front(
    cost: str,
    values: Mapping[str, Interval | None],
    better: Mapping[tuple[str, str], int],
    rivals: Container[str],
) -> list[FrontPoint]:
    """Return the place of each arm against one cost.

    Args:
        cost: its name.
        values: arm -> its cost, of no width for what is counted; None if it is missing.
        better: (a, b) -> 1 if a's quality is clearly better, -1 if b's is, 0 if they cannot be told apart.
        rivals: arms that may dominate others.
    """
    points = []
    for arm, own in values.items():
        if own is None:
            points.append(FrontPoint(arm, cost, None, "unknown", ()))
            continue
        surely: list[str] = []
        perhaps: list[str] = []
        for other, theirs in values.items():
            if other == arm or theirs is None or other not in rivals:
                continue
            quality, less = better[other, arm], cheaper(theirs, own)
            # worse in one, or better in none: no reason to leave the front
            if min(quality, less) < 0 or max(quality, less) == 0:
                continue
            (surely if quality > 0 and (less > 0 or is_same(theirs, own)) else perhaps).append(other)
        status: FrontStatus = "dominated" if surely else "perhaps dominated" if perhaps else "on the front"
        points.append(FrontPoint(arm, cost, own, status, tuple(surely or perhaps)))
    return points


def cheaper(a: Interval, b: Interval) -> int:
    """Return 1 if a is clearly less than b, -1 if b is, 0 if their intervals touch."""
    # stricter than a test of their difference, but costs of two arms have no paired differences
    return (a.high < b.low) - (b.high < a.low)


def is_same(a: Interval, b: Interval) -> bool:
    """Return True for two equal counts: of what is counted, such as parameters or bytes, equal is equal."""
    return a.low == b.low == a.high == b.high


def unbeaten(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names that no other one beats in both, by estimates alone; the cheapest first.

    Args:
        points: name -> (quality, larger is better; cost, smaller is better).
    """

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        # equal points beat each other in nothing
        return one != other and one[0] >= other[0] and one[1] <= other[1]

    kept = [name for name, own in points.items() if not any(beats(other, own) for other in points.values())]
    return sorted(kept, key=lambda name: (points[name][1], -points[name][0]))
