"""Which backend is named: the fastest that keeps the accuracy, unless the measurement cannot tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from effbench.bench.analysis import STATISTICS, Process, at_size, calls_of, drift_seen, ratio, worst_drift
from effbench.bench.options import LEAST_ROUNDS
from effbench.disturbance import DRIFT
from effbench.report.deployment import SINGLE_STREAM
from effbench.stats import Interval, positive_interval

UNCONTROLLED = 1.0  # without a control, differences below a factor of two are not told apart
CONTROL_BOUND = 0.05  # how far the interval of A/A may stay away from 1 before it limits the verdict


@dataclass(frozen=True)
class Candidate:
    """An arm that may be named.

    Attributes:
        name: of the backend.
        processes: what was measured.
    """

    name: str
    processes: Sequence[Process]


@dataclass(frozen=True)
class Trust:
    """What a measurement can tell apart.

    Attributes:
        control: batch size -> ratio of two arms of one backend, with its interval.
        drift: largest change of the clock, a ratio of at least 1.
        margin: ratios up to 1 + margin are no difference.
        reasons: why the margin is not 0.
    """

    control: Mapping[int, Interval]
    drift: float
    margin: float
    reasons: tuple[str, ...]


def trust(first: Sequence[Process], again: Sequence[Process], every: Sequence[Process], sizes: Sequence[int]) -> Trust:
    """Return what a measurement can tell apart.

    Args:
        first: processes of the arm that was measured twice.
        again: processes of its second arm.
        every: processes of all arms.
        sizes: batch sizes.
    """
    control, margin, reasons = {}, 0.0, []
    for size in sizes:
        found = ratio(at_size(again, size), at_size(first, size))
        # of fewer rounds there is no interval to speak of: one of the two has failed
        if found is None or found.n < LEAST_ROUNDS:
            if at_size(every, size):
                margin = max(margin, UNCONTROLLED)
                reasons.append(f"the control, a second measurement of the same backend, failed at batch {size}")
            continue
        control[size] = found
        if found.low > 1 + CONTROL_BOUND or found.high < 1 / (1 + CONTROL_BOUND):
            apart = max(found.estimate, 1 / found.estimate) - 1
            margin = max(margin, apart)
            reasons.append(f"the same backend measured twice differs by {100 * apart:.0f} % at batch {size}")
    changed = drift_seen(every)
    if changed > 1:
        margin = max(margin, changed - 1)
        reasons.append(
            f"the clock, or other work, changed a fixed calculation by {100 * (changed - 1):.0f} % in half of the "
            f"rounds (bound {100 * (DRIFT - 1):.0f} %)"
        )
    return Trust(control, worst_drift(every), margin, tuple(reasons))


def verdict(
    scenario: str, candidates: Sequence[Candidate], reference: Candidate | None, size: int | None, margin: float
) -> dict[str, Any] | None:
    """Return which backend has the least latency, or the most throughput; None if nothing was measured for it.

    Args:
        scenario: SINGLE_STREAM or OFFLINE of effbench.report.deployment.
        candidates: arms that keep the accuracy.
        reference: the arm to state the gain against.
        size: batch size of the latency; None for the throughput, which takes each arm's best batch size.
        margin: ratios up to 1 + margin are no difference.
    """
    # seconds a sample: less is better in both scenarios
    placed = [found for each in candidates if (found := _placed(each, size)) is not None]
    if not placed:
        return None
    placed.sort(key=lambda place: place[1])
    best, _, best_size = placed[0]
    behind = {}
    for other, _, other_size in placed[1:]:
        behind[other.name] = _ratio(other, other_size, best, best_size, scenario)
    # its lower end: by so much the other is slower at least
    tied = [name for name, found in behind.items() if found is None or found.low <= 1 + margin]
    own = _placed(reference, size) if reference is not None and reference.name != best.name else None
    gain = None if own is None else _ratio(own[0], own[2], best, best_size, scenario)
    return {
        "scenario": scenario,
        "winner": None if tied else best.name,
        "best": best.name,
        "batch_size": best_size,
        "not_distinguished": tied,
        "margin": margin,
        "reference": None if own is None else own[0].name,
        "gain": None if gain is None else asdict(gain),
    }


def _placed(candidate: Candidate, size: int | None) -> tuple[Candidate, float, int] | None:
    """Return (arm, seconds a sample, batch size), at its best batch size if none is given."""
    sizes = sorted({process["batch_size"] for process in candidate.processes} if size is None else {size})
    found = []
    for each in sizes:
        processes = at_size(candidate.processes, each)
        if processes:
            found.append((candidate, _per_sample(processes, each, by_median=size is not None), each))
    return min(found, key=lambda place: place[1], default=None)


def _per_sample(processes: Sequence[Process], size: int, by_median: bool) -> float:
    statistic = STATISTICS["p50" if by_median else "mean"]
    return positive_interval([statistic(calls_of(process)) for process in processes]).estimate / size


def _ratio(one: Candidate, one_size: int, other: Candidate, other_size: int, scenario: str) -> Interval | None:
    """Return seconds a sample of `one` over those of `other`, with the interval over rounds."""
    statistic = "p50" if scenario == SINGLE_STREAM else "mean"
    found = ratio(at_size(one.processes, one_size), at_size(other.processes, other_size), statistic)
    return None if found is None else found.times(other_size / one_size)
