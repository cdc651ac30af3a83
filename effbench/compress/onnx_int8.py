"""8-bit ONNX files, made by ONNX Runtime's quantizer: activations unsigned, weights signed and by channel (U8S8, QDQ).

Signed activations (S8S8) were slower than float32 at batch 64, unsigned ones 2 to 5 times as fast (x86 with VNNI).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from effbench.compress.onnx_gates import fold_hard_sigmoids
from effbench.export.formats import quiet
from effbench.processors import has_int8_products

BATCH = 32  # calibration samples of a call: the values of all layers are in memory at once
# Operators with weights, where the time is spent. With ranges taken at run time, convolutions become slower.
# Gather: the table of an embedding, which is most of a text model's file.
STATIC, DYNAMIC = ("Conv", "Gemm", "MatMul"), ("Gemm", "MatMul", "Gather", "LSTM")


def bits_here() -> int:
    """Return the bits of weights that this processor multiplies without saturation."""
    # without VNNI two products of 8 bits may exceed the 16 bits that they are added in
    return 8 if has_int8_products() else 7


class OnnxInt8:
    """One float32 file to be quantized, several times, with the ranges of its activations taken once.

    Args:
        file: the float32 file.
        folder: for temporary files.
        samples: calibration samples as the file takes them, float32 (N, ...); None: ranges are taken at run time.
        bits: of the weights, 7 or 8; None: those that fit this processor.

    Attributes:
        layers: names of the layers with weights.
    """

    def __init__(self, file: Path, folder: Path, samples: Tensor | None, bits: int | None = None):
        self._samples, self._bits = samples, bits or bits_here()
        self._ranges, self._made = folder / "ranges.json", folder / "quantized.onnx"
        self._prepared = folder / "prepared.onnx"
        _prepare(file, self._prepared)
        import onnx

        graph = onnx.load(self._prepared).graph
        # one dimension: a bias, or the numbers that index a table
        weights = {
            each.name for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT and len(each.dims) > 1
        }
        kinds = DYNAMIC if samples is None else STATIC
        self.layers: Sequence[str] = [
            node.name for node in graph.node if node.op_type in kinds and weights & set(node.input)
        ]

    def content(self, floating: Sequence[str] = (), only: Sequence[str] = ()) -> bytes:
        """Return the quantized file.

        Args:
            floating: nodes that stay in float32.
            only: nodes that are quantized; () for all others.
        """
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

        common: dict[str, Any] = {
            "per_channel": True,
            "weight_type": QuantType.QInt8,
            "nodes_to_exclude": list(floating),
            "nodes_to_quantize": list(only),
            "reduce_range": self._bits == 7,
        }
        with quiet():
            if self._samples is None:
                quantize_dynamic(self._prepared, self._made, op_types_to_quantize=list(DYNAMIC), **common)
            else:
                reader: Any = None if self._ranges.exists() else _Reader(self._prepared, self._samples)
                quantize_static(
                    self._prepared,
                    self._made,
                    reader,
                    quant_format=QuantFormat.QDQ,
                    activation_type=QuantType.QUInt8,
                    calibration_cache_path=self._ranges,
                    **common,
                )
        return self._made.read_bytes()


def has_attention(file: Path) -> bool:
    """Return whether a graph holds a softmax that weighs a product of two activations, as attention does."""
    import onnx

    graph = onnx.load(file).graph
    constant = {each.name for each in graph.initializer}
    products = any(node.op_type == "MatMul" and not constant & set(node.input) for node in graph.node)
    return products and any(node.op_type in ("Softmax", "Attention") for node in graph.node)


class _Reader:
    """Hands the calibration samples to the quantizer: `get_next` returns a batch by input name, None at the end."""

    def __init__(self, file: Path, samples: Tensor):
        import onnx

        [given] = onnx.load(file).graph.input
        chunks = samples.split(BATCH)
        self._batches: Iterator[dict[str, np.ndarray[Any, Any]]] = (
            {given.name: chunk.contiguous().numpy()} for chunk in chunks
        )

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        return next(self._batches, None)


def _prepare(file: Path, prepared: Path) -> None:
    """Fuse operators, as 8 bits compute them best, and infer shapes, as the quantizer wants it."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with quiet():
        # symbolic shape inference knows fewer operators than the runtime, and where it fails it leaves its model in
        # the current folder
        quant_pre_process(file, prepared, skip_symbolic_shape=True)
    model = onnx.load(prepared)
    if fold_hard_sigmoids(model):
        onnx.save(model, prepared)
