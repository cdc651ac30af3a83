"""A compression for people: before and after side by side, and sentences below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from effbench.compress.target import Target, value_text
from effbench.escaping import for_terminal
from effbench.metrics import display_of
from effbench.report.deployment import three
from effbench.report.text_table import TextColumn, console, print_sentence, print_table
from effbench.units import human_bytes, human_count


def print_record(record: Mapping[str, Any]) -> None:
    """Print both tables and the sentences to stdout."""
    out = console()
    print_table(_costs(record))
    print()
    print_table(_latency(record))
    print()
    for sentence in sentences(record):
        print_sentence(out, sentence)
    print(f"  {for_terminal(record['path'])}")


def _costs(record: Mapping[str, Any]) -> list[TextColumn]:
    before, after, split = record["before"], record["after"], record["test"]["split"]
    heads, cells = [], []
    for name, value in before["metrics"].items():
        display = display_of(name)
        heads.append(f"{split} {display.title or name}")
        cells.append((display.text(value), display.text(after["metrics"][name])))
    for head, key in (("parameters", "parameters"), ("of them zero", "zeros"), ("MACs", "macs")):
        if after.get(key) is not None:
            heads.append(head)
            cells.append((human_count(before[key]), human_count(after[key])))
    for backend, pair in _bytes(record).items():
        heads.append(f"file for {backend}")
        cells.append((human_bytes(pair[0]), human_bytes(pair[1])))
    return [
        TextColumn("", heads, is_number=False),
        TextColumn("before", [each[0] for each in cells]),
        TextColumn("after", [each[1] for each in cells]),
    ]


def _bytes(record: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return backend -> bytes of its file before and after, for backends that run both."""
    sizes = {(arm["side"], arm["backend"]): arm["bytes"] for arm in record["speed"]["arms"] if arm.get("bytes")}
    both = [name for side, name in sizes if side == "after" and ("before", name) in sizes]
    return {name: (sizes["before", name], sizes["after", name]) for name in both}


def _latency(record: Mapping[str, Any]) -> list[TextColumn]:
    speed = record["speed"]
    size = str(min(speed["batch_sizes"]))
    arms = [arm for arm in speed["arms"] if arm["status"] == "ok" and size in arm["batches"]]
    found = [arm["batches"][size]["latency_s"] for arm in arms]
    ratios = {pair["backend"]: pair["ratio"] for pair in speed["pairs"] if str(pair["batch_size"]) == size}
    return [
        TextColumn("", [arm["side"] for arm in arms], is_number=False),
        TextColumn("backend", [arm["backend"] for arm in arms], is_number=False),
        TextColumn(f"p50 ms,\nbatch {size}", [_ms(each, "p50") for each in found]),
        TextColumn("95 %", [_ends(each["p50"]) for each in found], drop_order=3),
        TextColumn("p99", [_ms(each, "p99") for each in found], drop_order=2),
        TextColumn("after /\nbefore", [_ratio(arm, ratios) for arm in arms]),
        TextColumn("val points\nlost", [_lost(arm) for arm in arms], drop_order=1),
    ]


def _ms(found: Mapping[str, Any], name: str) -> str:
    return three(1000 * found[name]["estimate"]) if found[name] else "-"


def _ends(found: Mapping[str, Any] | None) -> str:
    return f"{three(1000 * found['low'])} to {three(1000 * found['high'])}" if found else "-"


def _ratio(arm: Mapping[str, Any], ratios: Mapping[str, Any]) -> str:
    found = ratios.get(arm["backend"]) if arm["side"] == "after" else None
    return f"{found['estimate']:.2f}" if found else ""


def _lost(arm: Mapping[str, Any]) -> str:
    return f"{arm['lost']['estimate']:+.2f}" if arm.get("lost") else ""


def sentences(record: Mapping[str, Any]) -> list[str]:
    """Return what was lost and gained, a sentence each."""
    found = [*_accuracy_sentence(record)]
    speed = record["speed"]
    size = min(speed["batch_sizes"])
    pairs = [pair for pair in speed["pairs"] if pair["batch_size"] == size]
    found += [_speed_sentence(pair, speed["margin"], record["method"]) for pair in pairs]
    found += [f"{arm['side']} {arm['backend']}: {arm['reason']}" for arm in speed["arms"] if arm["status"] != "ok"]
    found += [f"Doubt: {reason}." for reason in speed["doubts"]]
    found += [str(note) for note in record["details"].get("notes", ())]
    return [for_terminal(text) for text in found]


def _accuracy_sentence(record: Mapping[str, Any]) -> Sequence[str]:
    test, lost = record["test"], record["test"]["lost"]
    if lost is None:
        return []
    what = "accuracy" if test["lost_of"] == "accuracy" else "equal answers"
    return [
        f"Lost: {lost['estimate']:+.2f} points of {test['split']} {what} [{lost['low']:+.2f}, {lost['high']:+.2f}], "
        f"paired on {test['samples']} samples."
    ]


def _speed_sentence(pair: Mapping[str, Any], margin: float, method: str) -> str:
    """Return how the latency changed; a change within the interval or the margin is none."""
    name, found = pair["backend"], pair["ratio"]
    interval = f"{found['estimate']:.2f} [{found['low']:.2f}, {found['high']:.2f}] of the time before"
    before = "fp32" if method == "quantize" else "the run before"
    if found["low"] > 1 + margin:
        return f"{name}: slower than {before} on this CPU: {interval}."
    if found["high"] * (1 + margin) < 1:
        return f"{name}: {1 / found['estimate']:.2f} times as fast: {interval}."
    return f"{name}: not told apart from {before} on this CPU: {interval}."


def print_trade_off(record: Mapping[str, Any]) -> None:
    """Print what each ratio costs and loses."""
    out = console()
    before, rows, metric = record["before"], record["rows"], record["metric"]
    head = f"{record['model']}, method={record['method']}; latency at batch 1 with the fastest backend of each"
    print_sentence(out, head, style="bold")
    display, split = display_of(metric), rows[0]["split"]
    every = [before, *rows]
    print_table(
        [
            TextColumn("ratio", ["before", *(f"{row['ratio']:g}" for row in rows)]),
            TextColumn(f"{split}\n{metric}", [display.text(each["metrics"][metric]) for each in every]),
            TextColumn("points lost", ["", *map(_points, rows)], drop_order=1),
            TextColumn("parameters", [human_count(each["parameters"]) for each in every], drop_order=3),
            TextColumn("file", [human_bytes(each["bytes"]) for each in every]),
            TextColumn("p50 /\nbefore", ["1", *map(_over, rows)]),
            TextColumn("backend", [str(each["backend"]) for each in every], is_number=False, drop_order=2),
        ]
    )
    print()
    print(f"  {for_terminal(record['path'])}/tradeoff.svg")


def _points(row: Mapping[str, Any]) -> str:
    lost = row["lost"]
    return f"{lost['estimate']:+.2f} [{lost['low']:+.2f}, {lost['high']:+.2f}]" if lost else "-"


def _over(row: Mapping[str, Any]) -> str:
    return f"{row['over_before']['estimate']:.2f}" if row["over_before"] else "-"


def print_search(record: Mapping[str, Any]) -> None:
    """Print every candidate of a search, the result, and whether it reaches the target."""
    out = console()
    found = record["search"]
    target = Target.parsed(found["target"])
    rows = [row for row in found["candidates"] if not row["failed"] and row["value"] is not None]
    print_table(
        [
            TextColumn("candidate", [row["name"] for row in rows], is_number=False),
            TextColumn(f"target\n{found['target']}", [value_text(target, row["value"]) for row in rows]),
            TextColumn("val points\nlost", [f"{row['drop']:+.2f}" for row in rows]),
            TextColumn("file", [human_bytes(row["bytes"]) if row["bytes"] else "-" for row in rows], drop_order=1),
            TextColumn("backend", [str(row["backend"]) for row in rows], is_number=False, drop_order=2),
        ]
    )
    print()
    for row in found["candidates"]:
        if row["failed"]:
            print_sentence(out, for_terminal(row["failed"]), head=f"{row['name']}: ")
    test, lost = found["test"], found["test"]["lost"]
    if lost:
        print_sentence(
            out,
            f"Lost against the run: {lost['estimate']:+.2f} points of {test['split']} accuracy [{lost['low']:+.2f}, "
            f"{lost['high']:+.2f}], paired on {test['samples']} samples.",
        )
    value = value_text(target, found["value"])
    reached = "reached" if found["met"] else "not reached; this is the nearest"
    print_sentence(out, f"target={found['target']} {reached}: {value}, after {found['seconds']:.0f} s.")
    print(f"  {for_terminal(record['path'])}")
