"""Mixed precision against a model of its own: each layer costs a known number of points."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from effbench.compress.mixed import Judged, within_bound

COSTS = {"a": 0.1, "b": 1.0, "c": 0.0, "d": 0.3, "e": 2.0, "f": 0.2}


class Costly:
    """Files are lists of the quantized layers."""

    layers = list(COSTS)

    def __init__(self) -> None:
        self.made: list[list[str]] = []

    def content(self, floating: Sequence[str] = (), only: Sequence[str] = ()) -> bytes:
        self.made.append([layer for layer in only or COSTS if layer not in floating])
        return json.dumps(self.made[-1]).encode()


def judge(content: bytes) -> Judged:
    lost = sum(COSTS[layer] for layer in json.loads(content))
    return Judged(lost, 10 * lost)


@pytest.mark.parametrize(
    ("bound", "floating"),
    [(4.0, ""), (3.5, "e"), (0.7, "eb"), (0.6, "eb"), (0.59, "ebd"), (0.1, "ebdf"), (0.0, "ebdfa")],
)
def test_the_fewest_layers_that_hold_the_bound_stay_in_float(bound: float, floating: str) -> None:
    mixed, content = within_bound(Costly(), judge, bound)
    assert list(mixed.floating) == list(floating)
    assert json.loads(content) == [layer for layer in COSTS if layer not in floating]
    assert mixed.drop == pytest.approx(sum(COSTS[layer] for layer in COSTS if layer not in floating))
    assert mixed.drop_of_all == pytest.approx(3.6)


def test_layers_are_ranked_by_how_far_each_alone_moves_outputs() -> None:
    mixed, _ = within_bound(Costly(), judge, 0.5)
    assert mixed.sensitivity == pytest.approx({layer: 10 * cost for layer, cost in COSTS.items()})
    assert list(mixed.sensitivity) == ["e", "b", "d", "f", "a", "c"]


def test_a_bound_that_never_holds_gives_the_least_loss() -> None:
    mixed, content = within_bound(Costly(), lambda file: Judged(1 + judge(file).drop, judge(file).moved), 0.5)
    assert mixed.drop == pytest.approx(1.0)
    assert json.loads(content) == ["c"]  # one layer at least is quantized


def test_a_bound_that_holds_is_not_searched() -> None:
    quantizer = Costly()
    within_bound(quantizer, judge, 4.0)
    assert quantizer.made == [list(COSTS)]
