"""The figures of docs/golden_rules.md, from a study's folder: python -m benchmarks.golden_rules [FOLDER]

They go beyond the study's own page in two ways. Steps to target: the study has one target, which no Swin reached; here
each model has its own, the median best validation of its AdamW arm (chosen after the runs were seen, so without a
verdict). Step times: the study voids an arm of which one round was disturbed; here are the ratios of all rounds, in
which the arms took turns, with their interval.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench.stats import Interval, mean_interval
from effbench.study.survival import restricted_times
from effbench.study.table import curves_from_json, table_from_json

FOLDER = Path(__file__).parents[1] / "docs" / "studies" / "golden_rules"
BASELINE = "adamw"
ROUNDING = 1e-7  # curves.json has eight digits
Rounds = Mapping[str, Sequence[Mapping[str, Any]]]  # arm -> its timed rounds


def main(folder: Path) -> None:
    table = table_from_json((folder / "table.json").read_text())
    curves = curves_from_json((folder / "curves.json").read_text())
    models = list(dict.fromkeys(arm.name.partition("-")[0] for arm in table.arms))
    optimizers = list(dict.fromkeys(arm.name.partition("-")[2] for arm in table.arms))
    rounds = timed_rounds(folder / "journal.log")
    costs = {cost.arm: cost for cost in table.costs}

    print(f"| model | optimizer | step time / {BASELINE} | rounds | state, bytes a parameter | peak memory |")
    print("| --- | --- | --- | --- | --- | --- |")
    for model in models:
        for optimizer in optimizers:
            cost = costs[f"{model}-{optimizer}"]
            ratio, count = step_ratio(rounds, f"{model}-{optimizer}", f"{model}-{BASELINE}")
            state, peak = cost.optimizer_state_bytes, cost.peak_memory_bytes
            assert state is not None
            assert peak is not None
            print(
                f"| {model} | {optimizer} | {ratio} | {count} | {state / cost.parameters:.1f} | {peak / 1e6:.0f} MB |"
            )

    print(f"\n| model | optimizer | target | reached | mean steps | steps - {BASELINE}'s | steps / {BASELINE}'s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for model in models:
        best = [max(value for _, value in run) for run in curves[f"{model}-{BASELINE}"]]
        target = statistics.median(best) - ROUNDING
        base = steps_to(curves[f"{model}-{BASELINE}"], target)
        for optimizer in optimizers:
            steps = steps_to(curves[f"{model}-{optimizer}"], target)
            reached = sum(max(value for _, value in run) >= target for run in curves[f"{model}-{optimizer}"])
            difference = mean_interval([a - b for a, b in zip(steps, base, strict=True)])
            apart = f"{difference.estimate:+.0f} [{difference.low:+.0f}, {difference.high:+.0f}]"
            mean, ratio = statistics.mean(steps), statistics.mean(steps) / statistics.mean(base)
            print(
                f"| {model} | {optimizer} | {100 * target:.2f} % | {reached} of {len(steps)} | {mean:.0f} | "
                f"{'' if optimizer == BASELINE else apart} | {ratio:.2f} |"
            )


def timed_rounds(journal: Path) -> Rounds:
    """Return the timed rounds of each arm; the last such record of the journal counts."""
    found: Rounds = {}
    for line in journal.read_text().splitlines():
        if '"rounds"' in line:
            arms = json.loads(line)["user_attr"]["outcome"]["arms"]
            found = {arm: measured["rounds"] for arm, measured in arms.items()}
    return found


def step_ratio(rounds: Rounds, arm: str, base: str) -> tuple[str, int]:
    """Return the ratio of step times over rounds with its 95 % interval, of logarithms, and the number of rounds."""
    logs = [math.log(a["step_s"] / b["step_s"]) for a, b in zip(rounds[arm], rounds[base], strict=True)]
    if arm == base:
        return "1", len(logs)
    found: Interval = mean_interval(logs)
    low, middle, high = (math.exp(each) for each in (found.low, found.estimate, found.high))
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]", len(logs)


def steps_to(runs: Sequence[Sequence[tuple[float, float]]], target: float) -> list[float]:
    """Return the steps of each run to the target, restricted to the run's length where it was not reached."""
    hits = [next((step for step, value in run if value >= target), None) for run in runs]
    horizon = max(step for run in runs for step, _ in run)
    times = [horizon if hit is None else hit for hit in hits]
    return [float(each) for each in restricted_times(times, [hit is not None for hit in hits], horizon)]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
