"""Mixed precision: the layers whose quantization moves the outputs most stay in float32, as few as the bound allows."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from effbench.errors import OutOfTimeError

log = logging.getLogger(__name__)


class Quantizer(Protocol):
    """What makes quantized files of one model.

    Attributes:
        layers: names of the layers with weights.
    """

    layers: Sequence[str]

    def content(self, floating: Sequence[str] = (), only: Sequence[str] = ()) -> bytes:
        """Return the file with `floating` layers in float32, or with `only` these layers quantized."""


@dataclass(frozen=True)
class Mixed:
    """Which layers stay in float32.

    Attributes:
        drop: what is lost on validation samples, in the unit of max_drop.
        drop_of_all: what is lost with all layers quantized.
        layers: number of layers with weights.
        floating: names of those in float32.
        sensitivity: layer -> by how much outputs move if it alone is quantized, the most first; empty if the bound
            held with all layers.
    """

    drop: float
    drop_of_all: float
    layers: int
    floating: Sequence[str] = ()
    sensitivity: dict[str, float] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return all values, for a record."""
        return {**asdict(self), "floating": list(self.floating)}


def within(drop: float, bound: float) -> bool:
    """Return whether a drop is within its bound. A share of samples in points is rounded: 14 of 2,000 are 0.7."""
    return drop <= bound + 1e-9


def within_bound(
    quantizer: Quantizer,
    judge: Callable[[bytes], float],
    moved: Callable[[bytes], float],
    bound: float,
    deadline: float = math.inf,
) -> tuple[Mixed, bytes]:
    """Return the file with the fewest float layers whose drop is within the bound.

    Layers are taken in the order of their sensitivity: 1, 2, 4, ... until the bound holds, then by halves in between.
    If it never holds, the file that loses least is returned: the caller compares its drop.

    Args:
        quantizer: of the model.
        judge: content of a file -> what it loses, in the unit of max_drop.
        moved: content of a file -> root mean square by which outputs move, over that of the outputs; a file is made for
            each layer, so that it should take few samples.
        bound: largest drop.
        deadline: in seconds of time.monotonic(), after which no more files are tried.

    Raises:
        OutOfTimeError: the deadline came before the bound held.
    """
    content, count = quantizer.content(), len(quantizer.layers)
    lost = judge(content)
    log.info(f"all {count} layers quantized: {lost:+.2f} lost (max_drop={bound:g})")
    if within(lost, bound) or count < 2:
        return Mixed(lost, lost, count), content
    sensitivity = _sensitivity(quantizer, moved, deadline)
    order = list(sensitivity)
    best = Mixed(lost, lost, count, (), sensitivity), content

    def tried(number: int) -> bool:
        nonlocal best
        found = quantizer.content(floating=order[:number])
        drop = judge(found)
        log.info(f"{number} of {count} layers in float32: {drop:+.2f} lost")
        holds = within(drop, bound)
        # of those that hold, the one with fewest float layers, which comes last
        if holds or drop < best[0].drop:
            best = Mixed(drop, lost, count, tuple(order[:number]), sensitivity), found
        return holds

    failing, number = 0, 1
    while not tried(number):
        if number == count - 1:  # one quantized layer at least: else the file is the float32 one
            return best
        check_time(deadline, f"{number} of {count} layers were in float32, and more was lost than may be (max_drop)")
        failing, number = number, min(2 * number, count - 1)
    # what holds the bound is a result, also with more float layers than need be
    while number - failing > 1 and time.monotonic() <= deadline:
        middle = (failing + number) // 2
        failing, number = (failing, middle) if tried(middle) else (middle, number)
    return best


def check_time(deadline: float, reached: str) -> None:
    """Raise OutOfTimeError after the deadline.

    Args:
        deadline: in seconds of time.monotonic().
        reached: how far the work had come, for the message.
    """
    if time.monotonic() > deadline:
        raise OutOfTimeError(f"the time was over when {reached}")


def _sensitivity(quantizer: Quantizer, moved: Callable[[bytes], float], deadline: float) -> dict[str, float]:
    """Return layer -> by how much outputs move if it alone is quantized, the most first.

    Args:
        quantizer: of the model.
        moved: see `within_bound`.
        deadline: see `within_bound`.
    """
    count, found = len(quantizer.layers), dict[str, float]()
    log.info(f"quantizing each of {count} layers alone, to see which moves the outputs most")
    for number, layer in enumerate(quantizer.layers):
        check_time(deadline, f"{number} of {count} layers had been quantized alone, to see which move the outputs most")
        found[layer] = moved(quantizer.content(only=[layer]))
    return dict(sorted(found.items(), key=lambda item: -item[1]))
