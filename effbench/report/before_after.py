"""What `effbench compress` found, for terminals and pages: compression.json is read as a file of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench.disk import pointed
from effbench.errors import ConfigError
from effbench.escaping import for_terminal
from effbench.metrics import display_of
from effbench.report.compression import NAME, read_compression
from effbench.report.deployment import three
from effbench.units import counted, human_bytes, human_count

_COUNTS = (("parameters", "parameters"), ("of them zero", "zeros"), ("MACs", "macs"))


def before_after(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Return (what a page shows of compression.json in a run's folder or None, what is wrong with the file or '')."""
    try:
        record = read_compression(folder)
        if record is None:
            return None, ""
        section = _section(record)
        return {**section, "notes": [*_trained_further(folder, record), *section["notes"]]}, ""
    except ConfigError as error:
        return None, str(error)
    # whatever a damaged or hostile record gives
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return None, f"{folder / NAME} is damaged: {type(error).__name__}. Compress the run again."


def _section(record: Mapping[str, Any]) -> dict[str, Any]:
    speed = record["speed"]
    size = str(min(speed["batch_sizes"]))
    named = {
        (arm["side"], arm["backend"]): f"{three(1000 * arm['batches'][size]['latency_s']['p50']['estimate'])} ms"
        for arm in speed["arms"]
        if size in arm["batches"]
    }
    backends = dict.fromkeys(backend for _, backend in named)
    rows = [list(row) for row in costs(record)]
    rows += [
        [f"p50, batch {size}, {name}", named.get(("before", name), ""), named.get(("after", name), "")]
        for name in backends
    ]
    written = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in record["options"].items()}
    options = ", ".join(f"{key}={value}" for key, value in written.items() if value is not None)
    return {
        "lead": f"method={record['method']}, {options}; of {record['source']['run']}",
        "heads": ["", "before", "after"],
        "rows": rows,
        "notes": sentences(record),
        "figures": [],
    }


def _trained_further(folder: Path, record: Mapping[str, Any]) -> Sequence[str]:
    """Return that the numbers are of weights that the run has no longer, if it was resumed since."""
    measured, now = record.get("checkpoint"), pointed(folder / "checkpoints" / "best")
    if measured is None or now == measured:
        return []
    return [for_terminal(f"These numbers are of {measured}; the run was trained further, and its best is {now} now.")]


def costs(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (what, before, after) of metrics, counts and sizes."""
    before, after, split = record["before"], record["after"], record["test"]["split"]
    rows = []
    for name, value in before["metrics"].items():
        display = display_of(name)
        # a metric may be undefined for the answers of one side
        now = after["metrics"].get(name)
        rows.append(
            (f"{split} {display.title or name}", display.text(value), "-" if now is None else display.text(now))
        )
    for head, key in _COUNTS:
        if after.get(key) is not None and before.get(key) is not None:
            rows.append((head, human_count(before[key]), human_count(after[key])))
    sizes = {(arm["side"], arm["backend"]): arm["bytes"] for arm in record["speed"]["arms"] if arm.get("bytes")}
    for side, backend in sizes:
        if side == "after" and ("before", backend) in sizes:
            pair = human_bytes(sizes["before", backend]), human_bytes(sizes["after", backend])
            rows.append((f"file for {backend}", *pair))
    return rows


def sentences(record: Mapping[str, Any]) -> list[str]:
    """Return what was lost and gained, a sentence each."""
    found = [*accuracy_sentence(record["test"]), *_quantized_sentence(record["details"])]
    speed = record["speed"]
    size = min(speed["batch_sizes"])
    pairs = [pair for pair in speed["pairs"] if pair["batch_size"] == size]
    found += [*_fastest_sentence(speed)]
    if left_out := [str(name) for name in speed.get("left_out", ())]:  # which older records have not
        found.append(f"Not counted as fastest, because others lose less accuracy: {', '.join(left_out)}.")
    found += [_speed_sentence(pair, speed["margin"], record["method"]) for pair in pairs]
    found += [f"{arm['side']} {arm['backend']}: {arm['reason']}" for arm in speed["arms"] if arm["status"] != "ok"]
    found += [f"Doubt: {reason}." for reason in speed["doubts"]]
    # records of before 2026-11-30 do not say
    if not record["test"].get("same_data", True):
        found.append("Doubt: the data have changed since the training (another sha256), and with them the samples.")
    found += [str(note) for note in record["details"].get("notes", ())]
    return [for_terminal(text) for text in found]


def accuracy_sentence(test: Mapping[str, Any]) -> Sequence[str]:
    """Return what is lost of test accuracy, with its interval; nothing for tasks without it, whose metrics are rows."""
    lost = test["lost"]
    if lost is None or test["lost_of"] != "accuracy":
        return []
    return [
        f"Lost: {lost['estimate']:+.2f} points of {test['split']} accuracy [{lost['low']:+.2f}, {lost['high']:+.2f}], "
        f"paired on {test['samples']} samples."
    ]


def _quantized_sentence(details: Mapping[str, Any]) -> Sequence[str]:
    """Return how a model was quantized; nothing for other methods."""
    if "scheme" not in details:
        return []
    if details["scheme"] == "bf16":
        arrays = counted(details["layers"], "array")
        return [f"{arrays} of weights in bfloat16; a runtime computes as with the file before."]
    ranges = f", ranges from {counted(details['calibration'], 'training sample')}" if details["calibration"] else ""
    floating, layers = details["floating"], details["layers"]
    kept = f"{len(floating)} of {layers} layers stay in float32: {', '.join(floating)}" if floating else ""
    of = "products, embeddings and LSTMs" if details["scheme"] == "dynamic" else "layers"
    rest = "; convolutions stay in float32" if details["scheme"] == "dynamic" else ""
    return [f"Scheme {details['scheme']}{ranges}; {kept or f'all {layers} {of} in 8 bits'}{rest}."]


def _speed_sentence(pair: Mapping[str, Any], margin: float, method: str) -> str:
    """Return how the latency changed; a change within the interval or the margin is none."""
    name, found = pair["backend"], pair["ratio"]
    interval = f"{found['estimate']:.2f} [{found['low']:.2f}, {found['high']:.2f}] of the time before"
    before = "fp32" if method == "quantize" else "the run before"
    if found["low"] > 1 + margin:
        return f"{name}: slower than {before} on this CPU: {interval}."
    if found["high"] * (1 + margin) < 1:
        return f"{name}: {1 / found['estimate']:.2f} times as fast: {interval}."
    return f"{name}: cannot be distinguished from {before} on this CPU: {interval}."


def _fastest_sentence(speed: Mapping[str, Any]) -> Sequence[str]:
    """Compare the fastest backends, where they differ: a user of the run would take the fastest anyway."""
    before, after, found = speed["fastest"]["before"], speed["fastest"]["after"], speed["fastest_ratio"]
    if found is None or before == after:
        return []
    return [
        f"Fastest before: {before}; fastest after: {after}, {found['estimate']:.2f} [{found['low']:.2f}, "
        f"{found['high']:.2f}] of its time."
    ]
