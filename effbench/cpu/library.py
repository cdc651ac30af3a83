"""Small C functions for what memory or a library's blind spot makes slow, compiled by the machine's own compiler.

Compiled once, into the cache; called through ctypes. Without a compiler, or with
EFFBENCH_KERNELS=off, `library()` is None and the callers take the way that needs none.
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
from functools import cache
from pathlib import Path

from effbench.cpu.build import built, discard
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
    "tape.c",
    "image_batch.c",
    "dropout.c",
)
HEADERS = ("elements.h", "vectors.h", "layers.h")
FLAGS = (
    "-O3", "-march=native", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math",
    "-shared", "-fPIC", *(("-Wl,-Bsymbolic",) if sys.platform == "linux" else ()),  # calls among them stay among them
)  # fmt: skip
SWITCH = "EFFBENCH_KERNELS"
_SWITCHES = {"on": True, "1": True, "true": True, "": True, "off": False, "0": False, "false": False}


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where there are none to be had; why not is then in `unavailable()`."""
    return _load()[0]


def unavailable() -> str | None:
    """Why there are no compiled functions here, None where there are."""
    return _load()[1]


def check_switch() -> None:
    """Raises ConfigError where EFFBENCH_KERNELS is neither on nor off."""
    if _switch() not in _SWITCHES:
        raise ConfigError(f"{SWITCH} must be on or off; got {os.environ[SWITCH]!r}.")


def is_switched_off() -> bool:
    """Whether EFFBENCH_KERNELS asks for no compiled functions. Raises ConfigError as `check_switch`."""
    check_switch()
    return not _SWITCHES[_switch()]


def _switch() -> str:
    return os.environ.get(SWITCH, "on").lower()


@cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    if is_switched_off():
        return None, f"{SWITCH}=off"
    try:
        compiler = _compiler()
        if compiler is None:
            return None, "there is no C compiler (cc)"
        path = _built(compiler)
        loaded = ctypes.CDLL(str(path))
        discard(path)
        log.debug(f"C functions loaded from {path}")
        return loaded, None
    except (OSError, subprocess.SubprocessError) as error:
        why = " ".join(str(getattr(error, "stderr", None) or error).split())[:300]
        _note(f"its C functions cannot be used ({why}); going on without, more slowly")
        return None, why


def _note(text: str) -> None:
    log.info(f"note: effbench: {text}")


def _compiler() -> list[str] | None:
    """$CC as make understands it: a command, or one with options or a wrapper before it; else cc. None: there is none.

    Read from the environment alone: no config may name what is run here.
    """
    word = os.environ.get("CC", "").strip() or "cc"
    try:
        words = [word] if shutil.which(word) else shlex.split(word)
    except ValueError as error:
        raise OSError(f"CC={word!r} cannot be read: {error}") from error
    found = shutil.which(words[0]) if words else None
    return [found, *words[1:]] if found else None


def _built(compiler: list[str]) -> Path:
    """The library for these sources, flags, this compiler and this processor."""
    sources = [CSRC / name for name in SOURCES]
    read = [*sources, *(CSRC / name for name in HEADERS)]
    threading = _openmp()
    key = hashlib.sha256()
    for part in (*FLAGS, *threading, *compiler, _processor()):
        key.update(part.encode("utf-8", "surrogateescape") + b"\0")
    for path in read:
        key.update(path.read_bytes() + b"\0")
    return built(key.hexdigest()[:24], [*compiler, *FLAGS, *map(str, sources), *threading, "-lm"], _note)


def _openmp() -> tuple[str, ...]:
    """Threads from the very library that torch uses: two pools would fight for the cores. None where it has another."""
    import torch

    folder = Path(torch.__file__).parent / "lib"
    if sys.platform == "linux" and (folder / "libgomp.so.1").is_file():
        return ("-fopenmp", f"-L{folder}", "-l:libgomp.so.1", f"-Wl,-rpath,{folder}")
    return ()


def _processor() -> str:
    """What -march=native depends on: a cache may be shared by machines that are not alike."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features")))
