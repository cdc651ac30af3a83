"""Compress a loaded run: the method makes the result in a folder, which is then measured beside the original."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from effbench.compress.compare import compare
from effbench.compress.options import CompressOptions
from effbench.compress.quantize import quantize
from effbench.compress.record import Result, options_record, source_facts, write_compression
from effbench.compress.structured import structured
from effbench.compress.unstructured import unstructured
from effbench.config.versions import stamped
from effbench.config.yaml_text import write_yaml
from effbench.records import write_summary, write_text
from effbench.run.load import load_run, with_data
from effbench.run.run import Run

log = logging.getLogger(__name__)

# (the run, options, the folder of the result) -> what was made: each writes checkpoints/ or export/ into the folder
Method = Callable[[Run, CompressOptions, Path], Result]
METHODS: Mapping[str, Method] = {
    "quantize": quantize,
    "structured": structured,
    "unstructured": unstructured,
}


def compress_run(source: Run, options: CompressOptions, folder: Path, final: Path) -> dict[str, Any]:
    """Make the result in `folder`, and return its record.

    Args:
        source: the run.
        options: what to do.
        folder: an empty folder, which becomes `final`.
        final: the folder's name in the end; paths in records are relative to it.
    """
    log.info(f"compressing {source.folder}: method={options.method}")
    result = METHODS[options.method](source, options, folder)
    config = result.config or source.config
    write_text(folder / "config.yaml", write_yaml(stamped({**config.to_dict(), "resume": None})))
    record: dict[str, Any] = {
        "method": options.method,
        "options": options_record(options),
        "source": source_facts(source, options.checkpoint, final),
        "file": result.file or None,
        "channels": result.channels,
        "zeros": list(result.zeros),
        "details": dict(result.details),
    }
    # before the comparison: the result is loaded as any run is, by its folder
    write_compression(folder, record)
    write_summary(folder, _summary(source, options, result))
    found = compare(source, options.checkpoint, _loaded(folder, source), options.bench)
    summary = _summary(source, options, result)
    # those of fine-tuning come first: its test reads all samples of the split
    metrics = {**found.summary["metrics"], **summary["metrics"]}
    write_summary(folder, {**summary, **found.summary, "metrics": metrics})
    record |= found.facts
    write_compression(folder, record)
    return record


def _loaded(folder: Path, source: Run) -> Run:
    """Return the result with the source's data and modules, which the user has allowed."""
    run = load_run(folder, source.config.allow_targets)
    return with_data(run, {}, "cpu")


def _summary(source: Run, options: CompressOptions, result: Result) -> dict[str, Any]:
    """Return summary.json of the result: the source's facts, without what only its training knows."""
    own = dict(source.summary)
    for key in ("metrics", "best", "timing", "memory", "sessions", "schema_version"):
        own.pop(key, None)
    return {
        **own,
        "status": "completed",
        "stop_reason": None,
        "metrics": {},
        "compression": {"method": options.method, **options_record(options)},
        **result.summary,
    }
