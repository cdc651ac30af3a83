"""Compress a loaded run: the method makes the result in a folder, which is then measured beside the original."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from effbench.compress.compare import MOST, compare, paired_test
from effbench.compress.options import ELSEWHERE, CompressOptions
from effbench.compress.quantize import quantize
from effbench.compress.record import Result, options_record, source_facts, write_compression
from effbench.compress.structured import structured
from effbench.compress.unstructured import unstructured
from effbench.guarded import METRICS_BYTES, read_bytes
from effbench.records import naming_place, replacing, write_summary
from effbench.report.compression import best_or_last, read_compression
from effbench.run.export_file import write_beside
from effbench.run.load import load_run
from effbench.run.run import Run

log = logging.getLogger(__name__)

# (the run, options, the folder of the result) -> what was made: each writes checkpoints/ or export/ into the folder
Method = Callable[[Run, CompressOptions, Path], Result]
METHODS: Mapping[str, Method] = {
    "quantize": quantize,
    "structured": structured,
    "unstructured": unstructured,
}


@naming_place(ELSEWHERE)  # here, too: a search records the errors of its candidates
def compress_loaded(source: Run, options: CompressOptions, folder: Path, final: Path) -> dict[str, Any]:
    """Make the result in `folder`, and return its record.

    Args:
        source: the run.
        options: what to do.
        folder: an empty folder, which becomes `final`.
        final: the folder's name in the end; paths in records are relative to it.
    """
    log.info(f"compressing {source.folder}: method={options.method}")
    result = METHODS[options.method](source, options, folder)
    _copy_training(source, folder)
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
    write_summary(folder, _summary(source, result))
    loaded = loaded_result(folder, source)
    found = compare(source, loaded, options)
    record |= {**found.facts, "checkpoint": best_or_last(folder)}
    summary = {**_summary(source, result), "model": found.model}
    if not options.bounded:  # of a search, the best candidate alone is tested
        record, summary = _tested(record, summary, paired_test(source, options.checkpoint, loaded, "test", MOST))
    write_summary(folder, summary)
    write_compression(folder, record)
    if result.file and not options.bounded:
        write_beside(loaded_result(folder, source))  # loaded again: the card has the metrics of the result
    return record


def write_test(source: Run, checkpoint: str, folder: Path) -> dict[str, Any]:
    """Test a candidate of a search beside the run before, write that into its records, and return what was found.

    Args:
        source: the run before.
        checkpoint: name of its checkpoint.
        folder: of the candidate.
    """
    loaded, record = loaded_result(folder, source), read_compression(folder)
    assert record is not None  # it was written when the candidate was finished
    found = paired_test(source, checkpoint, loaded, "test", MOST)
    record, summary = _tested(record, loaded.summary, found)
    write_summary(folder, summary)
    write_compression(folder, record)
    return found


def _tested(
    record: Mapping[str, Any], summary: Mapping[str, Any], found: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return compression.json and summary.json of a result with its test.

    Args:
        record: compression.json without it.
        summary: summary.json without it.
        found: as `paired_test` returns it.
    """
    sides = {
        side: {**record[side], "metrics": found[side], "accuracy": found[f"{side}_accuracy"]}
        for side in ("before", "after")
    }
    test = {key: found[key] for key in ("split", "samples", "same_data", "lost", "lost_of", "parity")}
    # under the name of the split that they are of
    metrics = {f"{found['split']}/{name}": value for name, value in found["after"].items()}
    # those of fine-tuning come first: its test reads all samples of the split
    whole = {**summary, "metrics": {**metrics, **summary["metrics"]}}
    if not metrics.keys() & summary["metrics"].keys():
        whole["data"] = _evaluated(summary["data"], found)
    return {**record, **sides, "test": test}, whole


def _copy_training(source: Run, folder: Path) -> None:
    """Copy what tells how the weights were trained, unless the method has trained them further."""
    for name in ("config.yaml", "metrics.csv"):
        path, target = source.folder / name, folder / name
        if path.is_file() and not target.exists():
            with replacing(target, path.stat().st_size, ELSEWHERE) as stream:
                stream.write(read_bytes(path, METRICS_BYTES))


def loaded_result(folder: Path, source: Run) -> Run:
    """Return a result, with the modules that the user has allowed, and with the data keys and device of this command.

    Args:
        folder: of the result.
        source: the run before, as this command has loaded it.
    """
    run = load_run(folder, source.config.allow_targets)
    return replace(
        run, config=run.config.model_copy(update={"data": source.config.data, "device": source.config.device})
    )


def _evaluated(data: Mapping[str, Any], test: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of the data with the number of samples that the result's metrics are of."""
    split, samples = test["split"], test["samples"]
    others = {name: count for name, count in (data.get("evaluated") or {}).items() if name != split}
    # as training records it: only of a sample of a split
    own = {split: samples} if samples != (data.get("counts") or {}).get(split) else {}
    return {**{key: value for key, value in data.items() if key != "evaluated"}, "evaluated": {**others, **own}}


def _summary(source: Run, result: Result) -> dict[str, Any]:
    """Return summary.json of the result: what the source's says, but for metrics, which are of other weights."""
    own = {key: value for key, value in source.summary.items() if key not in ("schema_version", "best")}
    return {**own, "metrics": {}, **result.summary}
