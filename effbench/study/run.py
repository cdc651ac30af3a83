"""`effbench study`: plan, freeze, work, analyse, and write the page."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from effbench.console import writes_unicode
from effbench.errors import ConfigError, EffbenchError, first_line
from effbench.guarded import MissingFileError, read_text
from effbench.jobs.processes import Relay, relaying
from effbench.records import require_writable
from effbench.redaction import redact
from effbench.study.alone import probe_arms
from effbench.study.analysis import analyse
from effbench.study.collect import curves_of, table_of
from effbench.study.engine import Engine
from effbench.study.estimate import Estimate
from effbench.study.frozen import MOST_BYTES, NAME, freeze, read_frozen
from effbench.study.ledger import Ledger
from effbench.study.live import board
from effbench.study.page import CURVES, TABLE, print_result, write_page
from effbench.study.plan import FOLDER, StudyPlan, rules_of
from effbench.study.results import StudyResult, result_to_json
from effbench.study.storage import opened, optuna_library
from effbench.study.table import StudyTable, table_from_json
from effbench.study.tasks import ledger_of
from effbench.units import counted

log = logging.getLogger(__name__)


def plan_only(plan: StudyPlan, as_json: bool) -> int:
    """Print what the study would run, how long it takes and what it can tell apart; return the exit code.

    Args:
        plan: the checked plan.
        as_json: print JSON.
    """
    with relaying() as relay, _leaving_no_empty_folder(plan.folder):
        estimate = _estimate(plan, relay)
    if estimate is None:
        return 128 + relay.signals[0]
    if as_json:
        print(json.dumps(estimate.record(), indent=2, ensure_ascii=not writes_unicode()))
    else:
        estimate.show()
    return 0


def run_study(plan: StudyPlan, command: str, as_json: bool) -> int:
    """Run the study, or go on with it, until nothing is left; return the exit code.

    Args:
        plan: the checked plan.
        command: that goes on with it.
        as_json: print the result as JSON.
    """
    optuna_library()
    with relaying() as relay:
        is_new = not (plan.folder / NAME).exists()
        if not is_new:
            freeze(plan)  # refuses another study
        if plan.keys.storage is not None:
            opened(plan.keys.storage, plan.folder)  # refuses a storage that does not answer
        if is_new:
            with _leaving_no_empty_folder(plan.folder):
                estimate = _estimate(plan, relay)
                if estimate is None:
                    return 128 + relay.signals[0]
                log.info(estimate.line())
                freeze(plan)
        ledger = ledger_of(plan)
        log.info(f"study {plan.name}, {plan.digest[:12]} -> {plan.folder}")
        with _naming_faults(), board() as shown:
            complete = Engine(plan, ledger, relay, shown).work()
    if not complete:
        _write(plan, ledger)
        log.info(f"interrupted; {_left(plan, ledger)} left. Resume with: {redact(command)}")
        return 128 + relay.signals[0]
    return _conclude(plan, ledger, as_json)


@contextmanager
def _naming_faults() -> Iterator[None]:
    """Turn errors of the storage and of the disk into one message; every outcome is on disk when its run is counted."""
    try:
        yield
    except (OSError, optuna_library().exceptions.OptunaError) as error:
        text = " ".join(redact(first_line(error)).split())
        raise EffbenchError(
            f"the study has stopped: {type(error).__name__}: {text}. Every run that has ended is kept: mend this, then "
            "give the same command again."
        ) from error


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


def _left(plan: StudyPlan, ledger: Ledger) -> str:
    wanted = {"tune": plan.keys.trials, "confirm": plan.keys.seeds}
    ended = sum(len(ledger.outcomes(phase, arm.name)) for phase in wanted for arm in plan.arms)
    return counted(sum(wanted.values()) * len(plan.arms) - ended, "run")


def _conclude(plan: StudyPlan, ledger: Ledger, as_json: bool) -> int:
    """Analyse the complete study, write its files and print the result."""
    table, result, path = _write(plan, ledger)
    return _print(plan.folder, table, result, path, as_json)


def _print(folder: Path, table: StudyTable, result: StudyResult, path: Path, as_json: bool) -> int:
    if as_json:
        found: Any = json.loads(result_to_json(result))["value"]
        print(json.dumps({"folder": str(folder), **found}, indent=2, ensure_ascii=not writes_unicode()))
    else:
        print_result(table, result, path)
    return 0


def _write(plan: StudyPlan, ledger: Ledger) -> tuple[StudyTable, StudyResult, Path]:
    """Analyse the study as far as it is and write its files."""
    table = table_of(plan, ledger)
    result = analyse(table, plan.rules)
    return table, result, write_page(plan.folder, table, result, curves_of(plan, ledger))


def report_study(folder: Path, as_json: bool) -> int:
    """Analyse the table of a study's folder again, write its page and print the result; return the exit code.

    Args:
        folder: of the study.
        as_json: print the result as JSON.

    Raises:
        ConfigError: the folder holds no table yet, or a damaged one.
    """
    keys = read_frozen(folder / NAME)["study"]["keys"]
    try:
        table = table_from_json(read_text(folder / TABLE, MOST_BYTES))
        curves = json.loads(read_text(folder / CURVES, MOST_BYTES))
    except MissingFileError as error:
        raise ConfigError(f"{folder} holds a study without results yet; go on with it by effbench study.") from error
    except ValueError as error:
        raise ConfigError(f"{folder / CURVES} is damaged: {error}. effbench study writes it again.") from error
    result = analyse(table, rules_of(keys))
    path = write_page(folder, table, result, curves)
    return _print(folder, table, result, path, as_json)
