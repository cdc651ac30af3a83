"""The machine and the library versions of a measurement."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from effbench.processors import affinity, cpu_quota

LIBRARIES = ("torch", "torchvision", "hydra-core", "omegaconf", "lion-pytorch", "adan-pytorch", "numpy", "safetensors")
# An untrusted checkout can configure programs that `git status` runs: monitors, hooks, filters, transports.
GIT = ("git", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
# no lock: git status must not disturb another git command in the checkout; no network either
GIT_ENVIRONMENT = {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}


def environment() -> dict[str, Any]:
    """Return versions, processor, memory and GPU; nothing about the user or the network."""
    import torch

    from effbench.cpu.library import unavailable
    from effbench.training.waiting import policy

    try:
        memory_bytes: int | None = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # a system that does not tell
        memory_bytes = None
    cuda = torch.cuda.is_available()
    facts: dict[str, Any] = {
        "effbench": installed("effbench"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name.replace("-", "_"): installed(name) for name in LIBRARIES},
        "cpu": _cpu_name(),
        "cores": affinity(),
        "cpu_quota": cpu_quota(),
        "memory_bytes": memory_bytes,
        "threads": torch.get_num_threads(),
        "waiting": policy(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "kernels": unavailable() or "compiled",
        "cuda": torch.version.cuda if cuda else None,
    }
    if cuda:
        facts["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return facts


@cache  # a process keeps the libraries that it has imported
def installed(name: str) -> str | None:
    """Return the version of a distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def version_of(library: str) -> str | None:
    """Return the version of a library, also if a distribution of another name holds it, as onnxruntime-gpu does.

    None if it is not installed.
    """
    if (version := installed(library)) is not None:
        return version
    # only then: the files of all distributions are read
    names = importlib.metadata.packages_distributions().get(library, ())
    return next(filter(None, map(installed, names)), None)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return {commit, dirty} of the checkout that contains `folder`, or None."""
    variables = {**os.environ, **GIT_ENVIRONMENT}

    def git(*words: str) -> str | None:
        command = [*GIT, *words]
        try:
            done = subprocess.run(
                command, cwd=folder, env=variables, capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):  # git is missing or hangs: no fact
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None

    # `git status` runs the filters of a checkout, which may be untrusted: they are turned off. Filters of the user,
    # such as git-lfs, stay. The list is scope and key in turn, each ended by NUL.
    listed = git("config", "--show-scope", "--null", "--name-only", "--get-regexp", r"^filter\.") or ""
    scopes, keys = listed.split("\0")[::2], listed.split("\0")[1::2]
    own = {key.rpartition(".")[0] for scope, key in zip(scopes, keys, strict=False) if scope in ("local", "worktree")}
    settings = ("clean=", "smudge=", "process=", "required=false")
    off = [word for name in sorted(own) for setting in settings for word in ("-c", f"{name}.{setting}")]
    return {"commit": commit, "dirty": bool(git(*off, "status", "--porcelain", "--ignore-submodules=dirty"))}


def program_state() -> dict[str, Any] | None:
    """Return {commit, dirty} of the checkout that holds this effbench; None for an installed one."""
    root = Path(__file__).parents[2]
    return git_state(root) if (root / ".git").exists() else None


def peak_memory() -> dict[str, int]:
    """Return the largest resident memory of this process so far, and of the GPU allocator, in bytes."""
    import torch

    peaks = {"peak_rss_bytes": peak_rss()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks["peak_cuda_bytes"] = torch.cuda.max_memory_allocated()
    return peaks


def peak_rss() -> int:
    """Return Linux's VmHWM; elsewhere getrusage's value, which on Linux would include the parent before exec."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    # not on Windows, so only where it is needed
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others kB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
