"""Files that a measurement writes for its backends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch._inductor

from effbench.bench.backends import BACKENDS
from effbench.bench.prepare import WRITERS, prepare
from effbench.bench.sources import Source, untrained_source
from effbench.config.compose import compose

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
def test_files_for_texts_have_a_free_length_as_exports_do(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    words = ["model=gpt", "model.depth=1", "model.dim=32", "model.heads=2", "data=kjv", "device=cpu"]
    source = untrained_source(compose(words), 1)
    found = prepare(source, [BACKENDS["onnxruntime"]], tmp_path)
    [given] = onnx.load(found.files["onnxruntime"]).graph.input
    assert [side.dim_param for side in given.type.tensor_type.shape.dim] == ["N", "T"]
