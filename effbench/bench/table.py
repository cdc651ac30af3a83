"""A measurement for people: a table of at most 80 columns, and sentences below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from effbench.report.backend_fronts import ShownMetric
from effbench.report.deployment import lost_head, main_metric, sentences, three
from effbench.report.text_table import TextColumn, console, print_sentence, print_table
from effbench.units import counted, human_bytes, percent

_LOST = {"points lost": "lost\npoints", "answers changed %": "answers\nchanged %"}  # heads that are narrow


def print_record(record: Mapping[str, Any]) -> None:
    """Print the tables and the verdicts to stdout."""
    out = console()
    model, options, unit = record["model"], record["options"], record["unit"]
    shape = "x".join(map(str, record["sample_shape"]))
    threads = counted(options["threads"], "thread")
    working = [arm for arm in record["arms"] if arm["status"] == "ok" and arm.get("batches")]
    calls = [found["calls"] for arm in working for found in arm["batches"].values()]
    counts = f"{options['rounds']} rounds, {min(calls, default=0)} to {max(calls, default=0)} calls a number"
    print_sentence(out, f"{model['name']}, {unit}s of {shape}, {threads}, {counts}", style="bold")
    _print_latency(working, options)
    print()
    _print_throughput(working, record)
    print()
    for arm in record["arms"]:
        if arm["reason"]:  # also of one that failed at some batch sizes
            print_sentence(out, arm["reason"], head=f"{arm['backend']}: ")
    for arm in working:
        for note in arm.get("notes", ()):
            print_sentence(out, note, head=f"{arm['backend']}: ")
    for arm in working:
        for size, found in arm["batches"].items():
            if (cold := found.get("cold_load_s")) is not None:
                text = f"loading for batch {size} took {cold:.1f} s in the first round, which compiled"
                print_sentence(out, f"{text}; later ones found the result", head=f"{arm['backend']}: ")
    for sentence in sentences(record):
        print_sentence(out, sentence)


def _print_latency(arms: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> None:
    """Print latency at the smallest batch size, and what a process costs."""
    size = str(min(options["batch_sizes"]))
    found = [arm["batches"].get(size) for arm in arms]
    columns = [
        TextColumn("backend", [arm["backend"] for arm in arms], is_number=False),
        TextColumn(f"p50 ms,\nbatch {size}", [_ms(each, "p50") for each in found]),
        TextColumn("95 %", [_ms_ends(each, "p50") for each in found], drop_order=3),
        TextColumn("p90", [_ms(each, "p90") for each in found]),
        TextColumn("p95", [_ms(each, "p95") for each in found], drop_order=5),
        TextColumn("p99", [_ms(each, "p99") for each in found]),
        TextColumn("load\ns", [f"{each['load_s']:.2f}" if each else "-" for each in found], drop_order=2),
        TextColumn("peak", [human_bytes(each["peak_bytes"]) if each else "-" for each in found], drop_order=1),
        TextColumn("file", [human_bytes(arm["bytes"]) for arm in arms], drop_order=1),
    ]
    print_table(columns)


def _print_throughput(arms: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> None:
    """Print samples a second by batch size, and what the answers lost."""
    columns = [TextColumn("backend", [arm["backend"] for arm in arms], is_number=False)]
    for size in record["options"]["batch_sizes"]:
        cells = [_speed(arm["batches"].get(str(size))) for arm in arms]
        columns.append(TextColumn(f"{record['unit']}s/s,\nbatch {size}", cells, drop_order=0 if size == 1 else 1))
    if metric := main_metric(record, arms):
        columns.append(TextColumn(f"{record['split']}\n{metric.name}", [_value(arm, metric) for arm in arms]))
        columns.append(TextColumn(_LOST[lost_head(arms)], [f"{arm['lost']['estimate']:+.2f}" for arm in arms]))
    columns.append(TextColumn("output\nmoves by", [f"{arm['parity']['relative']:.1e}" for arm in arms]))
    columns.append(TextColumn("same\nanswers", [_same(arm) for arm in arms], drop_order=2))
    print_table(columns)


def _same(arm: Mapping[str, Any]) -> str:
    share = arm["parity"]["agreement"]  # None of a file that does not say what its outputs are
    return "-" if share is None else percent(share)


def _value(arm: Mapping[str, Any], metric: ShownMetric) -> str:
    value = arm["metrics"].get(metric.name)  # it may be undefined for the answers of one backend
    return "-" if value is None else metric.display.text(value)


def _ms(found: Mapping[str, Any] | None, name: str) -> str:
    value = found and found["latency_s"][name]
    return three(1000 * value["estimate"]) if value else "-"


def _ms_ends(found: Mapping[str, Any] | None, name: str) -> str:
    value = found and found["latency_s"][name]
    return f"{three(1000 * value['low'])} to {three(1000 * value['high'])}" if value else "-"


def _speed(found: Mapping[str, Any] | None) -> str:
    return three(found["samples_per_s"]["estimate"]) if found else "-"
