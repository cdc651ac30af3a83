"""`effbench report STUDY`: analyses the data of a study's folder again. It trains nothing, and imports no torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from effbench.errors import ConfigError, DataError
from effbench.guarded import MissingFileError, read_text
from effbench.records import STUDY_FILE, output_problem
from effbench.strict_json import print_json
from effbench.study.analysis import analyse
from effbench.study.frozen import frozen_rules, read_frozen
from effbench.study.page import CURVES, PAGE, TABLE, print_result, write_page
from effbench.study.results import StudyResult, result_to_json
from effbench.study.storage import JOURNAL
from effbench.study.table import Confirmation, StudyTable, Trial, curves_from_json, table_from_json
from effbench.units import counted

T = TypeVar("T")
log = logging.getLogger(__name__)
_MOST_BYTES = 1_000_000_000  # of table.json: a byte a test sample and final run, 100 MB with 10,000 of each


def print_study(folder: Path, table: StudyTable, result: StudyResult, path: Path, as_json: bool) -> int:
    """Print the result to stdout and return exit code 0.

    Args:
        folder: of the study.
        table: its data.
        result: its analysis.
        path: of the page.
        as_json: print JSON.
    """
    if as_json:
        found: Any = json.loads(result_to_json(result))["value"]
        print_json({"folder": str(folder), **found})
    else:
        print_result(table, result, path)
    return 0


def report_study(folder: Path, as_json: bool) -> int:
    """Analyse the table of a study's folder again, write its page and print the result; return the exit code.

    Args:
        folder: of the study.
        as_json: print the result as JSON.

    Raises:
        ConfigError: the folder holds no table yet, or a damaged one.
    """
    if why := output_problem(folder / PAGE):  # before the analysis, which may take a minute
        raise ConfigError(f"{folder / PAGE} is where the page of a study is written, and {why}.")
    rules = frozen_rules(folder / STUDY_FILE, read_frozen(folder / STUDY_FILE))
    try:
        table = _read(folder / TABLE, table_from_json)
        curves = _read(folder / CURVES, curves_from_json)
    except MissingFileError as error:
        raise ConfigError(f"{folder} holds a study without results yet; go on with it by effbench study.") from error
    _tell_newer(folder, table)
    result = analyse(table, rules)
    path = write_page(folder, table, result, curves)
    return print_study(folder, table, result, path, as_json)


def _tell_newer(folder: Path, table: StudyTable) -> None:
    """Say that the journal holds runs that the table lacks: its worker was killed, or is at work."""
    counted_there: list[Trial | Confirmation] = [*table.trials, *table.confirmations]
    newer = ended_runs(folder) - {run.run for run in counted_there}
    if newer:
        written = datetime.fromtimestamp((folder / TABLE).stat().st_mtime)
        log.warning(
            f"{folder / TABLE} is of {written:%Y-%m-%d %H:%M:%S}; {counted(len(newer), 'run')} that {JOURNAL} holds "
            "ended later and are not counted here. The command of the study counts them."
        )


def ended_runs(folder: Path) -> set[str]:
    """Return the folder names of the runs that have ended, from the journal, as the table has them; without Optuna."""
    try:
        lines = read_text(folder / JOURNAL, _MOST_BYTES).splitlines()
    except MissingFileError:  # the study is in a database
        return set()
    found = set()
    for line in lines:
        if '"outcome"' not in line:  # most lines are claims and signs of life
            continue
        try:
            found.add(str(json.loads(line)["user_attr"]["outcome"]["run"]))
        except (ValueError, KeyError, TypeError, RecursionError):  # one of the costs, or a line cut short
            continue
    return found


def _read(path: Path, parsed: Callable[[str], T]) -> T:
    text = read_text(path, _MOST_BYTES)
    try:
        return parsed(text)
    except DataError as error:
        raise DataError(f"{path} is damaged: {error}. effbench study writes it again.") from error
