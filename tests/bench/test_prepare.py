"""Files that a measurement writes for its backends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor

from effbench.bench import prepare as preparing
from effbench.bench.backends import BACKENDS
from effbench.bench.prepare import WRITERS, prepare
from effbench.bench.sources import Source, untrained_source
from effbench.config.compose import compose
from tests.texts import write_texts

CACHE = "TORCHINDUCTOR_CACHE_DIR"


@pytest.mark.parametrize("before", [None, "mine"])
def test_the_compilers_cache_is_the_users_again(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of a measurement is removed, and a notebook goes on to compile."""
    monkeypatch.delenv(CACHE, raising=False)
    if before is not None:
        monkeypatch.setenv(CACHE, before)
    seen: list[str] = []
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", lambda *_, **__: seen.append(os.environ[CACHE]))
    monkeypatch.setattr(torch.export, "load", lambda _: None)
    (tmp_path / "model.pt2").touch()
    _, write = WRITERS["aot_inductor"]
    write(Source({}, torch.zeros(1, 1), "row", files={"torch_export": tmp_path / "model.pt2"}), tmp_path / "x.pt2")
    assert seen == [str(tmp_path / "inductor")]
    assert os.environ.get(CACHE) == before


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.parametrize(("window", "free"), [(4, True), (1, False)])
def test_a_free_length_that_does_not_hold_is_fixed_as_in_exports(window: int, free: bool, tmp_path: Path) -> None:
    """Local attention takes chunks of 16 blocks of `window` tokens: a text of 24 tokens is one chunk, or two."""
    onnx = pytest.importorskip("onnx")
    data = ["data=text_csv", "data.tokenizer=words", "data.max_length=24", f"data.file='{write_texts(tmp_path)}'"]
    model = ["model=local_attention", "model.dim=8", "model.depth=1", "model.heads=2", f"model.window={window}"]
    source = untrained_source(compose([*data, *model, "device=cpu"]), 1)
    found = prepare(source, [BACKENDS["onnxruntime"]], tmp_path)
    [given] = onnx.load(found.files["onnxruntime"]).graph.input
    assert [side.dim_param or side.dim_value for side in given.type.tensor_type.shape.dim] == ["N", "T" if free else 24]


@pytest.mark.parametrize("wrong", ["fails", "differs", ""])
def test_a_free_length_is_tried_before_it_is_measured(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wrong: what a file of a free length does at half of the length."""
    written: list[str | None] = []

    def export_bytes(*given: Any, **_: Any) -> bytes:
        written.append(given[4])
        return b"file"

    def load_exported(*_: Any) -> Any:
        def answers(samples: torch.Tensor) -> torch.Tensor:
            if wrong == "fails" and samples.shape[1] == 4:
                raise RuntimeError("Reshape of 4")
            return samples.float().sum(1, keepdim=True) + (wrong == "differs" and samples.shape[1] == 4)

        return answers

    for name, value in {"export_bytes": export_bytes, "load_exported": load_exported}.items():
        monkeypatch.setattr(preparing, name, value)
    model: Any = torch.nn.Module()
    model.model = torch.nn.Module()
    model.forward = lambda samples: samples.float().sum(1, keepdim=True)
    source = Source({}, torch.ones(2, 8, dtype=torch.int64), "text", model, free_length="T")
    found = prepare(source, [BACKENDS["torchscript"]], tmp_path)
    assert not found.failed
    assert written == (["T", None] if wrong else ["T"])


@pytest.mark.proof
@pytest.mark.slow
def test_files_for_texts_have_a_free_length_as_exports_do(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    words = ["model=gpt", "model.depth=1", "model.dim=32", "model.heads=2", "data=kjv", "device=cpu"]
    source = untrained_source(compose(words), 1)
    found = prepare(source, [BACKENDS["onnxruntime"]], tmp_path)
    [given] = onnx.load(found.files["onnxruntime"]).graph.input
    assert [side.dim_param for side in given.type.tensor_type.shape.dim] == ["N", "T"]
