"""What `effbench compress` found, for terminals and pages: compression.json is read as a file of others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from effbench.errors import ConfigError, shown
from effbench.escaping import for_terminal
from effbench.metrics import LOSS, display_in, display_of
from effbench.report.backend_fronts import backend_fronts
from effbench.report.compression import FILES, NAME, PRUNED, judged_on, read_compression, trained_since
from effbench.report.deployment import main_metric, three
from effbench.report.figures import Figure
from effbench.units import counted, human_bytes, human_count

_MOST_DRAWN = 30  # backends in a figure
_COUNTS = (("parameters", "parameters"), ("of them zero", "zeros"), ("MACs", "macs"))


def before_after(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Return (what a page shows of compression.json in a run's folder or None, what is wrong with the file or '')."""
    try:
        record = read_compression(folder)
        # a candidate of a search that was interrupted is not tested
        if record is None or ("search" not in record and "test" not in record and "speed" in record):
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
        (name, arm["side"], arm["backend"]): f"{three(1000 * found['estimate'])} ms"
        for arm in speed["arms"]
        if size in arm["batches"]
        for name in ("p50", "p99")
        if (found := arm["batches"][size]["latency_s"].get(name)) is not None
    }
    rows = [list(row) for row in costs(record)]
    rows += [
        [f"{name}, batch {size}, {backend}", *(named.get((name, side, backend), "") for side in ("before", "after"))]
        for name, backend in dict.fromkeys((name, backend) for name, _, backend in named)
    ]
    return {
        "lead": f"{_applied(record)}; of {record['source']['run']}",
        "heads": ["", "before", "after"],
        "rows": rows,
        "notes": [*search_sentences(record), *sentences(record)],
        "figures": [asdict(each) for each in _fronts(record, size)],
    }


def _fronts(record: Mapping[str, Any], size: str) -> list[Figure]:
    speed = record["speed"]
    # older records say of which split the bound was judged, or nothing
    split = speed.get("split") or (record.get("validation") or {}).get("split") or "val"
    arms = {f"{arm['backend']}, {arm['side']}": arm for arm in speed["arms"][:_MOST_DRAWN]}
    metric = main_metric(record, [arm for arm in arms.values() if arm["status"] == "ok"])
    return backend_fronts(arms, metric, str(split), size, paired=False)


def _applied(record: Mapping[str, Any]) -> str:
    """Return the method of a compression with its options."""
    options = record.get("options") or {}
    given = {key: value for key, value in options.items() if value is not None}
    # as the user writes them
    written = (
        f"{key}={f'{value:.4g}' if isinstance(value, float) else shown(value, quotes=False)}"
        for key, value in given.items()
    )
    return ", ".join([f"method={record['method']}", *written])


def card_lines(folder: Path) -> list[str]:
    """Return how a run was compressed, and what that lost, for its model card; [] for a run that was not."""
    try:
        record = read_compression(folder)
        return [] if record is None else _card_lines(folder, record)
    except (ConfigError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return [f"{NAME} is damaged, so that it is not known how this model was compressed."]


def _card_lines(folder: Path, record: Mapping[str, Any]) -> list[str]:
    source = record["source"]
    checkpoint = source.get("checkpoint") or {}
    earlier = source.get("compression")
    weights = f", sha256 of its weights {source['weights_sha256']}" if source.get("weights_sha256") else ""
    # the name alone: a card is published, and the path is of this machine
    run = Path(os.path.realpath(folder / source["run"])).name
    lines = [
        f"Made by effbench compress: {_applied(record)}.",
        f"Of the run {run}, checkpoint {checkpoint.get('name')} (step {checkpoint.get('step')}){weights}.",
        *([f"That run was compressed before: {_applied(earlier)}."] if earlier else []),
        *_quantized_sentence(record.get("details") or {}),
    ]
    if (now := trained_since(folder, record)) is not None:
        return [*lines, f"It was trained further since (its best checkpoint is {now}): what it lost is not known."]
    if (found := record.get("search")) and source["run"] == PRUNED:
        return [*lines, *(f"Of both steps together: {text}" for text in accuracy_sentence(found["test"]))]
    return [*lines, *(accuracy_sentence(record["test"]) if "test" in record else [])]


def search_sentences(record: Mapping[str, Any]) -> list[str]:
    """Return whether a search has reached its target, and what its result lost of the run; [] without a search."""
    found = record.get("search")
    if not found:
        return []
    target, value = str(found["target"]), found["value"]
    low, high = found.get("value_low"), found.get("value_high")  # which older records have not
    ends = "" if low is None or high is None or low == high else f" [{_ends(target, low, high)}]"
    reached = "reached" if found["met"] else "not reached; this is the nearest"
    took = f"{counted(len(found['candidates']), 'candidate')} in {found['seconds']:.0f} s"
    said = [f"target={target} {reached}: {value_text(target, value)}{ends}, after {took}."]
    if not found["met"] and found.get("ended") == "time":
        minutes = found["minutes"]
        said.append(f"The time was over (minutes={minutes:g}) before all was tried. Try minutes={2 * minutes:g}.")
    if found.get("ended") == "file":
        said.append("A candidate had reached it and ended the search, but its file does not. Try a smaller target.")
    if ends and low <= found["most"] < high:
        said.append("The interval contains the target: the result is not distinguished from it.")
    said += [f"Beside the run: {text}" for text in (*accuracy_sentence(found["test"]), *_losses(found["test"]))]
    said += _proof(found)
    if record["source"]["run"] == PRUNED:
        said.append(
            "It was made in two steps: all other numbers here compare the last step, 8 bits, with the pruned run in "
            f"{PRUNED}/ and not with the run."
        )
    return [for_terminal(text) for text in said]


def _proof(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield with which backend and file a search ends, and what is lost with it on validation samples."""
    if "backend" not in found:  # older records
        return
    more = f", {found['more']:.2f} of it by this backend" if found["more"] else ""
    on = judged_on("val", found.get("samples"))  # which older records have not
    lost = f"{found['drop']:+.2f} {found['of']} are lost on {on}{more}"
    yield f"With backend={found['backend']} {lost} (max_drop={found['max_drop']:g})."
    if found["file"]:
        yield f"Its file: {FILES}/{found['file']} ({human_bytes(found['bytes'])})."
    elif found["no_file"]:
        yield f"It has no file in {FILES}/: {found['no_file']}"


def value_text(target: str, value: float) -> str:
    """Return a value in the unit of a target, such as '2 ms', '1 MB', 'latency/4' or 'size/4'."""
    of = target.partition("/")[0].strip().lower()
    if "/" in target:
        return f"{value:.3f} of the run's {of}"
    return human_bytes(value) if of.endswith("b") else f"{1000 * value:.3g} ms"


def _ends(target: str, low: float, high: float) -> str:
    """Return the ends of the interval of a latency, as `value_text` writes it."""
    return f"{low:.3f}, {high:.3f}" if "/" in target else f"{1000 * low:.3g}, {1000 * high:.3g}"


def _losses(test: Mapping[str, Any]) -> Sequence[str]:
    """Return the loss of the run and of the result, for tasks without an accuracy."""
    if test["lost_of"] == "accuracy" or "loss" not in (test["before"] or {}) or "loss" not in (test["after"] or {}):
        return []
    before, after = (display_of(LOSS).text(test[side]["loss"]) for side in ("before", "after"))
    return [f"{test['split']} loss {before} before, {after} after."]


def _trained_further(folder: Path, record: Mapping[str, Any]) -> Sequence[str]:
    """Return that the numbers are of weights that the run has no longer, if it was resumed since."""
    if (now := trained_since(folder, record)) is None:
        return []
    measured = record["checkpoint"]
    return [for_terminal(f"These numbers are of {measured}; the run was trained further, and its best is {now} now.")]


def costs(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (what, before, after) of metrics, counts and sizes."""
    before, after, split = record["before"], record["after"], record["test"]["split"]
    rows = []
    for name, value in before["metrics"].items():
        display = display_in(record, name)
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
    found += _left_out_sentences(speed, record)
    found += [_speed_sentence(pair, speed["margin"], record["method"]) for pair in pairs]
    found += [f"{arm['side']} {arm['backend']}: {arm['reason']}" for arm in speed["arms"] if arm.get("reason")]
    found += [f"Doubt: {reason}." for reason in speed["doubts"]]
    # records of before 2026-11-30 do not say
    if not record["test"].get("same_data", True):
        found.append("Doubt: the data have changed since the training (another sha256), and with them the samples.")
    found += _same_samples(record)
    found += [str(note) for note in record["details"].get("notes", ())]
    return [for_terminal(text) for text in found]


def _same_samples(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield that a result is of samples that chose it, or that a bound was judged on samples that the model knows."""
    of = (record.get("validation") or {}).get("split")
    if of is None:  # older records
        return
    split = record["test"]["split"]
    if split == of:
        why = "which chose the result too: the run has no test split"
        yield f"Doubt: what is lost is told of {judged_on(split)}, {why}."
    if of == "train" and (bound := (record.get("options") or {}).get("max_drop")) is not None:
        yield f"Doubt: max_drop={bound:g} was judged on {judged_on(of)}, as the run has no validation split."


def _left_out_sentences(speed: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """Return, for each backend that does not count as the fastest, how much more it loses than others."""
    arms = {f"{arm['side']} {arm['backend']}": arm for arm in speed["arms"]}
    said = []
    for name in speed.get("left_out", ()):  # which older records have not
        own = arms[name]
        if speed.get("bounded"):
            said.append(
                f"Not counted as fastest: {name}, with which {own['more']:.2f} {record['validation']['of']} are lost "
                "more than was judged: more than may be lost (max_drop)."
            )
            continue
        beside = [arm["lost"]["estimate"] for arm in arms.values() if arm["side"] == own["side"] and arm.get("lost")]
        more = own["lost"]["estimate"] - min(beside)
        said.append(f"Not counted as fastest: {name}, which loses {more:.2f} points of accuracy more than another one.")
    return said


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
    return [
        f"Scheme {details['scheme']}{ranges}; {kept or f'all {layers} {of} in 8 bits'}{rest}.",
        *_bits_sentence(details.get("weight_bits")),  # which older records have not
    ]


def _bits_sentence(bits: int | None) -> Sequence[str]:
    """Return for which processors a file's weights are."""
    if bits == 8:
        return ["8-bit weights, for processors with VNNI or the like: on others, answers may be wrong; 7 bits fit all."]
    if bits == 7:
        return ["7-bit weights, which fit every processor; those with VNNI or the like can take 8 bits."]
    return []


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
