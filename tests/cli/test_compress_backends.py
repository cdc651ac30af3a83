"""Backends that cannot run the result are refused before anything is trained, and not after hours of it.

White-box: a training that begins must fail the test, and libraries that are not there are replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from effbench.bench.backends import BACKENDS
from effbench.compress import backend_checks, finetune
from effbench.compress.backend_checks import check_backends
from effbench.compress.options import CompressOptions, QuantizeOptions, UnstructuredOptions, measuring
from effbench.errors import ConfigError
from tests.cli.conftest import Effbench


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*_: Any) -> None:
        raise AssertionError("it is trained")

    monkeypatch.setattr(finetune, "_trained", trained)


def openvino_on(*capabilities: str) -> Callable[[], Any]:
    """OpenVINO on a processor with these."""
    core = SimpleNamespace(get_property=lambda *_: capabilities)
    return lambda: SimpleNamespace(Core=lambda: core)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("missing", "backend", "extra"),
    [("onnxruntime", "onnxruntime", "onnx"), ("onnx", "onnxruntime", "onnx"), ("openvino", "openvino_f32", "openvino")],
)
def test_a_backend_without_its_library_exits_4(
    missing: str, backend: str, extra: str, run: Path, effbench: Effbench, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, missing, None)
    words = ["method=unstructured", "epochs=20", f"backends=[{backend}]", "output=small"]
    code, _, err = effbench("compress", str(run), *words)
    assert code == 4
    assert f"backends=[{backend}] needs the extra '{extra}': pip install 'effbench[{extra}]'" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("untrained")
def test_a_processor_without_bfloat16_exits_2(
    run: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(BACKENDS, "openvino_bf16", replace(BACKENDS["openvino_bf16"], runtime=openvino_on("FP32")))
    words = ["method=unstructured", "epochs=20", "backends=[openvino_bf16]", "output=small"]
    code, _, err = effbench("compress", str(run), *words)
    assert code == 2
    assert "backends=[openvino_bf16]: none of them can run the result, so nothing was begun" in err
    assert "this processor has no arithmetic in bfloat16" in err
    assert "Name another one, or leave backends out." in err
    assert list(tmp_path.iterdir()) == []


def checked(backends: list[str], own: Any, monkeypatch: pytest.MonkeyPatch, works: bool = True) -> list[str]:
    """The backends that had to answer for the run itself, of a machine where all libraries are there."""
    asked: list[str] = []

    def answering(_: Any, options: Any, __: Any) -> Any:
        asked.append(*options.chosen)
        return {options.chosen[0]: {"reason": "no operator for it"}}, ["arm"] if works else []

    monkeypatch.setattr(backend_checks, "source_of", lambda *_: None)
    monkeypatch.setattr(backend_checks, "answering", answering)
    monkeypatch.setattr(backend_checks, "require_libraries", lambda _: None)
    for name in ("onnxruntime", "openvino_f32", "openvino_bf16"):
        monkeypatch.setitem(BACKENDS, name, replace(BACKENDS[name], runtime=openvino_on("FP32")))
    method = "quantize" if isinstance(own, QuantizeOptions) else "unstructured"
    check_backends(SimpleNamespace(), CompressOptions(method, own, bench=measuring(backends=backends)))  # type: ignore[arg-type]
    return asked


@pytest.mark.parametrize(
    ("backends", "own", "asked"),
    [
        (["eager", "onnxruntime"], UnstructuredOptions(), []),  # torch runs what it has trained
        (["onnxruntime", "openvino_f32"], UnstructuredOptions(), ["onnxruntime"]),
        (["onnxruntime"], UnstructuredOptions(epochs=0), []),  # nothing is trained
        (["onnxruntime"], QuantizeOptions(), []),
        (["compile"], UnstructuredOptions(), []),  # which takes minutes
        (["compile", "onnxruntime"], UnstructuredOptions(), ["onnxruntime"]),
        (["openvino_bf16", "openvino_f32"], UnstructuredOptions(), ["openvino_f32"]),
    ],
)
def test_one_backend_answers_for_the_run_before_a_training(
    backends: list[str], own: Any, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checked(backends, own, monkeypatch) == asked


def test_a_model_that_no_backend_runs_is_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"onnxruntime: no operator for it; openvino_f32: no operator for it\."):
        checked(["onnxruntime", "openvino_f32"], UnstructuredOptions(), monkeypatch, works=False)


def test_a_quantized_file_needs_a_reader_on_this_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="openvino_bf16: not available: this processor has no arithmetic"):
        checked(["eager", "openvino_bf16"], QuantizeOptions(backend="openvino"), monkeypatch)
