"""Several models measured in turns: parts of a measurement, and a real one of two networks.

White-box: parts of arms are made without processes.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from effbench.bench.measure import Arm
from effbench.bench.options import BenchOptions
from effbench.bench.several import MOST_AT_ONCE, _divided, bench_several
from effbench.bench.sources import untrained_source
from effbench.config.compose import compose
from effbench.errors import EffbenchError


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
