"""Latency of a run and of its compressed result, with each backend, in processes that take turns."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.bench.analysis import STATISTICS, at_size, calls_of, estimates, ratio
from effbench.bench.backends import BACKENDS
from effbench.bench.measure import Arm, measure
from effbench.bench.run import AGAIN, answering, batch_files, surroundings, thread_count
from effbench.bench.sources import Source, source_of
from effbench.bench.verdict import trust
from effbench.compress.arms import JUDGED_BY, more_lost
from effbench.compress.drop import left
from effbench.compress.mixed import within
from effbench.errors import EffbenchError
from effbench.report.compression import compressed_file
from effbench.stats import positive_interval

if TYPE_CHECKING:
    from effbench.bench.options import BenchOptions
    from effbench.run.run import Run

SIDES = ("before", "after")
_OF_ARM = ("status", "reason", "bytes", "parity", "metrics", "lost", "lost_of", "more", "notes")


def speeds(
    source: Run,
    checkpoint: str,
    result: Run,
    options: BenchOptions,
    validation: Mapping[str, Any],
    bounded: bool = False,
) -> dict[str, Any]:
    """Return what both cost on this machine.

    Args:
        source: the run before.
        checkpoint: name of its checkpoint.
        result: the run after.
        options: how to measure.
        validation: `Judge.facts` of the result.
        bounded: a backend with which more than options.max_drop is lost in all does not count as the fastest; False:
            only one that surely loses so much more than another one.

    Returns:
        arms (one entry a side and backend), pairs (one entry a backend that both have: latency after over before),
        what the measurement can tell apart, and the machine.

    Raises:
        EffbenchError: no backend runs the result.
    """
    before = source_of(source, checkpoint, options.samples)
    after = _source_of_result(before, result, options)
    judged_by = {"before": JUDGED_BY[""], "after": JUDGED_BY[next(iter(after.files), "")]}
    place = tempfile.TemporaryDirectory(prefix=".speed-", dir=_roomier(result.folder))
    with place as folder, thread_count(options.threads):
        rows, arms = [], []
        for side, each in zip(SIDES, (before, after), strict=True):
            own = Path(folder) / side
            own.mkdir()
            found, working = answering(each, _readable(each, options), own)
            more = more_lost(list(found.values()), judged_by[side], each, result if each.files else None)
            rows += [{"side": side, **row, "more": more.get(name)} for name, row in found.items()]
            for arm in working:
                arm.name = f"{side} {arm.name}"
            arms += working
        if not any(arm.name.startswith("after") for arm in arms):
            reasons = "; ".join(f"{row['backend']}: {row['reason']}" for row in rows if row["side"] == "after")
            raise EffbenchError(f"no backend runs the compressed model: {reasons}")
        # the fast one: differences of eager mode would be small beside the time of its layers' calls
        first = next((arm for arm in arms if arm.backend == "onnxruntime"), arms[0])
        control = Arm(first.name + AGAIN, first.backend, first.file)
        measure([*arms, control], batch_files(before, options, Path(folder)), options, Path(folder))
    if bounded:
        most = {"before": options.max_drop, "after": left(validation, options.max_drop)}
        worse = _over(rows, {arm.name for arm in arms if not arm.failed}, most)
    else:
        worse = _worse(rows, options.max_drop)
    about = {"split": before.split, "bounded": bounded, "judged_by": judged_by}
    return {**_record(rows, arms, first, control, options, worse), **about}


def _roomier(folder: Path) -> Path:
    """Return the folder, or the one for temporary files if that has more room: the result may have cost hours."""
    try:
        return max(folder, Path(tempfile.gettempdir()), key=lambda each: shutil.disk_usage(each).free)
    except OSError:  # there is none
        return folder


def _source_of_result(before: Source, result: Run, options: BenchOptions) -> Source:
    """Return the result as something to measure; a quantized one is its file, compared with the model before."""
    file = compressed_file(result.folder)
    if file is None:
        return source_of(result, "best", options.samples)
    from effbench.export.opening import read_record

    return replace(before, files={str(read_record(file)["format"]): file})


def _readable(source: Source, options: BenchOptions) -> BenchOptions:
    """Return the options without backends that read no file of this format; CompressOptions refuses to leave none."""
    if not source.files:
        return options
    names = [name for name in options.chosen if {BACKENDS[name].file, BACKENDS[name].also} & set(source.files)]
    return replace(options, backends=tuple(names))


def _record(
    rows: Sequence[dict[str, Any]],
    arms: Sequence[Arm],
    first: Arm,
    control: Arm,
    options: BenchOptions,
    worse: Collection[str],
) -> dict[str, Any]:
    by_name = {arm.name: arm for arm in arms}
    for row in rows:
        arm = by_name.get(f"{row['side']} {row['backend']}")
        if arm is not None:
            row |= arm.outcome()
        if arm is not None and not arm.failed:
            row["batches"] = {
                str(size): estimates(own, size) for size in options.sizes if (own := at_size(arm.processes, size))
            }
    every = [process for arm in (*arms, control) for process in arm.processes]
    trusted = trust(first.processes, control.processes, every, options.sizes)
    fastest = {side: _fastest([arm for arm in arms if arm.name not in worse], side, options) for side in SIDES}
    return {
        "batch_sizes": list(options.sizes),
        "threads": options.threads,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "arms": [_arm_record(row) for row in rows],
        "pairs": _pairs(by_name, options),
        "fastest": fastest,
        "left_out": [arm.name for arm in arms if arm.name in worse],
        "fastest_ratio": None if None in fastest.values() else _of_fastest(by_name, fastest, options.sizes[0]),
        "control": {"backend": first.backend, **{str(k): asdict(v) for k, v in trusted.control.items()}},
        "drift": trusted.drift,
        "margin": trusted.margin,
        "doubts": list(trusted.reasons),
        "environment": surroundings(options),
    }


def _arm_record(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: row[key] for key in _OF_ARM if key in row}
    return {"side": row["side"], "backend": row["backend"], **kept, "batches": row.get("batches", {})}


def _pairs(arms: Mapping[str, Arm], options: BenchOptions) -> list[dict[str, Any]]:
    """Return, for each backend that runs both and each batch size, p50 after over p50 before, paired by turn."""
    found = []
    for name in BACKENDS:
        own, other = (arms.get(f"{side} {name}") for side in reversed(SIDES))
        if own is None or other is None or own.failed or other.failed:
            continue
        for size in options.sizes:
            over = ratio(at_size(own.processes, size), at_size(other.processes, size))
            if over is not None:
                found.append({"backend": name, "batch_size": size, "ratio": asdict(over)})
    return found


def _of_fastest(arms: Mapping[str, Arm], fastest: Mapping[str, str | None], size: int) -> dict[str, Any] | None:
    """Return p50 of the fastest backend after over that of the fastest one before, paired by turn."""
    before, after = (at_size(arms[f"{side} {fastest[side]}"].processes, size) for side in SIDES)
    found = ratio(after, before)
    return None if found is None else asdict(found)


def _worse(rows: Sequence[Mapping[str, Any]], max_drop: float) -> set[str]:
    """Return the arms that surely lose over max_drop points more accuracy than the one of their side that loses least.

    A runtime may read a file that was quantized for another one, and give other answers.

    Args:
        rows: of all arms, with what each loses.
        max_drop: points of accuracy.
    """
    lost = {f"{row['side']} {row['backend']}": row["lost"] for row in rows if row.get("lost_of") == "accuracy"}
    least = dict.fromkeys(SIDES, float("inf"))
    for name, found in lost.items():
        side = name.partition(" ")[0]
        least[side] = min(least[side], found["estimate"])
    return {name for name, found in lost.items() if found["low"] > least[name.partition(" ")[0]] + max_drop}


def _over(rows: Sequence[Mapping[str, Any]], working: Collection[str], most: Mapping[str, float]) -> set[str]:
    """Return the arms with which more is lost than may be; of a side where that is so with each of them, none.

    Args:
        rows: of all arms, with what is lost with each more than was judged.
        working: arms that were measured.
        most: side -> what may be lost so.
    """
    over = set()
    for side in SIDES:
        own = {f"{side} {row['backend']}": row["more"] for row in rows if row["side"] == side}
        found = {name for name, more in own.items() if more is not None and not within(more, most[side])}
        over |= found if (own.keys() & working) - found else set()
    return over


def _fastest(arms: Sequence[Arm], side: str, options: BenchOptions) -> str | None:
    """Return the backend with the least p50 at the smallest batch size."""
    size = options.sizes[0]
    placed = []
    for arm in arms:
        own = at_size(arm.processes, size)
        if arm.name.startswith(side) and not arm.failed and own:
            median = positive_interval([STATISTICS["p50"](calls_of(process)) for process in own])
            placed.append((asdict(median)["estimate"], arm.backend))
    return min(placed, default=(0.0, None))[1]
