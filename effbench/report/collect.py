"""Find runs in folders and read them. A problem with one run does not affect the others."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.config.compare import leaves
from effbench.config.versions import Upgrade, lacking_section, version_of
from effbench.config.yaml_text import parse_yaml
from effbench.errors import ConfigError
from effbench.guarded import METRICS_BYTES, MissingFileError, UnreadableError, kind_of, read_bytes, read_text
from effbench.metrics import ACCURACY, LOSS, Display, display_of, recorded_displays
from effbench.records import FINISHED, STATUSES, read_any_summary
from effbench.redaction import redact
from effbench.report.compression import applied
from effbench.report.rows import drawable_rows
from effbench.summary_schema import MAPPING, check_plain, without_wrong_fields

# sections of summary.json that the page reads as mappings; an absent one becomes None
_MAPPINGS = ("metrics", "best", "task", "timing", "memory", "model", "data", "environment", "git")
_Content = tuple[dict[str, Any], frozenset[str] | None, str | None]  # values by dotted key, experiment, problem
_NO_SUMMARY = "has no summary.json: the run is in progress, or was killed; train resume=RUN continues it"


@dataclass(frozen=True)
class RunRecord:
    """The content of a run folder.

    Attributes:
        number: index among all runs found.
        folder: the run folder.
        name: the folder's path below the common parent of all runs.
        summary: summary.json without values of a wrong type; None if it cannot be read.
        config: values by dotted keys.
        experiment: equal for runs that differ only in their seed; None if the config cannot be read.
        problems: what is wrong with the files.
    """

    number: int
    folder: Path
    name: str
    summary: Mapping[str, Any] | None
    config: Mapping[str, Any]
    experiment: frozenset[str] | None
    problems: tuple[str, ...]

    @property
    def status(self) -> str:
        return "unreadable" if self.summary is None else str(self.summary["status"])

    @property
    def finished(self) -> bool:
        return self.status in FINISHED

    @property
    def displays(self) -> dict[str, Display]:
        """Metric name -> display; loss and accuracy for a run without a summary."""
        return recorded_displays(self.summary or {}) or {name: display_of(name) for name in (LOSS, ACCURACY)}

    def part(self, name: str) -> Mapping[str, Any]:
        """Return a mapping of the summary; {} if there is none."""
        return (self.summary or {}).get(name) or {}


def find_runs(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Find all runs at or below `paths`.

    A run is a folder with a summary.json or a metrics.csv. Links to folders are not followed, and hidden folders are
    skipped.

    Returns:
        (the folders, each once, sorted by name; messages on folders that could not be read).

    Raises:
        ConfigError: a path is not a folder, or there is no run.
    """
    found: dict[str, Path] = {}
    unread: list[str] = []
    for path in paths:
        if kind_of(path) != "a folder":
            raise ConfigError(f"there is no folder {path}. Give a run, a sweep, or a folder that holds some: outputs.")
        # links are resolved only to compare: a run keeps the name that the user gave
        for folder in _runs_below(str(path), unread):
            # two of the paths may lead to the same run
            found.setdefault(os.path.realpath(folder), Path(folder))
    if not found:
        listed = ", ".join(map(str, paths))
        raise ConfigError(f"no run in {listed}: a run is a folder that train wrote, with a summary.json in it.")
    return list(found.values()), unread


def _runs_below(folder: str, unread: list[str]) -> Iterator[str]:
    # a stack: recursion would fail on deeply nested folders; links are not followed, because they could make a circle
    pending = [folder]
    while pending:
        place = pending.pop()
        try:
            with os.scandir(place) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            unread.append(f"{place}: {error.strerror}")
            continue
        is_run = any(e.name in ("summary.json", "metrics.csv") and not e.is_dir(follow_symlinks=False) for e in entries)
        if is_run:
            yield place
        else:
            folders = [entry for entry in entries if entry.name[0] != "." and entry.is_dir(follow_symlinks=False)]
            pending += [entry.path for entry in reversed(folders)]


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """Return one record a folder. Each file is read once."""
    # names are relative to the common parent of all runs; a single run has the name of its folder
    absolute = [os.path.abspath(folder) for folder in folders]  # noqa: PTH100 - links keep the name they were given by
    above = os.path.commonpath([os.path.dirname(path) for path in absolute])  # noqa: PTH120
    records = []
    for number, (folder, path, found) in enumerate(zip(folders, absolute, _read_configs(folders), strict=True)):
        config, experiment, problem = found
        if experiment is not None and (done := applied(folder)):
            # what was compressed is no other seed of its run
            config, experiment = {**config, **done}, experiment | {repr(done)}
        summary, problems = _read_summary(folder)
        # a run that failed before it started has no config, which is no further problem
        if problem is not None and summary is not None and summary["status"] != "failed":
            problems.append(problem)
        name = os.path.relpath(path, above)
        records.append(RunRecord(number, folder, name, summary, config, experiment, tuple(problems)))
    return records


def _read_summary(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return (summary.json without values of a wrong type, the problems found)."""
    path = folder / "summary.json"
    try:
        # no links: a folder that someone else sent could lead to a private file of the reader
        summary = read_any_summary(folder, follow_links=False)
    except MissingFileError:
        return None, [_NO_SUMMARY]
    except (OSError, ValueError, ConfigError) as error:
        return None, [_problem_text(path, error)]
    for name in _MAPPINGS:
        summary.setdefault(name, None)
    # the check of the status follows, with the list of what it may be
    problems = [
        f"summary.json: {name} is {'not a mapping' if rule == MAPPING[0] else shortened(value)}"
        for name, value, rule in without_wrong_fields(summary)
        if name != "status"
    ]
    # without a known status nothing can be said of the run, so it counts as unreadable
    if summary.get("status") not in STATUSES:
        problems.append(f"summary.json: status {shortened(summary.get('status'))} is not one of {', '.join(STATUSES)}")
        return None, problems
    return summary, problems


def _problem_text(path: Path, error: Exception) -> str:
    """Return the problem of a run's file on one line, without the folder, which is shown next to it."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or repr(error)
    told = text.replace(str(path), path.name) if str(path) in text else f"{path.name}: {text}"
    return shortened(" ".join(told.split()), 300)  # one line a problem, in the page and on stderr


def _read_configs(folders: Sequence[Path]) -> list[_Content]:
    """Return the content of each config.yaml with today's keys, without secrets.

    YAML is slow, and thousands of runs share most lines: each distinct entry of a section is parsed once.
    """
    # text is split first: equal texts of different runs are then parsed once
    read = [_sections(folder / "config.yaml") for folder in folders]
    distinct = dict.fromkeys(section for sections in read if isinstance(sections, list) for section in sections)
    entries = {section: _entries(section) for section in distinct}
    parsed = {entry: _parsed(entry) for entry in dict.fromkeys(entry for part in entries.values() for entry in part)}
    # secrets go before anything is compared or shown; one call, because it scans the environment
    clean = dict(zip(parsed, redact(list(parsed.values())), strict=True))
    known = {
        section: joined
        for section, part in entries.items()
        if (joined := _joined([clean[entry] for entry in part])) is not None
    }
    reader = _Reader(known)
    return [reader.content(sections) if isinstance(sections, list) else ({}, None, sections) for sections in read]


def _joined(parts: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return {a: {b: 1, c: 2}} for the entries {a: {b: 1}} and {a: {c: 2}} of one section.

    None if an entry could not be parsed alone, or is no mapping below one name: then the file is parsed as a whole.
    """
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {}
    for part in parts:
        if part is None or len(part) != 1:
            return None
        [(name, content)] = part.items()
        if not isinstance(content, dict) or (joined and name not in joined):
            return None
        joined.setdefault(name, {}).update(content)
    return joined


def _sections(path: Path) -> list[str] | str:
    """Return the text of each top-level key with everything below it, or the problem with the file."""
    try:
        text = read_text(path, follow_links=False)  # a link could bring a private file of the reader into the page
    except MissingFileError:
        return "there is no config.yaml"
    except UnreadableError as error:
        return _problem_text(path, error)
    return [part for part in _split_before(r"[^\s#-]", text) if part.strip()]


def _entries(section: str) -> list[str]:
    """Split `key: {a: 1, b: 2}` into `key: {a: 1}` and `key: {b: 2}`, if it has the layout that train writes."""
    # written by hand, with comments or flow style: parsed as a whole
    if not re.match(r"\w+:\n  \w+:", section):
        return [section]
    head, *entries = _split_before(r"  \w+:", section)
    return [f"{head}{entry}" for entry in entries]


def _split_before(pattern: str, text: str) -> list[str]:
    """Split the text before each line that begins with `pattern`."""
    *parts, last = re.split(rf"\n(?={pattern})", text)
    return [*(f"{part}\n" for part in parts), last]


class _Reader:
    """Puts the configs of many runs together from their sections, as `effbench eval` would read each.

    known: text of a section -> its content, for sections that can be parsed alone.
    """

    def __init__(self, known: Mapping[str, dict[str, Any]]):
        self._known = known
        self._upgrade = Upgrade()
        # a distinct section is upgraded once, not once a run
        self._flattened: dict[tuple[str, str, int | None], tuple[dict[str, Any], str]] = {}

    def content(self, sections: list[str]) -> _Content:
        """Return the content of the config.yaml that consists of `sections`."""
        # name -> (a text that is equal only for equal content, content)
        parts: dict[str, tuple[str, Any]] = {}
        if all(section in self._known for section in sections):
            for section in sections:
                parts |= {name: (section, part) for name, part in self._known[section].items()}
        else:
            whole = _parsed("".join(sections))  # the whole file may be valid though a part alone is not
            if whole is None:
                return {}, None, "config.yaml cannot be read as a config"
            parts = {name: (repr(part), part) for name, part in redact(whole).items()}
        recorded = {name: part for name, (_, part) in parts.items()}
        try:
            version: int | None = version_of(recorded, "config.yaml")
        except ConfigError as error:
            return {}, None, str(error)
        # of an incomplete record nobody knows the defaults: it is shown as it is
        if lacking_section(recorded) is not None:
            version = None
        else:
            parts |= {name: ("", part) for name, part in self._upgrade.defaults.items() if name not in parts}

        values: dict[str, Any] = {}
        experiment = []
        for name, (text, part) in parts.items():
            found, written = self._flat(name, text, part, version)
            values |= found
            if name != "seed":  # runs that differ only in their seed belong to one experiment
                experiment.append(written)
        return values, frozenset(experiment), None

    def _flat(self, name: str, text: str, part: Any, version: int | None) -> tuple[dict[str, Any], str]:
        """Return (values by dotted key, a text that is equal for equal values) of a section.

        Args:
            name: of the section.
            text: equal only for equal content.
            part: the section's content.
            version: schema version to upgrade it from; None: leave it as it is.
        """
        key = name, text, version
        if key not in self._flattened:
            content = part if version is None else self._upgrade.section(name, part, version)
            found = leaves({name: content})
            # records of different versions have their keys in different orders
            self._flattened[key] = found, repr(sorted(found.items(), key=lambda item: item[0]))
        return self._flattened[key]


def _parsed(text: str) -> dict[str, Any] | None:
    """Return the mapping in a YAML text; None if it is not one."""
    try:
        # recorded: .inf and .nan are numbers, and a config may be larger than what users write
        content = parse_yaml(text, "config.yaml", recorded=True)
        check_plain(content)
    except (ConfigError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def curve_rows(folder: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Return (rows of metrics.csv that can be drawn, problems with other rows). A cell that is not finite is empty."""
    path = folder / "metrics.csv"
    try:
        rows = drawable_rows(read_bytes(path, METRICS_BYTES, follow_links=False))
    except MissingFileError:
        return [], ["there is no metrics.csv"]
    except Exception as error:  # noqa: BLE001 - any csv error costs only this picture
        return [], [_problem_text(path, error)]
    if rows.total and "row" not in rows.columns:
        return [], ["metrics.csv has no column `row`: this effbench did not write it"]
    return rows.kept, [f"metrics.csv: {rows.damaged} of {rows.total} rows cannot be read"] if rows.damaged else []


def shortened(value: Any, most: int = 200) -> str:
    """Return a value as text of at most `most` characters: text unchanged, other values as JSON."""
    if isinstance(value, str):
        text = value
    else:
        try:
            text = json.dumps(value, ensure_ascii=False, default=str)
        except (TypeError, ValueError, RecursionError):
            text = repr(type(value))
    return text if len(text) <= most else f"{text[: most - 1]}…"
