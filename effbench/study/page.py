"""The result of a study: a page, Markdown, CSV and JSON in its folder, and a table on the console."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from effbench.escaping import csv_cell, for_terminal
from effbench.records import FINISHED, write_text
from effbench.redaction import redact
from effbench.report.charts import FRAME
from effbench.report.text_table import TextColumn, console, print_table
from effbench.study.figures import COLOURS, Figure, Series, budget_curves, figure, learning_curves, target_curve
from effbench.study.grids import Grid, details, every_run, ranking
from effbench.study.results import StudyResult, result_to_json
from effbench.study.space import words_of
from effbench.study.table import Confirmation, StudyTable, Trial, table_to_json

PAGE, MARKDOWN, TABLE, RESULT, CURVES = "study.html", "study.md", "table.json", "result.json", "curves.json"
RUNS, TRIALS = "runs.csv", "trials.csv"
SORT_SCRIPT = (Path(__file__).parent / "sort.js").read_text(encoding="utf-8")

Curves = Mapping[str, Sequence[Sequence[Sequence[float]]]]


def write_page(folder: Path, table: StudyTable, result: StudyResult, curves: Curves) -> Path:
    """Write the files of a study's result and return the page's path.

    Args:
        folder: of the study.
        table: its data.
        result: its analysis.
        curves: arm -> (step, validation metric) of its final runs.
    """
    write_text(folder / TABLE, table_to_json(table) + "\n")
    write_text(folder / RESULT, result_to_json(result) + "\n")
    write_text(folder / CURVES, json.dumps(curves) + "\n")
    write_text(folder / RUNS, _csv([_run_values(run) for run in table.confirmations]))
    write_text(folder / TRIALS, _csv([_trial_values(trial) for trial in table.trials]))
    grids = [ranking(table, result), *details(table, result), *every_run(table)]
    write_text(folder / MARKDOWN, redact(markdown(table, result, grids)))
    write_text(folder / PAGE, _html(table, result, grids, figures(table, result, curves)))
    return folder / PAGE


def print_result(table: StudyTable, result: StudyResult, path: Path) -> None:
    """Print the ranking, the verdicts and the objections to stdout.

    Args:
        table: the study's data.
        result: its analysis.
        path: of the page.
    """
    out = console()
    grid = ranking(table, result)
    columns = zip(*grid.rows, strict=True)
    print_table(
        [
            TextColumn(head, list(map(for_terminal, cells)), is_number, leaves)
            for head, is_number, leaves, cells in zip(grid.heads, grid.numeric, grid.priority, columns, strict=True)
        ]
    )
    for sentence in result.verdicts:
        out.print(for_terminal(sentence), soft_wrap=not out.is_terminal, markup=False)
    for objection in result.objections:
        text = f"objection, {objection.kind}: {objection.sentence} {objection.remedy}"
        out.print(for_terminal(text), style="red", soft_wrap=not out.is_terminal, markup=False)
    out.print(for_terminal(str(path)), soft_wrap=True, markup=False)


def figures(table: StudyTable, result: StudyResult, curves: Curves) -> list[Figure]:
    """Return learning curves, share of runs at the target, and best against budget.

    Args:
        table: the study's data.
        result: its analysis.
        curves: arm -> (step, validation metric) of its final runs.
    """
    colours = {arm.name: index % COLOURS for index, arm in enumerate(table.arms)}

    def written(value: float) -> str:
        return f"{100 * value:.4g}%" if table.as_percent else f"{value:.4g}"

    reached = [
        Series(each.arm, colours[each.arm], target_curve(each.curve))
        for each in result.target_times
        if each.unit == "steps"
    ]
    metric, curves_drawn = table.metric, learning_curves(curves, colours)
    budget = budget_curves(result.budget, colours)
    found = [
        figure(f"validation {metric}, mean and range over seeds", "optimizer step", curves_drawn, written),
        figure("share of runs that have reached the target", "optimizer step", reached, lambda value: f"{value:.0%}"),
        figure(f"best validation {metric} of so many tuning runs", "tuning runs", budget, written),
    ]
    return [each for each in found if each is not None]


def markdown(table: StudyTable, result: StudyResult, grids: Sequence[Grid]) -> str:
    """Return the result as Markdown.

    Args:
        table: the study's data.
        result: its analysis.
        grids: the tables.
    """
    lines = [f"# Study {_cell(table.name)}", "", *(f"- {_cell(sentence)}" for sentence in result.verdicts), ""]
    # beside the verdict, as on the page: an objection further down is read after the verdict was believed
    if result.objections:
        lines += ["Objections:", ""]
        lines += [f"- {_cell(f'{each.kind}: {each.sentence} {each.remedy}')}" for each in result.objections] + [""]
    for grid in grids:
        heads = [head.replace("\n", " ") for head in grid.heads]
        lines += [f"## {grid.heading}", "", grid.lead, "", f"| {' | '.join(heads)} |"]
        lines += [f"|{'|'.join('---:' if number else '---' for number in grid.numeric)}|"]
        lines += [f"| {' | '.join(map(_cell, row))} |" for row in grid.rows]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    harmless = for_terminal(text).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
    return harmless.replace("<", "&lt;").replace("`", "'")


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in redact(list(rows)))
    return text.getvalue()


def _run_values(run: Confirmation) -> dict[str, Any]:
    values = {key: value for key, value in asdict(run).items() if key not in ("correct", "settings")}
    return {**values, "settings": " ".join(words_of(run.settings))}


def _trial_values(trial: Trial) -> dict[str, Any]:
    return {**asdict(trial), "settings": " ".join(words_of(trial.settings))}


def _html(table: StudyTable, result: StudyResult, grids: Sequence[Grid], drawn: Sequence[Figure]) -> str:
    """Return the page. Its only script is ours, named by its hash; everything else is text."""
    import jinja2

    folders = [Path(__file__).parent, Path(__file__).parents[1] / "report"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    missed = [run for run in table.confirmations if run.status not in FINISHED]
    diverged = sum(trial.status == "diverged" for trial in table.trials)
    content = {
        "title": f"Study {table.name}",
        "facts": f"{len(table.arms)} arms · {len(table.trials)} tuning runs · {len(table.confirmations)} final runs · "
        f"{diverged} tuning runs diverged, {len(missed)} final runs without result · effbench {version('effbench')} · "
        f"{datetime.now():%Y-%m-%d %H:%M}",
        "verdicts": list(result.verdicts),
        "objections": [asdict(each) for each in result.objections],
        "grids": [asdict(grid) for grid in grids],
        "figures": [asdict(each) for each in drawn],
        "legend": [(index % COLOURS, arm.name) for index, arm in enumerate(table.arms)],
    }
    digest = base64.b64encode(hashlib.sha256(SORT_SCRIPT.encode()).digest()).decode()
    template = environment.get_template("study.html.j2")
    return template.render(_harmless(redact(content)), frame=FRAME, script=SORT_SCRIPT, script_digest=digest, zip=zip)


def _harmless(value: Any) -> Any:
    """Return the content without characters that control a terminal or the text direction."""
    if isinstance(value, str):
        return for_terminal(value)
    if isinstance(value, Mapping):
        return {key: _harmless(item) for key, item in value.items()}
    return [_harmless(item) for item in value] if isinstance(value, list | tuple) else value
