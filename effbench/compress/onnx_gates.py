"""Hard sigmoids after convolutions, such as the gates of squeeze and excite, as a clip that needs no float32.

    hard_sigmoid(conv(x; W, b)) = clip(alpha (W x + b) + beta, 0, 1) = clip(conv(x; alpha W, alpha b + beta), 0, 1)

ONNX Runtime computes HardSigmoid in float32, between two conversions; a clip is part of the conversion to 8 bits.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

ALPHA, BETA = 0.2, 0.5  # the operator's own, where a node does not state them


def fold_hard_sigmoids(model: onnx.ModelProto) -> int:
    """Replace, in place, each HardSigmoid that alone reads a convolution, and return how many there were."""
    from onnx import helper, numpy_helper

    graph = model.graph
    made = {output: node for node in graph.node for output in node.output}
    constants = {each.name: each for each in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(each.name for each in graph.output)
    folded = 0
    for node in graph.node:
        conv = made.get(node.input[0]) if node.op_type == "HardSigmoid" else None
        if conv is None or conv.op_type != "Conv" or uses[conv.output[0]] != 1:
            continue
        weight, *bias = conv.input[1:]
        if any(name not in constants or uses[name] != 1 for name in (weight, *bias)):
            continue
        own = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        alpha, beta = own.get("alpha", ALPHA), own.get("beta", BETA)
        values = numpy_helper.to_array(constants[weight])
        before = numpy_helper.to_array(constants[bias[0]]) if bias else np.zeros(len(values), values.dtype)
        shifted = numpy_helper.from_array((alpha * before + beta).astype(values.dtype), f"{weight}.gate")
        constants[weight].CopyFrom(numpy_helper.from_array((alpha * values).astype(values.dtype), weight))
        ends = [numpy_helper.from_array(np.array(end, values.dtype), f"{weight}.{end}") for end in (0, 1)]
        graph.initializer.extend([shifted, *ends])
        del conv.input[2:]
        conv.input.append(shifted.name)
        node.op_type = "Clip"
        del node.attribute[:]
        node.input.extend([each.name for each in ends])
        folded += 1
    return folded
