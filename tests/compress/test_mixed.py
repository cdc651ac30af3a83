"""Mixed precision against a model of its own: each layer costs a known number of points."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from effbench.compress import mixed as mixing
from effbench.compress.mixed import within_bound
from effbench.errors import OutOfTimeError

COSTS = {"a": 0.1, "b": 1.0, "c": 0.0, "d": 0.3, "e": 2.0, "f": 0.2}


class Costly:
    """Files are lists of the quantized layers."""

    layers = list(COSTS)

    def __init__(self) -> None:
        self.made: list[list[str]] = []

    def content(self, floating: Sequence[str] = (), only: Sequence[str] = ()) -> bytes:
        self.made.append([layer for layer in only or COSTS if layer not in floating])
        return json.dumps(self.made[-1]).encode()


def judge(content: bytes) -> float:
    return sum(COSTS[layer] for layer in json.loads(content))


def moved(content: bytes) -> float:
    return 10 * judge(content)


@pytest.mark.parametrize(
    ("bound", "floating"),
    [(4.0, ""), (3.5, "e"), (0.7, "eb"), (0.6, "eb"), (0.59, "ebd"), (0.1, "ebdf"), (0.0, "ebdfa")],
)
def test_the_fewest_layers_that_hold_the_bound_stay_in_float(bound: float, floating: str) -> None:
    mixed, content = within_bound(Costly(), judge, moved, bound)
    assert list(mixed.floating) == list(floating)
    assert json.loads(content) == [layer for layer in COSTS if layer not in floating]
    assert mixed.drop == pytest.approx(sum(COSTS[layer] for layer in COSTS if layer not in floating))
    assert mixed.drop_of_all == pytest.approx(3.6)


def test_layers_are_ranked_by_how_far_each_alone_moves_outputs() -> None:
    mixed, _ = within_bound(Costly(), judge, moved, 0.5)
    assert mixed.sensitivity == pytest.approx({layer: 10 * cost for layer, cost in COSTS.items()})
    assert list(mixed.sensitivity) == ["e", "b", "d", "f", "a", "c"]


def test_a_bound_that_never_holds_gives_the_least_loss() -> None:
    mixed, content = within_bound(Costly(), lambda file: 1 + judge(file), moved, 0.5)
    assert mixed.drop == pytest.approx(1.0)
    assert json.loads(content) == ["c"]  # one layer at least is quantized


def test_a_bound_that_holds_is_not_searched() -> None:
    quantizer = Costly()
    within_bound(quantizer, judge, moved, 4.0)
    assert quantizer.made == [list(COSTS)]


def test_layers_are_ranked_without_the_judge() -> None:
    """A verdict takes 2,000 samples, and a large model has hundreds of layers."""
    judged: list[list[str]] = []

    def counting(content: bytes) -> float:
        judged.append(json.loads(content))
        return judge(content)

    within_bound(Costly(), counting, moved, 0.5)
    assert all(len(layers) > 1 for layers in judged)
    assert len(judged) == 5  # with all layers in 8 bits, then with 1, 2, 4 and 3 in float32


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (1, "0 of 6 layers had been quantized alone"),
        (4, "3 of 6 layers had been quantized alone"),
        (8, "1 of 6 layers were in float32, and more was lost than may be"),
    ],
)
def test_no_layers_are_chosen_after_the_deadline(files: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file takes a second."""
    quantizer = Costly()
    monkeypatch.setattr(mixing, "time", SimpleNamespace(monotonic=lambda: len(quantizer.made)))
    with pytest.raises(OutOfTimeError, match=f"the time was over when {told}"):
        within_bound(quantizer, judge, moved, 0.1, deadline=files - 0.5)
    assert len(quantizer.made) == files


def test_what_holds_at_the_deadline_is_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 layers in float32 hold the bound, and there is no time to see that 3 do."""
    quantizer = Costly()
    monkeypatch.setattr(mixing, "time", SimpleNamespace(monotonic=lambda: len(quantizer.made)))
    assert len(within_bound(Costly(), judge, moved, 0.5)[0].floating) == 3
    mixed, _ = within_bound(quantizer, judge, moved, 0.5, deadline=9.5)
    assert list(mixed.floating) == list("ebdf")
    assert len(quantizer.made) == 10
