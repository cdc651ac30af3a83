"""The tasks of a plan, phase by phase: pace, tune, confirm, cost.

pace      with a budget in seconds alone: every arm's step time, from which its runs get their steps
tune      study.trials runs an arm with sampled settings and one seed
confirm   study.seeds runs of each arm's best setting with new seeds
cost      step time, memory and latency of every arm's best setting
"""

from __future__ import annotations

from dataclasses import replace

from effbench.stats import median
from effbench.study.collect import best_settings, undisturbed
from effbench.study.ledger import Ledger, Task
from effbench.study.measure import steps_in
from effbench.study.plan import StudyPlan
from effbench.study.space import sampled
from effbench.study.storage import distributions, opened

# One task each for all arms, so that one worker measures them in turns: what slows the machine slows every arm.
PACE, COST = Task("pace", "", 0), Task("cost", "", 0)


def cost_task(ledger: Ledger, again: bool = False) -> Task:
    """Return the measurement of the costs. again: one that follows those that have ended."""
    return replace(COST, index=len(ledger.outcomes(COST.phase, COST.arm))) if again else COST


def ledger_of(plan: StudyPlan) -> Ledger:
    """Return the study's tasks in its storage. Raises ConfigError if the storage does not answer."""
    ranges = {arm.name: distributions(arm.space.record()) for arm in plan.arms}
    storage = opened(plan.keys.storage, plan.folder)
    # with the digest, because a database holds many studies, and a changed study is another one; 12 digits name it
    return Ledger(storage, f"{plan.name}-{plan.digest[:12]}", plan.mode == "max", ranges)


def tuning_tasks(plan: StudyPlan) -> list[Task]:
    """Return all tuning runs: the first of every arm, then the second, so that a part of a study is balanced."""
    keys = plan.keys
    samples = {arm.name: sampled(arm.space, keys.trials, keys.seed, keys.sampler) for arm in plan.arms}
    return [
        Task("tune", arm.name, index, plan.tuning_seed, samples[arm.name][index])
        for index in range(keys.trials)
        for arm in plan.arms
    ]


def final_tasks(plan: StudyPlan, ledger: Ledger) -> list[Task]:
    """Return the final runs of the arms whose tuning has ended, seed by seed."""
    chosen = {arm.name: best_settings(plan, ledger, arm.name) for arm in plan.arms}
    return [
        # seed by seed: an interrupted study then has as many complete pairs as possible
        Task("confirm", name, index, seed, settings)
        for index, seed in enumerate(plan.seeds)
        for name, settings in chosen.items()
        if settings is not None
    ]


def steps_of(plan: StudyPlan, ledger: Ledger, arm: str) -> int | None:
    """Return the steps of each run of an arm, for a budget in seconds; None for one in epochs.

    Args:
        plan: the plan.
        ledger: its tasks; the pace has been measured.
        arm: name of the arm.
    """
    if plan.keys.seconds is None:
        return None
    # From the storage, not measured by each worker: the runs of an arm have equally many steps on every machine.
    rounds, _ = undisturbed(ledger.outcomes(PACE.phase, PACE.arm)[0][1]["arms"][arm])
    # the median, because one disturbed round would shorten every run of this arm
    return steps_in(plan.keys.seconds, median([each["step_s"] for each in rounds]))
