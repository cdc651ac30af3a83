"""Export formats: how to write a model, and how the format's runtime reads it back.

Exporters record the source file and line of every operation. These notes are removed, because they would show the
folders of this machine to everyone who gets the file.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effbench.errors import EffbenchError, MissingExtraError, ThresholdError, first_line
from effbench.export.parity import Forward

OUTPUT = "logits"
OPSET = 20
Dims = Mapping[int, Any]  # dimension of the input -> torch.export.Dim, for those that are free


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        suffix: of the file name.
        make: (model, example, name of the input, free dimensions) -> the content of the file.
        load: path -> the model as the runtime executes it, on the CPU.
        libraries: distributions whose versions are recorded.
        opset: ONNX operator set, if the format has one.
        require: imports the optional libraries.
    """

    suffix: str
    make: Callable[[nn.Module, Tensor, str, Dims], bytes]
    load: Callable[[Path], Forward]
    libraries: tuple[str, ...] = ("torch",)
    opset: int | None = None
    require: Callable[[], Any] = lambda: None


def require_libraries(name: str) -> None:
    """Raise MissingExtraError if the libraries of format `name` are not installed."""
    with _quiet():
        FORMATS[name].require()


def export_bytes(
    name: str, model: nn.Module, example: Tensor, input_name: str, free_length: str | None = None
) -> bytes:
    """Return the content of a file that takes any number of samples.

    Args:
        name: a key of FORMATS.
        model: the model, on the CPU.
        example: two samples; a batch of 1 would be fixed.
        input_name: name of the input in the file.
        free_length: name of the second dimension, of which the file then takes 1 to as many as the example has; None:
            exactly as many.

    Raises:
        EffbenchError: the exporter cannot convert the model.
    """
    try:
        with _quiet(), torch.no_grad():
            return FORMATS[name].make(model, example, input_name, _free_dims(example, free_length))
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
        with _quiet():
            return FORMATS[name].load(path)
    except Exception as error:
        raise ThresholdError(f"format={name}: its own runtime cannot read the file: {first_line(error)}.") from error


def _free_dims(example: Tensor, free_length: str | None) -> Dims:
    dims = {0: torch.export.Dim("N")}
    if free_length:
        dims[1] = torch.export.Dim(free_length, min=1, max=example.shape[1])
    return dims


def _make_onnx(model: nn.Module, example: Tensor, input_name: str, dims: Dims) -> bytes:
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[input_name],
        output_names=[OUTPUT],
        dynamic_shapes=(dims,),
        external_data=False,
        verbose=False,
    )
    # torch returns None only from its older exporter (dynamo=False)
    assert program is not None
    proto = program.model_proto
    # source files and lines of this machine
    for node in (*proto.graph.node, *(node for function in proto.functions for node in function.node)):
        del node.metadata_props[:]
    content: bytes = proto.SerializeToString()
    return content


def _load_onnx(path: Path) -> Forward:
    runtime = _onnx_runtime()
    options = runtime.SessionOptions()
    # the same threads as torch, so that the comparison does not use more processors than the user allows
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads slow torch down
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    # one input; its name is the plural of the unit, such as images
    [given] = session.get_inputs()

    def forward(inputs: Tensor) -> Tensor:
        [logits] = session.run([OUTPUT], {given.name: inputs.contiguous().numpy()})
        return torch.from_numpy(logits)

    return forward


def _onnx_runtime() -> Any:
    """Return the module onnxruntime if all libraries for ONNX files are installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("format=onnx", "onnx") from error
    return onnxruntime


def _make_torchscript(model: nn.Module, example: Tensor, input_name: str, dims: Dims) -> bytes:
    del input_name, dims  # inputs are positional, and a trace states no shapes
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


def _load_torchscript(path: Path) -> Forward:
    module: Forward = torch.jit.load(str(path), map_location="cpu")
    return module


def _make_torch_export(model: nn.Module, example: Tensor, input_name: str, dims: Dims) -> bytes:
    del input_name  # inputs are positional
    program = torch.export.export(model, (example,), dynamic_shapes=(dims,))
    for node in program.graph.nodes:
        # source files and lines of this machine
        node.meta.pop("stack_trace", None)
    content = BytesIO()
    torch.export.save(program, content)
    return content.getvalue()


def _load_torch_export(path: Path) -> Forward:
    with path.open("rb") as stream:  # torch requires the suffix .pt2 of a path
        module: Forward = torch.export.load(stream).module()
    return module


@contextmanager
def _quiet() -> Iterator[None]:
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


FORMATS = {
    "onnx": Format(
        ".onnx", _make_onnx, _load_onnx, ("torch", "onnx", "onnxscript", "onnxruntime"), OPSET, _onnx_runtime
    ),
    "torchscript": Format(".pt", _make_torchscript, _load_torchscript),
    "torch_export": Format(".pt2", _make_torch_export, _load_torch_export),
}
