"""The run itself beside a target: what reaches it already need not be compressed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from effbench.bench.options import BenchOptions
from effbench.bench.run import answering, bench_source, thread_count
from effbench.bench.scratch import scratch
from effbench.bench.sources import Source, source_of
from effbench.compress.arms import JUDGED_BY, more_lost
from effbench.compress.mixed import within
from effbench.compress.options import has_file
from effbench.compress.target import SearchOptions
from effbench.errors import EffbenchError, MissingExtraError, first_line
from effbench.run.run import Run

log = logging.getLogger(__name__)


def reached_already(source: Run, options: SearchOptions) -> dict[str, Any] | None:
    """Return with which backend the run reaches the target without compression, for a record of the search.

    Args:
        source: the run.
        options: the target, and how to measure.

    Returns:
        None if the run does not surely reach it, or if the target is a part of what the run has.
    """
    target, begun = options.target, time.monotonic()
    if target.relative:
        return None
    log.info("measuring the run itself, without compression")
    itself = source_of(source, options.checkpoint, options.measured.samples)
    try:
        found = (_fastest if target.latency else _smallest)(itself, options.measured, options.max_drop)
    except MissingExtraError:
        raise
    except EffbenchError as error:  # a compressed model may run nevertheless
        log.info(f"the run itself cannot be measured: {first_line(error)}")
        return None
    # at the end of its interval: what only the estimate reaches, a candidate may reach surely
    if found is None or found["value_high"] > target.most:
        return None
    about = {"target": target.text, "max_drop": options.max_drop, "most": target.most, "met": True}
    return {**about, **found, "seconds": round(time.monotonic() - begun, 1), "candidates": []}


def _fastest(itself: Source, bench: BenchOptions, max_drop: float) -> dict[str, Any] | None:
    """Return the backend with the least latency and its p50; None if none keeps the bound.

    Args:
        itself: the run.
        bench: how it is measured.
        max_drop: what may be lost, in its unit.
    """
    record = bench_source(itself, bench)
    kept = [row for row in _kept(record["arms"], itself, max_drop) if "1" in row["batches"]]
    if not kept:
        return None
    least = min(kept, key=lambda row: float(_p50(row)["estimate"]))
    p50, margin = _p50(least), 1 + record["margin"]
    ends = {"value_low": p50["low"] / margin, "value_high": p50["high"] * margin}
    return {**_named(least), "value": p50["estimate"], **ends}


def _p50(row: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = row["batches"]["1"]["latency_s"]["p50"]
    return found


def _smallest(itself: Source, bench: BenchOptions, max_drop: float) -> dict[str, Any] | None:
    """Return the backend with the smallest file that can be exported; None if none keeps the bound. See `_fastest`."""
    with scratch() as folder, thread_count(bench.threads):
        rows, _ = answering(itself, bench, folder)
    kept = [row for row in _kept(list(rows.values()), itself, max_drop) if has_file(row["backend"])]
    if not kept:
        return None
    least = min(kept, key=lambda row: int(row["bytes"]))
    return {**_named(least), **dict.fromkeys(("value", "value_low", "value_high"), least["bytes"])}


def _kept(rows: Sequence[Mapping[str, Any]], itself: Source, max_drop: float) -> list[dict[str, Any]]:
    """Return the rows of backends that work and keep the bound, judged as those of candidates are, with `more`."""
    more = more_lost(rows, JUDGED_BY[""], itself)
    working = [{**row, "more": more.get(row["backend"], 0.0)} for row in rows if row["status"] == "ok"]
    return [row for row in working if within(row["more"], max_drop)]


def _named(arm: Mapping[str, Any]) -> dict[str, Any]:
    """Return the backend with what is lost with it, which proves that it keeps the bound."""
    lost = {"backend_lost": arm["lost"], "backend_lost_of": arm.get("lost_of"), "more": arm["more"]}
    return {"backend": arm["backend"], **lost}
