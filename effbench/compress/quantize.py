"""method=quantize: weights and activations of fewer bits in a file that answers for the run."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from effbench.compress.backend_checks import check_backends
from effbench.compress.bf16 import bf16_content
from effbench.compress.drop import Judge, check_validation, note_few_samples
from effbench.compress.mixed import Mixed, within, within_bound
from effbench.compress.onnx_int8 import OnnxInt8, bits_here, has_attention
from effbench.compress.openvino_int8 import OpenvinoInt8, require_nncf
from effbench.compress.options import (
    AUTO,
    CALIBRATIONS,
    ELSEWHERE,
    RUNTIMES,
    CompressOptions,
    QuantizeOptions,
    own_options,
)
from effbench.compress.record import Result
from effbench.data.splits import representative_sample
from effbench.errors import EffbenchError, ThresholdError, first_line
from effbench.export.files import publish_file
from effbench.export.formats import FORMATS, load_exported, loaded
from effbench.export.onnx_files import require_onnx
from effbench.export.openvino_files import openvino_archive, require_openvino
from effbench.records import naming_disk_faults
from effbench.report.compression import FILES
from effbench.report.environment import version_of
from effbench.run.compared import compared_data, compared_samples
from effbench.run.export import check_fits, compared, export_loaded, samples_for
from effbench.run.export_options import Wanted
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
        tried: samples -> what all layers in 8 bits lose, for calibration=auto.
    """

    content: bytes
    scheme: str
    mixed: Mixed
    calibration: int | None
    tried: Mapping[int, float] = field(default_factory=dict)


def quantize(source: Run, options: CompressOptions, folder: Path) -> Result:
    """Write the quantized file and its record into the folder's export/.

    Args:
        source: the run.
        options: what to do.
        folder: of the result, into which it writes.

    Raises:
        ThresholdError: even with layers in float32 it loses more than max_drop.
        MissingExtraError: the quantizer is not installed.
    """
    own = own_options(options, QuantizeOptions)
    kind = "onnx" if own.backend == "onnxruntime" else "openvino"
    # before minutes of export
    check_fits(source, kind, f"backend={own.backend}", "backend=onnxruntime")
    _require_libraries(own)
    check_backends(source, options)
    judge = Judge(source, options.checkpoint)
    if options.asked:
        check_validation(judge.split, f"max_drop={own.max_drop:g}", "Leave max_drop out")
    if not options.bounded:  # a search says it once
        note_few_samples(source, judge.split, judge.count, own.max_drop)
    with tempfile.TemporaryDirectory(prefix=".quantize-", dir=folder) as name:
        exported = export_loaded(source, Wanted("onnx", options.checkpoint, name, TOLERANCE, None, True, "file"))
        with _named_faults(own.backend, Path(name)):
            if kind == "onnx":
                made = _onnx(source, judge, options, exported, Path(name))
            else:
                made = _openvino(source, judge, options, Path(exported["path"]))
    _check_drop(made, own, judge, (source.summary["data"].get("counts") or {}).get("train"))
    stem = Path(exported["path"]).name.removesuffix(".onnx")
    bits = "bf16" if made.scheme == "bf16" else f"{made.scheme}-int8"
    target = folder / FILES / f"{stem}-{bits}{FORMATS[kind].suffix}"
    about = {"scheme": made.scheme, **made.mixed.facts(), "calibration": made.calibration}
    about["weight_bits"] = 16 if made.scheme == "bf16" else own.bits or bits_here()
    about["calibrations"] = {str(count): drop for count, drop in made.tried.items()}
    _publish(
        source,
        options.checkpoint,
        target,
        made.content,
        {**_file_record(exported, kind, made.scheme), "quantized": about},
    )
    log.info(f"{target.name}: {human_bytes(len(made.content))}, float32 {human_bytes(exported['bytes'])}")
    return Result(file=target.name, details={**about, "float32_bytes": exported["bytes"], "bytes": len(made.content)})


@contextmanager
def _named_faults(backend: str, folder: Path) -> Iterator[None]:
    """Turn what a quantizer raises into an EffbenchError. folder: of its temporary files."""
    try:
        with naming_disk_faults(folder / "quantized", elsewhere=ELSEWHERE):
            yield
    # these say nothing about the model
    except (EffbenchError, MemoryError):
        raise
    except Exception as error:
        [other] = set(RUNTIMES) - {backend}
        raise EffbenchError(
            f"backend={backend} cannot quantize this model: {first_line(error)}. Try backend={other}."
        ) from error


def _require_libraries(own: QuantizeOptions) -> None:
    """Raise MissingExtraError if what makes the file is not installed."""
    if own.backend == "onnxruntime":
        require_onnx("method=quantize", "onnx")
    elif own.scheme == "bf16":  # nothing is quantized
        require_openvino("scheme=bf16 backend=openvino")
    else:
        require_nncf()


def _check_drop(made: Quantized, own: QuantizeOptions, judge: Judge, available: int | None) -> None:
    """Raise ThresholdError if too much is lost.

    Args:
        made: the file.
        own: options.
        judge: of what is lost.
        available: training samples of the run; None if that is not known.
    """
    mixed = made.mixed
    if within(mixed.drop, own.max_drop):
        return
    even = f" even with {len(mixed.floating)} of {mixed.layers} layers in float32" if mixed.floating else ""
    all_taken = available is not None and (made.calibration or 0) >= available
    more = f", or calibration={4 * made.calibration}" if made.calibration and not all_taken else ""
    lost, allow = f"loses {mixed.drop:.2f} {judge.unit}", "Allow more with max_drop, or try"
    if math.isinf(mixed.drop):
        lost, allow = "raises the loss from 0, of which there is no percentage,", "Try"
    raise ThresholdError(
        f"method=quantize scheme={made.scheme} {lost} on {judge.samples}{even}; max_drop is {own.max_drop:g}. "
        f"Nothing was written. {allow} another scheme{more}."
    )


def _publish(source: Run, checkpoint: str, target: Path, content: bytes, record: Mapping[str, Any]) -> None:
    """Write the file with its record, which says how far its outputs are from the model's.

    Args:
        source: the run.
        checkpoint: its name.
        target: path of the file.
        content: of the file.
        record: of the file, without parity.
    """
    target.parent.mkdir(parents=True)
    model, count = source.model(checkpoint), samples_for(source.summary["model"].get("macs"))
    which, samples, _ = compared_samples(source, count)
    # a number is a fixed length
    length = record["input"]["shape"][1]
    kind = record["format"]

    def check(path: Path) -> dict[str, Any]:
        exported = load_exported(kind, path)
        parity = compared(source, model, exported, samples, length if isinstance(length, str) else None)
        about = {"inputs": "samples", "split": which, "tolerance": None, **parity.facts()}
        return {**record, "parity": {**about, "runtime_options": dict(FORMATS[kind].runtime_options)}}

    publish_file(target, content, check)


def _file_record(exported: Mapping[str, Any], kind: str, scheme: str) -> dict[str, Any]:
    """Return the record of the float32 file as that of the quantized one, without what is true of it only.

    Args:
        exported: the record.
        kind: format of the quantized file.
        scheme: that it was made by.
    """
    kept = {key: value for key, value in exported.items() if key not in ("path", "file", "bytes", "sha256", "parity")}
    libraries = ("effbench", *FORMATS[kind].libraries, *(("nncf",) if kind == "openvino" and scheme != "bf16" else ()))
    opset = kept["opset"] if kind == "onnx" else None
    return {**kept, "format": kind, "opset": opset, "versions": {name: version_of(name) for name in libraries}}


def _onnx(source: Run, judge: Judge, options: CompressOptions, exported: Mapping[str, Any], folder: Path) -> Quantized:
    """Return the file for ONNX Runtime.

    Args:
        source: the run.
        judge: of what is lost.
        options: of the compression.
        exported: record of the float32 file, with its path.
        folder: for temporary files.
    """
    own, file = own_options(options, QuantizeOptions), Path(exported["path"])
    scheme = _scheme(own, exported)

    def lost(content: bytes) -> float:
        return judge.lost(loaded("onnx", content))

    def bounded(quantizer: OnnxInt8) -> tuple[Mixed, bytes]:
        return within_bound(
            quantizer, lost, lambda content: judge.moved(loaded("onnx", content)), own.max_drop, options.deadline
        )

    if scheme == "bf16":
        content, layers = bf16_content(file)
        return _bf16(content, layers, lost(content))
    if scheme == "dynamic":
        mixed, content = bounded(OnnxInt8(file, folder, None, own.bits))
        return Quantized(content, scheme, mixed, None)

    def quantizer(samples: Tensor) -> OnnxInt8:
        place = folder / f"calibration-{len(samples)}"
        place.mkdir()
        return OnnxInt8(file, place, samples, own.bits)

    made, samples, tried = _calibrated(source, own, lost, quantizer)
    mixed, content = bounded(made)
    return Quantized(content, scheme, mixed, samples, tried)


def _openvino(source: Run, judge: Judge, options: CompressOptions, file: Path) -> Quantized:
    """Return the archive for OpenVINO.

    Args:
        source: the run.
        judge: of what is lost.
        options: of the compression.
        file: the float32 ONNX file.
    """
    own = own_options(options, QuantizeOptions)
    if own.scheme == "bf16":
        stored, layers = bf16_content(file)
        content = openvino_archive(stored)
        return _bf16(content, layers, judge.lost(loaded("openvino", content)))
    attention = has_attention(file)

    def lost(content: bytes) -> float:
        return judge.lost(loaded("openvino", content))

    made, samples, tried = _calibrated(source, own, lost, lambda samples: OpenvinoInt8(file, samples, attention))
    mixed, content = made.within_bound(judge.lost, own.max_drop, options.deadline)
    return Quantized(content, "static", mixed, samples, tried)


class _Quantizer(Protocol):
    def content(self) -> bytes:
        """Return the file with all layers in 8 bits."""


Q = TypeVar("Q", bound=_Quantizer)


def _calibrated(
    source: Run, own: QuantizeOptions, lost: Callable[[bytes], float], quantizer: Callable[[Tensor], Q]
) -> tuple[Q, int, dict[int, float]]:
    """Return the quantizer with its calibration samples, their number, and for calibration=auto what each number lost.

    Args:
        source: the run whose training samples are taken.
        own: options.
        lost: content of a file -> what it loses.
        quantizer: calibration samples, (N, ...) -> the quantizer.
    """
    tried: dict[int, float] = {}
    for wanted in CALIBRATIONS if own.calibration == AUTO else (_samples(own),):
        samples = calibration_samples(source, wanted)
        if len(samples) in tried:
            break  # the run has no more
        made = quantizer(samples)
        if own.calibration != AUTO:
            break
        tried[len(samples)] = lost(made.content())
        log.info(f"{counted(len(samples), 'sample')}: {tried[len(samples)]:+.2f} lost with all layers in 8 bits")
        if within(tried[len(samples)], own.max_drop) or len(samples) < wanted:
            break
    return made, len(samples), tried


def _samples(own: QuantizeOptions) -> int:
    assert isinstance(own.calibration, int)
    return own.calibration


def _bf16(content: bytes, layers: int, drop: float) -> Quantized:
    return Quantized(content, "bf16", Mixed(drop, drop, layers), None)


def _scheme(own: QuantizeOptions, exported: Mapping[str, Any]) -> str:
    """Return the scheme for a float32 file; see docs/compress.md for the measurements that the choice rests on."""
    if own.scheme != "auto":
        return own.scheme
    if exported["input"]["dtype"] != "float32":
        why = "its inputs are token numbers"
    elif has_attention(Path(exported["path"])):
        why = "it has attention, whose products of activations one range does not fit"
    else:
        return "static"
    log.info(f"scheme=dynamic, which takes no ranges from training samples: {why}")
    return "dynamic"


def calibration_samples(run: Run, count: int) -> Tensor:
    """Return training samples as an exported file takes them, with classes in proportion: float32 (N, ...)."""
    split = compared_data(run).train
    rows = representative_sample(split.labels, min(count, len(split)))
    log.info(f"taking the ranges of activations from {counted(len(rows), f'training {run.modality().unit}')}")
    with torch.inference_mode():
        return run.modality().portable(split.inputs[rows])
