"""Whether this machine has a C compiler: what needs one is left out where there is none."""

from __future__ import annotations

import os
import shutil

import pytest

HAS_COMPILER = shutil.which(os.environ.get("CC", "cc")) is not None
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="there is no C compiler here")
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-psabi")  # only inlined functions take vectors: no ABI matters
