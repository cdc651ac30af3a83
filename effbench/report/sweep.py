"""The table of a sweep: jobs ranked by the metric that chose their best checkpoint, if it is the same."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.errors import ConfigError
from effbench.escaping import csv_cell, for_terminal
from effbench.metrics import ACCURACY, LOSS, Display, display_of, metric_of, recorded_displays
from effbench.records import FINISHED, read_summary, write_text
from effbench.redaction import redact
from effbench.report.spread import number_text, seconds, within_spread
from effbench.report.text_table import TextColumn, console, print_sentence, print_table
from effbench.stats import deviation, mean
from effbench.summary_schema import IMAGE, speed_unit_of, throughput_of
from effbench.units import SPEED, human_bytes, human_count, throughput_key

BEFORE = ("rank", "job", "overrides", "status", "metric", "value")  # columns of sweep.csv before test/*
AFTER = ("parameters", "peak_rss_bytes", "error", "folder")  # after training_s and the throughput

MOST_ROWS = 1000  # of the table on a terminal; sweep.csv has all rows
MOST_KEYS = 4  # swept keys that get one column each
BETTER = {"min": "lower is better", "max": "higher is better"}  # mode of a metric -> its meaning
_COST = ("training_s", "parameters", "peak_rss_bytes")
_WORDS = re.compile(r"\s+(?=[+~]{0,2}[\w./@]+=)")  # between overrides; a value may hold spaces too


@dataclass(frozen=True)
class Job:
    """A job of a sweep.

    Attributes:
        number: index in the sweep.
        overrides: what distinguishes this job from the others.
        folder: its run folder.
    """

    number: int
    overrides: Sequence[str]
    folder: Path


def sweep_rows(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Return one row a job from its summary.json, best first, unfinished jobs last."""
    rows = []
    for job in jobs:
        try:
            summary = read_summary(job.folder)
        except ConfigError as error:
            summary = {"status": "failed", "error": str(error)}
        rows.append(result_row(job, summary))
    return ranked(rows)


def ranked(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with ranks, best first, unfinished jobs last.

    If finished jobs monitor different metrics, or one name for two with other modes, there are no ranks and the order
    is that of the jobs.
    """
    comparable = len(metrics_of(rows)) < 2
    ordered = sorted(rows, key=lambda row: _order(row, comparable))
    for rank, row in enumerate(filter(_has_result, ordered), start=1):
        row["rank"] = rank if comparable else None
    return ordered


def mode_of(column: object, displays: Mapping[str, Display]) -> str:
    """Return which values of a run's column are better, 'min' or 'max'."""
    name = metric_of(str(column))
    return (displays.get(name) or display_of(name)).mode


def _order(row: Mapping[str, Any], by_value: bool) -> tuple[bool, bool, float, int]:
    """Return the sort key: finished jobs first, best first; equal jobs and others by number."""
    # False sorts before True, so finished jobs come first
    value = row["value"] if by_value and _has_result(row) else 0.0
    signed = value if mode_of(row["metric"], row["displays"]) == "min" else -value
    return row["status"] not in FINISHED, not _has_result(row), signed, row["job"]


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the monitored metrics of the finished jobs, each once.

    Metrics of the user may share a name: one of which lower values are better is then another than one of higher.
    """
    found = {(row["metric"], mode_of(row["metric"], row["displays"])) for row in rows if _has_result(row)}
    names = [name for name, _ in found]
    return sorted(f"{name}, {BETTER[mode]}" if names.count(name) > 1 else name for name, mode in found)


def _has_result(row: Mapping[str, Any]) -> bool:
    return row["status"] in FINISHED and row["value"] is not None


def result_row(job: Job, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a run; `ranked` sets its rank. `displays` holds the displays of its metrics."""
    best, displays = summary.get("best") or {}, recorded_displays(summary)
    metrics, timing = summary.get("metrics", {}), summary.get("timing", {})
    tests = [f"test/{name}" for name in sorted(displays, key=LOSS.__eq__)]  # the loss last
    speed = throughput_key(speed_unit_of(summary))
    return {
        "rank": None,
        "job": job.number,
        "overrides": " ".join(job.overrides),
        "status": summary["status"],
        "metric": best.get("metric"),
        "value": best.get("value"),
        **{name: metrics.get(name) for name in tests},
        "training_s": timing.get("training_s"),
        **({speed: throughput_of(summary)} if timing else {}),
        "parameters": summary.get("model", {}).get("parameters"),
        "peak_rss_bytes": summary.get("memory", {}).get("peak_rss_bytes"),
        # other statuses have a stop_reason that is no fault, such as early stopping
        "error": summary.get("error") or (summary.get("stop_reason") if summary["status"] == "diverged" else None),
        "folder": str(job.folder),
        "displays": displays,
    }


def test_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the test columns of all rows, losses last."""
    found = dict.fromkeys(f"test/{name}" for row in rows for name in sorted(row["displays"], key=LOSS.__eq__))
    return sorted(found or [f"test/{ACCURACY}", f"test/{LOSS}"], key=lambda name: name.endswith(f"/{LOSS}"))


def speed_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the throughputs of all rows, one for each kind of sample: images_per_s."""
    found = dict.fromkeys(name for row in rows for name in row if name.endswith(SPEED))
    return list(found) or [throughput_key(IMAGE)]


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns of sweep.csv."""
    return [*BEFORE, *test_columns(rows), "training_s", *speed_columns(rows), *AFTER]


def as_values(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with the columns of sweep.csv only."""
    columns = columns_of(rows)
    return [{name: row.get(name) for name in columns} for row in rows]


def write_sweep(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write sweep.csv without secrets. Text that a spreadsheet would run as a formula begins with an apostrophe."""
    # newline="": csv writes its own line ends
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns_of(rows))
    writer.writeheader()
    # secrets first: an apostrophe in front could hide one from the redaction
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in redact(as_values(rows)))
    path = folder / "sweep.csv"  # in full, while the terminal shows MOST_ROWS lines
    write_text(path, text.getvalue())
    return path


def print_sweep(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table to stdout, seeds as mean ± deviation; then the best run, missing ranks and failures."""
    lines = _over_seeds(rows)
    metrics = metrics_of(rows)
    styles = ["red" if line["failed"] else None for line in lines[:MOST_ROWS]]
    print_table(_columns(lines[:MOST_ROWS], metrics), styles)
    out = console()
    if len(lines) > MOST_ROWS:
        out.print(f"... and {len(lines) - MOST_ROWS} more in sweep.csv", soft_wrap=True)
    for note in _notes(lines, metrics):
        print_sentence(out, note)
    for row in rows:
        if row["error"]:
            text = f"job {row['job']} {row['status']} ({row['overrides']}): {row['error']}"
            print_sentence(out, text, style="red")
    if lines and lines[0]["rank"] == 1:
        out.print(for_terminal(f"best run: {lines[0]['folder']}"), soft_wrap=True, markup=False)


def _over_seeds(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one line for jobs that differ only in their seed, best first; numbers are means over finished jobs.

    settings: key -> value that distinguishes the line. n, of: finished jobs, all jobs. failed: True if none finished.
    If jobs monitor different metrics, there is one line a job, because there is no mean.
    """
    comparable = len(metrics_of(rows)) < 2
    alike: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        # jobs of one config have equal overrides but for the seed
        alike[frozenset(_settings(row).items()) if comparable else row["job"]].append(row)

    lines = []
    for group in alike.values():
        finished = [row for row in group if row["status"] in FINISHED]
        line = {**(finished or group)[0], "n": len(finished), "of": len(group), "failed": not finished}
        spread = ("value", *test_columns(group))  # depends on the seed, so it gets a deviation
        for name in (*spread, *_COST, *speed_columns(group)):
            values = [row[name] for row in finished if row.get(name) is not None]
            # else the line keeps the empty values of the first job
            if finished:
                line[name] = mean(values) if values else None
            line[f"{name}±"] = deviation(values) if name in spread and len(values) > 1 else None
        states = dict.fromkeys(str(row["status"]).replace("_", " ") for row in group)
        first = min(row["job"] for row in group)
        lines.append({**line, "job": first, "settings": _settings(group[0]), "states": ", ".join(states)})
    return ranked(lines)


def _settings(row: Mapping[str, Any]) -> dict[str, str]:
    """'optimizer=sgd seed=1' -> {'optimizer': 'sgd'}; a word that is not an override becomes a key."""
    pairs = [word.partition("=") for word in _WORDS.split(row["overrides"]) if word]
    return {key.lstrip("+"): value for key, _, value in pairs if key.lstrip("+") != "seed"}


def _columns(lines: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[TextColumn]:
    """Return the columns with information, in the order of reading."""

    def column(head: str, name: str, text: Callable[[Any], str], drop_order: int) -> TextColumn:
        return TextColumn(
            head, ["" if line.get(name) is None else text(line[name]) for line in lines], drop_order=drop_order
        )

    # how many seeds finished, of how many started
    counts = [str(line["n"]) if line["n"] == line["of"] else f"{line['n']} of {line['of']}" for line in lines]
    tests = test_columns(lines)[:-1]  # the loss, which is last, comes later in the table
    speeds = {
        name: "img/s" if name == throughput_key(IMAGE) else f"{name.removesuffix(SPEED)}/s"
        for name in speed_columns(lines)
    }
    columns = [
        column("rank", "rank", str, 0),
        *_keys(lines),
        TextColumn("best" if len(metrics) != 1 else f"best {metrics[0]}", [_best(line, metrics) for line in lines]),
        *(TextColumn(name.replace("/", " "), [_metric(line, name) for line in lines], drop_order=1) for name in tests),
        TextColumn("n", counts if any(line["of"] > 1 for line in lines) else [""] * len(lines), drop_order=2),
        column("training", "training_s", seconds, 3),
        column("params", "parameters", human_count, 4),
        *(column(head, name, lambda number: f"{number:.0f}", 5) for name, head in speeds.items()),
        column("peak", "peak_rss_bytes", human_bytes, 6),
        TextColumn("test loss", [_metric(line, f"test/{LOSS}") for line in lines], drop_order=8),
        TextColumn("status", [line["states"] for line in lines], is_number=False, drop_order=7),
        TextColumn("job", [str(line["job"]) if line["of"] == 1 else "" for line in lines], drop_order=9),
    ]
    kept = []
    for each in columns:
        texts = set(each.cells)
        # costs and states that are equal in all lines are left out, and so is a status that says nothing
        constant = each.head in ("params", "n", "status", "peak") and len(texts) == 1 and len(lines) > 1
        if any(texts) and not constant and not (each.head == "status" and texts == {"completed"}):
            kept.append(each)
    return kept


def _metric(line: Mapping[str, Any], name: str) -> str:
    """Return the text of a metric, with its deviation over seeds."""
    value = line.get(name)
    return "" if value is None else number_text(name, value, line.get(f"{name}±"), line["displays"])


def _best(line: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """Return the best value, with the metric's name if the column head lacks it; for a failed job its status."""
    if not _has_result(line):
        return str(line["states"]) if line["failed"] else ""
    text = number_text(line["metric"], line["value"], line["value±"], line["displays"])
    return text if [line["metric"]] == list(metrics) else f"{line['metric']} {text}"


def _keys(lines: Sequence[Mapping[str, Any]]) -> list[TextColumn]:
    """Return one column a swept key; one for all if there are many keys, or the jobs have different ones."""
    keys = list(dict.fromkeys(key for line in lines for key in line["settings"]))
    if len(keys) > MOST_KEYS or not all(set(line["settings"]) == set(keys) for line in lines):
        texts = [" ".join(f"{key}={value}" for key, value in line["settings"].items()) for line in lines]
        return [TextColumn("overrides", list(map(for_terminal, texts)), is_number=False)]
    columns = []
    for key in keys:
        values = [line["settings"][key] for line in lines]
        folders = {value.rpartition("/")[0] for value in values}
        if len(folders) == 1 and folders != {""}:  # files in one folder: their names are enough
            values = [value.rpartition("/")[2] for value in values]
        head = for_terminal(key.replace(".", ".\n", 1))
        columns.append(TextColumn(head, list(map(for_terminal, values)), is_number=False))
    return columns


def _notes(lines: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[str]:
    """Return what a reader must know about the table."""
    # accuracies and losses have no common order
    if len(metrics) > 1:
        return [
            f"no ranks: the jobs monitor different metrics ({', '.join(metrics)}), which cannot be compared; set the "
            "same checkpoint.monitor for all."
        ]
    notes = []
    if several := {line["n"] for line in lines if line["n"] > 1}:
        counts = f"{min(several)}" if len(several) == 1 else f"{min(several)} to {max(several)}"
        doubt = within_spread([line for line in lines if line["rank"] is not None])
        notes = [f"± is the standard deviation over {counts} seeds.", *([doubt] if doubt else [])]
    settings = [line["settings"] for line in lines]
    tuned = any(key.startswith("optimizer.") for each in settings for key in each)
    if not tuned and len({each["optimizer"] for each in settings if "optimizer" in each}) > 1:
        notes.append("Each optimizer has one setting here, which is not tuned: effbench study tunes each equally.")
    return notes
