"""Read an exported file and its record, which may be a stranger's, for `eval` and `predict`.

The record must describe the file, byte for byte. ONNX and OpenVINO files hold a graph and numbers, which their runtimes
interpret, and are read from memory, so that nothing in them can name another file. The others are programs: they are
run only if the user trusts them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.config.options import BOOL
from effbench.errors import ConfigError, DataError, EffbenchError, first_line, shown, unknown_name
from effbench.export.files import record_path
from effbench.export.formats import FORMATS, PROGRAMS, loaded, require_libraries
from effbench.export.interface import RECORD_SCHEMA, Forward
from effbench.guarded import TEXT_BYTES, MissingFileError, checked_version, read_bytes
from effbench.processors import has_int8_products
from effbench.summary_schema import check_plain, complaints, wrong_fields

log = logging.getLogger(__name__)

MODEL_BYTES = 4 * 2**30  # largest file
# It holds what the run's summary, of at most TEXT_BYTES, says of its data, and the tokenizer and the classes once more.
RECORD_BYTES = 3 * TEXT_BYTES
_TEXT = ("format", "file", "sha256", "run", "probabilities")
_MAPPINGS = ("input", "output", "checkpoint", "model")
_SIDES = {"float32": "float32", "int64": "int64"}


@dataclass(frozen=True)
class Opened:
    """An exported file that was read and checked.

    Attributes:
        path: of the file.
        record: content of its record.
        forward: the model as its runtime executes it: samples as the file takes them -> outputs.
    """

    path: Path
    record: Mapping[str, Any]
    forward: Forward

    @property
    def fixed_length(self) -> int | None:
        """The only length of a sample in tokens that the file takes; None: its length is free, or it has none."""
        given = self.record["input"]
        length = given["shape"][1] if given["dtype"] == "int64" else None
        return length if isinstance(length, int) else None


def read_record(path: Path) -> dict[str, Any]:
    """Return the record of the exported file at `path`.

    Raises:
        ConfigError: there is none, or it is damaged or of a newer version.
    """
    place = record_path(path)
    try:
        record = json.loads(read_bytes(place, RECORD_BYTES).decode("utf-8"))
        check_plain(record)
    except MissingFileError as error:
        raise ConfigError(
            f"{path} is no exported file: the record {place.name} is not beside it. Give a run's folder, or a file of "
            "`effbench export` with its .json."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place} is not valid JSON ({first_line(error)}).") from error
    checked_version(record.get("schema_version") if isinstance(record, dict) else None, RECORD_SCHEMA, str(place))
    if wrong := _wrong_field(record):
        raise ConfigError(f"{place} is damaged: {wrong}. Export the run again.")
    return dict(record)


def open_export(path: Path, trust: bool = False) -> Opened:
    """Read an exported file.

    Args:
        path: the file; its record is beside it.
        trust: run a file that is a program.

    Raises:
        ConfigError: there is no record, it is not of this file, the file is broken, or a program that is not trusted;
            trust is no boolean.
        MissingExtraError: its runtime is not installed.
    """
    # a text such as "false" would count as true, and run a stranger's program
    BOOL.check(trust, "trust")
    record = read_record(path)
    name = record["format"]
    # Before torch is imported and anything is read.
    if name not in FORMATS:
        raise ConfigError(f"{record_path(path)}: {unknown_name('format', name, FORMATS)}")
    if name in PROGRAMS and not trust:
        harmless = " and ".join(each for each in FORMATS if each not in PROGRAMS)
        raise ConfigError(
            f"{path} (format={name}) is a program, which may do whatever you may do. If you made it or trust its "
            f"maker, write trust=true. Files of format={harmless} hold no program."
        )
    require_libraries(name)
    content = read_bytes(path, MODEL_BYTES)
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise ConfigError(
            f"{path} is not the file that {record_path(path).name} describes: its sha256 differs. One of them was "
            "damaged or replaced; export the run again, or restore both from a copy."
        )
    try:
        forward = loaded(name, content)
        _try(forward, record)
    except (EffbenchError, MemoryError):
        raise
    except Exception as error:  # each runtime raises other classes
        reason = first_line(error).rstrip(".")
        raise DataError(f"{path} is broken, or no file of format={name}: {reason:.300}.") from error
    _warn_of_weights(path, record)
    return Opened(path, record, forward)


def _warn_of_weights(path: Path, record: Mapping[str, Any]) -> None:
    quantized = record.get("quantized")
    if isinstance(quantized, dict) and quantized.get("weight_bits") == 8 and not has_int8_products():
        log.warning(
            f"{path.name} has weights of 8 bits, for processors with VNNI or the like. On this one, sums of their "
            "products may saturate, and answers with them be wrong: compress the run here, or with weight_bits=7"
        )


def _try(forward: Forward, record: Mapping[str, Any]) -> None:
    """Run two samples, so that a graph of another input or output is refused here. Raises DataError."""
    import torch

    given = record["input"]
    length = [given["lengths"]["most"]] if "lengths" in given else []
    shape = [2, *length, *given["shape"][1 + len(length) :]]
    outputs = forward(torch.ones(shape, dtype=getattr(torch, _SIDES[given["dtype"]])))
    expected = (2, *output_sides(record))
    if outputs.dtype != torch.float32 or tuple(outputs.shape) != expected:
        raise DataError(
            f"{record['file']} gives {outputs.dtype} {tuple(outputs.shape)} for two {given['name']}, and its record "
            f"promises float32 {expected}."
        )


def input_sides(record: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of a sample of the greatest length."""
    most = record["input"].get("lengths", {}).get("most")
    return tuple(side if isinstance(side, int) else most for side in record["input"]["shape"][1:])


def output_sides(record: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of the output for a sample of the greatest length."""
    most = record["input"].get("lengths", {}).get("most")
    return tuple(side if isinstance(side, int) else most for side in record["output"]["shape"][1:])


def _wrong_field(record: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the type of a field that is used here; None if nothing is."""
    for key in _TEXT:
        if not isinstance(record.get(key), str):
            return f"{key} must be text; got {shown(record.get(key))[:100]}"
    for key in _MAPPINGS:
        if not isinstance(record.get(key), dict):
            return f"{key} must be a mapping; got {shown(record.get(key))[:100]}"
    for key in ("input", "output"):
        sides = record[key].get("shape")
        # of texts, the length may be a name; it is then a name in the output of a next-token model too
        free = 2 if key == "input" and "lengths" in record[key] else 1
        names = record["input"]["shape"][1:2] if key == "output" and "lengths" in record["input"] else []
        if (
            not isinstance(sides, list)
            or len(sides) < 2
            or not all(_is_side(side) or (isinstance(side, str) and side in names) for side in sides[free:])
        ):
            return f"{key}.shape must be 'N' and whole numbers from 1 on; got {shown(sides)[:100]}"
    given = record["input"]
    if not isinstance(given.get("name"), str) or given.get("dtype") not in tuple(_SIDES):  # a list has no hash
        return "input needs a name, and a dtype of float32 or int64"
    if not given["name"].isprintable():
        return f"input.name must be of printable characters; got {shown(given['name'])[:100]}"
    if "lengths" in given:
        lengths = given["lengths"]
        if not isinstance(lengths, dict) or not all(_is_side(lengths.get(key)) for key in ("least", "most")):
            return "input.lengths needs least and most, whole numbers from 1 on"
        length = given["shape"][1]
        if not isinstance(length, str) and length != lengths["most"]:
            return f"input.shape[1] must be a name, or input.lengths.most, {lengths['most']}; got {shown(length)[:100]}"
    batch = given.get("batch", {"least": 1, "most": 1})
    if not isinstance(batch, dict) or not all(_is_side(batch.get(key)) for key in ("least", "most")):
        return "input.batch needs least and most, whole numbers from 1 on"
    # what the run's summary says of its data; it is checked as there, and absent in records of an older effbench
    return next(complaints(wrong_fields({"data": record.get("data")})), None)


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**7
