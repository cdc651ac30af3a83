"""OpenVINO files: the intermediate representation (model.xml, model.bin) in one uncompressed zip archive.

One archive, because it is replaced by one rename: of two files, a kill in between would leave the weights of one model
beside the graph of another. `unzip` gives the two files that OpenVINO's tools take.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effbench.errors import DataError, MissingExtraError
from effbench.export.interface import Forward, Interface
from effbench.export.onnx_files import make_onnx, require_onnx

GRAPH, WEIGHTS = "model.xml", "model.bin"
# Its default on processors with AMX or AVX-512 bf16 is bfloat16, whose 8 bits of mantissa no tolerance here allows.
RUNTIME_OPTIONS = {"INFERENCE_PRECISION_HINT": "f32"}
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest of a zip archive: equal models give equal bytes
_TELEMETRY = "openvino_telemetry"


def make_openvino(model: nn.Module, example: Tensor, interface: Interface) -> bytes:
    """Return the archive, made from an ONNX file of the model.

    By way of ONNX and not by `openvino.convert_model`, which reports each conversion to its makers.

    Args:
        model: the model, on the CPU.
        example: two samples.
        interface: names, free dimensions and operator set.
    """
    openvino = require_openvino()
    graph = openvino.Core().read_model(model=make_onnx(model, example, interface), weights=b"")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / GRAPH
        # compress_to_fp16: True is its default, and changes the answers
        openvino.save_model(graph, str(path), compress_to_fp16=False)
        return archive({name: (Path(folder) / name).read_bytes() for name in (GRAPH, WEIGHTS)})


def archive(members: dict[str, bytes]) -> bytes:
    """Return a zip archive of these files, uncompressed."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as file:
        for name, member in members.items():
            file.writestr(zipfile.ZipInfo(name, _DATE), member)
    return content.getvalue()


def members_of(content: bytes) -> tuple[bytes, bytes]:
    """Return (graph, weights) of an archive.

    Raises:
        DataError: it holds something else, or members that are larger than the archive.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as file:
            found = {entry.filename: entry for entry in file.infolist()}
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in found.values())
            # compressed members of a stranger's archive could grow beyond the memory
            if set(found) != {GRAPH, WEIGHTS} or len(file.infolist()) != 2 or not stored:
                raise DataError(
                    f"the archive must hold {GRAPH} and {WEIGHTS} without compression, and nothing else; it holds "
                    f"{', '.join(found) or 'nothing'}."
                )
            return file.read(GRAPH), file.read(WEIGHTS)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"it is no whole zip archive: {error}.") from error


def load_openvino(content: bytes) -> Forward:
    """Return the model as OpenVINO runs it on the CPU in float32."""
    openvino = require_openvino()
    graph, weights = members_of(content)
    core = openvino.Core()
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}  # as torch, so that no more processors are used
    model = core.compile_model(core.read_model(model=graph, weights=weights), "CPU", {**RUNTIME_OPTIONS, **threads})

    def forward(inputs: Tensor) -> Tensor:
        # a copy: OpenVINO reuses the memory of its results
        return torch.from_numpy(model(inputs.contiguous().numpy())[0].copy())

    return forward


def require_openvino() -> Any:
    """Return the module openvino, which then sends nothing to its makers.

    Raises:
        MissingExtraError: it, or a library for ONNX files, is not installed.
    """
    require_onnx("format=openvino", "openvino")
    try:
        return _without_telemetry()
    except ImportError as error:
        raise MissingExtraError("format=openvino", "openvino") from error


def _without_telemetry() -> Any:
    """Import openvino as if openvino-telemetry were not installed: openvino then takes a stub of its own.

    Otherwise the import alone sends an event to Google Analytics and writes an ID to ~/intel. Of a process that has
    imported openvino before, nothing is changed: that was the user's choice, and no function that is used here reports.
    """
    if sys.modules.get("openvino"):
        return sys.modules["openvino"]
    present, before = _TELEMETRY in sys.modules, sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # Python's way to say that a module cannot be imported
    try:
        import openvino
    finally:
        if present and before is not None:
            sys.modules[_TELEMETRY] = before
        else:
            del sys.modules[_TELEMETRY]
    return openvino
