"""A measurement whose temporary files have no room: the place and the remedy are named."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effbench.bench import run as running
from effbench.bench.options import BenchOptions
from effbench.bench.prepare import Prepared
from effbench.bench.processes import ArmError, ArmProcess
from effbench.bench.run import bench_source
from effbench.bench.scratch import scratch
from effbench.bench.sources import Source
from effbench.errors import EffbenchError
from effbench.records import NoSpaceError


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_folder_for_temporary_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(running, "prepare", lambda *_: Prepared({}, {}))
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(NoSpaceError) as told:
        bench_source(Source({}, torch.zeros(1000, 3), "row"), BenchOptions(backends=["eager"]))
    assert f"no space at {tmp_path}/effbench-bench-" in str(told.value)
    assert "needs 12 kB" in str(told.value)
    assert "TMPDIR=FOLDER" in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(NoSpaceError, match="TMPDIR=FOLDER"), scratch():
        pass


def test_no_folder_for_temporary_files_at_all_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", none)
    told = "no folder for temporary files can be written. Name one with TMPDIR"
    with pytest.raises(EffbenchError, match=told), scratch():
        pass


def test_a_process_without_room_for_its_log_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ArmError, match="its log cannot be written: No space left on device"):
        ArmProcess({}, tmp_path, 1)
