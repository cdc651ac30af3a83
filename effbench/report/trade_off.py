"""Accuracy against latency and size of several runs in deployment: which of them no other one beats in both.

Runs are compared only with the same data, metric and split. Latencies of different machines are never on one front.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from effbench.metrics import Display, primary
from effbench.pareto import FrontPoint, cheaper, front, is_same, unbeaten
from effbench.report.collect import RunRecord
from effbench.report.measured import LIBRARIES, Loss, Machine, Measured, measured
from effbench.report.ranking import division
from effbench.stats import Interval, share_interval

LATENCY, SIZE = "latency", "size"
_MOST_NAMED = 6  # runs, or pairs of them, in a sentence


@dataclass(frozen=True)
class Row:
    """A run on one machine.

    Attributes:
        run: the run.
        found: what was measured.
        machine: number of the machine, from 1.
        quality: its metric, with an interval where one is known.
    """

    run: RunRecord
    found: Measured
    machine: int
    quality: Interval

    @property
    def p50(self) -> Interval:
        """Seconds, with an interval that also holds the doubts of the measurement."""
        found, wider = self.found.p50, 1 + self.found.margin
        return replace(found, low=found.low / wider, high=found.high * wider)


@dataclass(frozen=True)
class Front:
    """Quality against one cost.

    Attributes:
        cost: LATENCY or SIZE.
        machine: of the latencies; None for sizes, which do not depend on it.
        points: places, given the intervals.
        joined: runs that no other one beats in both estimates, the cheapest first.
        undecided: (run, another one, in what they cannot be told apart), where it decides about a place.
    """

    cost: str
    machine: int | None
    points: Sequence[FrontPoint]
    joined: Sequence[str]
    undecided: Sequence[tuple[str, str, tuple[str, ...]]]


@dataclass(frozen=True)
class TradeOff:
    """Runs with the same data, metric and split.

    Attributes:
        data: the dataset.
        metric: name of the metric.
        split: of the metric's samples.
        display: of the metric.
        rows: by machine, the fastest first.
        machines: where they were measured.
        lost: name of a run -> what it lost, with the run before.
        without: names of measured runs without this metric.
    """

    data: str
    metric: str
    split: str
    display: Display
    rows: Sequence[Row]
    machines: Sequence[Machine]
    lost: Mapping[str, Loss]
    without: Sequence[str]

    @cached_property
    def fronts(self) -> list[Front]:
        """The front of sizes, and one of latencies for each machine."""
        found, sizes = list[Front](), dict[str, Interval]()
        for row in self.rows:
            sizes.setdefault(row.run.name, _exactly(row.found.bytes))
        for number in range(1, len(self.machines) + 1):
            found.append(self._front(LATENCY, number, {r.run.name: r.p50 for r in self.rows if r.machine == number}))
        return [each for each in [*found, self._front(SIZE, None, sizes)] if len(each.points) > 1]

    @cached_property
    def qualities(self) -> dict[str, Interval]:
        """Name of a run -> its metric."""
        return {row.run.name: row.quality for row in self.rows}

    def _front(self, cost: str, machine: int | None, values: Mapping[str, Interval]) -> Front:
        better = {(a, b): self._better(a, b) for a in values for b in values if a != b}
        points = front(cost, values, better, values)
        sign = 1 if self.display.mode == "max" else -1
        joined = unbeaten(
            {name: (sign * self.qualities[name].estimate, each.estimate) for name, each in values.items()}
        )
        return Front(cost, machine, points, joined, _undecided(cost, values, better, joined))

    def _better(self, a: str, b: str) -> int:
        """Return 1 if the metric of a is clearly better than that of b, -1 if it is clearly worse."""
        for run, other, sign in ((a, b, -1), (b, a, 1)):
            loss = self.lost.get(run)
            if loss is not None and loss.before == self._folders[other]:
                # paired on the same samples, which tells smaller differences than two intervals
                return sign * ((loss.points.low > 0) - (loss.points.high < 0))
        one, two = self.qualities[a], self.qualities[b]
        if not all(map(math.isfinite, (one.low, one.high, two.low, two.high))):
            one, two = _exactly(one.estimate), _exactly(two.estimate)
        return (cheaper(two, one)) * (1 if self.display.mode == "max" else -1)

    @cached_property
    def _folders(self) -> dict[str, str]:
        return {row.run.name: os.path.realpath(row.run.folder) for row in self.rows}


def _exactly(value: float) -> Interval:
    return Interval(float(value), float(value), float(value), 1)


def _undecided(
    cost: str,
    values: Mapping[str, Interval],
    better: Mapping[tuple[str, str], int],
    joined: Sequence[str],
) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return (run, run on the front, in what they cannot be told apart) wherever that leaves a place open."""
    found: dict[frozenset[str], tuple[str, str, tuple[str, ...]]] = {}
    sure = {
        name
        for name, own in values.items()
        for other, theirs in values.items()
        if other != name and better[other, name] > 0 and (cheaper(theirs, own) > 0 or is_same(theirs, own))
    }
    for name, own in values.items():
        for other in joined:
            if other == name or name in sure:
                continue
            quality, less = better[other, name], cheaper(values[other], own)
            # the other one is clearly worse in something: this one keeps its place
            if min(quality, less) < 0:
                continue
            what = [*(["quality"] if quality == 0 else [])]
            what += [cost] if less == 0 and not is_same(values[other], own) else []
            if what:
                found.setdefault(frozenset((name, other)), (name, other, tuple(what)))
    return list(found.values())


# --- from the records of runs -----------------------------------------------------------------------------------------


_Member = tuple[RunRecord, Sequence[Measured], Interval]  # a run, its measurements, its metric


def trade_offs(records: Sequence[RunRecord]) -> tuple[list[TradeOff], list[tuple[RunRecord, str]]]:
    """Return (one trade-off for each data, metric and split with two measured runs; what is wrong with their records).

    The largest comes first.
    """
    by_folder = {run.folder: run for run in records if run.finished}
    found, lost, wrong = measured(list(by_folder))
    groups: dict[tuple[object, ...], list[_Member]] = defaultdict(list)
    without = []
    for folder, each in found.items():
        run = by_folder[folder]
        judged = _judged(run, each)
        if judged is not None and (problem := _impossible(judged, run.displays[judged[0]].is_share)):
            wrong.append((folder, problem))
        elif judged is None:
            without.append(run.name)
        else:
            groups[(*judged[:2], *_comparable(run))].append((run, each, judged[2]))
    losses = {by_folder[folder].name: loss for folder, loss in lost.items()}
    made = [
        _trade_off(members, str(metric), str(split), losses, without) for (metric, split, *_), members in groups.items()
    ]
    made = [each for each in made if len(each.qualities) > 1]
    problems = [(by_folder[folder], text) for folder, text in wrong]
    return sorted(made, key=lambda each: -len(each.rows)), problems


def _comparable(run: RunRecord) -> tuple[object, ...]:
    metric, data = primary(run.displays), run.part("data")
    return run.displays[metric].mode, str(data.get("name")), str(data.get("sha256")), *division(run)


def _judged(run: RunRecord, found: Sequence[Measured]) -> tuple[str, str, Interval] | None:
    """Return (metric, split, its value) of a run: of the test split, or else of what bench compared; None without."""
    metric, data = primary(run.displays), run.part("data")
    value = run.part("metrics").get(f"test/{metric}")
    if value is not None:
        # of a sample of the split, or of the whole
        count = (data.get("evaluated") or {}).get("test") or (data.get("counts") or {}).get("test") or 0
        return metric, "test", _interval(run, metric, float(value), int(count))
    for each in found:
        if metric in each.metrics:
            return metric, each.split, _interval(run, metric, each.metrics[metric], each.samples)
    return None


def _impossible(judged: tuple[str, str, Interval], is_share: bool) -> str | None:
    """Return what is wrong with a value; None if nothing is known to be. It would push every true one off a front."""
    metric, split, value = judged
    if is_share and not 0 <= value.estimate <= 1:
        return f"{split}/{metric} must be a share from 0 to 1; got {value.estimate:g}. Evaluate the run again."
    return None


def _interval(run: RunRecord, metric: str, value: float, samples: int) -> Interval:
    """Return a metric with its interval: of a share of independent samples; else one without ends."""
    if run.displays[metric].is_share and samples > 0 and 0 <= value <= 1:  # a damaged value: see _impossible
        return share_interval(value * samples, samples)
    return Interval(value, -math.inf, math.inf, samples)


def _trade_off(
    members: Sequence[_Member],
    metric: str,
    split: str,
    lost: Mapping[str, Loss],
    without: Sequence[str],
) -> TradeOff:
    machines = _machines([one for _, each, _ in members for one in each])
    rows = []
    for run, each, quality in members:
        seen: set[int] = set()
        for one in each:
            number = next(place for place, machine in enumerate(machines, start=1) if machine.takes(one.machine))
            # a run's own measurement comes before those beside its compressed results
            if number not in seen:
                rows.append(Row(run, one, number, quality))
            seen.add(number)
    rows.sort(key=lambda row: (row.machine, row.found.p50.estimate))
    first = members[0][0]
    data = str(first.part("data").get("name") or "unknown data")
    return TradeOff(data, metric, split, first.displays[metric], rows, machines, lost, without)


def _machines(found: Sequence[Measured]) -> list[Machine]:
    """Return the machines of the measurements, the most frequent first."""
    machines: list[Machine] = []
    # first those that tell most: a record without a version belongs to the first machine that it may be of
    for one in sorted((each.machine for each in found), key=lambda machine: -len(machine.versions)):
        for place, machine in enumerate(machines):
            if machine.takes(one):
                machines[place] = replace(machine, versions={**one.versions, **machine.versions})
                break
        else:
            machines.append(one)
    return sorted(machines, key=lambda machine: -sum(machine.takes(each.machine) for each in found))


# --- in words ---------------------------------------------------------------------------------------------------------


def sentences(found: TradeOff) -> list[str]:
    """Return which runs no other one beats, what cannot be told apart, and what the numbers rest on."""
    told = []
    for each in found.fronts:
        quality = found.display.title or found.metric
        place = f" on machine {each.machine}" if each.machine and len(found.machines) > 1 else ""
        told.append(f"No run beats {_or(each.joined)} in both {quality} and {each.cost}{place}.")
        told += _not_told_apart(each, quality)
    return [*told, *_caveats(found)]


def _not_told_apart(found: Front, quality: str) -> list[str]:
    """Return what cannot be told apart on a front, and which other runs may belong to it."""
    told = []
    among = [
        f"{a} and {b} in {' and '.join(quality if part == 'quality' else part for part in what)}"
        for a, b, what in found.undecided
        if a in found.joined
    ]
    if among:
        told.append(f"Of these, not distinguished from each other: {_some(among, '; ')}.")
    others = [(name, what) for name, _, what in found.undecided if name not in found.joined]
    if others:
        parts = dict.fromkeys(quality if part == "quality" else part for _, what in others for part in what)
        which = "one of these" if len(found.joined) > 1 else "it"
        names = list(dict.fromkeys(name for name, _ in others))
        why = f"because intervals of {' or '.join(parts)} overlap"
        told.append(f"Not distinguished from {which}, {why}: {_some(names)}.")
    return told


def _or(names: Sequence[str]) -> str:
    return " or ".join([*filter(None, [", ".join(names[:-1])]), *names[-1:]])


def _some(texts: Sequence[str], between: str = ", ") -> str:
    more = len(texts) - _MOST_NAMED
    return between.join(texts[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _caveats(found: TradeOff) -> list[str]:
    told = []
    if len(found.machines) > 1:
        places = "; ".join(f"machine {number}: {machine}" for number, machine in enumerate(found.machines, start=1))
        told.append(
            f"Measured on {len(found.machines)} machines, or with other threads or versions; their latencies have axes "
            f"of their own. {places[:1].upper()}{places[1:]}."
        )
    else:
        told.append(f"Measured on {found.machines[0]}.")
    told.append(
        "Each record was measured on its own, not in turns with the others: other work on the machine may move one of "
        "them by tens of percent, which no interval holds. A compressed run's own section has the ratio in turns."
    )
    if (margin := max(row.found.margin for row in found.rows)) > 0:
        told.append(f"Intervals of latency are widened by each record's own doubt, by up to {100 * margin:.0f} %.")
    if unknown := [row.run.name for row in found.rows if _runtime(row.found) not in row.found.machine.versions]:
        told.append(f"The version of the runtime is not in the record of {_some(list(dict.fromkeys(unknown)))}.")
    open_ends = dict.fromkeys(row.run.name for row in found.rows if not math.isfinite(row.quality.high))
    if open_ends:
        whose = "" if len(open_ends) == len(found.qualities) else f" of {_some(list(open_ends))}"
        told.append(
            f"No interval of the {found.display.title or found.metric}{whose} is known: estimates are compared."
        )
    if found.without:
        told.append(f"Measured, but without a metric to compare: {_some(found.without)}.")
    return told


def _runtime(one: Measured) -> str:
    """Return the library that runs a backend."""
    return next((name for name in LIBRARIES if one.backend.startswith(name)), LIBRARIES[0])
