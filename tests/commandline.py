"""effbench as a process of its own, for tests where the process is the point."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TINY = ("model=mlp", "model.hidden=[16]", "debug=smoke", "device.threads=1")  # two steps, no second
TIMEOUT_S = 300  # far more than any takes: a busy machine is no fault


def effbench(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`effbench WORDS` to its end."""
    return python("-m", "effbench", *words, cwd=cwd, **environment)


def python(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
