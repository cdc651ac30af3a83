"""compress method=quantize scheme=bf16, from Python: a run of half the size that answers nearly the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import effbench
from effbench.report.before_after import sentences

pytest.importorskip("onnxruntime")


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_run_of_half_the_size_answers_nearly_the_same(
    run: Path, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
        monkeypatch.setitem(sys.modules, "nncf", None)  # it quantizes nothing
    folder, named = tmp_path / "small", "onnxruntime" if backend == "onnxruntime" else "openvino_f32"
    measured = {"backends": [named], "rounds": 3, "seconds": 0.05}
    record = effbench.compress_run(run, "quantize", output=folder, scheme="bf16", backend=backend, **measured)
    share = 0.56 if backend == "onnxruntime" else 0.62  # the graph as XML is larger
    assert record["details"]["bytes"] < share * record["details"]["float32_bytes"]
    assert (record["details"]["scheme"], record["details"]["calibration"]) == ("bf16", None)
    assert "-bf16." in record["file"]
    file = json.loads((folder / "export" / f"{record['file']}.json").read_text())
    assert ("openvino" in file["versions"], "nncf" in file["versions"]) == (backend == "openvino", False)
    assert abs(record["test"]["lost"]["estimate"]) < 0.5
    assert any("bfloat16" in line for line in sentences(record))
    # bfloat16 keeps 8 bits of each weight
    small, before = effbench.load_run(folder), effbench.load_run(run)
    images = torch.randint(0, 256, (7, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    moved = (small.predict(images) - before.predict(images)).abs().max()
    assert 0 < moved < 0.02
