"""Weights in bfloat16: half the file. A runtime turns them into float32 when it loads the file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

LEAST = 64  # values: below, a cast costs more bytes than it saves


def bf16_content(file: Path) -> tuple[bytes, int]:
    """Return (an ONNX file whose weights are stored in bfloat16, how many arrays of weights these are).

    Each is rounded to nearest even, and a Cast to float32 follows it, which runtimes fold into the weights.

    Args:
        file: the float32 ONNX file.
    """
    import onnx

    model = onnx.load(file)
    casts = []
    for weights in model.graph.initializer:
        if weights.data_type != onnx.TensorProto.FLOAT or math.prod(weights.dims) < LEAST:
            continue
        name, dims = weights.name, list(weights.dims)
        values = torch.from_numpy(np.array(onnx.numpy_helper.to_array(weights))).bfloat16()
        stored = f"{name}.bfloat16"
        raw = values.view(torch.int16).numpy().tobytes()
        weights.CopyFrom(onnx.helper.make_tensor(stored, onnx.TensorProto.BFLOAT16, dims, raw, raw=True))
        casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    for place, cast in enumerate(casts):
        model.graph.node.insert(place, cast)
    content: bytes = model.SerializeToString()
    return content, len(casts)
