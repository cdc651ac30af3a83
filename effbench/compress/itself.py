"""The run itself beside a target: what reaches it already need not be compressed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from effbench.bench.run import bench_source
from effbench.bench.sources import source_of
from effbench.compress.mixed import within
from effbench.compress.target import SearchOptions, Target
from effbench.errors import EffbenchError, first_line
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
    try:
        record = bench_source(source_of(source, options.checkpoint, bench.samples), bench)
    except EffbenchError as error:  # a compressed model may run nevertheless
        log.info(f"the run itself cannot be measured: {first_line(error)}")
        return None
    found = _of_record(target, record)
    # at the end of its interval: what only the estimate reaches, a candidate may reach surely
    if found is None or found["value_high"] > target.most:
        return None
    about = {"target": target.text, "max_drop": options.max_drop, "most": target.most, "met": True}
    return {**about, **found, "seconds": round(time.monotonic() - begun, 1), "candidates": []}


def _of_record(target: Target, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the backend and its value with its ends; None if no backend keeps the accuracy. record: of bench."""
    arms = {arm["backend"]: arm for arm in record["arms"] if arm["status"] == "ok"}
    if not target.latency:
        most = record["options"]["max_drop"]
        arms = {name: arm for name, arm in arms.items() if arm["lost"] is None or within(arm["lost"]["estimate"], most)}
        if not arms:
            return None
        backend = min(arms, key=lambda name: arms[name]["bytes"])
        size = arms[backend]["bytes"]
        return {"backend": backend, "value": size, "value_low": size, "value_high": size}
    if (named := record["verdicts"][SINGLE_STREAM]) is None:
        return None
    p50, margin = arms[named["best"]]["batches"]["1"]["latency_s"]["p50"], 1 + record["margin"]
    ends = {"value_low": p50["low"] / margin, "value_high": p50["high"] * margin}
    return {"backend": named["best"], "value": p50["estimate"], **ends}
