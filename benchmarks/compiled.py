"""Arms of torch.compile: torch's own layers, by Inductor on the CPU, in each mode that rows report."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from typing import Any

from benchmarks.alternate import Arm

MODES = ("default", "max-autotune")
NOTE = (
    "torch.compile: torch's own layers by Inductor on the CPU, measured once warm; an arm's first start compiles for "
    "minutes, its later ones read Inductor's cache."
)


def compiled_arms(name: str, place: str, options: Mapping[str, Any]) -> list[Arm]:
    """The arm in each mode, as `name (mode)`."""
    environment = {"TORCHINDUCTOR_CACHE_DIR": _cache()}
    return [Arm(f"{name} ({mode})", place, {**options, "compiled": mode}, environment) for mode in MODES]


@cache
def _cache() -> str:
    """A folder that the processes of an arm share: a fresh process would compile again otherwise."""
    folder = tempfile.mkdtemp(prefix="effbench-inductor-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
