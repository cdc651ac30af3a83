"""ONNX files: written by torch, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from effbench.errors import DataError, EffbenchError, MissingExtraError
from effbench.export.interface import OPSET, OUTPUT, Forward, Interface


def make_onnx(model: nn.Module, example: Tensor, interface: Interface) -> bytes:
    """Return an ONNX file with its weights inside.

    Args:
        model: the model, on the CPU.
        example: two samples.
        interface: names, free dimensions and operator set.

    Raises:
        EffbenchError: the exporter wrote another operator set than the one asked for.
    """
    from effbench.export.onnx_rewrites import rewritten

    opset = interface.opset or OPSET
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        opset_version=opset,
        input_names=[interface.input_name],
        output_names=[OUTPUT],
        dynamic_shapes=(interface.dims,),
        external_data=False,
        verbose=False,
    )
    # torch returns None only from its older exporter (dynamo=False)
    assert program is not None
    program.model = rewritten(program.model)
    proto = program.model_proto
    # source files and lines of this machine
    for node in (*proto.graph.node, *(node for function in proto.functions for node in function.node)):
        del node.metadata_props[:]
    written = {entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")}
    if written != {opset}:  # where a conversion fails, torch keeps the operator set before it
        raise EffbenchError(f"the exporter cannot write opset={opset} and wrote {', '.join(map(str, written))}")
    content: bytes = proto.SerializeToString()
    return content


def load_onnx(content: bytes) -> Forward:
    """Return the model as ONNX Runtime runs it on the CPU. Raises DataError for a file that reads other files."""
    runtime = require_onnx()
    refuse_external_data(content)
    options = runtime.SessionOptions()
    # the same threads as torch, so that the comparison does not use more processors than the user allows
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads slow torch down
    options.log_severity_level = 4  # its errors are raised as well
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    # one input; its name is the plural of the unit, such as images
    [given] = session.get_inputs()

    def forward(inputs: Tensor) -> Tensor:
        [logits] = session.run([OUTPUT], {given.name: inputs.contiguous().numpy()})
        return torch.from_numpy(logits)

    return forward


def refuse_external_data(content: bytes) -> None:
    """Raise DataError if a tensor of the model lies in another file: its path could lead anywhere on this machine."""
    import onnx

    waiting = [onnx.load_model_from_string(content)]
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto):
            if message.data_location == onnx.TensorProto.EXTERNAL or message.external_data:
                raise DataError(
                    f"its tensor {message.name[:100]!r} lies in another file, which is not read: an export of effbench "
                    "holds its weights itself."
                )
            continue
        # every field, so that no place where a tensor may be is missed: nodes, subgraphs, functions, sparse tensors
        for kind, value in message.ListFields():
            if kind.message_type is not None:
                waiting += value if isinstance(value, Sequence) else [value]


def require_onnx(what: str = "format=onnx", extra: str = "onnx") -> Any:
    """Return the module onnxruntime if all libraries for ONNX files are installed.

    Args:
        what: what needs them, for the message.
        extra: the extra that brings them.

    Raises:
        MissingExtraError: one is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(what, extra) from error
    return onnxruntime
