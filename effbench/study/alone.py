"""What a study measures with the machine to itself: a few steps of each arm before it begins, pace and costs.

Each measurement is a process of its own, so that one arm's memory and threads do not reach the next.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effbench.errors import ConfigError, EffbenchError
from effbench.jobs.processes import Relay, called
from effbench.run.load import targets_from
from effbench.run.outcome import DIVERGED
from effbench.run.overrides import override_key
from effbench.study.collect import best_settings
from effbench.study.deployment import AGAIN, Candidate, backends, deployed, kept_run, measures_deployment
from effbench.study.ledger import Ledger
from effbench.study.measure import PROBE_STEPS, TIMED_STEPS, Probe, inference_costs, probe
from effbench.study.plan import StudyPlan
from effbench.study.table import Setting
from effbench.units import counted

log = logging.getLogger(__name__)

NO_SPACE = os.strerror(errno.ENOSPC)  # in the text of an error that came from another process
PACE_ROUNDS = 3  # the smallest number whose median ignores one disturbed round
MOST_REPEATS = 2  # of a disturbed measurement, at once: on a machine that is never idle a study still ends


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


def probe_arm(plan: StudyPlan, relay: Relay, arm: str, alive: Callable[[], None] | None = None) -> Probe | None:
    """Train a few steps of an arm with its defaults; return what it took, or None if a signal arrived.

    Args:
        plan: the plan.
        relay: passes signals on.
        arm: name of the arm.
        alive: called every few seconds meanwhile.

    Raises:
        EffbenchError: the arm does not train on this machine.
    """
    words = _words(plan, arm, {})
    return called(relay, probe, words, _scratch(plan), PROBE_STEPS, plan.config_dir, alive=alive)


def measured(plan: StudyPlan, ledger: Ledger, relay: Relay, at_end: bool) -> dict[str, dict[str, Any]] | None:
    """Measure all arms in turns; return arm -> {rounds, ...}, or None if a signal arrived.

    An arm that does not train for so many steps with its best setting is measured with its defaults. One that diverges
    with these, too, is left out at the end: no arm keeps the others from their results.

    Args:
        plan: the plan.
        ledger: its tasks.
        relay: passes signals on.
        at_end: False: the pace, before tuning; True: the costs of the best settings, after all runs.

    Raises:
        EffbenchError: no space is left, this machine does not train an arm, or one has no pace, which its runs need.
    """
    rounds = plan.keys.timing_rounds if at_end else PACE_ROUNDS
    log.info(f"measuring step times alone: {rounds} rounds over {len(plan.arms)} arms")
    arms = [_Measured(arm.name, rounds, _tries(best_settings(plan, ledger, arm.name))) for arm in plan.arms]
    for number in range(rounds):
        # every second round backwards: a clock that drifts evenly does not favour an arm
        for arm in arms if number % 2 == 0 else arms[::-1]:
            if not _add_round(plan, ledger, relay, arm):
                return None
            if arm.failed and (not at_end or DIVERGED not in arm.failed):
                raise EffbenchError(f"arm {arm.name} does not train on this machine: {arm.failed}")
    records: dict[str, dict[str, Any]] = {arm.name: arm.record() for arm in arms if arm.tries}
    if not at_end:
        return records

    # after the step times: they would keep caches and the clock busy between two rounds
    deployments, failure = dict[str, dict[str, Any]](), ""
    if measures_deployment(plan):
        try:
            found = _deployments(plan, ledger, relay, records)
        except EffbenchError as error:
            if NO_SPACE in str(error):
                raise
            # a study has its result without it
            found, failure = {}, str(error)
            log.warning(f"deployment is not measured: {failure} {AGAIN}")
        if found is None:
            return None
        deployments = found
    for name, record in records.items():
        words = _words(plan, name, record["settings"])
        # one latency an arm: that of its deployment, where it was measured
        costs = called(relay, inference_costs, words, plan.config_dir, not deployments, alive=ledger.workers.beat)
        if costs is None:
            return None
        record.update(costs)
        if name in deployments:
            record["deployment"] = deployments[name]
        elif failure:
            record["deployment_failure"] = failure
    return records


def _deployments(
    plan: StudyPlan, ledger: Ledger, relay: Relay, records: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]] | None:
    """Measure the best run of each arm in deployment; return arm -> its record, or None if a signal arrived.

    Args:
        plan: the plan.
        ledger: its tasks.
        relay: passes signals on.
        records: arm -> what was measured of it so far.

    Raises:
        EffbenchError: no backend works, a model cannot be built, or the measuring process was killed.
    """
    candidates = []
    for name, record in records.items():
        kept = kept_run(plan, ledger, name)
        folder, value = kept if kept else (None, None)
        candidates.append(Candidate(name, tuple(_words(plan, name, record["settings"])), folder, value))
    rounds = plan.keys.deployment_rounds
    log.info(f"measuring deployment alone: {', '.join(backends())}, {counted(rounds, 'round')}")
    targets = [word.partition("=")[2] for word in plan.session_words if override_key(word) == "allow_targets"]
    allowed = targets_from(targets[-1]) if targets else []
    place = (plan.folder, rounds, plan.keys.threads, allowed, plan.config_dir)
    return called(relay, deployed, candidates, *place, alive=ledger.workers.beat)


@dataclass
class _Measured:
    """An arm that is measured.

    Attributes:
        name: of the arm.
        wanted: rounds that the plan asks for.
        tries: (settings, steps) with which it is measured, and what follows if that fails; empty if all have failed.
        rounds: what was measured; each disturbed measurement is followed by its repetition.
        failed: the error of the last try; '' while there are tries.
    """

    name: str
    wanted: int
    tries: list[tuple[Mapping[str, Setting], int]]
    rounds: list[dict[str, Any]] = field(default_factory=list)
    failed: str = ""

    def record(self) -> dict[str, Any]:
        settings, steps = self.tries[0]
        return {"rounds": self.rounds, "wanted": self.wanted, "settings": dict(settings), "steps": steps}


def _tries(best: Mapping[str, Setting] | None) -> list[tuple[Mapping[str, Setting], int]]:
    """Return (settings, steps) with which an arm is measured, most wanted first. best: None before its tuning ended."""
    # Its best setting, because that may change the speed (dropout, batch size). But in a short run the warm-up is
    # short, too, and a large lr diverges that a whole run survives. The last one was taken before the study began.
    return [*([(best, TIMED_STEPS)] if best else []), ({}, TIMED_STEPS), ({}, PROBE_STEPS)]


def _add_round(plan: StudyPlan, ledger: Ledger, relay: Relay, arm: _Measured) -> bool:
    """Measure an arm once more, by the first of its tries that succeeds; return False if a signal arrived.

    A disturbed measurement is repeated at once, not after the last round: the arms stay in turns.
    """
    repeats = 0
    while arm.tries:
        settings, steps = arm.tries[0]
        words, beat = _words(plan, arm.name, settings), ledger.workers.beat
        try:
            one = called(relay, probe, words, _scratch(plan), steps, plan.config_dir, alive=beat)
        except EffbenchError as error:
            if NO_SPACE in str(error):  # not the arm's fault
                raise
            # rounds with other settings are no repetitions of those that follow
            arm.tries, arm.rounds, repeats = arm.tries[1:], [], 0
            if not arm.tries:
                arm.failed = str(error)
            remedy = "its defaults are measured" if arm.tries else "its costs are not known"
            log.warning(f"arm {arm.name}: {steps} steps to measure the step time: {str(error).rstrip('.')}; {remedy}")
            continue
        if one is None:
            return False
        arm.rounds.append(one.record())
        if not one.contaminated or repeats == MOST_REPEATS:
            return True
        repeats += 1
    return True


def _words(plan: StudyPlan, arm: str, settings: Mapping[str, Setting]) -> list[str]:
    return [*plan.words(arm, settings, plan.tuning_seed, tests=False), *plan.session_words]


def _scratch(plan: StudyPlan) -> Path:
    """Return a new folder's path for a short run; workers of one machine differ in the nanosecond."""
    return plan.folder / f".probe-{time.monotonic_ns()}"
