"""effbench report: one HTML page about one or many runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.cache_dir import expanded, is_file
from effbench.cli.flags import VERB_FLAGS, parse_flags, show_help
from effbench.errors import ConfigError
from effbench.escaping import for_terminal
from effbench.gc_pause import uncollected
from effbench.records import STUDY_FILE, output_problem
from effbench.strict_json import print_json
from effbench.units import counted

if TYPE_CHECKING:
    from effbench.report.trade_off import TradeOff

log = logging.getLogger(__name__)

HELP = """usage: effbench report PATH ... [output=report.html] [--json]

Writes one HTML file about runs. PATH is a run, a sweep, or a folder that contains runs at any depth, such as outputs.
For the folder of a study it analyses its table again and writes study.html there, without output=.

The page ranks finished runs with the same data and metric; seeds of one config are one row, with mean and standard
deviation. It also has curves, and the result, configuration, environment and command of each run. Failed runs and
damaged files are listed with the reason. The page needs no network and runs no script.

Of two or more runs that `effbench bench` or `compress` measured, the page also has a deployment table: accuracy against
latency (p50, one sample, fastest backend) and file size, and the runs that no other one beats in both. It is also
written beside the page as NAME-deployment.csv and NAME-deployment.svg. Latencies of other machines, threads or versions
have an axis of their own.

The tables are also printed to stdout; --json: as JSON."""
MOST_LINES = 20  # printed lines of a table or of a list of problems


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["report"])
    output: str | None = None
    paths: list[Path] = []
    for word in arguments.overrides:  # a folder's name may contain '=' too
        if word.startswith("output="):
            output = word.removeprefix("output=")
        else:
            paths.append(expanded(word))
    if arguments.has("help") or not paths:
        return show_help(HELP, arguments.has("help"))
    # a study compares paired runs; a ranking of all its runs would mix tuning with the comparison
    if len(paths) == 1 and is_file(paths[0] / STUDY_FILE):
        from effbench.study.report import report_study

        if output is not None:
            raise ConfigError(
                f"output={output} is for a report of runs; {paths[0]} is a study, whose page is always study.html in "
                "its folder. Leave output= out."
            )
        return report_study(paths[0], arguments.has("json"))
    # the output is checked before the work; only a page may be overwritten
    output = "report.html" if output is None else output
    page = expanded(output)
    if why := "it is no file's name" if not output else output_problem(page):
        raise ConfigError(f"output={output}: {why}. Give the page's name, such as output=report.html.")
    if page.suffix not in (".html", ".htm"):
        raise ConfigError(f"output={output} must end in .html, so that a browser shows it as a page.")
    for side in _sides(page).values():
        if why := output_problem(side):
            raise ConfigError(f"output={output}: {side} is written beside it, and {why}. Give the page another name.")
    return report(paths, page, arguments.has("json"))


def report(paths: Sequence[Path], output: Path, as_json: bool) -> int:
    """Read the runs at or below `paths`, write the page, print its tables.

    Args:
        paths: runs, sweeps, or folders that contain some.
        output: path of the page.
        as_json: print the tables as JSON.

    Returns:
        The exit code.
    """
    from effbench.report.collect import find_runs, read_runs
    from effbench.report.html import as_data, view, write_html
    from effbench.report.trade_off import trade_offs

    # thousands of runs make millions of objects that all stay: garbage collection would only cost time
    with uncollected():
        folders, unread = find_runs(paths)
        records = read_runs(folders)
        deployed, damaged = trade_offs(records)
        content = view(records, output, unread, deployed, damaged)
        write_html(content, output)
        files = _write_deployment(deployed, output)

    log.info(f"read {counted(content['found'], 'run')}")
    problems = [f"{name}{': ' if name else ''}{text}" for name, text in content["problems"]]
    _show_lines(problems, log.warning, log.info)
    if as_json:
        print_json({"report": str(output), **as_data(records, deployed)})
        return 0
    for table in [*content["tables"], *content["deployments"]]:
        _print_table(table)
    _show_lines([f"{run['name']} {run['status']}: {run['reason']}" for run in content["unfinished"]], print, print)
    for path in [*files, output]:
        print(for_terminal(str(path)))
    return 0


def _write_deployment(found: Sequence[TradeOff], page: Path) -> list[Path]:
    """Write PAGE-deployment.csv and .svg beside the page, if runs were measured in deployment; return their paths.

    Raises:
        EffbenchError: a file cannot be written.
    """
    if not found:
        return []
    from effbench.records import write_output
    from effbench.report.trade_off_table import trade_off_csv, trade_off_sheet

    texts = {".csv": trade_off_csv(found), ".svg": trade_off_sheet(found)}
    paths = []
    for suffix, path in _sides(page).items():
        if (text := texts[suffix]) is not None:
            paths.append(path)
            write_output(path, text, "output=PAGE.html")
    return paths


def _sides(page: Path) -> dict[str, Path]:
    """Return suffix -> path of the files that are written beside the page."""
    return {suffix: page.with_name(f"{page.stem}-deployment{suffix}") for suffix in (".csv", ".svg")}


def _show_lines(lines: Sequence[str], show: Callable[[str], object], show_rest: Callable[[str], object]) -> None:
    """Show the first lines, each on one line, and how many more there are."""
    for line in lines[:MOST_LINES]:
        # an error's text may have line breaks
        show(" ".join(line.split()))
    if len(lines) > MOST_LINES:
        show_rest(f"... and {len(lines) - MOST_LINES} more in the page")


def _print_table(table: Mapping[str, Any]) -> None:
    from effbench.report.text_table import TextColumn, console, print_sentence, print_table

    out = console()
    print_sentence(out, table["heading"], style="bold")
    print_sentence(out, table["lead"])
    rows = [row["cells"] for row in table["rows"][:MOST_LINES]]
    columns = zip(table["heads"], table["kinds"], table["drop_orders"], zip(*rows, strict=True), strict=True)
    print_table([TextColumn(head, cells, kind == "n", order) for head, kind, order, cells in columns])
    left_out = len(table["rows"]) - MOST_LINES
    notes = [f"... and {left_out} more in the page"] if left_out > 0 else []
    for note in [*notes, *table["notes"], ""]:
        print_sentence(out, note)
