"""The result of a study: a page, Markdown, CSV and JSON in its folder, and a table on the console."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.escaping import csv_cell, for_terminal, markdown_text
from effbench.records import FINISHED, write_text
from effbench.redaction import redact
from effbench.report.figures import FRAME, Figure, Series, figure
from effbench.report.fronts import front_figure
from effbench.report.templates import environment_of, harmless
from effbench.report.text_table import TextColumn, console, print_sentence, print_table
from effbench.strict_json import json_text
from effbench.study.deployment_grid import training_and_deployment
from effbench.study.figures import budget_curves, learning_curves, learning_note, target_band, target_curve
from effbench.study.grids import BUDGET, COSTS, FRONT, RANKING, TARGET, Grid, details, fronts_shown, ranking
from effbench.study.results import StudyResult, result_to_json
from effbench.study.run_grids import every_run
from effbench.study.runs import groups
from effbench.study.space import words_of
from effbench.study.table import Confirmation, Curves, StudyTable, Trial, table_to_json
from effbench.study.verdicts import seconds_doubt
from effbench.units import counted

if TYPE_CHECKING:
    from markupsafe import Markup

PAGE, MARKDOWN, TABLE, RESULT, CURVES = "study.html", "study.md", "table.json", "result.json", "curves.json"
RUNS, TRIALS = "runs.csv", "trials.csv"
SORT_SCRIPT = (Path(__file__).parent / "sort.js").read_text(encoding="utf-8")
_MOST_WHOLE = 24  # letters; a longer name may be broken at the end of a line

Names = Mapping[str, tuple[int, str]]  # arm -> index of its colour and dash, its name in a figure


def write_page(folder: Path, table: StudyTable, result: StudyResult, curves: Curves) -> Path:
    """Write the files of a study's result and return the page's path.

    Args:
        folder: of the study.
        table: its data.
        result: its analysis.
        curves: arm -> (step, validation metric) of its final runs.
    """
    # first the data: if the page cannot be written, `effbench report` makes it again without a run
    write_text(folder / TABLE, table_to_json(table) + "\n")
    write_text(folder / RESULT, result_to_json(result) + "\n")
    write_text(folder / CURVES, json_text(curves, ascii_only=True, indent=None) + "\n")
    write_text(folder / RUNS, _csv([_run_values(run) for run in table.confirmations]))
    write_text(folder / TRIALS, _csv([_trial_values(trial) for trial in table.trials]))
    deployed = training_and_deployment(table, result)
    grids = [ranking(table, result), *deployed, *details(table, result), *every_run(table)]
    # a path or a database's address in an override may hold a password: nothing readable is written with it
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
    _print_grid(ranking(table, result))
    for sentence in result.verdicts:
        print_sentence(out, sentence)
    for objection in result.objections:
        text = f"objection, {objection.kind}: {objection.sentence} {_capital(objection.remedy)}"
        print_sentence(out, text, style="red")
    for grid in training_and_deployment(table, result):
        print_sentence(out, grid.heading, style="bold")
        _print_grid(grid)
        print_sentence(out, grid.lead)
    out.print(for_terminal(str(path)), soft_wrap=True, markup=False)


def _print_grid(grid: Grid) -> None:
    # text_table.py leaves out columns by `priority`: at 80 columns neither numbers nor sentences are broken
    columns = zip(*grid.rows, strict=True)
    print_table(
        [
            TextColumn(for_terminal(head), list(map(for_terminal, cells)), is_number, leaves)
            for head, is_number, leaves, cells in zip(grid.heads, grid.numeric, grid.priority, columns, strict=True)
        ]
    )


def names_in_figures(table: StudyTable) -> dict[str, tuple[int, str]]:
    """Return arm -> (index of its colour and dash, its name in a figure of its model).

    An optimizer has the same colour and dash on every model, so that figures side by side can be read together.
    """
    short = {arm.name: arm.title or (arm.optimizer if arm.model else None) or arm.name for arm in table.arms}
    index = {name: place for place, name in enumerate(dict.fromkeys(short.values()))}
    return {arm: (index[name], name) for arm, name in short.items()}


def figures(table: StudyTable, result: StudyResult, curves: Curves) -> dict[str, list[Figure]]:
    """Return heading -> figures: one a model of learning curves, runs at the target and best against budget; fronts.

    Args:
        table: the study's data.
        result: its analysis.
        curves: arm -> (step, validation metric) of its final runs.
    """
    names, by_model = names_in_figures(table), groups(table.arms)
    found: dict[str, list[Figure | None]] = {RANKING: [], TARGET: [], BUDGET: []}
    # one figure a model: 12 lines in one cannot be followed, and models differ by more than their optimizers do
    for group in by_model:
        own = {arm.name: names[arm.name] for arm in group}
        place = f" on {group[0].model}" if group[0].model and len(by_model) > 1 else ""
        found[RANKING].append(_learning_figure(table, curves, own, place))
        found[TARGET] += [_target_figure(table, result, unit, own, place) for unit in ("steps", "seconds")]
        title = f"best validation {table.display.axis}{place} of so many runs"
        tuned = budget_curves(result.budget, own)
        found[BUDGET].append(figure(title, "tuning runs", tuned, *_metric_texts(table)))
    # all arms in one figure: a small model with a good optimizer may replace a large one
    alone = names if len(by_model) == 1 else {arm: (index, arm) for arm, (index, _) in names.items()}
    found[FRONT] = _front_figures(table, result, alone)
    return {heading: [each for each in drawn if each is not None] for heading, drawn in found.items()}


def _metric_texts(table: StudyTable) -> tuple[Callable[[float], str], Callable[[float], str]]:
    """Return how values of the metric are written beside an axis, and in a sentence."""
    if table.as_percent:
        return (lambda value: f"{100 * value:.4g}%",) * 2
    # ticks are round numbers, and may lie closer to each other than the metric's digits
    return "{:.4g}".format, table.display.text


def _learning_figure(table: StudyTable, curves: Curves, names: Names, place: str) -> Figure | None:
    final_runs = Counter(run.arm for run in table.confirmations)
    title = f"validation {table.display.axis}{place} (mean, range of seeds)"
    drawn = figure(title, "optimizer step", learning_curves(curves, names, table.mode), *_metric_texts(table))
    return drawn and replace(drawn, note=learning_note(curves, names, final_runs))


def _target_figure(table: StudyTable, result: StudyResult, unit: str, names: Names, place: str) -> Figure | None:
    """Return the share of runs that have reached the target; None in seconds that nobody can trust."""
    if unit == "seconds" and seconds_doubt(list(names), table):
        return None
    times = [each for each in result.target_times if each.unit == unit and each.arm in names]
    end = max((point.time for each in times for point in each.curve), default=0.0)
    reached = [
        Series(names[each.arm][1], names[each.arm][0], target_curve(each.curve, end), target_band(each.curve, end),
               dotted=False)
        for each in times
    ]  # fmt: skip
    across = "optimizer step" if unit == "steps" else "seconds of training"
    title = f"share of runs at the target{place}, by {unit}"
    return figure(title, across, reached, "{:.0%}".format, limits=(0.0, 1.0))


def _front_figures(table: StudyTable, result: StudyResult, names: Names) -> list[Figure | None]:
    qualities = {each.arm: each.test for each in result.qualities if each.test is not None}
    found = []
    for cost in fronts_shown(result):
        name, cost_text = COSTS[cost]
        points = [each for each in result.front if each.cost == cost]
        title = f"test {table.display.axis} against {name}"
        found.append(front_figure(title, name, points, qualities, names, (cost_text, *_metric_texts(table))))
    return found


def markdown(table: StudyTable, result: StudyResult, grids: Sequence[Grid]) -> str:
    """Return the result as Markdown.

    Args:
        table: the study's data.
        result: its analysis.
        grids: the tables.
    """
    lines = [
        f"# Study {markdown_text(table.name)}",
        "",
        *(f"- {markdown_text(sentence)}" for sentence in result.verdicts),
        "",
    ]
    # beside the verdict, as on the page: an objection further down is read after the verdict was believed
    if result.objections:
        lines += ["Objections:", ""]
        lines += [
            f"- {markdown_text(f'{each.kind}: {each.sentence} {_capital(each.remedy)}')}" for each in result.objections
        ] + [""]
    for grid in grids:
        lines += [
            f"## {markdown_text(grid.heading)}",
            "",
            markdown_text(grid.lead),
            "",
            f"| {' | '.join(map(markdown_text, grid.heads))} |",
        ]
        lines += [f"|{'|'.join('---:' if number else '---' for number in grid.numeric)}|"]
        lines += [f"| {' | '.join(map(markdown_text, row))} |" for row in grid.rows]
        lines.append("")
    return "\n".join(lines)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")  # csv writes its own line ends
    if rows:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in redact(list(rows)))
    return text.getvalue()


def _run_values(run: Confirmation) -> dict[str, Any]:
    # one bit a test sample fills a screen, and settings are a dict: as words they can be given to `effbench train`
    return {**_values(run, ("correct", "settings")), "settings": " ".join(words_of(run.settings))}


def _trial_values(trial: Trial) -> dict[str, Any]:
    return {**_values(trial, ("settings",)), "settings": " ".join(words_of(trial.settings))}


def _values(run: Confirmation | Trial, but: Container[str]) -> dict[str, Any]:
    # not asdict: it would copy each bit of each run, half a minute for 10,000 runs
    return {each.name: getattr(run, each.name) for each in fields(run) if each.name not in but}


def _html(table: StudyTable, result: StudyResult, grids: Sequence[Grid], drawn: Mapping[str, Sequence[Figure]]) -> str:
    """Return the page. Its only script is ours, named by its hash; everything else is text."""
    environment = environment_of(Path(__file__).parent)
    environment.filters["whole"] = _kept_whole([arm.name for arm in table.arms], table.unit)

    # a reader should see before the verdict whether runs are missing
    def without(runs: Sequence[Trial | Confirmation]) -> int:
        return sum(run.status not in FINISHED for run in runs)

    content = {
        "title": f"Study {table.name}",
        "facts": " · ".join(
            [
                counted(len(table.arms), "arm"),
                f"{counted(len(table.trials), 'tuning run')}, {without(table.trials)} without result",
                f"{counted(len(table.confirmations), 'final run')}, {without(table.confirmations)} without result",
                f"effbench {version('effbench')}",
                f"{datetime.now():%Y-%m-%d %H:%M}",
            ]
        ),
        "verdicts": list(result.verdicts),
        "objections": [asdict(each) | {"remedy": _capital(each.remedy)} for each in result.objections],
        "grids": [asdict(grid) for grid in grids],
        "figures": {heading: [asdict(each) for each in own] for heading, own in drawn.items()},
        # one entry a colour: the arms of several models share theirs
        "legend": sorted(set(names_in_figures(table).values())),
    }
    # the policy allows this one script by its hash: a name that smuggled one in could not run it
    digest = base64.b64encode(hashlib.sha256(SORT_SCRIPT.encode()).digest()).decode()
    template = environment.get_template("study.html.j2")
    return template.render(harmless(redact(content)), frame=FRAME, script=SORT_SCRIPT, script_digest=digest, zip=zip)


def _kept_whole(names: Sequence[str], unit: str) -> Callable[[str], Markup]:
    """Return the filter that keeps names of arms, p values and intervals on one line.

    A browser breaks a name at its hyphens and an interval after its comma, where a phone's line ends.

    Args:
        names: of arms.
        unit: of the metric, which stands before the interval of a difference.
    """
    from markupsafe import Markup, escape

    # a longer name would leave a phone's screen: 24 letters are about half of its width in a table
    short = {for_terminal(name) for name in names if "-" in name and len(name) <= _MOST_WHOLE}
    # the longest first: 'cnn-sgd' is the start of 'cnn-sgd-nesterov'
    named = "|".join(rf"(?<![\w-]){re.escape(name)}(?![\w-])" for name in sorted(short, key=len, reverse=True))
    units = "|".join(["pt", "%", *([re.escape(for_terminal(unit))] if 0 < len(unit) <= _MOST_WHOLE else [])])
    numbers = rf"[-+]?[\d.]+ (?:{units})(?: \[[-+\d., ]{{1,30}}\])?|\[[-+\d., ]{{1,30}}\]|\bp [=<] [\d.]+"
    pattern = re.compile(f"({named}|{numbers})" if named else f"({numbers})")

    def whole(text: str) -> Markup:
        # split returns text, match, text, ...: every piece is escaped, and only our own tags are added
        pieces = [escape(piece) for piece in pattern.split(text)]
        pieces[1::2] = [Markup('<span class="whole">{}</span>').format(piece) for piece in pieces[1::2]]
        return Markup("").join(pieces)

    return whole


def _capital(sentence: str) -> str:
    """Return a remedy, such as 'widen lr upwards', as it stands after a sentence."""
    return sentence[:1].upper() + sentence[1:]
