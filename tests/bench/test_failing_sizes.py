"""A backend that fails at one batch size only: what it has at the others counts, and its row says where it failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from effbench.bench import run as benching
from effbench.bench.measure import Arm
from effbench.bench.options import BenchOptions
from effbench.bench.record import csv_rows
from effbench.bench.run import bench_source
from effbench.bench.sources import Source
from effbench.bench.table import print_record
from effbench.report.deployment import SINGLE_STREAM
from tests.bench.test_analysis import processes

SIZES = (1, 8)
SECONDS = {"eager": 0.02, "onnxruntime": 0.01}


def answering(*_: Any) -> tuple[dict[str, dict[str, Any]], list[Arm]]:
    about = {"status": "ok", "reason": None, "bytes": 5, "metrics": {}, "lost": None, "notes": []}
    about["parity"] = {"relative": 0.0, "agreement": 1.0, "max_difference": 0.0}
    rows = {name: {"backend": name, **about} for name in SECONDS}
    return rows, [Arm(name, name, Path(name)) for name in SECONDS]


def measure(arms: list[Arm], *_: Any) -> None:
    """ONNX Runtime is killed at batch 8."""
    for seed, arm in enumerate(arms):
        for size in SIZES:
            if size == 1 or arm.backend != "onnxruntime":
                arm.processes += processes(size * SECONDS[arm.backend], size, seed=seed)
            else:
                arm.failures[size] = "its process was killed"


def test_a_backend_that_fails_at_a_large_batch_wins_at_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for fake in (answering, measure):
        monkeypatch.setattr(benching, fake.__name__, fake)
    source = Source({"model": {"name": "small"}}, torch.zeros(1, 3), "row")
    record = bench_source(source, BenchOptions(batch_sizes=SIZES, rounds=5))
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
