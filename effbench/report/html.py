"""The report: one HTML file about one or many runs, without scripts and external resources.

Everything from a run's files is treated as text: `harmless` removes secrets and control characters, the template
escapes it, and links are relative and percent-encoded.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from effbench.config.compare import leaves
from effbench.metrics import primary
from effbench.records import FINISHED, write_output
from effbench.redaction import redact
from effbench.report.before_after import before_after
from effbench.report.charts import Curve, Panel, panels_of_run, panels_of_runs
from effbench.report.collect import RunRecord, curve_rows, shortened
from effbench.report.deployment import deployment
from effbench.report.figures import COLOURS, FRAME, Figure
from effbench.report.ranking import Table, label, tables
from effbench.report.result import result_rows, status_text
from effbench.report.spread import number_text, seconds
from effbench.report.templates import environment_of, harmless
from effbench.report.trade_off import TradeOff
from effbench.report.trade_off_table import as_data as trade_off_data
from effbench.report.trade_off_table import table_of
from effbench.units import human_bytes

MOST_SHOWN = 40  # runs with curves and a section
MOST_RANKED = 32  # of these, finished runs; the rest is reserved for failed ones

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Drawn:
    """A run with curves and a section.

    Attributes:
        run: the run.
        colour: index of its config in the table; None for an unfinished run.
        rows: rows of metrics.csv.
        problems: what is wrong with metrics.csv, compression.json and bench/bench.json.
        measured: title -> what `effbench compress` or `bench` found.
    """

    run: RunRecord
    colour: int | None
    rows: Sequence[Mapping[str, str]]
    problems: Sequence[str]
    measured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def curve(self) -> Curve:
        """Return the run as a curve; epochs per step are those of the summary, or else of the last complete epoch."""
        summary = self.run.summary or {}
        epochs, steps = summary.get("epochs"), summary.get("steps")
        per_step = float(epochs / steps) if epochs and steps else 0.0
        if per_step <= 0:
            rows = [row for row in self.rows if row["row"] == "epoch" and row["epoch"].isdecimal()]
            rows = [row for row in rows if int(row["step"]) > 0]
            per_step = int(rows[-1]["epoch"]) / int(rows[-1]["step"]) if rows else 0.0
        return Curve(self.run.name, self.colour or 0, self.rows, per_step or None)


def view(
    records: Sequence[RunRecord],
    output: Path,
    unread: Sequence[str] = (),
    deployed: Sequence[TradeOff] = (),
    damaged: Sequence[tuple[RunRecord, str]] = (),
) -> dict[str, Any]:
    """Return the content of the page as plain containers, without secrets and control characters.

    Args:
        records: the runs.
        output: path of the page; links are relative to it.
        unread: messages on folders that could not be read.
        deployed: what `trade_offs` found of the runs.
        damaged: (run, what is wrong with a record of its deployment), from there.
    """
    ranking = tables(records)
    colours = dict(_chosen(ranking, records))
    drawn: dict[int, Drawn] = {}
    for run in records:
        if run.number in colours:
            rows, problems = curve_rows(run.folder)
            # a run that failed before its first row needs no remark about metrics.csv
            problems = [] if run.status == "failed" and not rows else problems
            parts = {"Compression": before_after(run.folder), "Deployment": deployment(run.folder / "bench")}
            problems = [*problems, *(damage for _, damage in parts.values() if damage)]
            measured = {title: section for title, (section, _) in parts.items() if section}
            drawn[run.number] = Drawn(run, colours[run.number], rows, problems, measured)
    unfinished = [run for run in records if run.summary is not None and not run.finished]
    found = [(run.name, text) for run in records for text in run.problems]
    found += [(item.run.name, text) for item in drawn.values() for text in item.problems]
    # the others' sections have said it
    found += [(run.name, text) for run, text in damaged if run.number not in drawn]

    # how many runs ended with which status, and the version and time of the page
    counts = Counter(run.status.replace("_", " ") for run in records) if len(records) > 1 else {}
    facts = [*(f"{count} {status}" for status, count in counts.items()), f"effbench {version('effbench')}"]
    # sections in the order of the tables, then the unfinished runs
    ranked = [run.number for table in ranking for group in table.groups for run in group.runs]
    in_order = [drawn[number] for number in dict.fromkeys([*ranked, *drawn]) if number in drawn]
    content = {
        "title": f"{len(records)} runs" if len(records) > 1 else label(records[0]),
        "facts": " · ".join([*facts, f"{datetime.now():%Y-%m-%d %H:%M}"]),
        "single": len(records) == 1,
        "tables": [_table(table, drawn) for table in ranking],
        "deployments": [table_of(each, {number: item.colour for number, item in drawn.items()}) for each in deployed],
        "unfinished": [_unfinished(run, drawn) for run in unfinished],
        "problems": [*found, *(("", text) for text in unread)],
        "sections": [_section(item, output) for item in in_order],
        "shown": len(drawn),
        "found": len(records),
    }
    # at the end and for the whole page, so that no text can miss it
    return dict(harmless(content))


def write_html(content: Mapping[str, Any], output: Path) -> None:
    """Write the page of a `view`. Raise EffbenchError if it cannot be written; an older page then stays."""
    template = environment_of().get_template("page.html.j2")
    text = template.render(content, frame=FRAME, finished_statuses=FINISHED, zip=zip)
    write_output(output, text, redacted=True)  # `view` has redacted the content; the template has no secrets


def as_data(records: Sequence[RunRecord], deployed: Sequence[TradeOff] = ()) -> dict[str, Any]:
    """Return the tables, and what `trade_offs` found, as values for programs, without secrets."""
    ranking = []
    for table in tables(records):
        rows = []
        for group, row in zip(table.groups, table.rows, strict=True):
            named = {column.name: row.get(column.name) for column in table.columns}
            spread = {f"{name} sd": value for name in named if (value := row.get(f"{name}±")) is not None}
            rows.append({**named, **spread, "seeds": row["seeds"], "runs": [run.name for run in group.runs]})
        ranking.append({"data": table.data, "metric": table.metric, "rows": rows})
    content = {
        "tables": ranking,
        "deployments": [trade_off_data(each) for each in deployed],
        "unfinished": [
            {"run": run.name, "status": run.status, "reason": _reason(run)} for run in records if not run.finished
        ],
        "problems": [{"run": run.name, "problem": text} for run in records for text in run.problems],
    }
    return dict(redact(content))


def _chosen(ranking: Sequence[Table], records: Sequence[RunRecord]) -> list[tuple[int, int | None]]:
    """Return (number, colour) of the runs to draw: the top runs of each table, then unfinished ones."""
    # a share for each table, so that a large table does not take all places
    share = max(1, MOST_RANKED // max(1, len(ranking)))
    chosen: list[tuple[int, int | None]] = []
    for table in ranking:
        # each config gets an equal part, its first seeds
        groups = table.groups[: min(COLOURS, share)]
        for colour, group in enumerate(groups):
            chosen += [(run.number, colour) for run in group.runs[: share // len(groups)]]
    unfinished = [(run.number, None) for run in records if not run.finished]
    return [*chosen[:MOST_RANKED], *unfinished][:MOST_SHOWN]


def _table(table: Table, drawn: Mapping[int, Drawn]) -> dict[str, Any]:
    within = [drawn[run.number] for group in table.groups for run in group.runs if run.number in drawn]
    runs = sum(len(group.runs) for group in table.groups)
    drawings = _figures(panels_of_runs([item.curve() for item in within], table.displays))
    rows, legend = [], []
    for group, row in zip(table.groups, table.rows, strict=True):
        shown = drawn.get(group.runs[0].number)
        anchor, colour = (shown.run.number, shown.colour) if shown else (None, None)
        rows.append({"cells": table.cells(row), "anchor": anchor, "colour": colour})
        if shown:
            keys = [f"{key} {value}" for key in table.keys if (value := row[f"config {key}"])]
            legend.append({"colour": colour, "text": ", ".join([label(group.runs[0]), *keys])})
    # said only if runs are missing from the charts
    part = f"Drawn: {len(within)} of {runs} runs, from the top of the table."
    return {
        "heading": f"{table.data} by {table.metric}" if table.metric else table.data,
        "lead": _lead(table, runs),
        "heads": [column.head for column in table.columns],
        # styles: names with a link to a section, numbers, texts
        "kinds": ["run" if each.name == "overrides" else "n" if each.numeric else "t" for each in table.columns],
        "drop_orders": [column.drop_order for column in table.columns],
        "rows": rows,
        "notes": list(table.notes),
        "figures": drawings,
        "legend": legend,
        "drawn": part if drawings and len(within) < runs else "",
    }


def _figures(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    # not dashed: the configs of a table are at most as many as the colours
    return [asdict(Figure(panel, dashed=False)) for panel in panels]


def _lead(table: Table, runs: int) -> str:
    """Return the sentence above a table."""
    if runs == 1:
        return "One finished run."
    configs = len(table.groups)
    text = f"{runs} finished runs of {f'{configs} configs' if configs > 1 else 'one config'}"
    results = [column.name for column in table.columns if column.name == "value" or column.name.startswith("test/")]
    if any(row.get(f"{name}±") is not None for row in table.rows for name in results):
        text += ": means over seeds ± their sample standard deviation"
    return f"{text}. Ranked by validation; the test is only shown." if configs > 1 and table.metric else f"{text}."


def _unfinished(run: RunRecord, drawn: Mapping[int, Drawn]) -> dict[str, Any]:
    summary, name = run.summary or {}, f"val/{primary(run.displays)}"
    value = run.part("metrics").get(name)
    reached = summary.get("epochs")
    return {
        "name": run.name,
        "anchor": run.number if run.number in drawn else None,
        "label": label(run) if run.part("model") else "",
        "status": run.status,
        "reason": _reason(run),
        "epochs": f"{reached:.3g}" if reached is not None else "",
        "value": f"{name} {number_text(name, value, displays=run.displays)}" if value is not None else "",
    }


def _reason(run: RunRecord) -> str:
    summary = run.summary or {}
    reasons = summary.get("error"), summary.get("stop_reason"), *run.problems
    return shortened(next((text for text in reasons if text), ""), 2000)


def _section(item: Drawn, output: Path) -> dict[str, Any]:
    """Return everything about one run: result, configuration, environment, command."""
    run = item.run
    summary: Mapping[str, Any] = run.summary or {}
    environment = {key: summary.get(key) for key in ("device", "precision", "processes")}
    # one block for machine, libraries and commit: what a number was measured with
    environment |= {**run.part("environment"), **{f"git {key}": value for key, value in run.part("git").items()}}
    # the best validation value and the test value of the first metric, if they exist
    best, test = run.part("best"), f"test/{primary(run.displays)}"
    values = [(str(best.get("metric")), best.get("value")), (test, run.part("metrics").get(test))]
    brief = [f"{name} {number_text(name, value, displays=run.displays)}" for name, value in values if value is not None]
    return {
        "anchor": run.number,
        "name": run.name,
        "href": link(run.folder, output),
        "brief": " · ".join([label(run), *brief]) if run.part("model") else "",
        "status": run.status,
        "colour": item.colour,
        "outcome": _blocks({"Result": _result(run), "Time": _clocks(run), "Sessions": _sessions(run)}),
        "about": _blocks({"Data": _pairs(run.part("data")), "Environment": _pairs(environment)}),
        "config": _pairs(run.config),
        "command": _command(summary.get("argv")),
        "figures": _figures(panels_of_run(item.curve(), run.displays)),
        "measured": [{"title": title, **found} for title, found in item.measured.items()],
    }


def _blocks(pairs: Mapping[str, Pairs]) -> list[dict[str, Any]]:
    return [{"title": title, "pairs": found} for title, found in pairs.items() if found]


def link(folder: Path, output: Path) -> str | None:
    """Return the relative, percent-encoded address of the folder, seen from the page; None if it contains a secret."""
    # a percent-encoded secret would pass the redaction of the page
    if redact(str(folder)) != str(folder):
        return None
    # ./ in front: a folder named javascript:x must not become a scheme
    relative = os.path.relpath(folder, output.parent)
    return f"./{quote(os.fsencode(relative), safe='/')}/"


def _result(run: RunRecord) -> Pairs:
    """Return the result as train prints it; for an incomplete record, what is there."""
    if run.summary is None:
        return []
    if not run.finished and run.summary.get("error"):
        return [("status", run.status), ("reason", _reason(run)), *_pairs(run.part("metrics"))]
    try:
        return [(what, shortened(text, 2000)) for what, text in result_rows(run.summary)]
    except (AttributeError, KeyError, TypeError, ValueError):  # a record of another version lacks fields
        return [("status", status_text(run.summary)), *_pairs(run.part("metrics"))]


def _clocks(run: RunRecord) -> Pairs:
    """Return the time spent by each timer."""
    clocks, begun = run.part("timing").get("seconds"), run.part("timing").get("started")
    pairs = _pairs({"started": begun} if begun else {})
    if not isinstance(clocks, Mapping):
        return pairs
    # timers below 0.05 s would be shown as 0.0 s
    spent = {name: value for name, value in clocks.items() if isinstance(value, float) and value >= 0.05}
    return pairs + [(str(name).replace("_", " "), seconds(value)) for name, value in spent.items()]


def _sessions(run: RunRecord) -> Pairs:
    """Return the steps of each session of a resumed run, and the settings that changed."""
    sessions = (run.summary or {}).get("sessions")
    if not isinstance(sessions, list) or len(sessions) < 2:
        return []
    found = []
    for number, session in enumerate(sessions, start=1):
        if isinstance(session, Mapping):
            texts = [f"steps {session.get('from_step')} to {session.get('to_step')}, {session.get('status')}"]
            changed = session.get("changed")
            for key, pair in changed.items() if isinstance(changed, Mapping) else ():
                values = pair if isinstance(pair, list) and pair else [pair]  # a damaged record may hold one value
                texts.append(f"{key} from {values[0]} to {values[-1]}")
            found.append((f"session {number}", shortened("; ".join(texts), 2000)))
    return found


def _pairs(content: Mapping[str, Any]) -> Pairs:
    """Return dotted keys and values as texts, without empty values of a record."""
    pairs = []
    for key, value in leaves(redact(content)).items():
        if value is None and "." not in key:
            continue
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            value = ", ".join(value)  # names, such as classes
        pairs.append((shortened(key, 100), human_bytes(value) if key == "memory_bytes" else shortened(value, 2000)))
    return pairs


def _command(argv: Any) -> str:
    """Return the command line in a form that can be run again."""
    if not isinstance(argv, list) or not argv:
        return ""
    program, *words = map(str, argv)
    # argv[0] is a path of the machine that trained
    name = "effbench" if Path(program).name in ("effbench", "__main__.py") else program
    return shortened(shlex.join([name, *words]), 4000)
