"""C functions for layers and loops in which torch is slow on a CPU, compiled by the machine's compiler.

They are compiled once, into the cache, and called through ctypes. Without a compiler, or with EFFBENCH_KERNELS=off,
`library()` is None and the callers use torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
from functools import cache, lru_cache
from pathlib import Path

from effbench.cpu.build import discard, find_or_build
from effbench.errors import ConfigError

log = logging.getLogger(__name__)

CSRC = Path(__file__).parent / "csrc"
SOURCES = (
    "optimizer_steps.c",
    "clip.c",
    "batch_norm.c",
    "gemm.c",
    "depthwise.c",
    "squeeze_excite.c",
    "inverted_residual.c",
    "image_batch.c",
    "dropout.c",
)
HEADERS = ("elements.h", "vectors.h", "kernels.h")
# -ffp-contract=off: the compiler fuses no products and sums of its own choice, so that numbers do not depend on it; the
# sources fuse where torch does (fmaf). -fno-math-errno, -fno-trapping-math: loops with sqrt and comparisons are
# vectorised; both change no result.
FLAGS = (
    "-O3", "-march=native", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math",
    "-shared", "-fPIC", *(("-Wl,-Bsymbolic",) if sys.platform == "linux" else ()),  # bind calls inside
)  # fmt: skip
SWITCH = "EFFBENCH_KERNELS"
_SWITCHES = {"on": True, "1": True, "true": True, "": True, "off": False, "0": False, "false": False}


@cache
def library() -> ctypes.CDLL | None:
    """Return the C functions; None if there are none, for the reason given by `unavailable()`."""
    return _load()[0]


def unavailable() -> str | None:
    """Return the reason why there are no C functions; None if there are."""
    return _load()[1]


@lru_cache(maxsize=4096)
def scratch_size(kernel: str, *sizes: int) -> int:
    """Return the number of elements in the scratch argument of a C function for these sizes (csrc/kernels.h)."""
    function = getattr(library(), f"{kernel}_scratch")
    function.restype = ctypes.c_int64  # ctypes assumes int, which cuts off large sizes
    return int(function(*map(ctypes.c_int64, sizes)))


def check_switch() -> bool:
    """Return True if EFFBENCH_KERNELS allows the C functions. Raises ConfigError if it is neither on nor off."""
    switch = os.environ.get(SWITCH, "on").lower()
    if switch not in _SWITCHES:
        raise ConfigError(f"{SWITCH} must be on or off; got {os.environ[SWITCH]!r}.")
    return _SWITCHES[switch]


@cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    if not check_switch():
        return None, f"{SWITCH}=off"
    try:
        compiler = _compiler()
        if compiler is None:
            return None, "there is no C compiler (cc)"
        path = _find_or_build(compiler)
        loaded = ctypes.CDLL(str(path))
        discard(path)  # a temporary one: the open library does not need its file
        log.debug(f"C functions loaded from {path}")
        return loaded, None
    except (OSError, subprocess.SubprocessError) as error:
        # a compiler's message has many lines: enough of it in one line to recognise the cause
        why = " ".join(str(getattr(error, "stderr", None) or error).split())[:300]
        _note(f"its C functions cannot be used ({why}); going on without, more slowly")
        return None, why


def _note(text: str) -> None:
    log.info(f"note: effbench: {text}")


def _compiler() -> list[str] | None:
    """Return the command in $CC, with a wrapper or options as in make, or cc; None if there is no compiler.

    Only the environment is read: no config may name a command that runs here.
    """
    word = os.environ.get("CC", "").strip() or "cc"
    try:
        # the whole word first: a path may contain spaces
        words = [word] if shutil.which(word) else shlex.split(word)
    except ValueError as error:
        raise OSError(f"CC={word!r} cannot be read: {error}") from error
    found = shutil.which(words[0]) if words else None
    return [found, *words[1:]] if found else None


def _find_or_build(compiler: list[str]) -> Path:
    """Return the library for these sources, flags, compiler and processor."""
    import torch

    # the OpenMP library that torch has loaded: two thread pools would compete for the cores
    openmp: tuple[str, ...] = ()
    folder = Path(torch.__file__).parent / "lib"
    if sys.platform == "linux" and (folder / "libgomp.so.1").is_file():
        openmp = ("-fopenmp", f"-L{folder}", "-l:libgomp.so.1", f"-Wl,-rpath,{folder}")

    # what -march=native depends on: machines of several kinds may share a cache
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
        processor = "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features")))
    except OSError:
        processor = platform.processor() + platform.machine()

    sources = [CSRC / name for name in SOURCES]
    key = hashlib.sha256()
    for part in (*FLAGS, *openmp, *compiler, processor):
        key.update(part.encode("utf-8", "surrogateescape") + b"\0")
    for path in (*sources, *(CSRC / name for name in HEADERS)):
        key.update(path.read_bytes() + b"\0")
    return find_or_build(key.hexdigest()[:24], [*compiler, *FLAGS, *map(str, sources), *openmp, "-lm"], _note)
