"""The run itself beside a target: what reaches it already need not be compressed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from effbench.bench.options import BenchOptions
from effbench.bench.run import answering, bench_source, thread_count
from effbench.bench.scratch import scratch
from effbench.bench.sources import Source, source_of
from effbench.compress.mixed import within
from effbench.compress.options import has_file
from effbench.compress.target import SearchOptions
from effbench.errors import EffbenchError, MissingExtraError, first_line
from effbench.report.deployment import SINGLE_STREAM
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
    bench = replace(options.measured, max_drop=options.max_drop)
    itself = source_of(source, options.checkpoint, bench.samples)
    try:
        found = _fastest(bench_source(itself, bench)) if target.latency else _smallest(itself, bench)
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


def _fastest(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the backend with the least latency and its p50; None if none keeps the accuracy. record: of bench."""
    if (named := record["verdicts"][SINGLE_STREAM]) is None:
        return None
    [arm] = [each for each in record["arms"] if each["backend"] == named["best"]]
    p50, margin = arm["batches"]["1"]["latency_s"]["p50"], 1 + record["margin"]
    ends = {"value_low": p50["low"] / margin, "value_high": p50["high"] * margin}
    return {**_named(arm), "value": p50["estimate"], **ends}


def _smallest(itself: Source, bench: BenchOptions) -> dict[str, Any] | None:
    """Return the backend with the smallest file that can be exported; None if none keeps the accuracy."""
    with scratch() as folder, thread_count(bench.threads):
        rows, _ = answering(itself, bench, folder)
    kept = [row for name, row in rows.items() if has_file(name) and _keeps(row, bench.max_drop)]
    if not kept:
        return None
    least = min(kept, key=lambda row: int(row["bytes"]))
    return {**_named(least), **dict.fromkeys(("value", "value_low", "value_high"), least["bytes"])}


def _keeps(row: Mapping[str, Any], max_drop: float) -> bool:
    return row["status"] == "ok" and (row["lost"] is None or within(row["lost"]["estimate"], max_drop))


def _named(arm: Mapping[str, Any]) -> dict[str, Any]:
    """Return the backend with what is lost with it, which proves that it keeps the bound."""
    return {"backend": arm["backend"], "backend_lost": arm["lost"], "backend_lost_of": arm.get("lost_of")}
