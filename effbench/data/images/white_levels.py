"""White levels: which value of an image with more than 8 bits becomes 255. Imports no Pillow: every run reads them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_BITS = (8, 10, 12, 14, 16, 20, 24, 28, 32)  # of sensors and file formats


@dataclass(frozen=True)
class Depth:
    """The range of values in an image of more than 8 bits. kind: 'integers' or 'floats'."""

    kind: str
    highest: float


@dataclass(frozen=True)
class Levels:
    """White levels: the values that become 255 in images of more than 8 bits.

    Attributes:
        integers: for integer values.
        floats: for float values.
        clips: larger values become white too; otherwise such an image is refused.
    """

    integers: float = 65535.0
    floats: float = 1.0
    clips: bool = True

    def exceeded_by(self, depth: Depth) -> bool:
        return bool(depth.highest > getattr(self, depth.kind))


def levels_for(depths: Iterable[Depth]) -> Levels:
    """Return the smallest full range that holds these values: 2^8 - 1, 2^10 - 1, ... 2^16 - 1, ...

    Floats in [0, 1] get the smallest power of two. There is one choice for a whole dataset, so that images keep their
    relative brightness.
    """
    highest: dict[str, float] = {}
    for depth in depths:
        highest[depth.kind] = max(depth.highest, highest.get(depth.kind, 0.0))

    # for each kind by itself: a folder may hold 16-bit PNGs and float TIFFs
    white: dict[str, float] = {}
    for kind, value in highest.items():
        if kind == "floats" and value <= 1:
            white[kind] = 2.0 ** math.ceil(math.log2(value)) if value > 0 else 1.0
        else:  # a value beyond 32 bits is its own white level
            white[kind] = next((2.0**bits - 1 for bits in _BITS if value <= 2**bits - 1), value)
    return Levels(white.get("integers", Levels.integers), white.get("floats", Levels.floats))
