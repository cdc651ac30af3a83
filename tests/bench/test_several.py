"""Several models measured in turns: parts of a measurement, and a real one of two networks.

White-box: parts of arms are made without processes.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from effbench.bench import several
from effbench.bench.measure import Arm
from effbench.bench.options import BenchOptions
from effbench.bench.several import MOST_AT_ONCE, _divided, bench_several
from effbench.bench.sources import Source, untrained_source
from effbench.config.compose import compose
from effbench.errors import EffbenchError
from tests.bench.test_analysis import processes


def arms(model: str, count: int) -> list[Arm]:
    return [Arm(f"{model} {number}", "eager", Path("x")) for number in range(count)]


@pytest.mark.parametrize(
    ("counts", "parts"),
    [([3], [3]), ([3, 3, 3], [9]), ([3, 3, 3, 3], [9, 3]), ([0, 2], [2]), ([0, 0], []), ([20, 1], [20, 1])],
)
def test_arms_of_one_model_stay_together(counts: list[int], parts: list[int]) -> None:
    groups = [arms(str(number), count) for number, count in enumerate(counts)]
    found = list(_divided(groups))
    assert [len(part) for part in found] == parts
    assert [arm.name for part in found for arm in part] == [arm.name for group in groups for arm in group]
    # one place is the control's
    assert all(len(part) < MOST_AT_ONCE for part in found if len(part) != 20)


Parts = list[list[Arm]]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    """The arms of each measurement in turns. Each takes 10 ms, times SLOWER of its part."""
    found: Parts = []

    def answering(source: Source, *_: Any) -> tuple[dict[str, dict[str, Any]], list[Arm]]:
        rows = {name: {"backend": name, "status": "ok", "reason": None, "bytes": 5} for name in BACKENDS}
        return rows, [Arm(name, name, Path(source.unit, name)) for name in BACKENDS]

    def measure(arms: list[Arm], *_: Any) -> None:
        for number, arm in enumerate(arms):
            if arm.name not in BROKEN:
                arm.processes += processes(0.01 * SLOWER[len(found)], seed=number)
        found.append(arms)

    monkeypatch.setattr(several, "answering", answering)
    monkeypatch.setattr(several, "measure", measure)
    monkeypatch.setattr(several, "batch_files", lambda *_: {1: Path("batch")})
    return found


BACKENDS = ("eager", "onnxruntime", "openvino_f32")
SLOWER = {0: 1.0, 1: 1.0, 2: 1.0}
BROKEN: set[str] = set()


def measured(tmp_path: Path, networks: int = 8) -> dict[str, Any]:
    sources = {f"arm {number}": Source({}, torch.zeros(1, 1), f"unit {number}") for number in range(networks)}
    return bench_several(sources, BenchOptions(backends=BACKENDS, batch_sizes=(1,)), tmp_path)


def test_each_part_of_a_measurement_has_a_control(tmp_path: Path, parts: Parts) -> None:
    """Eight networks in three parts: their latencies are compared, though only those of a part take turns."""
    record = measured(tmp_path)
    assert [len(part) for part in parts] == [10, 10, 7]
    controls = [part[-1] for part in parts]
    assert len({arm.name for part in parts for arm in part}) == 8 * 3 + 3
    assert {(arm.backend, arm.file) for arm in controls} == {("onnxruntime", Path("unit 0", "onnxruntime"))}
    assert [arm for part in parts for arm in part if "again" in arm.name] == controls
    assert (record["margin"], record["doubts"]) == (0.0, [])
    assert record["control"]["backend"] == "onnxruntime"
    for model in record["models"].values():
        assert [row["batches"]["1"]["rounds"] for row in model["arms"]] == [5] * 3


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_part_on_a_slower_machine_limits_all(
    part: int, tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its arms are slower by 40 %, all alike: nothing within a part shows that."""
    monkeypatch.setitem(SLOWER, part, 1.4)
    record = measured(tmp_path)
    assert record["margin"] == pytest.approx(0.4, abs=0.01)
    assert record["doubts"] == ["the same backend measured twice differs by 40 % at batch 1"]
    # the first measurement of the control is in part 0, which makes the others the faster ones
    assert record["control"]["1"]["estimate"] == pytest.approx(1 / 1.4 if part == 0 else 1.4, rel=0.01)
    assert len(parts) == 3


@pytest.mark.parametrize("name", ["0 onnxruntime again", "0 onnxruntime again 2", "0 onnxruntime"])
def test_a_control_that_fails_in_one_part_limits_all(
    name: str, tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the arm that is measured twice fails itself."""
    monkeypatch.setattr(sys.modules[__name__], "BROKEN", {name})
    record = measured(tmp_path)
    assert record["margin"] == 1.0
    assert record["doubts"] == ["the control, a second measurement of the same backend, failed at batch 1"]
    assert len(parts) == 3


@pytest.mark.process
@pytest.mark.proof
@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="extra onnx")
def test_two_networks_are_measured_beside_each_other(tmp_path: Path) -> None:
    sizes = {"small": 8, "large": 512}
    sources = {
        name: untrained_source(compose(["model=mlp", f"model.hidden=[{size}]"]), 8) for name, size in sizes.items()
    }
    options = BenchOptions(backends=("eager", "onnxruntime"), batch_sizes=(1,), rounds=3, seconds=0.2, samples=8)
    record = bench_several(sources, options, tmp_path)
    rows = {name: {row["backend"]: row for row in each["arms"]} for name, each in record["models"].items()}
    assert rows.keys() == sizes.keys()
    for each in rows.values():
        assert {name: row["status"] for name, row in each.items()} == {"eager": "ok", "onnxruntime": "ok"}
        assert all(row["batches"]["1"]["rounds"] == 3 for row in each.values())
    # weights of 8 and of 512 hidden units; a float takes four bytes
    assert rows["large"]["onnxruntime"]["bytes"] - rows["small"]["onnxruntime"]["bytes"] > 4 * 784 * 500
    assert record["control"]["backend"] == "onnxruntime"
    assert set(record["environment"]) >= {"cpu", "onnxruntime", "torch"}


@pytest.mark.process
@pytest.mark.proof
def test_a_backend_that_fails_is_a_row_and_none_is_an_error(tmp_path: Path) -> None:
    sources = {"rows": untrained_source(compose(["data=breast_cancer", "model=mlp"]), 4)}
    options = BenchOptions(backends=("channels_last",), batch_sizes=(1,), rounds=3, seconds=0.1, samples=4)
    with pytest.raises(EffbenchError, match="no backend works: channels_last: channels_last is for samples with"):
        bench_several(sources, options, tmp_path)
