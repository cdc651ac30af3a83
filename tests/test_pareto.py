"""Fronts of quality against a cost: closed cases by hand, and a definition by all pairs on random points."""

from __future__ import annotations

import random

import pytest

from effbench.pareto import cheaper, front, is_same, unbeaten
from effbench.stats import Interval


def about(value: float, spread: float = 0.1) -> Interval:
    return Interval(value, value - spread, value + spread, 5)


def status_of(
    values: dict[str, Interval | None], better: dict[tuple[str, str], int]
) -> dict[str, tuple[str, tuple[str, ...]]]:
    every = {(b, a): -sign for (a, b), sign in better.items()} | better
    return {each.arm: (each.status, each.by) for each in front("cost", values, every, values)}


@pytest.mark.parametrize(
    ("quality", "a", "b", "expected"),
    [
        (1, 1.0, 2.0, ("dominated", ("a",))),
        (1, 1.0, 1.05, ("perhaps dominated", ("a",))),  # costs overlap
        (0, 1.0, 2.0, ("perhaps dominated", ("a",))),  # quality cannot be told apart
        (0, 1.0, 1.05, ("on the front", ())),  # nothing can
        (1, 2.0, 1.0, ("on the front", ())),  # b is cheaper
        (-1, 1.0, 2.0, ("on the front", ())),  # b is better
    ],
)
def test_a_place_is_lost_only_to_what_is_clearly_better(
    quality: int, a: float, b: float, expected: tuple[str, tuple[str, ...]]
) -> None:
    assert status_of({"a": about(a), "b": about(b)}, {("a", "b"): quality})["b"] == expected


def test_equal_counts_are_equal_and_missing_costs_unknown() -> None:
    same = {"a": about(5, 0), "b": about(5, 0), "c": None}
    found = status_of(same, {("a", "b"): 1, ("a", "c"): 1, ("b", "c"): 1})
    assert found == {"a": ("on the front", ()), "b": ("dominated", ("a",)), "c": ("unknown", ())}
    assert is_same(about(5, 0), about(5, 0))
    assert not is_same(about(5), about(5))
    assert (cheaper(about(1), about(2)), cheaper(about(2), about(1)), cheaper(about(1), about(1.2))) == (1, -1, 0)


def test_an_arm_that_is_no_rival_takes_no_place() -> None:
    values: dict[str, Interval | None] = {"a": about(1), "b": about(2)}
    [_, b] = front("cost", values, {("a", "b"): 1, ("b", "a"): -1}, {"b"})
    assert b.status == "on the front"


def test_unbeaten_are_those_without_a_better_and_cheaper_one() -> None:
    points = {"small": (0.7, 1.0), "large": (0.9, 3.0), "slow": (0.9, 4.0), "poor": (0.6, 2.0), "twin": (0.7, 1.0)}
    assert unbeaten(points) == ["small", "twin", "large"]  # twins beat each other in nothing
    assert unbeaten({"one": (0.1, 9.0)}) == ["one"]
    assert unbeaten({}) == []


def test_the_quality_of_the_unbeaten_rises_with_their_cost() -> None:
    chance = random.Random(0)
    for _ in range(50):
        points = {str(at): (chance.random(), chance.random()) for at in range(20)}
        found = unbeaten(points)
        qualities = [points[name][0] for name in found]
        assert qualities == sorted(qualities)
        # each other point lies right below the staircase of the unbeaten ones
        for name in points.keys() - set(found):
            assert any(points[one][0] > points[name][0] and points[one][1] < points[name][1] for one in found)
