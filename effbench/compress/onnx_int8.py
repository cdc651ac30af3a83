"""8-bit ONNX files, made by ONNX Runtime's quantizer: activations unsigned, weights signed and by channel (U8S8, QDQ).

Signed activations (S8S8) were slower than float32 at batch 64, unsigned ones 2 to 5 times as fast (x86 with VNNI).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from effbench.export.formats import quiet
from effbench.export.onnx_files import require_onnx
from effbench.processors import has_int8_products

BATCH = 32  # calibration samples of a call: the values of all layers are in memory at once
LAYERS = ("Conv", "Gemm", "MatMul")  # operators with weights, where the time is spent


class OnnxInt8:
    """One float32 file to be quantized, several times, with the ranges of its activations taken once.

    Args:
        file: the float32 file.
        folder: for temporary files.
        samples: calibration samples as the file takes them, float32 (N, ...); None: ranges are taken at run time.
        ops: operators to quantize; () for all that ONNX Runtime can.
    """

    def __init__(self, file: Path, folder: Path, samples: Tensor | None, ops: Sequence[str] = ()):
        require_onnx("method=quantize", "onnx")
        self._samples, self._ops, self._folder = samples, list(ops), folder
        self._ranges, self._made = folder / "ranges.json", folder / "quantized.onnx"
        self.prepared = folder / "prepared.onnx"
        _prepare(file, self.prepared)
        import onnx

        graph = onnx.load(self.prepared).graph
        weights = {each.name for each in graph.initializer}
        self.layers = [node.name for node in graph.node if node.op_type in LAYERS and weights & set(node.input)]
        self._nodes = [node.name for node in graph.node]

    @property
    def nodes(self) -> Sequence[str]:
        """Names of all nodes of the prepared graph."""
        return self._nodes

    def content(self, floating: Collection[str] = (), only: Collection[str] = ()) -> bytes:
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
            # without VNNI two products of 8 bits may exceed the 16 bits that they are added in: weights of 7 bits
            "reduce_range": not has_int8_products(),
        }
        with quiet():
            if self._samples is None:
                quantize_dynamic(self.prepared, self._made, op_types_to_quantize=["MatMul", "Gemm"], **common)
            else:
                reader: Any = None if self._ranges.exists() else _Reader(self.prepared, self._samples)
                quantize_static(
                    self.prepared,
                    self._made,
                    reader,
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=self._ops,
                    activation_type=QuantType.QUInt8,
                    calibration_cache_path=self._ranges,
                    **common,
                )
        return self._made.read_bytes()


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
    """Fuse operators and infer shapes, as the quantizer wants it."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with quiet():
        try:
            quant_pre_process(file, prepared)
        # its symbolic shape inference knows fewer operators than the runtime, and raises plain exceptions
        except Exception:  # noqa: BLE001
            quant_pre_process(file, prepared, skip_symbolic_shape=True)
