"""Operators that are replaced in ONNX files: the answers stay those of numpy, and only the right means are replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxscript import ir

from effbench import build
from effbench.config.compose import compose
from effbench.export.formats import export_bytes
from effbench.export.interface import OPSET
from effbench.export.onnx_files import load_onnx
from effbench.export.onnx_rewrites import rewritten
from effbench.run.validate import own_setting


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def mean(shape: Sequence[int | str], axes: Sequence[int], keepdims: bool) -> onnx.ModelProto:
    """A file with one operator, the mean over `axes`."""
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=int(keepdims))
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in (("x", shape), ("y", None))
    )
    own = [numpy_helper.from_array(np.array(axes, dtype=np.int64), "axes")]
    graph = helper.make_graph([node], "mean", [x], [y], own)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), keepdims=st.booleans())
def test_only_means_of_pixels_are_replaced(data: st.DataObject, keepdims: bool) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    rank = len(shape)
    chosen = data.draw(
        st.one_of(st.just([rank - 2, rank - 1]), st.lists(st.integers(0, rank - 1), min_size=1, unique=True))
    )
    axes = [axis - rank if data.draw(st.booleans()) else axis for axis in chosen]
    found = ir.to_proto(rewritten(ir.from_proto(mean(["N", *shape[1:]], axes, keepdims))))
    is_pool = rank == 4 and sorted(chosen) == [2, 3] and keepdims
    assert operators(found) == {"GlobalAveragePool" if is_pool else "ReduceMean": 1}
    assert len(found.graph.initializer) == (0 if is_pool else 1)
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    session = onnxruntime.InferenceSession(found.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = x.mean(tuple(chosen), keepdims=keepdims, dtype=np.float64)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=1e-6)


def test_a_mean_over_axes_or_dimensions_unknown_is_left() -> None:
    unknown = mean(["N", 3, 4, 5], [2, 3], True)
    unknown.graph.input.append(helper.make_tensor_value_info("axes", TensorProto.INT64, [2]))
    del unknown.graph.initializer[:]
    assert operators(ir.to_proto(rewritten(ir.from_proto(unknown)))) == {"ReduceMean": 1}
    without_shape = mean(["N", 3, 4, 5], [2, 3], True)
    without_shape.graph.input[0].type.tensor_type.ClearField("shape")
    assert operators(ir.to_proto(rewritten(ir.from_proto(without_shape)))) == {"ReduceMean": 1}


@pytest.mark.proof
def test_no_mean_of_pixels_is_left_in_a_mobilenet() -> None:
    config = compose(["model=mobilenet", "data=synthetic", "device=cpu"])
    setting = own_setting(config)
    model = build.model(config, setting.num_classes, setting.modality).eval()
    samples = torch.rand(2, *setting.modality.shape)
    content = export_bytes("onnx", model, samples, "images", None)
    found = operators(onnx.load_from_string(content))
    assert (found["GlobalAveragePool"], found["ReduceMean"]) == (10, 0)  # nine of squeeze and excite, and the last
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    with torch.no_grad():
        torch.testing.assert_close(load_onnx(content)(samples), model(samples), rtol=1e-4, atol=1e-6)
