"""Accuracy against latency and size over several ratios: tradeoff.json, tradeoff.csv and tradeoff.svg."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench.compress.drop import POINTS
from effbench.compress.options import ELSEWHERE, CompressOptions
from effbench.compress.trial import FAULTS, Trial, bytes_of, p50_of, tried
from effbench.errors import EffbenchError, MissingExtraError, first_line
from effbench.metrics import display_in, primary
from effbench.records import replacing
from effbench.redaction import redact, redact_environment
from effbench.report.deployment import three
from effbench.report.figures import Figure, Series, figure
from effbench.report.sheets import sheet
from effbench.run.run import Run
from effbench.strict_json import json_text

log = logging.getLogger(__name__)

SCHEMA = 1
_UNITS = {"accuracy": POINTS, "answers": "percent of answers that differ"}  # of `lost`, by what it is of


def trade_off(source: Run, options: Sequence[CompressOptions], folder: Path, final: Path) -> dict[str, Any]:
    """Compress with each of the options, write the files, and return the record.

    Args:
        source: the run.
        options: one entry a ratio, all of one method.
        folder: an empty folder, which becomes `final`.
        final: the folder's name in the end.

    Raises:
        MissingExtraError: the extra that every ratio needs is not installed.
        EffbenchError: no ratio works; the first one's. If some do, `refused` of the record says why the others do not.
    """
    trials, refused = [], dict[str, str]()
    first: EffbenchError | None = None
    for number, each in enumerate(options, start=1):
        ratio = getattr(each.own, "ratio")  # noqa: B009 - methods with a ratio only
        log.info(f"ratio {ratio:g}, {number} of {len(options)}")
        try:
            trials.append((ratio, tried(source, each, f"ratio-{ratio}", folder, final)))
        except MissingExtraError:
            raise  # the others need it, too
        except FAULTS as error:
            log.warning(f"ratio {ratio:g}: {first_line(error)}")
            log.debug("traceback:", exc_info=True)
            refused[f"{ratio:g}"] = first_line(error)
            if first is None and isinstance(error, EffbenchError):
                first = error
    if not trials:
        # its own class has the exit code
        raise first or EffbenchError(f"no ratio works: {'; '.join(dict.fromkeys(refused.values()))}")
    record = {**_record(source, options[0].method, trials), "refused": refused}
    for name, text in (("csv", _csv(record)), ("svg", _svg(record)), ("json", json_text(redact(record)))):
        if text is not None:
            with replacing(folder / f"tradeoff.{name}", elsewhere=ELSEWHERE) as stream:
                stream.write(redact_environment(text + "\n").encode("utf-8", errors="backslashreplace"))
    return record


def _record(source: Run, method: str, trials: Sequence[tuple[float, Trial]]) -> dict[str, Any]:
    first = trials[0][1].record
    return {
        "schema_version": SCHEMA,
        "method": method,
        "model": source.config.model.label,
        "task": source.task.display_record(),
        "metric": primary(source.task.displays),
        "before": {
            **first["before"],
            "bytes": bytes_of(first["speed"], "before"),
            "p50_s": p50_of(first["speed"], "before"),
            "backend": first["speed"]["fastest"]["before"],
        },
        "rows": [
            {"ratio": ratio, **trial.facts(), "drop_of": trial.record["validation"]["of"]} for ratio, trial in trials
        ],
        "threads": first["speed"]["threads"],
        "environment": first["speed"]["environment"],
    }


def _csv(record: Mapping[str, Any]) -> str:
    text = io.StringIO(newline="")
    names = ("ratio", "drop", "drop_of", "parameters", "macs", "bytes", "backend")
    rows = []
    for row in record["rows"]:
        flat = {name: row[name] for name in names} | {f"{row['split']}_{k}": v for k, v in row["metrics"].items()}
        for key in ("lost", "p50_s", "over_before"):
            for end, suffix in (("estimate", ""), ("low", "_low"), ("high", "_high")):
                flat[key + suffix] = row[key][end] if row[key] else None
            if key == "lost":
                flat["lost_of"] = _UNITS.get(row["lost_of"])
        rows.append({key: f"{value:.8g}" if isinstance(value, float) else value for key, value in flat.items()})
    # a metric may be undefined for the answers of one ratio
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def figures_of(record: Mapping[str, Any]) -> list[Figure]:
    """Return accuracy over latency and over size, both as parts of those of the run before."""
    metric, before = record["metric"], record["before"]
    display = display_in(record, metric)
    split = record["rows"][0]["split"]
    points: dict[str, list[tuple[float, float]]] = {"latency": [], "size": []}
    whole = {**before, "over_before": {"estimate": 1.0}}
    for row in (whole, *record["rows"]):
        # it may be undefined for the answers of one ratio
        if (value := row["metrics"].get(metric)) is None:
            continue
        if row["over_before"]:
            points["latency"].append((row["over_before"]["estimate"], value))
        if row["bytes"] and before["bytes"]:
            points["size"].append((row["bytes"] / before["bytes"], value))
    about = {
        "latency": f"latency over that before ({before['backend']}, batch 1)",
        "size": "size of the file over that before",
    }
    title = f"{split} {display.title or metric}"
    # one line, which the title names
    series = {key: Series("", 0, sorted(found), beside=True) for key, found in points.items()}
    # short numbers: there is little room beside the axis
    written = "{:.3g}".format if not display.as_percent else lambda value: f"{100 * value:.3g} %"
    drawn = (figure(title, about[key], [series[key]], written, display.text) for key in series)
    return [each for each in drawn if each is not None]


def _svg(record: Mapping[str, Any]) -> str | None:
    if not (figures := figures_of(record)):
        return None  # the metric is undefined for nearly all
    ratios = ", ".join(f"{row['ratio']:g}" for row in record["rows"])
    lines = "; ".join(
        f"ratio {row['ratio']:g}: latency {three(row['over_before']['estimate'])} of before"
        for row in record["rows"]
        if row["over_before"]
    )
    text = f"{record['model']}, method={record['method']}, ratios {ratios}, from right to left. {lines}."
    return sheet(figures, text, across=2).rstrip("\n")
