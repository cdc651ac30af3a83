"""The kernels compile for other processors without a warning and give the same numbers by their own tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.compiler import WARNINGS, needs_compiler
from tests.patience import patience

pytestmark = [pytest.mark.process, pytest.mark.proof]
ROOT = Path(__file__).parents[2]
TESTED = ("tests/cpu/test_inverted_residual_function.py", "tests/cpu/test_linear.py", "tests/cpu/test_dropout.py")
COMPILED_FOR = """
import sys, pytest
import effbench.cpu.library as kernels
kernels.FLAGS = tuple("-march=" + sys.argv[1] if flag.startswith("-march") else flag for flag in kernels.FLAGS)
kernels.FLAGS += tuple(sys.argv[2].split())
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-k", "not any", *sys.argv[3:]]))
"""


@needs_compiler
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="not an x86 with AVX2")
@pytest.mark.parametrize("processor", ["haswell", "x86-64"])
def test_kernels_for_another_processor_give_the_same_numbers(processor):
    command = [sys.executable, "-c", COMPILED_FOR, processor, " ".join(WARNINGS), *TESTED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience(300), check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
