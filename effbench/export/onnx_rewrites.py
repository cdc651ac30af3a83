"""Operators of ONNX files that runtimes compute faster than those that torch's exporter writes; the answers stay.

torch writes the mean over height and width as ReduceMean. ONNX Runtime computes GlobalAveragePool in the memory layout
of its convolutions, and in 8 bits; around ReduceMean it converts layout and type.
"""

from __future__ import annotations

from typing import Any

from onnxscript import ir
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.pattern import RewriteRule


def rewritten(model: ir.Model) -> ir.Model:
    """Return the model with GlobalAveragePool for each mean over height and width that keeps both dimensions."""
    return rewrite(model, [RewriteRule(_mean, _pool, _is_over_pixels)])


def _mean(op: Any, x: ir.Value, axes: ir.Value) -> Any:
    return op.ReduceMean(x, axes, keepdims=1)


def _is_over_pixels(_: Any, x: ir.Value, axes: ir.Value, **__: Any) -> bool:
    known = ir.convenience.get_const_tensor(axes)
    if known is None or x.shape is None or len(x.shape) != 4:
        return False
    return sorted(axis % 4 for axis in known.numpy().tolist()) == [2, 3]


def _pool(op: Any, x: ir.Value, **_: Any) -> Any:
    return op.GlobalAveragePool(x)
