"""Records of planted times: a backend that fails at one batch size only, and very many processes."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effbench.bench import record as recording
from effbench.bench import run as benching
from effbench.bench import sources
from effbench.bench.bench import bench
from effbench.bench.measure import Arm
from effbench.bench.options import BenchOptions
from effbench.bench.record import csv_rows, write_record
from effbench.bench.run import bench_source
from effbench.bench.sources import Source, untrained_source
from effbench.bench.table import print_record
from effbench.config.compose import compose
from effbench.export import opening
from effbench.report import deployment
from effbench.report.deployment import BENCH_BYTES, OFFLINE, SINGLE_STREAM, read_bench
from tests.bench.test_analysis import processes

SIZES = (1, 8)
SECONDS = {"eager": 0.02, "onnxruntime": 0.01}
KILLED = {"onnxruntime"}  # arms that fail at batch 8


def answering(*_: Any) -> tuple[dict[str, dict[str, Any]], list[Arm]]:
    about = {"status": "ok", "reason": None, "bytes": 5, "metrics": {}, "lost": None, "notes": []}
    about["parity"] = {"relative": 0.0, "agreement": 1.0, "max_difference": 0.0}
    rows = {name: {"backend": name, **about} for name in SECONDS}
    return rows, [Arm(name, name, Path(name)) for name in SECONDS]


def measure(arms: list[Arm], *_: Any) -> None:
    """Planted times; those of KILLED are killed at batch 8."""
    for seed, arm in enumerate(arms):
        for size in SIZES:
            if size == 1 or arm.name not in KILLED:
                arm.processes += processes(size * SECONDS[arm.backend], size, seed=seed)
            else:
                arm.failures[size] = "its process was killed"


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return recorded(monkeypatch)


def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for fake in (answering, measure):
        monkeypatch.setattr(benching, fake.__name__, fake)
    source = Source({"model": {"name": "small"}}, torch.zeros(1, 3), "row")
    return bench_source(source, BenchOptions(batch_sizes=SIZES, rounds=5))


@pytest.mark.parametrize(("most", "kept"), [(BENCH_BYTES, True), (4_000_000, False)])
def test_report_reads_the_record_of_very_many_processes(
    most: int, kept: bool, record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 3 batch sizes and 10 backends with the control: 100 rounds exceed what other records may have, 4 MB."""
    one = record["processes"]["eager"][0]
    record["processes"] = {str(number): [one] * 3 * 100 for number in range(11)}
    for module in (recording, deployment):
        monkeypatch.setattr(module, "BENCH_BYTES", most)
    write_record(tmp_path, record)
    found = read_bench(tmp_path)
    assert found is not None
    assert ((tmp_path / "bench.json").stat().st_size > 4_000_000) is kept
    assert len(found["processes"]) == (11 if kept else 0)
    assert found["arms"] == record["arms"]


def test_files_of_one_folder_have_a_result_each(
    record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The formats of a run are exported into one folder."""
    monkeypatch.setattr(opening, "open_export", lambda path, _: path.name)
    monkeypatch.setattr(sources, "file_source", lambda name, *_: name)
    monkeypatch.setattr(benching, "bench_source", lambda name, _: {**record, "model": {"name": name}})
    names = ["small.onnx", "small.openvino.zip"]
    for name in names:
        (tmp_path / name).touch()
        assert bench(tmp_path / name)["path"] == str(tmp_path / "bench" / name / "bench.json")
    found = [read_bench(tmp_path / "bench" / name) for name in names]
    assert [each and each["model"]["name"] for each in found] == names


def test_a_backend_that_fails_at_a_large_batch_wins_at_1(
    record: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert record["verdicts"][SINGLE_STREAM]["winner"] == "onnxruntime"
    [eager, fast] = record["arms"]
    assert (eager["status"], eager["reason"], list(eager["batches"])) == ("ok", None, ["1", "8"])
    assert (fast["status"], fast["reason"]) == ("ok", "failed at batch 8: its process was killed")
    assert list(fast["batches"]) == ["1"]
    assert [(row["backend"], row["batch_size"]) for row in csv_rows(record)] == [
        ("eager", 1), ("eager", 8), ("onnxruntime", 1),
    ]  # fmt: skip
    print_record(record)
    assert "onnxruntime: failed at batch 8: its process was killed" in capsys.readouterr().out


def test_a_control_that_fails_at_a_large_batch_voids_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "KILLED", {f"eager{benching.AGAIN}"})
    found = recorded(monkeypatch)
    assert found["doubts"] == ["the control, a second measurement of the same backend, failed at batch 8"]
    assert found["verdicts"][SINGLE_STREAM]["winner"] == "onnxruntime"  # twice as fast
    assert found["verdicts"][OFFLINE]["winner"] is None


def test_a_missing_library_is_named_before_anything_is_timed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not after the minutes that the others take: without ONNX Runtime no file for it is written."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    def answers_of(arm: Arm, *_: Any) -> Any:
        if arm.name == "eager":
            return np.zeros((4, 10), np.float32), np.zeros((4, 10), np.float32)
        arm.failed = "No module named 'openvino'"
        return None

    def timed(arms: list[Arm], *_: Any) -> None:
        logging.getLogger("effbench").info("round 1")
        measure(arms)

    fakes = {"answers_of": answers_of, "measure": timed, "judged": lambda *_: {"lost": None}}
    for name, fake in {**fakes, "count_alone": lambda *_: None}.items():
        monkeypatch.setattr(benching, name, fake)
    source = untrained_source(compose(["model=mlp", "model.hidden=[8]"]), 4)
    options = BenchOptions(backends=("eager", "torchscript", "onnxruntime"), batch_sizes=SIZES, rounds=5)
    with caplog.at_level(logging.INFO, logger="effbench"):
        record = bench_source(source, options)
    assert [arm["status"] for arm in record["arms"]] == ["ok", "failed", "failed"]
    texts = [each.getMessage() for each in caplog.records]
    said = [text for text in texts[: texts.index("round 1")] if "is left out: " in text]
    assert len(said) == 2
    assert said[0].startswith("onnxruntime is left out: ")
    assert "pip install 'effbench[onnx]'" in said[0]
    assert said[1].startswith("torchscript is left out: No module named 'openvino'")
