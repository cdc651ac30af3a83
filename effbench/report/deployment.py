"""What `effbench bench` found for a run, for terminals and pages: bench.json is read as a file of others."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from effbench.errors import ConfigError
from effbench.escaping import for_terminal
from effbench.guarded import MissingFileError, checked_version, read_bytes
from effbench.metrics import primary
from effbench.records import read_summary
from effbench.report.backend_fronts import ShownMetric, backend_fronts
from effbench.report.figures import Figure, Series, figure
from effbench.training.manifest import has_other_weights
from effbench.units import article, counted, human_bytes

SCHEMA = 1
SINGLE_STREAM, OFFLINE = "single_stream", "offline"  # MLPerf Inference's names (arXiv:1911.02549)
BENCH_BYTES = 16_000_000  # largest bench.json: about 2 kB a process, of which there are rounds x batch sizes x arms
_MOST_ARMS = 30


def read_bench(folder: Path) -> dict[str, Any] | None:
    """Return bench.json of a folder; None if there is none. Raises ConfigError if it is damaged."""
    path = folder / "bench.json"
    try:
        record = json.loads(read_bytes(path, BENCH_BYTES, follow_links=False).decode("utf-8"))
    except MissingFileError:
        return None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON ({error}).") from error
    checked_version(record.get("schema_version") if isinstance(record, dict) else None, SCHEMA, str(path))
    return dict(record)


def deployment(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Return (what a page shows of bench.json in this folder or None, what is wrong with the file or '')."""
    try:
        record = read_bench(folder)
        if record is None:
            return None, ""
        section = _section(record)
        first = [*_other_weights(folder.parent, record), *_other_data(folder.parent, record)]
        return {**section, "notes": [*first, *section["notes"]]}, ""
    except ConfigError as error:
        return None, str(error)
    # whatever a damaged or hostile record gives
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return None, f"{folder / 'bench.json'} is damaged: {type(error).__name__}. Measure again: effbench bench RUN"


def is_of_other_weights(run: Path, record: Mapping[str, Any]) -> bool:
    """Return True if a run has other weights now than those that a record of bench, or a source's facts, are of."""
    return has_other_weights(run, (record.get("checkpoint") or {}).get("name"), record.get("weights_sha256"))


def _other_weights(run: Path, record: Mapping[str, Any]) -> Sequence[str]:
    """Return that the numbers are of weights that the run has no longer, where the record says which they were."""
    if not is_of_other_weights(run, record):
        return []
    name, step = record["checkpoint"]["name"], record["checkpoint"]["step"]
    text = f"These numbers are of step {step}, and checkpoint {name} has other weights now. Measure again:"
    return [for_terminal(f"{text} effbench bench {run}")]


def is_of_other_data(run: Path, record: Mapping[str, Any]) -> bool:
    """Return True if the answers of a record of bench are for other data than a run's; an older one does not say."""
    measured = (record.get("data") or {}).get("sha256")
    if measured is None:
        return False
    try:
        own = (read_summary(run).get("data") or {}).get("sha256")
    except (ConfigError, OSError):
        return False  # the page of the run says what is wrong
    return own not in (None, measured)


def _other_data(run: Path, record: Mapping[str, Any]) -> Sequence[str]:
    """Return that metrics, and what is lost, are of other data than the run's, where the record says which they are."""
    if not is_of_other_data(run, record):
        return []
    name = record["data"]["name"]
    text = f"Metrics, and what is lost, are of other data ({name}) than the run's. For the run's own, measure again:"
    return [for_terminal(f"{text} effbench bench {run}")]


def _section(record: Mapping[str, Any]) -> dict[str, Any]:
    arms = record["arms"][:_MOST_ARMS]
    record = {**record, "arms": arms}
    working = [arm for arm in arms if arm["status"] == "ok" and arm.get("batches")]
    sizes = [int(size) for size in record["options"]["batch_sizes"]]
    smallest, largest, unit = min(sizes), max(sizes), str(record["unit"])
    metric = main_metric(record, working)
    heads = ["backend", f"p50, batch {smallest}", "95 %", "p99", f"{unit}s/s, batch {largest}", "load", "peak", "file"]
    heads += [f"{record['split']} {metric.name}", lost_head(working)] if metric else []
    named = {str(arm["backend"]): arm for arm in working}
    drawn = [*filter(None, [latency_figure(record)]), *backend_fronts(named, metric, record["split"], str(smallest))]
    model, machine = record["model"], record["environment"]
    return {
        "lead": f"{model['name']}, {counted(record['options']['threads'], 'thread')}, {machine.get('cpu')}",
        "heads": heads,
        "rows": [_row(arm, str(smallest), str(largest), metric) for arm in working],
        "notes": [
            *(f"{arm['backend']}: {arm['reason']}" for arm in arms if arm.get("reason")),
            *sentences(record),
        ],
        "figures": [asdict(each) for each in drawn],
    }


def _row(arm: Mapping[str, Any], small: str, large: str, metric: ShownMetric | None) -> list[str]:
    first, last = arm["batches"].get(small), arm["batches"].get(large)
    p50 = first["latency_s"]["p50"] if first else None
    p99 = first["latency_s"]["p99"] if first else None
    cells = [
        str(arm["backend"]),
        f"{three(1000 * p50['estimate'])} ms" if p50 else "",
        f"{three(1000 * p50['low'])} to {three(1000 * p50['high'])}" if p50 else "",
        f"{three(1000 * p99['estimate'])} ms" if p99 else "",
        three(last["samples_per_s"]["estimate"]) if last else "",
        f"{first['load_s']:.2f} s" if first else "",
        human_bytes(first["peak_bytes"]) if first else "",
        human_bytes(arm["bytes"]),
    ]
    if metric is None:
        return cells
    value = arm["metrics"].get(metric.name)  # it may be undefined for the answers of one backend
    return [*cells, "" if value is None else metric.display.text(value), f"{arm['lost']['estimate']:+.2f}"]


def lost_head(arms: Sequence[Mapping[str, Any]]) -> str:
    """Return what the column of `lost` holds: of tasks without an accuracy, the share of the answers that differ."""
    return "answers changed %" if any(arm.get("lost_of") == "answers" for arm in arms) else "points lost"


def main_metric(record: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]) -> ShownMetric | None:
    """Return the metric that is shown, the task's first one besides the loss; None if the arms have none.

    Args:
        record: bench.json, compression.json, or what has the same `task`.
        arms: of the record; their metrics are in the order of the task.
    """
    names = [str(name) for arm in arms for name in arm.get("metrics") or {}]
    return ShownMetric.of(record, primary(names)) if names else None


def three(value: float) -> str:
    """Return about three significant digits without an exponent, and at most four decimals."""
    digits = next((digits for least, digits in ((100, 0), (10, 1), (0.1, 2), (0.01, 3)) if value >= least), 4)
    return f"{value:.{digits}f}"


def latency_figure(record: Mapping[str, Any]) -> Figure | None:
    """Return the mean time of a sample by batch size, both by powers; None if only one batch size was measured."""
    series = []
    for index, arm in enumerate(record["arms"]):
        points: list[tuple[float, float]] = []
        band: list[tuple[float, float, float]] = []
        for size, found in (arm.get("batches") or {}).items():
            mean, x = found["latency_s"]["mean"], math.log2(int(size))
            points.append((x, _power(mean["estimate"], int(size))))
            # an interval that spans a factor of 2 would cover all other lines
            if mean["high"] is not None and mean["high"] < 2 * mean["low"]:
                band.append((x, _power(mean["low"], int(size)), _power(mean["high"], int(size))))
        series.append(Series(arm["backend"], index, points, band))
    sizes = sorted({x for each in series for x, _ in each.points})
    if len(sizes) < 2:
        return None
    return figure(
        f"ms {article(record['unit'])} {record['unit']}, by powers of ten",
        "batch size",
        series,
        written=lambda y: f"{10**y:.3g}",
        x_limits=(sizes[0], sizes[-1]),
        x_written=lambda x: f"{2**x:.3g}",
    )


def _power(seconds: float, size: int) -> float:
    """Return the milliseconds of a sample as a power of ten. Raises ValueError for what is no time."""
    if not 0 < seconds < math.inf:
        raise ValueError(f"no time: {seconds}")
    return math.log10(1000 * seconds / size)


def sentences(record: Mapping[str, Any]) -> list[str]:
    """Return the verdicts and what they rest on, a sentence or two each."""
    found = [
        _named(record, SINGLE_STREAM, "Least latency at batch 1 (single stream)"),
        _named(record, OFFLINE, "Most throughput (offline)"),
    ]
    what = "points" if lost_head(record["arms"]) == "points lost" else "% of the answers"
    bound = f"at most {record['options']['max_drop']:g} {what}"
    if record["no_accuracy"]:
        found.append(f"Accuracy is not reported: {record['no_accuracy']}; no backend is left out for its answers.")
    elif over := [arm["backend"] for arm in record["arms"] if _is_over(arm, record["options"]["max_drop"])]:
        lose = "lose" if what == "points" else "change"
        found.append(f"Left out, because they {lose} more than the bound ({bound}): {', '.join(over)}.")
    ratios = [
        f"{each['estimate']:.3f} [{each['low']:.3f}, {each['high']:.3f}] at batch {size}"
        for size, each in record["control"]["ratio"].items()
    ]
    twice = f"was measured twice; ratio {'; '.join(ratios)}" if ratios else "could not be measured a second time"
    found.append(
        f"Control: {record['control']['backend']} {twice}. "
        f"Largest change of a fixed calculation within a round: {100 * (record['drift'] - 1):.0f} %."
    )
    others = [
        each["others_seen"]
        for arm in record["arms"]
        for each in (arm.get("batches") or {}).values()
        if each["others_seen"] is not None
    ]
    if others and (share := sum(others) / len(others)) > 0:
        found.append(f"Other work was seen beside {100 * share:.0f} % of the turns.")
    if record["doubts"]:
        closer = f"no winner is named that leads by less than {100 * record['margin']:.0f} %"
        found.append(f"Doubt: {'; '.join(record['doubts'])}: {closer}.")
    return [for_terminal(text) for text in found if text]


def _is_over(arm: Mapping[str, Any], max_drop: float) -> bool:
    return arm["status"] == "ok" and bool(arm.get("lost")) and arm["lost"]["estimate"] > max_drop + 1e-9


def _named(record: Mapping[str, Any], scenario: str, what: str) -> str | None:
    """Return the verdict of a scenario in words."""
    found = record["verdicts"][scenario]
    if found is None:
        return None
    gain = found["gain"]
    text = f"{what}: {found['best']}"
    if scenario == OFFLINE:
        text += f" at batch {found['batch_size']}"
    if gain:
        times = f"{gain['estimate']:.2f} times as fast as {found['reference']} [{gain['low']:.2f}, {gain['high']:.2f}]"
        text += f", {times}"
    if found["winner"] is None:
        text += f"; cannot be distinguished from {', '.join(found['not_distinguished'])}, so no winner is named"
    return f"{text}."
