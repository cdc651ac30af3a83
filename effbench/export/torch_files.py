"""TorchScript and torch.export files: programs of torch itself."""

from __future__ import annotations

from io import BytesIO

import torch
from torch import Tensor, nn

from effbench.export.interface import Forward, Interface


def make_torchscript(model: nn.Module, example: Tensor, interface: Interface) -> bytes:
    """Return a frozen trace of the model.

    Args:
        model: the model, on the CPU.
        example: two samples.
        interface: has no use: inputs are positional, and a trace states no shapes.
    """
    del interface
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


def load_torchscript(content: bytes) -> Forward:
    """Return the model as torch runs its TorchScript on the CPU."""
    module: Forward = torch.jit.load(BytesIO(content), map_location="cpu")
    return module


def exported_program(model: nn.Module, example: Tensor, interface: Interface) -> torch.export.ExportedProgram:
    """Return the model's graph without source files and lines of this machine.

    Args:
        model: the model, on the CPU.
        example: two samples.
        interface: free dimensions; inputs are positional.
    """
    program = torch.export.export(model, (example,), dynamic_shapes=(interface.dims,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def make_torch_export(model: nn.Module, example: Tensor, interface: Interface) -> bytes:
    """Return the file of torch.export.save.

    Args:
        model: the model, on the CPU.
        example: two samples.
        interface: free dimensions.
    """
    content = BytesIO()
    torch.export.save(exported_program(model, example, interface), content)
    return content.getvalue()


def load_torch_export(content: bytes) -> Forward:
    """Return the model as torch runs the graph on the CPU."""
    module: Forward = torch.export.load(BytesIO(content)).module()
    return module
