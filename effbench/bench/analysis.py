"""From the times of all processes to estimates with intervals. No torch, no numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from effbench.disturbance import OTHERS, drifted
from effbench.stats import Interval, mean, median, percentile, positive_interval

Process = Mapping[str, Any]  # an entry of Arm.processes

STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": mean,
    "p50": median,
    "p90": lambda ordered: percentile(ordered, 0.9),
    "p95": lambda ordered: percentile(ordered, 0.95),
    "p99": lambda ordered: percentile(ordered, 0.99),
}
FEWEST = {"p90": 10, "p95": 20, "p99": 100}  # calls of a process, below which the percentile is only its slowest call


def at_size(processes: Sequence[Process], size: int) -> list[Process]:
    """Return the processes with a batch size, in the order of their rounds."""
    return sorted((each for each in processes if each["batch_size"] == size), key=lambda each: int(each["round"]))


def calls_of(process: Process) -> list[float]:
    """Return the seconds of all timed calls of a process, the shortest first."""
    return sorted(chain.from_iterable(turn["calls_s"] for turn in process["turns"]))


def estimates(processes: Sequence[Process], size: int) -> dict[str, Any]:
    """Return what was measured with a batch size, each number with its interval over rounds.

    Args:
        processes: of one arm with this batch size, at least one.
        size: samples of a batch.
    """
    calls = [calls_of(process) for process in processes]
    latency = {
        # too few calls say nothing about their slowest hundredth
        name: None
        if min(map(len, calls)) < FEWEST.get(name, 1)
        else asdict(positive_interval([*map(statistic, calls)]))
        for name, statistic in STATISTICS.items()
    }
    turns = [turn for process in processes for turn in process["turns"]]
    wall = sum(turn["wall_s"] for turn in turns)
    others = [turn["others"] for turn in turns if turn["others"] is not None]
    # torch's compiler works in the first round, and later ones find what it has compiled
    cold = [process["load_s"] for process in processes if process.get("cold")]
    warm = [process["load_s"] for process in processes if not process.get("cold")]
    return {
        "rounds": len(processes),
        "calls": sum(map(len, calls)),
        "latency_s": latency,
        "samples_per_s": asdict(positive_interval([size / mean(each) for each in calls])),
        "processor_share": sum(turn["processor_s"] for turn in turns) / wall,
        "involuntary_switches_per_s": sum(turn["involuntary"] for turn in turns) / wall,
        "others_seen": sum(share > OTHERS for share in others) / len(others) if others else None,
        "import_s": median([process["import_s"] for process in processes]),
        "load_s": median(warm or cold),
        "cold_load_s": cold[0] if cold else None,
        "first_s": median([process["first_s"] for process in processes]),
        "peak_bytes": max(process["peak_bytes"] for process in processes),
    }


def ratio(one: Sequence[Process], other: Sequence[Process], name: str = "p50") -> Interval | None:
    """Return the latency of `one` over that of `other`, paired by turn, with its interval over rounds.

    Args:
        one: processes of an arm with one batch size.
        other: processes of another arm with this batch size.
        name: the statistic of a turn, a key of STATISTICS.

    Returns:
        None if they have no round in common.
    """
    by_round = {process["round"]: process for process in other}
    found = []
    for process in one:
        if (partner := by_round.get(process["round"])) is not None:
            # within a turn the machine is the same for both, so the ratio of each turn is what drift leaves alone; the
            # median of the turns, because other work delays single ones
            pairs = zip(process["turns"], partner["turns"], strict=True)
            found.append(median([_of_turn(mine, name) / _of_turn(its, name) for mine, its in pairs]))
    return positive_interval(found) if found else None


def _of_turn(turn: Mapping[str, Any], name: str) -> float:
    return STATISTICS[name](sorted(turn["calls_s"]))


def worst_drift(processes: Sequence[Process]) -> float:
    """Return the clock's largest change beside the processes, as a ratio of at least 1."""
    return max((max(process["drift"], 1 / process["drift"]) for process in processes), default=1.0)


def drift_seen(processes: Sequence[Process]) -> float:
    """Return by how much the clock has changed in half of the rounds, a ratio of at least 1; 1 within the bound."""
    # The middle one: other work may disturb a single round by a factor, of which paired turns and medians keep little.
    middle = median([max(process["drift"], 1 / process["drift"]) for process in processes]) if processes else 1.0
    return middle if drifted(middle) else 1.0
