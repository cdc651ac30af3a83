"""Many runs in one table: ranked by the metric that chose each run's best checkpoint."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.errors import ConfigError
from effbench.records import read_summary, write_text
from effbench.units import human_bytes, human_count

COLUMNS = (
    "rank", "job", "overrides", "status", "metric", "value", "test/acc", "test/loss", "training_s", "images_per_s",
    "parameters", "peak_rss_bytes", "error", "folder",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """number: place in the sweep. overrides: what sets this job apart."""

    number: int
    overrides: Sequence[str]
    folder: Path


def sweep_rows(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """A row a job by COLUMNS, best first, failures last; read from each job's summary.json."""
    rows = sorted(map(_row, jobs), key=_order)
    finished = [row for row in rows if row["value"] is not None]
    for rank, row in enumerate(finished, start=1):
        row["rank"] = rank
    return rows


def _row(job: Job) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"job": job.number, "overrides": " ".join(job.overrides), "folder": str(job.folder), "status": "failed"}
    try:
        summary = read_summary(job.folder)
    except ConfigError as error:
        return row | {"error": str(error)}
    best = summary.get("best") or {}
    metrics, timing = summary.get("metrics", {}), summary.get("timing", {})
    return row | {
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
    }


def _order(row: Mapping[str, Any]) -> tuple[bool, float, int]:
    value = row["value"]
    if value is None:
        return True, math.inf, row["job"]
    return False, value if str(row["metric"]).endswith("loss") else -value, row["job"]


def write_sweep(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """sweep.csv."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    path = folder / "sweep.csv"
    write_text(path, text.getvalue())
    return path


def print_sweep(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table on stdout; the reasons of failures below it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    metric = next((row["metric"] for row in rows if row["metric"]), "")
    table = Table(
        "rank",
        "job",
        "overrides",
        "status",
        f"best {metric}".strip(),
        "test acc",
        "training",
        "img/s",
        "params",
        "peak",
    )
    for index in (0, 1, 4, 5, 6, 7, 8, 9):
        table.columns[index].justify = "right"
    for row in rows:
        cells = (
            _cell(row["rank"], str), str(row["job"]), escape(row["overrides"]), row["status"],
            _cell(row["value"], lambda value: f"{value:.4f}"), _cell(row["test/acc"], lambda value: f"{value:.2%}"),
            _cell(row["training_s"], lambda value: f"{value:.1f} s"), _cell(row["images_per_s"], lambda v: f"{v:.0f}"),
            _cell(row["parameters"], human_count), _cell(row["peak_rss_bytes"], human_bytes),
        )  # fmt: skip
        table.add_row(*cells, style=None if row["error"] is None else "red")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000
    console.print(table)
    for row in rows:
        if row["error"]:
            console.print(f"job {row['job']} {row['status']}: {escape(row['error'])}", style="red", soft_wrap=True)


def _cell(value: Any, text: Any) -> str:
    return "" if value is None else str(text(value))
