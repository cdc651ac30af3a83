"""One shortened torture for all tests here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.patience import patience

ROOT = Path(__file__).parents[2]
IN_MEMORY = Path("/dev/shm")  # thousands of fsyncs, of which a disk makes minutes


@pytest.fixture(scope="session")
def torture(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Its report. In a process of its own: one that has trained or has threads must not be forked."""
    folder = tmp_path_factory.mktemp("torture")
    place, path = IN_MEMORY if IN_MEMORY.is_dir() else folder, folder / "report.json"
    command = [sys.executable, "-m", "tests.torture", "--short", "--folder", str(place), "--output", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=patience(600))
    assert path.is_file(), done.stderr
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def result(torture: dict[str, Any], part: str) -> dict[str, Any]:
    """One part of the report; a part that broke down tells its traceback."""
    found: dict[str, Any] = torture[part]
    assert "error" not in found, found["error"]
    return found
