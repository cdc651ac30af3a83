"""From finished runs to the outcomes that a storage keeps, and from these to the table of a study.

An outcome holds all that the table needs, so that a study can be read, and gone on with, without its run folders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench.callbacks import PREDICTIONS
from effbench.config.compare import config_digest
from effbench.guarded import MissingFileError, read_text
from effbench.records import FINISHED, read_metrics, read_summary
from effbench.run.load import recorded_config
from effbench.stats import Interval, mean_interval, median
from effbench.study.deployment import cost_fields
from effbench.study.ledger import Ledger, Task
from effbench.study.plan import StudyPlan
from effbench.study.table import (
    FROM_STEPS,
    MEASURED,
    Confirmation,
    Cost,
    Curves,
    Setting,
    StudyTable,
    TargetSource,
    Trial,
    baselines,
    bits,
    finite,
)
from effbench.summary_schema import IMAGE

_MOST_BYTES = 500_000_000  # of predictions.csv, 13 bytes a sample: the limit keeps a wrong file out of the memory
LEAST_ROUNDS = 3  # undisturbed, for a step time: with two, the factor of a 95 % t interval is 12.7, with three 4.3
# fields that trials and final runs take from an outcome as they are
_SHARED = ("steps", "commit", "machine", "status", "epochs", "run", "digest")


def outcome_of(folder: Path, metric: str, name: str) -> dict[str, Any]:
    """Return what is kept of a run.

    Args:
        folder: of the run; it holds a summary.
        metric: that the study compares, such as acc.
        name: of the folder, in the study's folder.
    """
    summary = read_summary(folder)
    # A run that diverged may have had a good value before: that it cannot be trained with this setting counts.
    best, finished = summary.get("best") or {}, summary["status"] in FINISHED
    data, environment = summary.get("data") or {}, summary.get("environment") or {}
    # A name that is equal for machines that train alike, such as the nodes of a cluster: no host name.
    gpus = "".join(f", {name}" for name in environment.get("gpus") or [])
    machine = f"{environment.get('cpu')}, {environment.get('cores')} cores{gpus}, torch {environment.get('torch')}"
    outcome: dict[str, Any] = {
        "status": summary["status"],
        "value": best.get("value") if finished else None,
        "test": (summary.get("metrics") or {}).get(f"test/{metric}") if finished else None,
        "steps": summary.get("steps") or 0,
        "epochs": summary.get("epochs"),
        "seconds": (summary.get("timing") or {}).get("training_s") or 0.0,
        "commit": _program(summary),
        "machine": machine,
        "data": data.get("sha256") or "",
        "test_split": data.get("test_split") or "",
        "run": name,
        "digest": config_digest(recorded_config(folder)) if (folder / "config.yaml").is_file() else "",
        "error": summary.get("error") or summary.get("stop_reason"),
        "curve": _curve(folder, metric),
    }
    return outcome | (_predictions(folder) if finished else {})


def _program(summary: Mapping[str, Any]) -> str:
    """Return a text that names the effbench that ran: its commit, or its version where it is installed."""
    # older records have the commit of the folder in which the command was given alone
    state = (summary["program"] if "program" in summary else summary.get("git")) or {}
    if state.get("commit"):
        return f"{state['commit']}{' (changed)' if state.get('dirty') else ''}"
    return f"effbench {(summary.get('environment') or {}).get('effbench')}"


def failed_outcome(text: str, name: str) -> dict[str, Any]:
    """Return the outcome of a run that could not be finished.

    Args:
        text: the reason.
        name: of the folder, in the study's folder.
    """
    empty = {"value": None, "test": None, "steps": 0, "epochs": None, "seconds": 0.0, "commit": "", "machine": ""}
    return {"status": "failed", **empty, "run": name, "digest": "", "error": text, "curve": []}


def _curve(folder: Path, metric: str) -> list[list[float]]:
    """Return [step, validation metric] of each validation."""
    try:
        rows = read_metrics(folder)
    except MissingFileError:
        return []
    column = f"val/{metric}"
    # metrics.csv also has a row every few steps; a validation fills the metric's column in the row of its epoch
    return [[int(row["step"]), float(row[column])] for row in rows if row.get("row") == "epoch" and row.get(column)]


def _predictions(folder: Path) -> dict[str, Any]:
    """Return the bits of the correct test samples, as hexadecimal digits, and the sha256 of the targets."""
    try:
        lines = read_text(folder / PREDICTIONS, _MOST_BYTES).splitlines()[1:]
    except MissingFileError:
        return {}
    # Only whether a sample was right: that pairs the samples of two arms, and 10,000 of them are 2,500 digits in the
    # journal, a fiftieth of the file with its probabilities.
    pairs = [line.split(",")[:2] for line in lines]
    bits = "".join("1" if target == predicted else "0" for target, predicted in pairs)
    targets = hashlib.sha256(",".join(target for target, _ in pairs).encode()).hexdigest()
    # A run that predicts one class has learnt nothing; its bits alone cannot tell, and equal bits would look copied.
    classes, predicted = ({pair[at] for pair in pairs} for at in (0, 1))
    one_class = len(predicted) == 1 < len(classes)
    return {
        "samples": len(bits), "correct": f"{int(bits or '0', 2):x}", "targets": targets, "one_class": one_class
    }  # fmt: skip


def bits_of(outcome: Mapping[str, Any]) -> bytes | None:
    """Return the correct test samples of an outcome; None if it has no predictions."""
    if "correct" not in outcome:
        return None
    # with the number of samples, because leading zeros (wrong predictions) are no part of a number
    return bits(f"{int(outcome['correct'], 16):0{outcome['samples']}b}")


# --- the choice between phases ----------------------------------------------------------------------------------------


def best_settings(plan: StudyPlan, ledger: Ledger, arm: str) -> dict[str, Setting] | None:
    """Return an arm's best setting; None while its tuning goes on.

    Of equal values the first counts. If every trial diverged, the first setting is run: its runs count as misses.

    Args:
        plan: the plan.
        ledger: its tasks.
        arm: name of the arm.
    """
    ended = ledger.outcomes("tune", arm)
    if len(ended) < plan.keys.trials:
        return None
    sign = 1 if plan.mode == "max" else -1
    # By validation alone. -index: of equal values the first, whatever order the workers finished in.
    valued = [(index, outcome["value"]) for index, (_, outcome) in ended.items() if outcome["value"] is not None]
    best = max(valued, key=lambda pair: (sign * pair[1], -pair[0]))[0] if valued else 0
    return dict(ended[best][0].settings)


# --- the table --------------------------------------------------------------------------------------------------------


def table_of(plan: StudyPlan, ledger: Ledger) -> StudyTable:
    """Return the table of a study, complete or not."""
    costs = costs_of(ledger)
    final = {arm.name: ledger.outcomes("confirm", arm.name) for arm in plan.arms}
    targets, source = _targets(plan, final)
    step_s = {cost.arm: cost.step_seconds.estimate for cost in costs}
    clocked = len(step_s) == len(plan.arms)  # one clock for all arms: a mixture would favour some
    confirmations = [
        _confirmation(task, outcome, plan.mode, targets.get(task.arm), step_s[task.arm] if clocked else None)
        for ended in final.values()
        for _, (task, outcome) in sorted(ended.items())
    ]
    trials = [
        Trial(
            arm=task.arm,
            number=task.index,
            settings=dict(task.settings),
            seed=task.seed,
            value=outcome["value"],
            # as measured: trials are compared by value alone
            seconds=outcome["seconds"],
            steps_to_target=_steps_to_target(outcome, targets.get(task.arm), plan.mode),
            reason=outcome.get("error") or "",
            **_shared(outcome),
        )
        for arm in plan.arms
        for _, (task, outcome) in sorted(ledger.outcomes("tune", arm.name).items())
    ]
    # one level for all arms is the study's target
    same = len(targets) == len(plan.arms) and len(set(targets.values())) == 1
    # Predictions are paired by sample only if all runs had the same samples in the same order. Equal targets alone do
    # not show it: where a draw keeps the order of the classes, those of any two draws are equal.
    outcomes = [outcome for ended in final.values() for _, outcome in ended.values()]
    labels = {outcome["targets"] for outcome in outcomes if "targets" in outcome}
    test_split = next((found for outcome in outcomes if (found := outcome.get("test_split"))), "")
    return StudyTable(
        name=plan.name,
        arms=tuple(each.arm for each in plan.arms),
        pairs=plan.pairs,
        trials=tuple(trials),
        confirmations=tuple(confirmations),
        costs=costs,
        metric=plan.metric,
        mode=plan.mode,
        as_percent=plan.display.as_percent,
        unit=plan.display.unit,
        digits=plan.display.digits,
        planned_trials=plan.keys.trials,
        sampler=plan.keys.sampler,
        planned_seeds=plan.seeds,
        planned_epochs=plan.keys.epochs,
        planned_seconds=plan.keys.seconds,
        target=next(iter(targets.values())) if same else None,
        targets={} if same else targets,
        target_source=source,
        baseline=plan.baseline,
        same_test_samples=len(labels) <= 1 and not test_split,
        test_split=test_split,
        clock=FROM_STEPS if clocked else MEASURED,
    )


def _confirmation(
    task: Task, outcome: Mapping[str, Any], mode: str, target: float | None, step_s: float | None
) -> Confirmation:
    steps = _steps_to_target(outcome, target, mode)
    # Runs shared the machine, so their own seconds are too long, and not alike: steps x the step time measured alone.
    each = step_s if step_s is not None else outcome["seconds"] / max(1, outcome["steps"])
    return Confirmation(
        arm=task.arm,
        seed=task.seed,
        validation=outcome["value"],
        test=outcome["test"],
        steps_to_target=steps,
        seconds_to_target=None if steps is None else steps * each,
        seconds=outcome["steps"] * each,
        correct=bits_of(outcome),
        settings=dict(task.settings),
        reason=outcome.get("error") or "",
        one_class=outcome.get("one_class", False),
        **_shared(outcome),
    )


def _shared(outcome: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: outcome[key] for key in _SHARED}, "data": outcome.get("data", "")}  # older ones have no data


def _steps_to_target(outcome: Mapping[str, Any], target: float | None, mode: str) -> float | None:
    # a diverged run is a miss, even if it had reached the target before
    return steps_to(outcome["curve"], target, mode) if outcome["status"] in FINISHED else None


def steps_to(curve: Sequence[Sequence[float]], target: float | None, mode: str) -> float | None:
    """Return the step of the first validation that reaches the target; None for a miss.

    Args:
        curve: (step, value) of each validation.
        target: value to reach, or None.
        mode: max or min.
    """
    if target is None:
        return None
    reached = [step for step, value in curve if (value >= target if mode == "max" else value <= target)]
    return float(reached[0]) if reached else None


def _targets(
    plan: StudyPlan, final: Mapping[str, Mapping[int, tuple[Task, Mapping[str, Any]]]]
) -> tuple[dict[str, float], TargetSource]:
    """Return (arm -> target, where they come from): given, or the median best validation of a baseline's final runs.

    Args:
        plan: the plan.
        final: arm -> outcomes of its final runs. An arm whose baseline has none has no target.
    """
    wanted = plan.keys.target
    if wanted is None:
        return {}, "none"
    if wanted != "median":
        return {arm.name: float(wanted) for arm in plan.arms}, "given"
    own = baselines([each.arm for each in plan.arms], plan.baseline) if plan.rules.target_per_model else {}
    targets = {}
    for arm in plan.arms:
        baseline = own.get(arm.arm.model, plan.baseline)
        values = [value for _, outcome in final[baseline].values() if (value := outcome["value"]) is not None]
        if values:
            # to the digits of metrics.csv, so that the run that sets the target reaches it
            targets[arm.name] = float(f"{median(values):.8g}")
    return targets, "validation" if targets else "none"


def costs_of(ledger: Ledger) -> tuple[Cost, ...]:
    """Return the costs of the arms, as measured last; () before they are measured."""
    ended = ledger.outcomes("cost", "")
    if not ended:
        return ()
    measured: Mapping[str, Any] = ended[max(ended)][1]["arms"]
    costs = []
    for arm, record in measured.items():
        chosen, is_clean = undisturbed(record)
        rounds = [_with_samples(each) for each in chosen]
        times = [each["step_s"] for each in rounds]
        costs.append(
            Cost(
                arm=arm,
                step_seconds=_step_seconds(times),
                samples_per_second=median([each["samples_per_s"] for each in rounds]),
                unit=rounds[0]["unit"],
                # a search space has a setting at least; older records do not say with which one they were measured
                defaults=record.get("settings") == {},
                # the most, because that much memory a machine must have
                peak_memory_bytes=max(each["peak_bytes"] for each in rounds),
                optimizer_state_bytes=record["optimizer_state_bytes"],
                parameters=rounds[0]["parameters"],
                macs=rounds[0]["macs"],
                # of the deployment, where it was measured
                **({"latency_p50_seconds": record["latency_p50_s"]} | _deployment(record)),
                contaminated=not is_clean,
            )
        )
    return tuple(costs)


def _deployment(record: Mapping[str, Any]) -> dict[str, Any]:
    # older records, and those of a machine without these runtimes, have none
    failure = {"deployment_failure": record.get("deployment_failure", "")}
    return cost_fields(record["deployment"]) if "deployment" in record else failure


def undisturbed(record: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], bool]:
    """Return (an arm's undisturbed rounds, True); (all of them, False) where too few are undisturbed.

    Args:
        record: of the arm, as `measured` returns it.
    """
    rounds: list[Mapping[str, Any]] = record["rounds"]
    clean = [each for each in rounds if not each["contaminated"]]
    # one disturbed round moves the mean; older records do not say how many were planned, and had no repetitions
    enough = min(record.get("wanted", len(rounds)), LEAST_ROUNDS)
    return (clean, True) if len(clean) >= enough else (rounds, False)


def _with_samples(one: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a round with its throughput; those of schema 1 of the table counted images, whatever the samples were."""
    return one if "samples_per_s" in one else {**one, "samples_per_s": one["images_per_s"], "unit": IMAGE}


def _step_seconds(times: Sequence[float]) -> Interval:
    # one round tells nothing about its error: an interval without upper end
    found = mean_interval(times)
    return replace(found, low=max(0.0, found.low))  # disturbed rounds vary so much that it would reach below 0


def curves_of(plan: StudyPlan, ledger: Ledger) -> Curves:
    """Return arm -> (step, validation metric) of each of its final runs that have a result."""
    # the mean of the runs that go on would jump where one diverges: figures leave it out, and tables count it
    return {
        arm.name: [
            [(int(step), value) for step, value in outcome["curve"] if finite(value) is not None]
            for _, (_, outcome) in sorted(ledger.outcomes("confirm", arm.name).items())
            if outcome["status"] in FINISHED
        ]
        for arm in plan.arms
    }
