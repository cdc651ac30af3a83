"""What an exported file offers to its caller: names, free dimensions, operator set. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

OUTPUT = "logits"
OPSET = 20
OPSETS = range(18, 26)  # below 18 torch silently writes 18; from 26 on ONNX Runtime 1.32 refuses its attention nodes
RECORD_SCHEMA = 2  # of the .json beside a file; 1 held neither config nor data, which `predict` needs

Dims = Mapping[int, Any]  # dimension of the input -> torch.export.Dim, for those that are free
Forward = Callable[["Tensor"], "Tensor"]  # samples as an exported file takes them -> logits (N, K)


def unfit_reason(format_name: str, model: object) -> str | None:
    """Return why files of a format cannot give a model's answers; None if nothing is known against it.

    Args:
        format_name: a key of FORMATS.
        model: an instance or a class. `unfit_formats`, if it has one, maps a format to the reason.
    """
    reason: str | None = getattr(model, "unfit_formats", {}).get(format_name)
    return reason


@dataclass(frozen=True)
class Interface:
    """What the caller of a file sees.

    Attributes:
        input_name: name of the input, for formats that name it.
        dims: free dimensions of the input.
        opset: ONNX operator set; None for the format's own.
    """

    input_name: str
    dims: Dims = field(default_factory=dict)
    opset: int | None = None
