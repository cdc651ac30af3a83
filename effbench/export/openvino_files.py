"""OpenVINO files: the intermediate representation (model.xml, model.bin) in one uncompressed zip archive.

One archive, because it is replaced by one rename: of two files, a kill in between would leave the weights of one model
beside the graph of another. `unzip` gives the two files that OpenVINO's tools take.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effbench.errors import MissingExtraError
from effbench.export.interface import Forward, Interface
from effbench.export.onnx_files import make_onnx, require_onnx
from effbench.export.openvino_runtime import GRAPH, RUNTIME_OPTIONS, WEIGHTS, archive, import_openvino, members_of


def make_openvino(model: nn.Module, example: Tensor, interface: Interface) -> bytes:
    """Return the archive, made from an ONNX file of the model.

    By way of ONNX and not by `openvino.convert_model`, which reports each conversion to its makers.

    Args:
        model: the model, on the CPU.
        example: two samples.
        interface: names, free dimensions and operator set.
    """
    return openvino_archive(make_onnx(model, example, interface))


def openvino_archive(content: bytes) -> bytes:
    """Return the archive for the content of an ONNX file."""
    openvino = require_openvino()
    graph = openvino.Core().read_model(model=content, weights=b"")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / GRAPH
        # compress_to_fp16: True is its default, and changes the answers
        openvino.save_model(graph, str(path), compress_to_fp16=False)
        return archive({name: (Path(folder) / name).read_bytes() for name in (GRAPH, WEIGHTS)})


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


def require_openvino(what: str = "format=openvino", extra: str = "openvino") -> Any:
    """Return the module openvino, which then sends nothing to its makers.

    Args:
        what: what needs it, for the message.
        extra: the extra that brings it.

    Raises:
        MissingExtraError: it, or a library for ONNX files, is not installed.
    """
    require_onnx(what, extra)
    try:
        return import_openvino()
    except ImportError as error:
        raise MissingExtraError(what, extra) from error
