"""The result of one run as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effbench.data.reference import Reference
from effbench.escaping import for_terminal
from effbench.metrics import LOSS, display_of, recorded_displays
from effbench.report.spread import number_text
from effbench.report.text_table import console
from effbench.summary_schema import speed_unit_of, throughput_of, unit_of
from effbench.units import article, counted, human_bytes, human_count, throughput_key


def result_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) pairs of a summary, best first."""
    metrics, timing, best = summary["metrics"], summary["timing"], summary.get("best")
    data, unit, speed = summary.get("data", {}), unit_of(summary), throughput_of(summary)
    rows = [("status", status_text(summary))]
    displays = recorded_displays(summary)
    part = data.get("evaluated", {}).get("test")
    sample = f" (a sample of {part:,} of {counted(data['counts']['test'], unit)})" if part else ""
    for name in sorted(displays, key=LOSS.__eq__):  # the loss last
        if f"test/{name}" in metrics:
            value = metrics[f"test/{name}"]
            text = "not a finite number" if value is None else displays[name].text(value)
            rows.append((f"test {displays[name].title}", text + sample))
            sample = ""
    if reference := Reference.recorded(data):
        rows.append((reference.method, _beside(reference, None if part else metrics.get(f"test/{reference.metric}"))))
    if best is not None and best["value"] is not None:
        value = number_text(best["metric"], best["value"], displays=displays)
        rows.append((f"best {best['metric']}", f"{value} ({best['checkpoint']})"))
    # steps are exact; epochs may be fractions, after a stop within one
    epochs = f"{summary['epochs']:.3g} epoch{'' if summary['epochs'] == 1 else 's'}"
    rows.append(("steps", f"{summary['steps']} ({epochs})"))
    in_all = timing.get("elapsed_s", timing["seconds"]["total"])  # all sessions; older records: the last session
    rows.append(("time", f"{timing['training_s']:.1f} s training, {in_all:.1f} s in all"))
    # the first steps include compilation and warm-up of caches
    if speed:
        each = speed_unit_of(summary)
        skipped = timing[f"{throughput_key(each)}_excludes_first_steps"]
        rows.append(("throughput", f"{speed:.0f} {each}s/s (without the first {counted(skipped, 'step')})"))
    model = summary["model"]
    macs = f", {human_count(model['macs'])} MACs {article(unit)} {unit}" if model["macs"] is not None else ""
    rows.append(("model", f"{human_count(model['parameters'])} parameters{macs}"))
    rows.append(("peak memory", human_bytes(summary["memory"]["peak_rss_bytes"])))
    return rows


def reference_text(reference: Reference) -> str:
    """Return what the method of a reference reaches, in words."""
    display = display_of(reference.metric)
    # one digit: two would be read as certain to 0.01 points
    value = f"{100 * reference.value:.1f} %" if display.as_percent else f"{reference.value:.4g}"
    return f"test {display.title} {value}"


def _beside(reference: Reference, own: float | None) -> str:
    """Return the reference beside the run's own value; None: the run has none on the whole test split."""
    text = reference_text(reference)
    if own is not None:
        apart, display = reference.value - own, display_of(reference.metric)
        by = f"{100 * abs(apart):.1f} points" if display.as_percent else f"{abs(apart):.4g}"
        text += f", {by} {'above' if apart > 0 else 'below'} this run"
    return f"{text} ({reference.source})"


def status_text(summary: Mapping[str, Any]) -> str:
    """Return the status, with the reason for a stop if there is one."""
    reason = summary.get("stop_reason")
    return f"{summary['status']}: {reason}" if reason else str(summary["status"])


def print_result(folder: Path, summary: Mapping[str, Any]) -> None:
    """Print the table and the paths to stdout. Lines are not cut, so that a path can be copied."""
    from rich.text import Text

    out = console()
    curves = folder / "curves.png"
    rows = [*result_rows(summary), ("curves", str(curves)) if curves.exists() else ("folder", str(folder))]
    rows = [(for_terminal(what), for_terminal(value)) for what, value in rows]
    width = max(len(what) for what, _ in rows)
    for what, value in rows:
        out.print(Text.assemble((f"{what:<{width}}", "bold"), f"  {value}"), soft_wrap=True)
