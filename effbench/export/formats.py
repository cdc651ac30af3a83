"""Export formats: how to write a model, and how the format's runtime reads it back.

Exporters record the source file and line of every operation. These notes are removed, because they would show the
folders of this machine to everyone who gets the file.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effbench.errors import EffbenchError, MissingExtraError, ThresholdError, first_line
from effbench.export.interface import OPSET, OUTPUT, Dims, Forward, Interface
from effbench.export.onnx_files import load_onnx, make_onnx, require_onnx
from effbench.export.openvino_files import RUNTIME_OPTIONS, load_openvino, make_openvino, require_openvino

__all__ = ["FORMATS", "OUTPUT", "Format", "export_bytes", "load_exported", "loaded", "quiet", "require_libraries"]


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        suffix: of the file name.
        make: (model, example, interface) -> the content of the file.
        load: content of a file -> the model as the runtime executes it, on the CPU. From memory: what was checked is
            what runs, and no path of the file's own can be followed.
        libraries: distributions whose versions are recorded.
        opset: ONNX operator set, if users may choose one and do not.
        require: imports the optional libraries.
        runtime_options: of `load`, where the runtime's defaults would give other answers.
    """

    suffix: str
    make: Callable[[nn.Module, Tensor, Interface], bytes]
    load: Callable[[bytes], Forward]
    libraries: tuple[str, ...] = ("torch",)
    opset: int | None = None
    require: Callable[[], Any] = lambda: None
    runtime_options: Mapping[str, str] = field(default_factory=dict)


def require_libraries(name: str) -> None:
    """Raise MissingExtraError if the libraries of format `name` are not installed."""
    with quiet():
        FORMATS[name].require()


def export_bytes(
    name: str,
    model: nn.Module,
    example: Tensor,
    input_name: str,
    free_length: str | None = None,
    opset: int | None = None,
) -> bytes:
    """Return the content of a file that takes any number of samples.

    Args:
        name: a key of FORMATS.
        model: the model, on the CPU.
        example: two samples; a batch of 1 would be fixed.
        input_name: name of the input in the file.
        free_length: name of the second dimension, of which the file then takes 1 to as many as the example has; None:
            exactly as many.
        opset: ONNX operator set; None for the format's own.

    Raises:
        EffbenchError: the exporter cannot convert the model.
    """
    try:
        with quiet(), torch.no_grad():
            interface = Interface(input_name, _free_dims(example, free_length), opset)
            return FORMATS[name].make(model, example, interface)
    # these say nothing about the model
    except (MissingExtraError, MemoryError):
        raise
    except Exception as error:
        # exporters fail on single operations, so that another format often works
        others = ", ".join(f"format={other}" for other in FORMATS if other != name)
        raise EffbenchError(f"format={name} cannot hold this model: {first_line(error)}. Try {others}.") from error


def load_exported(name: str, path: Path) -> Forward:
    """Load the file, whatever its suffix, with the runtime of its format.

    Raises:
        ThresholdError: the runtime cannot read the file.
    """
    try:
        return loaded(name, path.read_bytes())
    except Exception as error:
        raise ThresholdError(f"format={name}: its own runtime cannot read the file: {first_line(error)}.") from error


def loaded(name: str, content: bytes) -> Forward:
    """Load the content of a file with the runtime of its format, which raises errors of its own."""
    with quiet():
        return FORMATS[name].load(content)


def _free_dims(example: Tensor, free_length: str | None) -> Dims:
    dims = {0: torch.export.Dim("N")}
    if free_length:
        dims[1] = torch.export.Dim(free_length, min=1, max=example.shape[1])
    return dims


def _make_torchscript(model: nn.Module, example: Tensor, interface: Interface) -> bytes:
    del interface  # inputs are positional, and a trace states no shapes
    traced = torch.jit.trace(model, example, check_trace=False)  # `parity` checks more than trace does
    archive, content = BytesIO(), BytesIO()
    torch.jit.save(torch.jit.freeze(traced), archive)

    # the archive is written again without *.debug_pkl, which holds source paths and which only tracebacks need
    archive.seek(0)
    reader, writer = torch._C.PyTorchFileReader(archive), torch._C.PyTorchFileWriter(content)
    for name in reader.get_all_records():
        record = reader.get_record(name)
        if name in ("version", ".data/version"):  # its place depends on the archive's version
            writer.set_min_version(int(record))
        elif not name.endswith((".debug_pkl", "serialization_id")):  # the writer adds a new serialization_id
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return content.getvalue()


def _load_torchscript(content: bytes) -> Forward:
    module: Forward = torch.jit.load(BytesIO(content), map_location="cpu")
    return module


def _make_torch_export(model: nn.Module, example: Tensor, interface: Interface) -> bytes:
    # inputs are positional
    program = torch.export.export(model, (example,), dynamic_shapes=(interface.dims,))
    for node in program.graph.nodes:
        # source files and lines of this machine
        node.meta.pop("stack_trace", None)
    content = BytesIO()
    torch.export.save(program, content)
    return content.getvalue()


def _load_torch_export(content: bytes) -> Forward:
    module: Forward = torch.export.load(BytesIO(content)).module()
    return module


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings and log lines of the exporters: users cannot act on them, and parity shows real problems."""
    # the level is process-wide, so it is restored also after an error
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


_ONNX = ("torch", "onnx", "onnxscript", "onnxruntime")
FORMATS = {
    "onnx": Format(".onnx", make_onnx, load_onnx, _ONNX, OPSET, require_onnx),
    "openvino": Format(
        ".openvino.zip",
        make_openvino,
        load_openvino,
        ("torch", "onnx", "onnxscript", "openvino"),
        require=require_openvino,
        runtime_options=RUNTIME_OPTIONS,
    ),
    "torchscript": Format(".pt", _make_torchscript, _load_torchscript),
    "torch_export": Format(".pt2", _make_torch_export, _load_torch_export),
}
