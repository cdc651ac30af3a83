"""Options of a measurement, backends, and exported files that are refused before anything is measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from effbench.bench.backends import BACKENDS, DEFAULT
from effbench.bench.exported import read_exported
from effbench.bench.options import BenchOptions
from effbench.errors import ConfigError
from effbench.records import sha256_of


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"backends": ["onnxruntim"]}, "Did you mean 'onnxruntime'?"),
        ({"backends": "eager"}, "backends must be a list"),
        ({"batch_sizes": []}, "batch_sizes must hold"),
        ({"batch_sizes": [0]}, "batch_sizes must be a whole number >= 1; got 0"),
        ({"threads": 0}, "threads must be"),
        ({"rounds": 2}, "rounds must be at least 3"),
        ({"seconds": 0.0}, "seconds must be a number > 0"),
        ({"samples": 0}, "samples must be"),
        ({"max_drop": -1.0}, "max_drop must be points of accuracy"),
        ({"max_drop": float("nan")}, "max_drop must be"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        BenchOptions(**options)
    assert text in str(refused.value)


def test_backends_that_take_minutes_are_measured_only_if_named() -> None:
    assert set(BACKENDS) - set(DEFAULT) == {"aot_inductor", "compile"}
    assert BenchOptions().chosen == DEFAULT
    assert BenchOptions(backends=["compile", "eager"]).chosen == ("eager", "compile")  # eager is the reference


def test_batch_sizes_are_measured_once_the_smallest_first() -> None:
    assert BenchOptions(batch_sizes=[32, 1, 32]).sizes == (1, 32)


@pytest.mark.process
@pytest.mark.slow
def test_openvino_is_loaded_without_its_telemetry() -> None:
    pytest.importorskip("openvino_telemetry")
    code = (
        "import sys, socket\n"
        "def refuse(*_, **__): raise AssertionError('a connection')\n"
        "socket.socket.connect = refuse\n"
        "from effbench.bench.backends import BACKENDS\n"
        "BACKENDS['openvino_f32'].runtime()\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "print(telemetry_utils.tm.__name__)\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry.')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["openvino.tools.ovc.telemetry_stub", "[]"]


@pytest.mark.process
@pytest.mark.slow
def test_a_process_of_onnxruntime_has_no_torch_in_it() -> None:
    pytest.importorskip("onnxruntime")
    code = (
        "import sys, effbench.bench.worker, effbench.report.environment\n"
        "from effbench.bench.backends import BACKENDS\n"
        "BACKENDS['onnxruntime'].runtime()\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- exported files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"content")
    record = {
        "schema_version": 1, "format": "onnx", "input": {"name": "images", "shape": ["N", 1, 4, 4]},
        "model": {"name": "net"}, "run": "outputs/run", "checkpoint": {"name": "best", "step": 3},
        "sha256": sha256_of(path),
    }  # fmt: skip
    (tmp_path / "net.onnx.json").write_text(json.dumps(record))
    return path


def changed(file: Path, **values: Any) -> None:
    beside = file.with_name(f"{file.name}.json")
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **values}))


def test_a_file_is_read_with_its_record(file: Path) -> None:
    found = read_exported(file)
    assert (found.format, found.record["checkpoint"]["step"]) == ("onnx", 3)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"sha256": "0" * 64}, "its sha256 differs"),
        ({"schema_version": 2}, "a newer effbench wrote it"),
        ({"input": None}, "it lacks input"),
        ({"input": {"name": "images"}}, "input needs name and shape"),
        ({"run": 3, "format": None}, "it lacks format, run"),
    ],
)
def test_a_record_of_another_file_or_damaged_is_refused(file: Path, values: dict[str, Any], text: str) -> None:
    changed(file, **values)
    with pytest.raises(ConfigError) as refused:
        read_exported(file)
    assert text in str(refused.value)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, "3"])
def test_a_record_that_is_no_record_is_refused(file: Path, content: str) -> None:
    file.with_name(f"{file.name}.json").write_text(content)
    with pytest.raises(ConfigError):
        read_exported(file)


def test_a_file_without_a_record_is_refused_with_the_remedy(file: Path) -> None:
    file.with_name(f"{file.name}.json").unlink()
    with pytest.raises(ConfigError) as refused:
        read_exported(file)
    assert "effbench export RUN" in str(refused.value)
