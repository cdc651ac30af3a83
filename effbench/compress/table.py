"""A compression for people: before and after side by side, and sentences below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from effbench.bench.backends import BACKENDS
from effbench.compress.target import Target
from effbench.compress.winner import export_command, format_of
from effbench.escaping import for_terminal
from effbench.metrics import Display, display_in
from effbench.report.before_after import costs, search_sentences, sentences, value_text
from effbench.report.compression import FILES
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
    rows = costs(record)
    return [
        TextColumn("", [head for head, _, _ in rows], is_number=False),
        TextColumn("before", [before for _, before, _ in rows]),
        TextColumn("after", [after for _, _, after in rows]),
    ]


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
    ]


def _ms(found: Mapping[str, Any], name: str) -> str:
    return three(1000 * found[name]["estimate"]) if found[name] else "-"


def _ends(found: Mapping[str, Any] | None) -> str:
    return f"{three(1000 * found['low'])} to {three(1000 * found['high'])}" if found else "-"


def _ratio(arm: Mapping[str, Any], ratios: Mapping[str, Any]) -> str:
    found = ratios.get(arm["backend"]) if arm["side"] == "after" else None
    return f"{found['estimate']:.2f}" if found else ""


def print_trade_off(record: Mapping[str, Any]) -> None:
    """Print what each ratio costs and loses."""
    out = console()
    before, rows, metric = record["before"], record["rows"], record["metric"]
    head = f"{record['model']}, method={record['method']}; latency at batch 1 with the fastest backend of each"
    print_sentence(out, head, style="bold")
    split, display = rows[0]["split"], display_in(record, metric)
    every = [before, *rows]
    print_table(
        [
            TextColumn("ratio", ["before", *(f"{row['ratio']:g}" for row in rows)]),
            TextColumn(f"{split}\n{metric}", [_value(each, metric, display) for each in every]),
            TextColumn("points lost", ["", *map(_points, rows)], drop_order=1),
            TextColumn("parameters", [human_count(each["parameters"]) for each in every], drop_order=3),
            TextColumn("file", [human_bytes(each["bytes"]) if each["bytes"] else "-" for each in every]),
            TextColumn("p50 /\nbefore", ["1", *map(_over, rows)]),
            TextColumn("backend", [str(each["backend"]) for each in every], is_number=False, drop_order=2),
        ]
    )
    print()
    for ratio, why in record["refused"].items():
        print_sentence(console(), for_terminal(why), head=f"ratio {ratio}: ")
    print(f"  {for_terminal(record['path'])}/tradeoff.svg")


def _value(row: Mapping[str, Any], metric: str, display: Display) -> str:
    value = row["metrics"].get(metric)  # it may be undefined for the answers of one ratio
    return "-" if value is None else display.text(value)


def _points(row: Mapping[str, Any]) -> str:
    lost = row["lost"] if row["lost_of"] == "accuracy" else None
    return f"{lost['estimate']:+.2f} [{lost['low']:+.2f}, {lost['high']:+.2f}]" if lost else "-"


def _over(row: Mapping[str, Any]) -> str:
    return f"{row['over_before']['estimate']:.2f}" if row["over_before"] else "-"


def print_search(record: Mapping[str, Any], words: Sequence[str] = ()) -> None:
    """Print every candidate of a search, the result, and whether it reaches the target.

    words: checkpoint, data keys and modules of the command, for one that exports the run itself.
    """
    out = console()
    found = record["search"]
    if record["path"] is None:
        print_sentence(out, _reached_already(record, words))
        return
    target = Target.parsed(found["target"])
    rows = [row for row in found["candidates"] if not row["failed"] and row["value"] is not None]
    key = "backend" if target.latency else "file_backend"
    lost_in = "points" if found["test"]["lost_of"] == "accuracy" else "% of loss"
    print_table(
        [
            TextColumn("candidate", [row["name"] for row in rows], is_number=False),
            TextColumn(f"target\n{found['target']}", [value_text(target.text, row["value"]) for row in rows]),
            TextColumn(f"val {lost_in}\nlost", [f"{row['drop']:+.2f}" for row in rows]),
            TextColumn("file", [human_bytes(row["bytes"]) if row["bytes"] else "-" for row in rows], drop_order=1),
            TextColumn("backend", [str(row[key]) for row in rows], is_number=False, drop_order=2),
        ]
    )
    print()
    for row in found["candidates"]:
        if row["failed"]:
            print_sentence(out, for_terminal(row["failed"]), head=f"{row['name']}: ")
    for sentence in search_sentences(record):
        print_sentence(out, sentence)
    for reason in record["speed"]["doubts"] if target.latency else ():
        print_sentence(out, f"Doubt: {for_terminal(reason)}.")
    file = f"/{FILES}/{found['file']}" if found["file"] else ""
    print(f"  {for_terminal(record['path'] + file)}")


def _reached_already(record: Mapping[str, Any], words: Sequence[str]) -> str:
    """Return that the run itself reaches the target, and how to have its file. words: see `print_search`."""
    found, run = record["search"], str(record["source"]["run"])
    value, backend = value_text(found["target"], found["value"]), BACKENDS[found["backend"]]
    said = f"target={found['target']} is reached by the run itself: {value} with backend={backend.name}"
    kind = format_of(backend.name, Target.parsed(found["target"]).latency)
    remedy = f" For its file: {export_command(run, kind, words)}" if kind else ""
    return for_terminal(f"{said}. Nothing was compressed or written.{remedy}")
