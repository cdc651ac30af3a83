"""Row 64: how many threads a process may have: affinity, the container's quota, OMP_NUM_THREADS, torchrun."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from effbench import build, processors
from effbench.bench.backends import has_bf16
from effbench.config.compose import compose
from effbench.processors import cores, cpu_flags, cpu_quota, has_int8_products, memory_limit, usable

V1_MOUNT = "32 31 0:29 {root} {mount} rw,relatime - cgroup cgroup rw,cpu,cpuacct"
V2_MOUNT = "33 31 0:30 {root} {mount} rw,nosuid - cgroup2 cgroup rw,nsdelegate"


def system(folder: Path, groups: str, mount: str, root: str = "/") -> tuple[Path, Path]:
    """(a /proc/self with these groups, the folder where their hierarchy is mounted)"""
    proc, at = folder / "proc", folder / "cgroup"
    for path in (proc, at):
        path.mkdir()
    (proc / "cgroup").write_text(groups)
    (proc / "mountinfo").write_text("22 1 0:21 / /proc rw - proc proc rw\n" + mount.format(root=root, mount=at) + "\n")
    return proc, at


def limit(folder: Path, content: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(content)


@pytest.mark.row(64)
@pytest.mark.parametrize(
    ("own", "above", "quota"),
    [
        ("max 100000\n", None, None),
        ("150000 100000\n", None, 1.5),
        ("max 100000\n", "50000 100000\n", 0.5),
        ("400000 100000\n", "200000 100000\n", 2.0),
        ("100000 100000\n", "200000 100000\n", 1.0),
        ("nonsense\n", None, None),
    ],
)
def test_the_least_quota_up_to_the_top_holds(own: str, above: str | None, quota: float | None, tmp_path: Path) -> None:
    proc, mount = system(tmp_path, "0::/user.slice/job.scope\n", V2_MOUNT)
    limit(mount / "user.slice" / "job.scope", own)
    if above:
        limit(mount / "user.slice", above)
    assert cpu_quota(proc) == quota


@pytest.mark.row(64)
def test_a_container_reads_the_quota_of_its_root_cgroup(tmp_path: Path) -> None:
    proc, mount = system(tmp_path, "0::/\n", V2_MOUNT)
    limit(mount, "250000 100000\n")
    assert cpu_quota(proc) == 2.5


@pytest.mark.row(64)
@pytest.mark.parametrize(("root", "place"), [("/", "docker/abc"), ("/docker/abc", ""), ("/elsewhere", "")])
def test_quotas_of_version_1(root: str, place: str, tmp_path: Path) -> None:
    groups = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n"
    proc, mount = system(tmp_path, groups, V1_MOUNT, root)
    folder = mount / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.cfs_quota_us").write_text("350000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(proc) == 3.5
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert cpu_quota(proc) is None


@pytest.mark.parametrize(
    ("own", "above", "least"),
    [
        ("max\n", None, None),
        ("4000000000\n", None, 4_000_000_000),
        ("max\n", "3000\n", 3000),
        ("3000\n", "2000\n", 2000),
        ("1000\n", "2000\n", 1000),
        ("nonsense\n", None, None),
    ],
)
def test_the_least_memory_limit_up_to_the_top_holds(
    own: str, above: str | None, least: int | None, tmp_path: Path
) -> None:
    proc, mount = system(tmp_path, "0::/user.slice/job.scope\n", V2_MOUNT)
    (mount / "user.slice" / "job.scope").mkdir(parents=True)
    (mount / "user.slice" / "job.scope" / "memory.max").write_text(own)
    if above:
        (mount / "user.slice" / "memory.max").write_text(above)
    assert memory_limit(proc) == least


@pytest.mark.parametrize(("root", "place"), [("/", "docker/abc"), ("/docker/abc", "")])
def test_memory_limits_of_version_1(root: str, place: str, tmp_path: Path) -> None:
    """The hierarchy of the CPU, which is mounted elsewhere, has no say."""
    groups = "5:memory:/docker/abc\n4:cpu,cpuacct:/elsewhere\n0::/\n"
    proc, mount = system(tmp_path, groups, V1_MOUNT.replace("cpu,cpuacct", "memory"), root)
    (mount / place).mkdir(parents=True, exist_ok=True)
    (mount / place / "memory.limit_in_bytes").write_text("4000000000\n")
    assert (memory_limit(proc), cpu_quota(proc)) == (4_000_000_000, None)


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert memory_limit(tmp_path) is None


@pytest.mark.row(64)
@pytest.mark.parametrize(
    ("quota", "asked", "processes", "torchrun", "count", "why"),
    [
        (None, None, 1, False, 8, "8 cores"),
        (2.5, None, 1, False, 3, "a CPU quota of 2.5 cores"),
        (0.2, None, 1, False, 1, "a CPU quota of 0.2 cores"),
        (16.0, None, 1, False, 8, "8 cores"),
        (None, "2", 1, False, 2, "OMP_NUM_THREADS=2"),
        (None, "3,2", 1, False, 3, "OMP_NUM_THREADS=3,2"),
        (None, "64", 1, False, 8, "8 cores"),
        (2.0, "4", 1, False, 2, "a CPU quota of 2 cores"),
        (None, "0", 1, False, 8, "8 cores"),
        (None, "many", 1, False, 8, "8 cores"),
        (None, None, 4, True, 2, "8 cores for 4 processes"),
        (None, "1", 4, True, 2, "8 cores for 4 processes"),  # torchrun's own word
        (None, "1", 4, False, 1, "OMP_NUM_THREADS=1"),
        (None, None, 16, True, 1, "8 cores for 16 processes"),
    ],
)
def test_the_least_of_cores_quota_and_omp_num_threads(
    quota: float | None, asked: str | None, processes: int, torchrun: bool, count: int, why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(processors, "affinity", lambda: 8)
    monkeypatch.setattr(processors, "cpu_quota", lambda: quota)
    for name, value in (("OMP_NUM_THREADS", asked), ("TORCHELASTIC_RUN_ID", "none" if torchrun else None)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert usable(processes) == processors.Threads(count, why)


def test_work_that_is_not_openmp_s_goes_by_cores_and_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(processors, "affinity", lambda: 8)
    for quota, count in ((None, 8), (1.5, 2), (32.0, 8)):
        monkeypatch.setattr(processors, "cpu_quota", lambda quota=quota: quota)
        assert cores() == count


@pytest.mark.slow
@pytest.mark.row(64)
def test_training_threads_default_to_the_available_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processors, "affinity", lambda: 8)
    monkeypatch.setattr(processors, "cpu_quota", lambda: 2.5)
    build.device(compose(["device=cpu"]))
    assert torch.get_num_threads() == 3
    build.device(compose(["device=cpu", "device.threads=5"]))
    assert torch.get_num_threads() == 5


CPUINFOS = {
    "Zen 3": "model name\t: AMD EPYC 7763\nflags\t\t: fpu sse2 avx2 fma\nbugs\t\t: spectre_v1\n",
    "Ice Lake": "flags\t\t: fpu avx2 avx512f avx512_vnni\nvmx flags\t: vnmi avx512_bf16\n",
    "Alder Lake": "flags\t\t: fpu avx2 avx_vnni\n",
    "Cooper Lake": "flags\t\t: fpu avx512f avx512_vnni avx512_bf16\n",
    "Sapphire Rapids": "flags\t\t: fpu avx512_bf16 amx_bf16 amx_tile amx_int8\n",
    "Cortex-A72": "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32\n",
    "Neoverse V1": "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16\n",
    "no flags": "processor\t: 0\n",
}
# processor -> (products of 8 bits without saturation, arithmetic in bfloat16, None: the system does not tell)
ABLE = {
    "Zen 3": (False, False), "Ice Lake": (True, False), "Alder Lake": (True, False), "Cooper Lake": (True, True),
    "Sapphire Rapids": (True, True), "Cortex-A72": (False, False), "Neoverse V1": (True, True),
    "no flags": (False, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CPUINFOS)
def test_what_a_processor_can_is_read_from_cpuinfo(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(CPUINFOS[name])
    monkeypatch.setattr(processors, "CPUINFO", file)
    assert (has_int8_products(), has_bf16()) == ABLE[name]
    assert "spectre_v1" not in cpu_flags()


def test_a_system_without_cpuinfo_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "CPUINFO", tmp_path / "cpuinfo")
    assert (cpu_flags(), has_int8_products(), has_bf16()) == (set(), False, None)
