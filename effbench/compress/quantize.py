"""method=quantize: weights and activations of 8 bits in a file that answers for the run."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effbench import build
from effbench.compress.drop import Judge
from effbench.compress.mixed import Judged, Mixed, within_bound
from effbench.compress.onnx_int8 import OnnxInt8
from effbench.compress.options import CompressOptions, QuantizeOptions, own_options
from effbench.compress.record import Result
from effbench.data.splits import representative_sample
from effbench.errors import ThresholdError
from effbench.export.files import publish_file
from effbench.export.formats import load_exported, loaded
from effbench.report.compression import FILES
from effbench.run.compared import compared_samples
from effbench.run.evaluate import check_same_data
from effbench.run.export import SAMPLES, Wanted, compared, export_loaded
from effbench.run.run import Run
from effbench.units import counted, human_bytes

log = logging.getLogger(__name__)

TOLERANCE = 1e-3  # of the largest logit, between the model and the float32 file that is quantized


@dataclass(frozen=True)
class Quantized:
    """A quantized file in memory.

    Attributes:
        content: of the file.
        scheme: 'static', 'dynamic' or 'bf16'.
        mixed: which layers stay in float32, and what is lost on validation samples.
        calibration: samples that the ranges are from; None where they are taken at run time.
    """

    content: bytes
    scheme: str
    mixed: Mixed
    calibration: int | None


def quantize(source: Run, options: CompressOptions, folder: Path) -> Result:
    """Write the quantized file and its record into the folder's export/.

    Raises:
        ThresholdError: even with layers in float32 it loses more than max_drop.
        MissingExtraError: the quantizer is not installed.
    """
    own = own_options(options, QuantizeOptions)
    with tempfile.TemporaryDirectory(prefix="effbench-quantize-") as name:
        exported = export_loaded(source, Wanted("onnx", options.checkpoint, name, TOLERANCE, None, True, "file"))
        made = _onnx(source, options.checkpoint, own, exported, Path(name))
    target = folder / FILES / Path(exported["path"]).name.replace(".onnx", f"-{made.scheme}-int8.onnx")
    target.parent.mkdir(parents=True)
    about = {"scheme": made.scheme, **made.mixed.facts(), "calibration": made.calibration}
    model, (which, samples, _) = source.model(options.checkpoint), compared_samples(source, SAMPLES)
    free_length = exported["input"]["shape"][1] if isinstance(exported["input"]["shape"][1], str) else None

    def check(path: Path) -> dict[str, Any]:
        parity = compared(source, model, load_exported("onnx", path), samples, free_length)
        about_parity = {"inputs": "samples", "split": which, "tolerance": None, **parity.facts(), "runtime_options": {}}
        return {**_file_record(exported), "parity": about_parity, "quantized": about}

    publish_file(target, made.content, check)
    log.info(f"{target.name}: {human_bytes(len(made.content))}, float32 {human_bytes(exported['bytes'])}")
    return Result(file=target.name, details={**about, "float32_bytes": exported["bytes"], "bytes": len(made.content)})


def _file_record(exported: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of the float32 file without what is true of that file only."""
    return {key: value for key, value in exported.items() if key not in ("path", "file", "bytes", "sha256", "parity")}


def _onnx(source: Run, checkpoint: str, own: QuantizeOptions, exported: Mapping[str, Any], folder: Path) -> Quantized:
    """Return the file for ONNX Runtime.

    Args:
        source: the run.
        checkpoint: its name.
        own: options.
        exported: record of the float32 file, with its path.
        folder: for temporary files.
    """
    scheme = own.scheme
    if scheme == "auto":
        scheme = "static" if exported["input"]["dtype"] == "float32" else "dynamic"
    samples = calibration_samples(source, own.calibration) if scheme == "static" else None
    if samples is not None:
        log.info(f"taking ranges from {counted(len(samples), f'training {source.modality().unit}')}")
    quantizer = OnnxInt8(Path(exported["path"]), folder, samples)
    judge = Judge(source, checkpoint)

    def judged(content: bytes) -> Judged:
        return judge.judged(loaded("onnx", content))

    mixed, content = within_bound(quantizer, judged, own.max_drop)
    if mixed.drop > own.max_drop:
        raise ThresholdError(
            f"method=quantize scheme={scheme} loses {mixed.drop:.2f} {judge.unit} on validation samples even with "
            f"{len(mixed.floating)} of {mixed.layers} layers in float32; max_drop is {own.max_drop:g}. Nothing was "
            f"written. Allow more with max_drop, or try another scheme, or calibration={2 * own.calibration}."
        )
    return Quantized(content, scheme, mixed, None if samples is None else len(samples))


def calibration_samples(run: Run, count: int) -> Tensor:
    """Return training samples as an exported file takes them, with classes in proportion: float32 (N, ...)."""
    data = build.splits(run.config)
    check_same_data(run, data)
    split = run.task.checked(data).train
    rows = representative_sample(split.labels, min(count, len(split)))
    with torch.inference_mode():
        return run.modality().portable(split.inputs[rows])
