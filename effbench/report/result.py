"""The result of one run, as a table for a person."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effbench.units import human_bytes, human_count


def result_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, value) pairs of a summary, best first."""
    metrics, timing, best = summary["metrics"], summary["timing"], summary.get("best")
    rows = [("status", status_text(summary))]
    if "test/acc" in metrics:
        rows.append(("test accuracy", f"{metrics['test/acc']:.2%}"))
        rows.append(("test loss", f"{metrics['test/loss']:.4f}"))
    if best is not None and best["value"] is not None:
        value = f"{best['value']:.2%}" if best["metric"].endswith("acc") else f"{best['value']:.4f}"
        rows.append((f"best {best['metric']}", f"{value} ({best['checkpoint']})"))
    rows.append(("steps", f"{summary['steps']} ({summary['epochs']:.3g} epochs)"))
    in_all = timing.get("elapsed_s", timing["seconds"]["total"])  # of every sitting; older records hold the last one's
    rows.append(("time", f"{timing['training_s']:.1f} s training, {in_all:.1f} s in all"))
    if timing["images_per_s"]:
        skipped = timing["images_per_s_excludes_first_steps"]
        rows.append(("throughput", f"{timing['images_per_s']:.0f} images/s (without the first {skipped} steps)"))
    model = summary["model"]
    macs = f", {human_count(model['macs'])} MACs an image" if model["macs"] is not None else ""
    rows.append(("model", f"{human_count(model['parameters'])} parameters{macs}"))
    rows.append(("peak memory", human_bytes(summary["memory"]["peak_rss_bytes"])))
    return rows


def status_text(summary: Mapping[str, Any]) -> str:
    reason = summary.get("stop_reason")
    return f"{summary['status']}: {reason}" if reason else str(summary["status"])


def print_result(folder: Path, summary: Mapping[str, Any]) -> None:
    """The table on stdout, and where the record lies."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for what, value in result_rows(summary):
        table.add_row(what, escape(value))
    table.add_row("curves", escape(str(folder / "curves.png")))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # a pipe has no width: cut nothing
    console.print(table)
