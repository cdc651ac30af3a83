"""How many samples ranges are taken from, and for which processors the weights are.

White-box: no small model needs more than 8 samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from effbench.compress import quantize as quantizing
from effbench.compress.options import QuantizeOptions
from effbench.compress.quantize import _calibrated
from effbench.report.before_after import _quantized_sentence


@pytest.mark.parametrize(
    ("count", "tried"),
    [(8, [8]), (20, [8, 20]), (32, [8, 32]), (128, [8, 32, 128]), (512, [8, 32, 128, 512]), (900, [8, 32, 128, 512])],
)
def test_auto_ends_where_the_run_has_no_more_samples(
    count: int, tried: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound holds with none of them."""

    class Quantizer:
        def __init__(self, samples: torch.Tensor):
            (tmp_path / str(len(samples))).mkdir()  # as that for ONNX Runtime does

        def content(self) -> bytes:
            return b""

    monkeypatch.setattr(quantizing, "calibration_samples", lambda _, wanted: torch.zeros(min(wanted, count)))
    options, source = QuantizeOptions(calibration="auto"), None
    _, samples, lost = _calibrated(source, options, lambda _: 5.0, Quantizer)  # type: ignore[arg-type]
    assert (samples, list(lost)) == (tried[-1], tried)


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (8, "8-bit weights, for processors with VNNI or the like: on others, answers may be wrong; 7 bits fit all."),
        (7, "7-bit weights, which fit every processor; those with VNNI or the like can take 8 bits."),
        (None, ""),  # older records
    ],
)
def test_bits_of_weights_are_told(bits: int | None, text: str) -> None:
    details: dict[str, Any] = {"scheme": "static", "calibration": 8, "layers": 2, "floating": [], "weight_bits": bits}
    assert list(_quantized_sentence(details))[1:] == ([text] if text else [])
