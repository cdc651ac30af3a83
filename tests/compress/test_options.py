"""Options of a compression that are refused before torch is imported."""

from __future__ import annotations

from typing import Any

import pytest

from effbench.compress.options import (
    CompressOptions,
    QuantizeOptions,
    StructuredOptions,
    measuring,
    method_options,
)
from effbench.errors import ConfigError


@pytest.mark.parametrize(
    ("method", "given", "text"),
    [
        ("quantise", {}, "Did you mean 'quantize'?"),
        ("quantize", {"ratio": 0.5}, "option of method=quantize 'ratio' is not one of"),
        ("structured", {"calibration": 3}, "option of method=structured 'calibration' is not one of"),
        ("quantize", {"scheme": "statik"}, "Did you mean 'static'?"),
        ("quantize", {"calibration": 0}, "calibration must be a whole number of training samples >= 1"),
        ("quantize", {"calibration": "most"}, "such as 128, or auto; got 'most'"),
        ("quantize", {"calibration": 8, "scheme": "bf16"}, "calibration=8 is for scheme=static; scheme=bf16 takes no"),
        ("quantize", {"calibration": "auto", "scheme": "dynamic"}, "calibration=auto is for scheme=static"),
        ("quantize", {"max_drop": -1}, "max_drop must be points of accuracy"),
        ("quantize", {"max_drop": float("nan")}, "max_drop must be points of accuracy"),
        ("quantize", {"weight_bits": 6}, "weight_bits must be 7, 8 or auto; got 6."),
        ("quantize", {"weight_bits": "seven"}, "weight_bits must be 7, 8 or auto; got 'seven'."),
        ("quantize", {"weight_bits": True}, "weight_bits must be 7, 8 or auto; got true."),
        (
            "quantize",
            {"weight_bits": 7, "backend": "openvino"},
            "weight_bits=7 needs backend=onnxruntime",
        ),
        (
            "quantize",
            {"weight_bits": 8, "scheme": "bf16"},
            "weight_bits=8 is for weights in 8 bits",
        ),
        ("structured", {"ratio": 1.0}, "ratio must be the part of the channels to remove, in (0, 1)"),
        ("structured", {"distill": True, "epochs": 0}, "distill=true needs fine-tuning"),
        ("unstructured", {"lr": 0}, "lr must be a number > 0"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_by_name(method: str, given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        method_options(method, given)
    assert text in str(refused.value)


def test_options_of_another_method_are_refused() -> None:
    with pytest.raises(ConfigError, match="method=quantize takes QuantizeOptions; got StructuredOptions"):
        CompressOptions("quantize", StructuredOptions())


@pytest.mark.parametrize(
    ("backend", "backends", "named"),
    [
        ("onnxruntime", ["eager", "torchscript"], "onnxruntime, openvino_f32, openvino_bf16"),
        ("openvino", ["eager", "onnxruntime"], "openvino_f32, openvino_bf16"),
    ],
)
def test_one_of_the_backends_must_read_the_quantized_file(backend: str, backends: list[str], named: str) -> None:
    own = QuantizeOptions(backend=backend)
    with pytest.raises(ConfigError) as refused:
        CompressOptions("quantize", own, bench=measuring(backends=backends))
    assert f"backends=[{','.join(backends)}] measures no file for backend={backend}" in str(refused.value)
    assert f"name one that reads it, of {named}, or leave backends out" in str(refused.value)
    CompressOptions("quantize", own, bench=measuring(backends=[*backends, "openvino_f32"]))
    CompressOptions("structured", StructuredOptions(), bench=measuring(backends=["eager"]))


def test_before_and_after_are_measured_at_batch_1_by_default() -> None:
    assert measuring().sizes == (1,)
    assert measuring(backends=["eager"], rounds=3).chosen == ("eager",)
    with pytest.raises(ConfigError, match=r"backends must name a backend; got \[\]"):
        measuring(backends=[])


def test_only_ranges_from_samples_have_a_number_of_them() -> None:
    found = [method_options("quantize", {"scheme": scheme}) for scheme in ("auto", "static", "dynamic", "bf16")]
    assert [each.calibration for each in found if isinstance(each, QuantizeOptions)] == [128, 128, None, None]
