"""What a study measures with the machine to itself: a few steps of each arm before it begins, pace and costs.

Each measurement is a process of its own, so that one arm's memory and threads do not reach the next.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from pathlib import Path
from typing import Any

from effbench.errors import ConfigError, EffbenchError
from effbench.jobs.processes import Relay, called
from effbench.study.collect import best_settings
from effbench.study.ledger import Ledger
from effbench.study.measure import PROBE_STEPS, TIMED_STEPS, Probe, inference_costs, probe
from effbench.study.plan import StudyPlan

log = logging.getLogger(__name__)

NO_SPACE = os.strerror(errno.ENOSPC)  # in the text of an error that came from another process
PACE_ROUNDS = 3  # the smallest number whose median ignores one disturbed round


def probe_arms(plan: StudyPlan, relay: Relay) -> dict[str, Probe]:
    """Train a few steps of every arm with its defaults, which proves that it can be built, and return what it took.

    Args:
        plan: the plan.
        relay: passes signals on; after one, arms are missing in the result.

    Raises:
        ConfigError: an arm cannot be built, or the data have no validation or test split.
    """
    found = {}
    for arm in plan.arms:
        try:
            result = probe_arm(plan, relay, arm.name)
        except EffbenchError as error:
            if NO_SPACE in str(error):  # not the arm's fault
                raise
            raise ConfigError(f"arm {arm.name} cannot be built: {error}") from error
        if result is None:
            break
        # the dataset knows its splits, not the config; without one of them the study would fail after the tuning
        for split, remedy in (("val", "set data.val_fraction"), ("test", "take other data")):
            if split not in result.splits:
                what = {"val": "validation", "test": "test"}[split]
                raise ConfigError(f"arm {arm.name} has no {what} split, and a study needs one: {remedy}.")
        found[arm.name] = result
    return found


def probe_arm(plan: StudyPlan, relay: Relay, arm: str) -> Probe | None:
    """Train a few steps of an arm with its defaults; return what it took, or None if a signal arrived.

    Args:
        plan: the plan.
        relay: passes signals on.
        arm: name of the arm.

    Raises:
        EffbenchError: the arm does not train on this machine.
    """
    words = [*plan.words(arm, {}, plan.tuning_seed, tests=False), *plan.session_words]
    return called(relay, probe, words, _scratch(plan), PROBE_STEPS, plan.config_dir)


def measured(plan: StudyPlan, ledger: Ledger, relay: Relay, at_end: bool) -> dict[str, dict[str, Any]] | None:
    """Measure all arms in turns; return arm -> {rounds, ...}, or None if a signal arrived.

    Args:
        plan: the plan.
        ledger: its tasks.
        relay: passes signals on.
        at_end: False: the pace, before tuning; True: the costs of the best settings, after all runs.
    """
    rounds = plan.keys.timing_rounds if at_end else PACE_ROUNDS
    log.info(f"measuring step times alone: {rounds} rounds over {len(plan.arms)} arms")
    words = {}
    for arm in plan.arms:
        # The setting may change the speed (dropout, batch size): the best one, or the defaults before tuning.
        chosen = best_settings(plan, ledger, arm.name) or {}
        words[arm.name] = [*plan.words(arm.name, chosen, plan.tuning_seed, tests=False), *plan.session_words]

    found: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in plan.arms}
    for number in range(rounds):
        # every second round backwards: a clock that drifts evenly does not favour an arm
        for arm in plan.arms if number % 2 == 0 else plan.arms[::-1]:
            one = called(relay, probe, words[arm.name], _scratch(plan), TIMED_STEPS, plan.config_dir)
            if one is None:
                return None
            found[arm.name].append(one.record())
            ledger.workers.beat()  # all arms together may take longer than a worker may be silent
    records: dict[str, dict[str, Any]] = {arm: {"rounds": each} for arm, each in found.items()}
    if not at_end:
        return records

    # after the step times: they would keep caches and the clock busy between two rounds
    for arm_name, record in records.items():
        costs = called(relay, inference_costs, words[arm_name], plan.config_dir)
        if costs is None:
            return None
        record.update(costs)
    return records


def _scratch(plan: StudyPlan) -> Path:
    """Return a new folder's path for a short run; workers of one machine differ in the nanosecond."""
    return plan.folder / f".probe-{time.monotonic_ns()}"
