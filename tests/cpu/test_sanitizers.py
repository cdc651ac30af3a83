"""The C functions stay within their buffers, on random shapes (csrc/random_shapes.c), and compile without warnings."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

from effbench.cpu.library import CSRC, FLAGS, SOURCES, library
from tests.compiler import IN_CI, WARNINGS, needs_compiler
from tests.patience import patience

pytestmark = [needs_compiler, pytest.mark.slow, pytest.mark.proof]

CC = shlex.split(os.environ.get("CC", "cc"))
DRIVER = Path(__file__).parent / "csrc" / "random_shapes.c"
IS_X86 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
RUN_ON = ["native", *(["x86-64"] if IS_X86 else [])]  # x86-64: partial vectors without intrinsics, which hide from ASan
COMPILED_FOR = "skylake-avx512" if IS_X86 else "native"  # test_variants.py compiles for other x86 processors
SANITIZE = ["-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CASES = 1600


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=patience(300), check=False, env=os.environ | environment
    )


def flags(processor: str, *without: str) -> list[str]:
    chosen = [flag for flag in FLAGS if not flag.startswith(without)]
    return [f"-march={processor}" if flag.startswith("-march") else flag for flag in chosen]


def skip_without_sanitizers(folder: Path) -> None:
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    built = run(*CC, *SANITIZE, "-fopenmp", folder / "empty.c", "-o", folder / "empty")
    if built.returncode or run(folder / "empty").returncode:
        (pytest.fail if IN_CI else pytest.skip)(f"{CC[0]} has no AddressSanitizer, UBSan or OpenMP here")


@pytest.mark.parametrize("processor", RUN_ON)
def test_no_function_leaves_its_buffers(processor: str, tmp_path: Path) -> None:
    skip_without_sanitizers(tmp_path)
    program, sources = tmp_path / "random_shapes", [CSRC / name for name in SOURCES]
    options = [*flags(processor, "-O", "-shared", "-fPIC", "-Wl"), *SANITIZE, *WARNINGS, "-fopenmp", f"-I{CSRC}"]
    built = run(*CC, *options, *sources, DRIVER, "-o", program, "-lm")
    assert built.returncode == 0, built.stderr
    done = run(program, "1", str(CASES), ASAN_OPTIONS="detect_leaks=0", UBSAN_OPTIONS="print_stacktrace=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{CASES} cases\n"


def test_the_library_compiles_without_warnings(tmp_path: Path) -> None:
    options = [*flags(COMPILED_FOR), *WARNINGS, "-fopenmp"]
    built = run(*CC, *options, *(CSRC / name for name in SOURCES), "-o", tmp_path / "library.so", "-lm")
    assert (built.returncode, built.stderr) == (0, "")


def test_the_driver_calls_every_function(tmp_path: Path) -> None:
    built = run(*CC, "-O0", f"-I{CSRC}", "-c", DRIVER, "-o", tmp_path / "driver.o")
    assert built.returncode == 0, built.stderr
    needed = {line.split()[-1] for line in run("nm", "--undefined-only", tmp_path / "driver.o").stdout.splitlines()}
    compiled = library()
    assert compiled is not None
    symbols = run("nm", "--dynamic", "--defined-only", compiled._name).stdout.splitlines()
    functions = {name for _, kind, name in map(str.split, symbols) if kind == "T" and not name.startswith("_")}
    assert "inverted_residual_forward" in functions
    assert functions - needed == set()
