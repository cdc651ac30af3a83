"""A figure beside its target, as the page and the JSON file have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.alternate import CONTROL_SUFFIX, CONTROL_WITHIN, Round, control_of, each
from effbench.stats import Interval, median

Scale = Callable[[float], str]


@dataclass(frozen=True)
class Figure:
    """what: as `lion-pytorch / ours, ResNet-152`. target: as `>= 3.5`, or empty where it is only reported.

    arms: each arm's median, written with its unit. Without a control (a count of bytes) `control` is None.
    """

    what: str
    value: Interval
    target: str = ""
    control: Interval | None = None
    arms: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def void(self) -> bool:
        """Whether the machine was too noisy: the control's median is off by more than 2 %."""
        return self.control is not None and abs(self.control.estimate - 1) > CONTROL_WITHIN

    @property
    def passed(self) -> bool | None:
        """By the pessimistic end of the interval; None where there is no target."""
        if not self.target:
            return None
        sense, bar = self.target.split()
        return self.value.low >= float(bar) if sense == ">=" else self.value.high <= float(bar)

    def __str__(self) -> str:
        return f"{self.what}: {self.value} {self.target} -> {'void' if self.void else self.passed}"

    def as_json(self) -> dict[str, Any]:
        control = None if self.control is None else interval_json(self.control)
        intervals = {"value": interval_json(self.value), "control": control}
        return asdict(self) | intervals | {"passed": self.passed, "void": self.void}


def interval_json(interval: Interval) -> dict[str, float]:
    return {"median": interval.estimate, "low": interval.low, "high": interval.high, "n": interval.n}


def figure(
    what: str, found: Sequence[Round], of: Callable[[Round], float], target: str = "", unit: Scale | None = None,
    note: str = "", alone: Sequence[Round] = (),
) -> Figure:  # fmt: skip
    """One figure of each round, with the control that ran beside it. unit: writes an arm's value.

    alone: further rounds of the first arm and its control, where a round with all arms takes too long for many.
    """
    write = unit or "{:.4g}".format
    names = [name for name in found[0] if not name.endswith(CONTROL_SUFFIX)]
    arms = {name: write(median([values[name] for values in found])) for name in names}
    return Figure(what, each(found, of), target, control_of([*found, *alone]), arms, note)


def over(above: str, below: str) -> Callable[[Round], float]:
    """above / below of a round."""
    return lambda values: values[above] / values[below]


def three_digits(value: float) -> str:
    """0.0123456 -> 0.0123, 1234.56 -> 1,235."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def milliseconds(seconds: float) -> str:
    return f"{three_digits(seconds * 1e3)} ms"


def exact(value: float) -> Interval:
    """A figure that does not vary: bytes, say."""
    return Interval(value, value, value, 1)
