"""Options of a measurement, and backends, that are refused before anything is measured."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from effbench.bench.backends import BACKENDS, DEFAULT
from effbench.bench.options import BenchOptions
from effbench.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"backends": ["onnxruntim"]}, "Did you mean 'onnxruntime'?"),
        ({"backends": "eager"}, "backends must be a list"),
        ({"batch_sizes": []}, "batch_sizes must hold"),
        ({"batch_sizes": [0]}, "batch_sizes must be a whole number >= 1; got 0"),
        ({"threads": 0}, "threads must be"),
        ({"threads": 1025}, "threads must be a whole number in [1, 1024]; got 1025"),
        ({"threads": 3_000_000_000}, "threads must be a whole number in [1, 1024]"),
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
    assert set(BACKENDS) - set(DEFAULT) == {"aot_inductor", "compile", "executorch"}
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
