"""Whether this machine has a C compiler: what needs one is left out where there is none."""

from __future__ import annotations

import os
import shutil

import pytest

IN_CI = "EFFBENCH_CI" in os.environ  # set by .ci/run: there a missing tool is a failure, not a reason to skip
HAS_COMPILER = shutil.which(os.environ.get("CC", "cc")) is not None
needs_compiler = pytest.mark.skipif(not (HAS_COMPILER or IN_CI), reason="there is no C compiler here")
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-psabi")  # only inlined functions take vectors: no ABI matters
