"""A measurement for people: a table of at most 80 columns, and sentences below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from effbench.bench.verdict import OFFLINE, SINGLE_STREAM
from effbench.escaping import for_terminal
from effbench.report.text_table import TextColumn, console, print_sentence, print_table
from effbench.units import article, human_bytes, percent


def print_record(record: Mapping[str, Any]) -> None:
    """Print the tables and the verdicts to stdout."""
    out = console()
    model, options, unit = record["model"], record["options"], record["unit"]
    shape = "x".join(map(str, record["sample_shape"]))
    threads = f"{options['threads']} thread{'s' * (options['threads'] > 1)}"
    working = [arm for arm in record["arms"] if arm["status"] == "ok" and arm.get("batches")]
    calls = [found["calls"] for arm in working for found in arm["batches"].values()]
    counts = f"{options['rounds']} rounds, {min(calls, default=0)} to {max(calls, default=0)} calls a number"
    print_sentence(out, f"{model['name']}, {unit}s of {shape}, {threads}, {counts}", style="bold")
    _print_latency(working, options)
    print()
    _print_throughput(working, record)
    print()
    for arm in record["arms"]:
        if arm["status"] != "ok":
            print_sentence(out, arm["reason"], head=f"{arm['backend']}: ")
    for arm in working:
        for note in arm.get("notes", ()):
            print_sentence(out, note, head=f"{arm['backend']}: ")
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
    if metric := _metric(arms):
        columns.append(TextColumn(f"{record['split']}\n{metric}", [_value(arm, metric) for arm in arms]))
        columns.append(TextColumn("lost\npoints", [f"{arm['lost']['estimate']:+.2f}" for arm in arms]))
    columns.append(TextColumn("output\nmoves by", [f"{arm['parity']['relative']:.1e}" for arm in arms]))
    columns.append(TextColumn("same\nanswers", [percent(arm["parity"]["agreement"]) for arm in arms], drop_order=2))
    print_table(columns)


def _metric(arms: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the metric that is shown: accuracy, or else the first one besides the loss."""
    names = [name for arm in arms for name in arm.get("metrics") or {}]
    return "acc" if "acc" in names else next((name for name in names if name != "loss"), names[0] if names else None)


def _value(arm: Mapping[str, Any], metric: str) -> str:
    from effbench.metrics import display_of

    return display_of(metric).text(arm["metrics"][metric])


def _ms(found: Mapping[str, Any] | None, name: str) -> str:
    value = found and found["latency_s"][name]
    return _three(1000 * value["estimate"]) if value else "-"


def _ms_ends(found: Mapping[str, Any] | None, name: str) -> str:
    value = found and found["latency_s"][name]
    return f"{_three(1000 * value['low'])} to {_three(1000 * value['high'])}" if value else "-"


def _speed(found: Mapping[str, Any] | None) -> str:
    return _three(found["samples_per_s"]["estimate"]) if found else "-"


def _three(value: float) -> str:
    """Return three significant digits without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def sentences(record: Mapping[str, Any]) -> list[str]:
    """Return the verdicts and what they rest on, a sentence or two each."""
    found = [
        _named(record, SINGLE_STREAM, "Least latency at batch 1 (single stream)"),
        _named(record, OFFLINE, "Most throughput (offline)"),
    ]
    bound = f"at most {record['options']['max_drop']:g} points lost"
    if record["untold"]:
        found.append(f"Accuracy is not told: {record['untold']}; no backend is left out for its answers.")
    elif over := [arm["backend"] for arm in record["arms"] if _is_over(arm, record["options"]["max_drop"])]:
        found.append(f"Left out, because they lose more than the bound ({bound}): {', '.join(over)}.")
    ratios = [
        f"{each['estimate']:.3f} [{each['low']:.3f}, {each['high']:.3f}] at batch {size}"
        for size, each in record["control"]["ratio"].items()
    ]
    found.append(
        f"A/A: {record['control']['backend']} measured twice has the ratio {'; '.join(ratios)}. "
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
        text += (
            f"; not told apart from {', '.join(found['not_told_apart'])}, so {article('winner')} winner is not named"
        )
    return f"{text}."
