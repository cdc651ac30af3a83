"""8-bit ONNX files against numpy: what a weight becomes, which layers stay in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from effbench.compress import onnx_int8  # noqa: E402
from effbench.compress.onnx_int8 import OnnxInt8, has_attention  # noqa: E402

pytestmark = pytest.mark.slow  # the quantizer starts sessions of ONNX Runtime


def graph_file(path: Path, attention: bool = False, width: int = 6) -> tuple[Path, list[np.ndarray[Any, Any]]]:
    """Products with weights (8, width) and (width, 4), a ReLU between; with attention, a product of activations."""
    chance = np.random.default_rng(0)
    weights = [chance.normal(size=shape).astype(np.float32) for shape in ((8, width), (width, 4))]
    node, one = onnx.helper.make_node, onnx.TensorProto.FLOAT
    nodes = [node("MatMul", ["rows", "w0"], ["h"], "first"), node("Relu", ["h"], ["r"], "relu")]
    nodes += [node("MatMul", ["r", "w1"], ["z"], "second")]
    nodes += [node("Transpose", ["z"], ["zt"], "turn"), node("MatMul", ["z", "zt"], ["s"], "scores")] * attention
    nodes += [node("Softmax" if attention else "Identity", ["s" if attention else "z"], ["logits"], "last")]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("rows", one, ["N", 8])],
        [onnx.helper.make_tensor_value_info("logits", one, ["N", "K"])],
        [onnx.numpy_helper.from_array(weight, f"w{number}") for number, weight in enumerate(weights)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path, weights


def integers(content: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Weights of the file with 8 bits and two dimensions, by name."""
    graph = onnx.load_model_from_string(content).graph
    found = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    return {name: array for name, array in found.items() if array.dtype == np.int8 and array.ndim == 2}


@pytest.mark.parametrize(("products", "bits"), [(True, None), (False, None), (True, 7), (False, 8)])
def test_weights_are_rounded_to_a_scale_for_each_column(
    products: bool, bits: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_int8, "has_int8_products", lambda: products)
    file, weights = graph_file(tmp_path / "f.onnx")
    content = OnnxInt8(file, tmp_path, torch.randn(32, 8), bits).content()
    # symmetric; 7 bits on processors whose products of 8 bits saturate, unless the user says so
    most = 127 if (bits == 8 if bits else products) else 64
    found = integers(content)
    assert len(found) == 2
    for number, weight in enumerate(weights):
        [got] = [array for name, array in found.items() if name.startswith(f"w{number}")]
        scale = np.abs(weight).max(axis=0) / most
        assert np.abs(got - weight / scale).max() <= 0.51 + 1.0 * (most == 64)
        assert 0.9 * most <= np.abs(got).max() <= most


def test_layers_named_as_floating_keep_their_weights(tmp_path: Path) -> None:
    file, weights = graph_file(tmp_path / "f.onnx")
    quantizer = OnnxInt8(file, tmp_path, torch.randn(32, 8))
    assert quantizer.layers == ["first", "second"]
    assert [name[:2] for name in integers(quantizer.content(floating=["first"]))] == ["w1"]
    assert [name[:2] for name in integers(quantizer.content(only=["first"]))] == ["w0"]
    graph = onnx.load_model_from_string(quantizer.content(floating=["first"])).graph
    kept = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    assert np.array_equal(kept["w0"], weights[0])


def test_ranges_are_taken_once_for_all_files(tmp_path: Path) -> None:
    file, _ = graph_file(tmp_path / "f.onnx")
    quantizer = OnnxInt8(file, tmp_path, torch.randn(32, 8))
    first = quantizer.content()
    ranges = (tmp_path / "ranges.json").read_bytes()
    quantizer.content(floating=["first"])
    assert quantizer.content() == first
    assert (tmp_path / "ranges.json").read_bytes() == ranges


def test_without_samples_ranges_are_taken_at_run_time(tmp_path: Path) -> None:
    file, _ = graph_file(tmp_path / "f.onnx")
    graph = onnx.load_model_from_string(OnnxInt8(file, tmp_path, None).content()).graph
    assert "DynamicQuantizeLinear" in {node.op_type for node in graph.node}


def test_attention_is_a_softmax_with_a_product_of_activations(tmp_path: Path) -> None:
    assert has_attention(graph_file(tmp_path / "a.onnx", attention=True)[0])
    assert not has_attention(graph_file(tmp_path / "b.onnx")[0])
