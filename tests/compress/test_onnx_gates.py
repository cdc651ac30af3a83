"""Hard sigmoids after convolutions become a clip: the same answers, and only where nothing else reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from effbench.compress.onnx_gates import fold_hard_sigmoids

RANDOM = np.random.default_rng(0)


def graph(nodes: Sequence[Any], outputs: Sequence[str] = ("y",), bias: bool = True) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None, 4, 4]) for name in outputs]
    constants = {"w": RANDOM.standard_normal((5, 3, 1, 1)), "b": 3 * RANDOM.standard_normal(5)}
    own = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()]
    made = helper.make_graph(nodes, "gate", [x], ends, own if bias else own[:1])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def conv(inputs: Sequence[str] = ("x", "w", "b"), output: str = "c") -> Any:
    return helper.make_node("Conv", inputs, [output])


def answers(model: onnx.ModelProto) -> list[np.ndarray[Any, Any]]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray[Any, Any]] = session.run(None, {"x": np.linspace(-4, 4, 96).reshape(2, 3, 4, 4).astype("f")})
    return found


@settings(max_examples=30, deadline=None)
@given(alpha=st.none() | st.floats(-1, 1), beta=st.none() | st.floats(-1, 2), bias=st.booleans())
def test_the_answers_stay(alpha: float | None, beta: float | None, bias: bool) -> None:
    given_: dict[str, Any] = {name: value for name, value in (("alpha", alpha), ("beta", beta)) if value is not None}
    nodes = [conv(("x", "w", "b") if bias else ("x", "w")), helper.make_node("HardSigmoid", ["c"], ["y"], **given_)]
    model = graph(nodes, bias=bias)
    [expected] = answers(model)
    assert fold_hard_sigmoids(model) == 1
    assert [node.op_type for node in model.graph.node] == ["Conv", "Clip"]
    np.testing.assert_allclose(answers(model)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        # the product of a hard swish reads the convolution, too
        ([conv(), helper.make_node("HardSigmoid", ["c"], ["g"]), helper.make_node("Mul", ["c", "g"], ["y"])], ("y",)),
        ([conv(), helper.make_node("HardSigmoid", ["c"], ["y"])], ("y", "c")),
        # one array of weights for two convolutions
        (
            [
                conv(), helper.make_node("HardSigmoid", ["c"], ["g"]), conv(output="d"),
                helper.make_node("Add", ["g", "d"], ["y"]),
            ],
            ("y",),
        ),
        ([helper.make_node("HardSigmoid", ["x"], ["y"])], ("y",)),
    ],
    ids=["hard swish", "an output of the model", "shared weights", "no convolution"],
)  # fmt: skip
def test_what_something_else_reads_is_left(nodes: Sequence[Any], outputs: Sequence[str]) -> None:
    model = graph(nodes, outputs)
    before = model.SerializeToString(deterministic=True)
    assert fold_hard_sigmoids(model) == 0
    assert model.SerializeToString(deterministic=True) == before
