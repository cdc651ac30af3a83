"""Accuracy against latency and file size of the backends of one run, from records of `bench` and `compress`.

All backends answer the same validation samples. Where they are of one model, what each loses is paired by sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from effbench.metrics import Display, display_in
from effbench.pareto import cheaper, front, unbeaten
from effbench.report.figures import Figure
from effbench.report.fronts import front_figure
from effbench.stats import Interval, share_interval
from effbench.units import human_bytes

SAME = 1e-4  # values of a metric that differ by less, relatively, differ by rounding
_MOST_NAMED = 2  # backends at one point, such as those that read the same file

Arms = Mapping[str, Mapping[str, Any]]  # name in the figure -> entry of a record's arms


@dataclass(frozen=True)
class ShownMetric:
    """The metric of a figure or a column: its name in a record, and how its values are written."""

    name: str
    display: Display

    @classmethod
    def of(cls, record: Mapping[str, Any], name: str) -> ShownMetric:
        """Return it as a record with the key `task` describes it, or by its name."""
        return cls(name, display_in(record, name))


def backend_fronts(arms: Arms, metric: ShownMetric | None, split: str, size: str, paired: bool = True) -> list[Figure]:
    """Return the metric against the latency of a call, and against the size of the file; [] without a metric.

    Args:
        arms: what was measured. Those that failed, or have no value of the metric, are left out.
        metric: that is drawn; None if there is none.
        split: that it is of.
        size: batch size of the latency, as the record writes it.
        paired: `lost` of all arms is beside the same answers; False: values are compared by their intervals.
    """
    if metric is None:
        return []
    known = {
        name: arm
        for name, arm in arms.items()
        if arm["status"] == "ok" and (arm.get("metrics") or {}).get(metric.name) is not None and size in arm["batches"]
    }
    display = metric.display
    qualities = {name: _quality(arm, metric, paired) for name, arm in known.items()}
    sign = 1 if display.mode == "max" else -1
    lost = {name: _lost(arm) if paired else None for name, arm in known.items()}
    better = {(a, b): _better(lost[a], lost[b], qualities[a], qualities[b], sign) for a in known for b in known}
    quality = (lambda value: f"{100 * value:.4g}%") if display.as_percent else "{:.4g}".format
    drawn = []
    for cost, across, values, written in (
        ("latency", f"p50 of a call, batch {size}", _latencies(known, size), _milliseconds),
        ("size", "size of the file", {name: _exactly(int(arm["bytes"])) for name, arm in known.items()}, human_bytes),
    ):
        names = _at_one_point(values, qualities)
        points = front(cost, {name: values[name] for name in names}, better, names)
        joined = unbeaten({name: (sign * qualities[name].estimate, values[name].estimate) for name in names})
        title = f"{split} {display.axis or metric.name} against {cost}"
        texts = (written, quality, display.text)
        drawn.append(front_figure(title, across, points, qualities, names, texts, joined))
    return [each for each in drawn if each is not None]


def _exactly(value: float) -> Interval:
    return Interval(float(value), float(value), float(value), 1)


def _quality(arm: Mapping[str, Any], metric: ShownMetric, paired: bool) -> Interval:
    value, samples = float(arm["metrics"][metric.name]), int((arm.get("parity") or {}).get("samples") or 0)
    # records without a task are of an older effbench
    if not paired and metric.display.is_share and samples and arm.get("lost_of") == "accuracy":
        return share_interval(value * samples, samples)
    return _exactly(value)


def _lost(arm: Mapping[str, Any]) -> Interval | None:
    """Return the points of accuracy that are lost; None for tasks without it."""
    found = arm.get("lost")
    if not found or arm.get("lost_of", "accuracy") != "accuracy":
        return None
    return Interval(float(found["estimate"]), float(found["low"]), float(found["high"]), int(found["n"]))


def _latencies(arms: Arms, size: str) -> dict[str, Interval]:
    found = {}
    for name, arm in arms.items():
        p50 = arm["batches"][size]["latency_s"]["p50"]
        # one round has no interval
        low, high = (p50["estimate"] if p50[end] is None else p50[end] for end in ("low", "high"))
        found[name] = Interval(float(p50["estimate"]), max(0.0, low), float(high), int(p50["n"]))
        if not found[name].estimate > 0:
            raise ValueError(f"no time: {found[name].estimate}")
    return found


def _better(a: Interval | None, b: Interval | None, one: Interval, two: Interval, sign: int) -> int:
    """Return 1 if the first is clearly better, -1 if it is clearly worse, 0 if they cannot be told apart.

    Args:
        a: what the first loses; None if unknown.
        b: what the second loses.
        one: the first's metric.
        two: the second's metric.
        sign: 1 if larger values of the metric are better, else -1.
    """
    if a and b:
        return cheaper(a, b)
    if math.isclose(one.estimate, two.estimate, rel_tol=SAME):
        return 0
    return sign * cheaper(two, one)


def _at_one_point(values: Mapping[str, Interval], qualities: Mapping[str, Interval]) -> dict[str, tuple[int, str]]:
    """Return a backend of each point -> (its colour, the names of all that are there)."""
    places: dict[tuple[float, float], list[str]] = {}
    for name, cost in values.items():
        places.setdefault((cost.estimate, qualities[name].estimate), []).append(name)
    colours = {name: number for number, name in enumerate(values)}
    return {names[0]: (colours[names[0]], _some(names)) for names in places.values()}


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
