"""`effbench study`: plan, freeze, work, analyse, and write the page."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from effbench.errors import ConfigError, EffbenchError, first_line
from effbench.jobs.processes import Relay, relaying
from effbench.log import at_level
from effbench.records import STUDY_FILE, naming_place, require_writable
from effbench.redaction import redact
from effbench.run.lock import NAME as LOCK
from effbench.run.lock import holding
from effbench.strict_json import print_json
from effbench.study.alone import probe_arms
from effbench.study.analysis import analyse
from effbench.study.collect import curves_of, table_of
from effbench.study.engine import GO_ON, Engine
from effbench.study.estimate import Estimate
from effbench.study.frozen import freeze, refuse_strangers
from effbench.study.live import board
from effbench.study.page import write_page
from effbench.study.plan import FOLDER, StudyPlan
from effbench.study.report import ended_runs, print_study
from effbench.study.storage import check_answers, opened, optuna_library
from effbench.study.tasks import ledger_of
from effbench.units import counted

log = logging.getLogger(__name__)

_YOUNG_S = 10.0  # a folder without a lock that is younger may be that of a run that begins, or that ends


def plan_only(plan: StudyPlan, as_json: bool) -> int:
    """Print what the study would run, how long it takes and what it can tell apart; return the exit code.

    Args:
        plan: the checked plan.
        as_json: print JSON.

    Raises:
        ConfigError: the folder holds another study.
    """
    with _naming_faults(), relaying() as relay, _leaving_no_empty_folder(plan.folder):
        refuse_strangers(plan)
        if begun := (plan.folder / STUDY_FILE).exists():
            plan = freeze(plan)  # it only reads
        if plan.keys.storage is not None:
            check_answers(plan.keys.storage)
        estimate = _estimate(plan, relay)
    if estimate is None:
        log.info("interrupted; nothing is written")
        return 128 + relay.signals[0]
    if begun:
        # of a database nothing is known without joining it
        ended = ended_runs(plan.folder) if plan.keys.storage is None else None
        estimate = replace(estimate, begun=True, ended=None if ended is None else len(ended))
    if as_json:
        print_json(estimate.record())
    else:
        estimate.show()
        log.info(f"to {'go on with' if begun else 'start'} it: the same command without --plan")
    return 0


def run_study(plan: StudyPlan, command: str, as_json: bool, costs_again: bool = False) -> int:
    """Run the study, or go on with it, until nothing is left; return the exit code.

    Args:
        plan: the checked plan.
        command: that goes on with it.
        as_json: print the result as JSON.
        costs_again: measure the costs of its arms once more at the end, and judge by these.

    Raises:
        ConfigError: the folder holds another study, or the costs cannot be measured again.
    """
    if costs_again and not plan.keys.timing_rounds:
        raise ConfigError("--costs measures step times, and study.timing_rounds is 0: this study has none.")
    optuna_library()  # refuses a missing extra, before anything is read or written
    with _naming_faults():
        with relaying() as relay:
            refuse_strangers(plan)
            is_new = not (plan.folder / STUDY_FILE).exists()
            if not is_new:
                plan = freeze(plan)  # refuses another study
            if plan.keys.storage is not None:
                opened(plan.keys.storage, plan.folder)  # refuses a storage that does not answer
            # Frozen only after every arm has trained a few steps: a folder of a study that cannot run would refuse the
            # mended words as another study.
            if is_new:
                with _leaving_no_empty_folder(plan.folder):
                    estimate = _estimate(plan, relay)
                    if estimate is None:
                        log.info("interrupted before the study began; nothing is written")
                        return 128 + relay.signals[0]
                    log.info(estimate.line())
                    plan = freeze(plan)
            ledger = ledger_of(plan)
            log.info(f"study {plan.name}, {plan.digest[:12]} -> {plan.folder}")
            with board() as shown:
                complete = Engine(plan, ledger, relay, shown, costs_again).work()
        # outside of the relay: Ctrl-C ends the analysis, which can be made again
        table = table_of(plan, ledger)
        result = analyse(table, plan.rules)
        path = write_page(plan.folder, table, result, curves_of(plan, ledger))
    if complete:
        _remove_scratch(plan.folder)
        return print_study(plan.folder, table, result, path, as_json)
    wanted = {"tune": plan.keys.trials, "confirm": plan.keys.seeds}
    ended = sum(len(ledger.outcomes(phase, arm.name)) for phase in wanted for arm in plan.arms)
    left = counted(sum(wanted.values()) * len(plan.arms) - ended, "run")
    log.info(f"interrupted; {left} left. Resume with: {redact(command)}")
    return 128 + relay.signals[0]


def _remove_scratch(folder: Path) -> None:
    """Remove the folders of short runs that were killed together with their worker.

    Another terminal may measure at this moment, with --costs or --plan.
    """
    for rest in folder.glob(".probe-*"):
        try:
            if (rest / LOCK).exists():
                with at_level(logging.WARNING), holding(rest):  # refused where the run lives
                    pass
            # a run makes its folder before it locks it
            elif time.time() - rest.stat().st_mtime < _YOUNG_S:
                continue
        except (ConfigError, OSError):
            continue
        shutil.rmtree(rest, ignore_errors=True)


@contextmanager
def _naming_faults() -> Iterator[None]:
    """Turn errors of the storage and of the disk into one message that says how to go on."""
    try:
        with naming_place(FOLDER):
            yield
    except EffbenchError:
        raise
    except (OSError, optuna_library().exceptions.OptunaError) as error:
        # Optuna's own text for a lost connection is "invalid data in the commit"; the database's is the cause.
        told = error.__cause__ if isinstance(error, optuna_library().exceptions.StorageInternalError) else error
        text = " ".join(redact(first_line(told or error)).split())
        raise EffbenchError(f"the study has stopped: {type(error).__name__}: {text}. {GO_ON}") from error


@contextmanager
def _leaving_no_empty_folder(folder: Path) -> Iterator[None]:
    """Remove `folder` and its parents after the block as far as they are new and empty."""
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    finally:
        with suppress(OSError):  # one that is not empty keeps its parents, too
            for each in new:
                each.rmdir()


def _estimate(plan: StudyPlan, relay: Relay) -> Estimate | None:
    require_writable(plan.folder, FOLDER)
    log.info(f"trying a few steps of {counted(len(plan.arms), 'arm')}")
    probes = probe_arms(plan, relay)
    return Estimate(plan, probes) if len(probes) == len(plan.arms) else None
