"""The record of a compression: compression.json in the folder of its result."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.bench.backends import has_bf16
from effbench.compress.options import CompressOptions
from effbench.processors import has_int8_products
from effbench.records import write_text
from effbench.redaction import redact
from effbench.report.compression import NAME, SCHEMA, read_compression
from effbench.report.environment import environment, installed
from effbench.strict_json import json_text
from effbench.training.checkpoint_files import read_manifest
from effbench.training.manifest import weights_digest

if TYPE_CHECKING:
    from effbench.run.run import Run


_LIBRARIES = ("effbench", "torch", "onnx", "onnxruntime", "openvino", "nncf", "torch-pruning")


@dataclass(frozen=True)
class Result:
    """What a method made in the folder of the result.

    Attributes:
        file: name of the file in the folder's export/ that answers for the run; '' if the run has checkpoints.
        channels: the channel plan of a model that has fewer channels than its config says; None for others.
        zeros: names of the weights whose zeros stay zero when the result is trained further.
        details: what the method did, for compression.json.
        summary: entries of summary.json that differ from the run's, such as steps and timing of fine-tuning.
    """

    file: str = ""
    channels: Mapping[str, Any] | None = None
    zeros: Sequence[str] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)


def source_facts(source: Run, checkpoint: str, result: Path) -> dict[str, Any]:
    """Return where a result comes from.

    Args:
        source: the run that was compressed.
        checkpoint: name of its checkpoint.
        result: the final folder of the result; the path to the run is relative to it.
    """
    saved = source.checkpoint(checkpoint).resolve()
    manifest = read_manifest(saved)
    return {
        "run": os.path.relpath(source.folder.resolve(), result.resolve()),
        "checkpoint": {"name": checkpoint, "step": manifest["step"]},
        "weights_sha256": weights_digest(manifest),
        "compression": _earlier(source.folder),
    }


def _earlier(folder: Path) -> dict[str, Any] | None:
    """Return what was done to the source before, if it is the result of a compression itself."""
    record = read_compression(folder)
    return record and {key: record.get(key) for key in ("method", "options", "source")}


def write_compression(folder: Path, record: Mapping[str, Any]) -> None:
    """Write compression.json, without secrets."""
    write_text(folder / NAME, json_text(redact({"schema_version": SCHEMA, **record})) + "\n")


def plan_of(source: Run, checkpoint: str, options: object) -> str:
    """Return a digest of all that several results follow from: a command with another one makes others.

    Args:
        source: the run, with the data keys of the command.
        checkpoint: name of its checkpoint.
        options: dataclasses of plain values.
    """
    weights = weights_digest(read_manifest(source.checkpoint(checkpoint).resolve()))
    parts = (_machine(), str(source.folder.resolve()), weights, source.config.to_dict(), options)
    return hashlib.sha256(repr(parts).encode(errors="backslashreplace")).hexdigest()


def _machine() -> dict[str, object]:
    """Return what results are made and measured on: latencies of other processors and versions are not compared."""
    about = environment()
    found = {key: about[key] for key in ("cpu", "cpu_capability")}
    # processors of one name may differ in both; without products of 8 bits, quantized weights have 7
    found |= {"bf16": has_bf16(), "int8_products": has_int8_products()}
    return {**found, **{name: installed(name) for name in _LIBRARIES}}


def options_record(options: CompressOptions) -> dict[str, Any]:
    """Return the options of the method, as plain values."""
    return asdict(options.own) if options.own is not None else {}
