"""The processors and the memory this process may use: CPU affinity, limits of containers, OMP_NUM_THREADS."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc/self")
CPUINFO = Path("/proc/cpuinfo")
# The flags with which /proc/cpuinfo names sums of products of 8 bits without saturation: x86 (VNNI, AMX) and ARM.
INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}


@dataclass(frozen=True)
class Threads:
    """A number of threads.

    Attributes:
        count: threads of one process.
        why: what decided it, for people.
    """

    count: int
    why: str


def usable(local_processes: int = 1) -> Threads:
    """Return the threads for each of `local_processes` processes on this machine."""
    # a container's quota does not show in the affinity: more threads than it allows are stopped in every period
    cores, quota = affinity(), cpu_quota()
    found = Threads(cores, f"{cores} core{'s' * (cores > 1)}")
    if quota is not None and math.ceil(quota) < cores:
        found = Threads(math.ceil(quota), f"a CPU quota of {quota:g} cores")
    if local_processes > 1:
        share = found.count // local_processes
        found = Threads(max(1, share), f"{found.why} for {local_processes} processes")
    # "4,2" sets nested levels; the first number is the outer one
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    # torchrun sets 1 if the user sets nothing
    of_torchrun = asked == "1" and local_processes > 1 and "TORCHELASTIC_RUN_ID" in os.environ
    if asked.isascii() and asked.isdigit() and 0 < int(asked) < found.count and not of_torchrun:
        found = Threads(int(asked), f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}")
    return found


def cores() -> int:
    """Return the cores that affinity and quota leave to this process, for work outside of OpenMP."""
    return min(affinity(), math.ceil(cpu_quota() or affinity()))


def cpu_flags() -> set[str]:
    """Return the processor's features as /proc/cpuinfo names them; an empty set if the system does not tell."""
    try:
        text = CPUINFO.read_text(errors="replace")
    except OSError:
        return set()
    return {flag for line in text.splitlines() if line.startswith(("flags", "Features")) for flag in line.split()}


def has_int8_products() -> bool:
    """Return whether the processor adds up products of 8 bits without saturation, as far as the system tells."""
    return bool(cpu_flags() & INT8_FLAGS)


def affinity() -> int:
    """Return the number of cores that the system lets this process run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(proc: Path = _PROC) -> float | None:
    """Return the CPU quota of this process's control groups (versions 1 and 2) in cores; None without a limit."""
    # the least of a group and its parents, all of which limit it
    return min((limit for folder in _groups(proc, "cpu") if (limit := _limit(folder)) is not None), default=None)


def memory_limit(proc: Path = _PROC) -> int | None:
    """Return the memory that this process's control groups (versions 1 and 2) allow, in bytes; None without a limit."""
    found = (_memory_limit(folder) for folder in _groups(proc, "memory"))
    return min((limit for limit in found if limit is not None), default=None)


def _groups(proc: Path, controller: str) -> Iterator[Path]:
    """Yield the visible folders of this process's control groups and their parents.

    Args:
        proc: folder of this process.
        controller: whose limits are asked for, in version 1, which has a hierarchy for each: cpu or memory.
    """
    with suppress(OSError, ValueError, IndexError):
        # lines of hierarchy:controllers:path; version 2 is hierarchy 0 without controllers
        paths = [line.split(":", 2) for line in (proc / "cgroup").read_text(encoding="utf-8").splitlines()]
        version_1 = next((path for _, names, path in paths if controller in names.split(",")), None)
        version_2 = next((path for number, names, path in paths if number == "0" and not names), None)
        for root, mount in _mounts(proc, 1, controller) if version_1 is not None else ():
            yield from _upwards(mount, root, version_1 or "/")
        for root, mount in _mounts(proc, 2, controller) if version_2 is not None else ():
            yield from _upwards(mount, root, version_2 or "/")


def _mounts(proc: Path, version: int, controller: str) -> Iterator[tuple[str, Path]]:
    """Yield (mounted part of the hierarchy, mount point) of the hierarchy with these limits.

    Args:
        proc: folder of this process.
        version: of control groups, 1 or 2.
        controller: of version 1.
    """
    for line in (proc / "mountinfo").read_text(encoding="utf-8").splitlines():
        # optional fields of varying number stand before the hyphen
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        of_version_1 = kind == "cgroup" and controller in options.split(",")
        if (version == 2 and kind == "cgroup2") or (version == 1 and of_version_1):
            root, mount = before.split(" ")[3:5]
            yield root, Path(mount.replace("\\040", " "))  # the kernel escapes spaces


def _upwards(mount: Path, root: str, path: str) -> Iterator[Path]:
    """Yield folders from the group up to the mount point; only the mount point if the group is not visible."""
    # within a container the mount shows a part of the hierarchy, from `root` on
    inside = path.removeprefix(root if root != "/" else "").strip("/")
    folder = mount / inside if ".." not in Path(inside).parts else mount
    while folder != mount and folder.is_relative_to(mount):
        yield folder
        folder = folder.parent
    yield mount


def _limit(folder: Path) -> float | None:
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        # version 1 writes -1 for no limit
        return int(quota) / int(period) if int(quota) > 0 else None
    return None


def _memory_limit(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):  # versions 2 and 1
        # "max" is no limit in version 2; in version 1 it is a number of 8 EB
        with suppress(OSError, ValueError):
            return int((folder / name).read_text(encoding="ascii"))
    return None
