"""What a backend says and refuses on each kind of processor; and every backend gives a number here."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from effbench import cli
from effbench.bench import backends
from effbench.bench.backends import BACKENDS, UnavailableError, has_bf16
from effbench.bench.measure import Arm, answers_of


class FakeTorch(SimpleNamespace):
    """Loads a layer, and does not change the threads of this process, as no process may twice."""

    def __init__(self) -> None:
        nothing = lambda _: None  # noqa: E731
        super().__init__(
            set_num_threads=nothing, set_num_interop_threads=nothing, load=lambda *_, **__: torch.nn.Identity(),
            from_numpy=torch.from_numpy, no_grad=torch.no_grad,
        )  # fmt: skip


@pytest.mark.parametrize(("there", "told"), [(True, False), (False, True), (None, False)])
def test_emulated_bfloat16_is_said(there: bool | None, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "has_bf16", lambda: there)
    notes = BACKENDS["bf16"].load(FakeTorch(), Path("file"), 1).notes
    assert notes == ("bfloat16 is emulated: this processor has no arithmetic in it",) * told


class FakeOpenvino:
    """A processor with these capabilities, whose compiled models compute in `used`."""

    def __init__(self, capabilities: Sequence[str], used: str):
        self.capabilities, self.used, self.hints = capabilities, used, dict[str, Any]()

    def Core(self) -> Any:  # noqa: N802 - OpenVINO's name
        return SimpleNamespace(
            get_property=lambda *_: self.capabilities, read_model=lambda _: "graph", compile_model=self.compiled
        )

    def compiled(self, graph: str, device: str, hints: dict[str, Any]) -> Any:
        assert (graph, device) == ("graph", "CPU")
        self.hints = hints
        kind = SimpleNamespace(get_type_name=lambda: self.used)
        return SimpleNamespace(
            get_property=lambda _: kind, create_infer_request=lambda: None, output=lambda _: "output"
        )


@pytest.mark.parametrize(
    ("name", "capabilities", "used", "reason"),
    [
        ("openvino_bf16", ["FP32", "INT8"], "f32", "not available: this processor has no arithmetic in bfloat16"),
        ("openvino_bf16", ["FP32", "BF16"], "f32", "OpenVINO computes in f32 although bf16 was asked for"),
        ("openvino_f32", ["FP32", "BF16"], "bf16", "OpenVINO computes in bf16 although f32 was asked for"),
        ("openvino_bf16", ["FP32", "BF16"], "bf16", ""),
        ("openvino_f32", ["FP32", "BF16"], "f32", ""),
    ],
)
def test_openvino_computes_in_the_precision_of_its_name(
    name: str, capabilities: list[str], used: str, reason: str, tmp_path: Path
) -> None:
    runtime = FakeOpenvino(capabilities, used)
    if reason:
        with pytest.raises(UnavailableError, match=reason):
            BACKENDS[name].load(runtime, tmp_path, 3)
    else:
        BACKENDS[name].load(runtime, tmp_path, 3)
        asked = {key: runtime.hints[key] for key in ("INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS")}
        assert asked == {"INFERENCE_PRECISION_HINT": used, "INFERENCE_NUM_THREADS": 3}


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.skipif(not has_bf16(), reason="no arithmetic in bfloat16")
@pytest.mark.skipif(find_spec("openvino") is None or find_spec("onnx") is None, reason="extras onnx and openvino")
def test_openvino_rounds_to_bfloat16_where_it_says_so(tmp_path: Path) -> None:
    """Against a product in float32 of numbers with more bits than bfloat16 has."""
    from tests.compress.test_onnx_int8 import graph_file

    file, weights = graph_file(tmp_path / "f.onnx")
    rows = np.random.default_rng(1).normal(size=(6, 8)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    expected = np.maximum(rows @ weights[0], 0) @ weights[1]
    moved = {}
    for name in ("openvino_f32", "openvino_bf16"):
        arm = Arm(name, name, file)
        got = answers_of(arm, tmp_path / "rows.npy", 4, tmp_path, 1)
        assert got is not None, arm.failed
        moved[name] = [float(np.abs(each - expected[: len(each)]).max() / np.abs(expected).max()) for each in got]
    assert max(moved["openvino_f32"]) < 1e-5
    assert all(1e-4 < value < 0.03 for value in moved["openvino_bf16"])  # 8 bits


ALL_HERE = all(find_spec(name) for name in ("onnx", "onnxruntime", "openvino", "executorch"))


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.skipif(not ALL_HERE, reason="extras onnx, openvino and executorch")
@pytest.mark.skipif(shutil.which("c++") is None, reason="AOTInductor and torch.compile need a C++ compiler")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two threads")
def test_every_backend_gives_its_number_with_two_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ["model=cnn", "model.channels=[4]", "model.hidden=8"]
    words = ["batch_sizes=[1]", "threads=2", "rounds=3", "seconds=0.05", "samples=32", "--json"]
    assert cli.main(["bench", *model, f"backends=[{','.join(BACKENDS)}]", *words]) == 0
    record = json.loads(capsys.readouterr().out)
    found = {arm["backend"]: arm for arm in record["arms"]}
    assert found.keys() == BACKENDS.keys()
    for name, arm in found.items():
        if name == "openvino_bf16" and not has_bf16():
            assert (arm["status"], "no arithmetic in bfloat16" in arm["reason"]) == ("failed", True)
            continue
        assert arm["status"] == "ok", arm["reason"]
        assert arm["batches"]["1"]["latency_s"]["p50"]["estimate"] > 0
        rounded = name.endswith("bf16")
        assert arm["parity"]["relative"] < (0.05 if rounded else 1e-5)
        assert arm["parity"]["agreement"] == 1.0 or rounded
    # torch.compile compiles in the first round, and does not compile again
    compiled = found["compile"]["batches"]["1"]
    assert compiled["cold_load_s"] > compiled["load_s"] > compiled["first_s"]
    assert found["eager"]["batches"]["1"]["cold_load_s"] is None
