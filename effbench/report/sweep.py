"""Many runs in one table: ranked by the metric that chose each run's best checkpoint, if it is the same in all."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.errors import ConfigError
from effbench.inert import csv_cell, for_terminal
from effbench.records import read_summary, write_text
from effbench.redaction import redact
from effbench.units import human_bytes, human_count

COLUMNS = (
    "rank", "job", "overrides", "status", "metric", "value", "test/acc", "test/loss", "training_s", "images_per_s",
    "parameters", "peak_rss_bytes", "error", "folder",
)  # fmt: skip

MOST_ROWS = 1000  # of the table on a terminal; sweep.csv has all
FINISHED = ("completed", "stopped_early")  # a best value of any other run is that of a part of it


@dataclass(frozen=True)
class Job:
    """number: place in the sweep. overrides: what sets this job apart."""

    number: int
    overrides: Sequence[str]
    folder: Path


def sweep_rows(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """A row a job by COLUMNS, best first, those that did not finish last; read from each job's summary.json."""
    return ranked(list(map(_row, jobs)))


def ranked(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows best first, with their ranks, those that did not finish last.

    Without ranks, and in the jobs' own order, where the finished ones monitor different metrics.
    """
    comparable = len(metrics_of(rows)) < 2
    ordered = sorted(rows, key=lambda row: _order(row, comparable))
    for rank, row in enumerate(filter(_has_result, ordered), start=1):
        row["rank"] = rank if comparable else None
    return ordered


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the finished jobs monitor, each metric once."""
    return sorted({row["metric"] for row in rows if _has_result(row)})


def _has_result(row: Mapping[str, Any]) -> bool:
    return row["status"] in FINISHED and row["value"] is not None


def _row(job: Job) -> dict[str, Any]:
    try:
        return result_row(job, read_summary(job.folder))
    except ConfigError as error:
        return result_row(job, {"status": "failed", "error": str(error)})


def result_row(job: Job, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a table says of a run, by COLUMNS; its rank is for `ranked` to say."""
    best = summary.get("best") or {}
    metrics, timing = summary.get("metrics", {}), summary.get("timing", {})
    return {
        "rank": None,
        "job": job.number,
        "overrides": " ".join(job.overrides),
        "status": summary["status"],
        "metric": best.get("metric"),
        "value": best.get("value"),
        "test/acc": metrics.get("test/acc"),
        "test/loss": metrics.get("test/loss"),
        "training_s": timing.get("training_s"),
        "images_per_s": timing.get("images_per_s"),
        "parameters": summary.get("model", {}).get("parameters"),
        "peak_rss_bytes": summary.get("memory", {}).get("peak_rss_bytes"),
        "error": summary.get("error") or (summary.get("stop_reason") if summary["status"] == "diverged" else None),
        "folder": str(job.folder),
    }


def _order(row: Mapping[str, Any], by_value: bool) -> tuple[bool, bool, float, int]:
    """Finished jobs first, of these the best; equals and the others by their number."""
    value = row["value"] if by_value and _has_result(row) else 0.0
    lower_is_better = value if str(row["metric"]).endswith("loss") else -value
    return row["status"] not in FINISHED, not _has_result(row), lower_is_better, row["job"]


def write_sweep(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """sweep.csv, without secrets; text that a spreadsheet would take for a formula has an apostrophe before it."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in redact(list(rows)))
    path = folder / "sweep.csv"
    write_text(path, text.getvalue())
    return path


def print_sweep(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table on stdout; below it why there are no ranks, and the reasons of failures."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    metrics = metrics_of(rows)
    several = len(metrics) > 1
    table = Table(
        "rank",
        "job",
        "overrides",
        "status",
        "best" if several or not metrics else f"best {metrics[0]}",
        "test acc",
        "training",
        "img/s",
        "params",
        "peak",
    )
    for index in (0, 1, 4, 5, 6, 7, 8, 9):
        table.columns[index].justify = "right"
    for row in rows[:MOST_ROWS]:
        cells = (
            _cell(row["rank"], str), str(row["job"]), escape(for_terminal(row["overrides"])), row["status"],
            _best(row, metrics), _cell(row["test/acc"], lambda value: f"{value:.2%}"),
            _cell(row["training_s"], lambda value: f"{value:.1f} s"), _cell(row["images_per_s"], lambda v: f"{v:.0f}"),
            _cell(row["parameters"], human_count), _cell(row["peak_rss_bytes"], human_bytes),
        )  # fmt: skip
        table.add_row(*cells, style=None if row["error"] is None else "red")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000
    console.print(table)
    if len(rows) > MOST_ROWS:
        console.print(f"... and {len(rows) - MOST_ROWS} more in sweep.csv", soft_wrap=True)
    if several:
        console.print(
            f"no ranks: the jobs monitor different metrics ({', '.join(metrics)}), which cannot be compared; give them "
            "all the same checkpoint.monitor.",
            soft_wrap=True,
        )
    for row in rows:
        if row["error"]:
            error = escape(for_terminal(row["error"]))
            console.print(f"job {row['job']} {row['status']}: {error}", style="red", soft_wrap=True)


def _best(row: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """The best value, named where the column's head does not name it."""
    text = _cell(row["value"], lambda value: f"{value:.4f}")
    return f"{row['metric']} {text}" if text and [row["metric"]] != list(metrics) else text


def _cell(value: Any, text: Any) -> str:
    return "" if value is None else str(text(value))
