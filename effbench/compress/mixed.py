"""Mixed precision: the layers whose quantization moves the outputs most stay in float32, as few as the bound allows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from effbench.compress.onnx_int8 import OnnxInt8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mixed:
    """Which layers stay in float32.

    Attributes:
        drop: what is lost on validation samples, in the unit of max_drop.
        drop_of_all: what is lost with all layers quantized.
        layers: layers with weights.
        floating: names of those in float32.
        sensitivity: layer -> what is lost if it alone is quantized; empty if nobody asked.
    """

    drop: float
    drop_of_all: float
    layers: int
    floating: tuple[str, ...]
    sensitivity: dict[str, float]

    def facts(self) -> dict[str, Any]:
        """Return all values, for a record."""
        return {**asdict(self), "floating": list(self.floating)}


def within_bound(quantizer: OnnxInt8, drop: Callable[[bytes], float], bound: float) -> tuple[Mixed, bytes]:
    """Return the file with the fewest float layers whose drop is within the bound; else the best that was found.

    Args:
        quantizer: of the file.
        drop: content of a file -> what it loses.
        bound: largest drop.
    """
    content = quantizer.content()
    lost = drop(content)
    count = len(quantizer.layers)
    log.info(f"all {count} layers quantized: {lost:+.2f} lost (bound {bound:g})")
    if lost <= bound:
        return Mixed(lost, lost, count, (), {}), content
    raise NotImplementedError
