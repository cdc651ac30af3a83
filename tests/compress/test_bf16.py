"""Weights in bfloat16 against torch: what the file holds and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from effbench.compress.bf16 import bf16_content  # noqa: E402
from tests.compress.test_onnx_int8 import graph_file  # noqa: E402


def answers(content: bytes, rows: torch.Tensor) -> np.ndarray[Any, Any]:
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: rows.numpy()})[0])


@pytest.mark.slow
def test_the_file_answers_as_torch_with_rounded_weights(tmp_path: Path) -> None:
    file, wide = graph_file(tmp_path / "f.onnx", width=64)
    content, count = bf16_content(file)
    assert count == 2
    rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    first, second = (torch.from_numpy(weight).bfloat16().float() for weight in wide)
    expected = (rows @ first).relu() @ second
    torch.testing.assert_close(torch.from_numpy(answers(content, rows)), expected, atol=1e-4, rtol=1e-5)
    exact = (rows @ torch.from_numpy(wide[0])).relu() @ torch.from_numpy(wide[1])
    assert (exact - expected).abs().max() > 1e-3  # the rounding shows


@pytest.mark.slow
def test_small_arrays_keep_their_bits(tmp_path: Path) -> None:
    file, weights = graph_file(tmp_path / "f.onnx")
    content, count = bf16_content(file)
    assert count == 0  # 48 and 24 values
    graph = onnx.load_model_from_string(content).graph
    kept = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    assert all(np.array_equal(kept[f"w{number}"], weight) for number, weight in enumerate(weights))
