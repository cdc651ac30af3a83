"""Row 2: a save killed at its system calls, and the order that a power cut would ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.torture.conftest import result
from tests.torture.system_calls import SCENARIOS, Call, has_strace, kernel_calls, order_faults

C = "/run/checkpoints"
SAVE = [
    Call("mkdir", f"{C}/.step-3.tmp"),
    Call("openat", f"{C}/.step-3.tmp/.tmpX"),
    Call("write", f"{C}/.step-3.tmp/.tmpX"),
    Call("rename", f"{C}/.step-3.tmp/.tmpX", f"{C}/.step-3.tmp/model.safetensors"),
    Call("write", f"{C}/.step-3.tmp/state.pt"),
    Call("fsync", f"{C}/.step-3.tmp/model.safetensors"),
    Call("fsync", f"{C}/.step-3.tmp/state.pt"),
    Call("fsync", f"{C}/.step-3.tmp"),
    Call("rename", f"{C}/.step-3.tmp", f"{C}/step-3"),
    Call("fsync", C),
    Call("symlink", "step-3", f"{C}/.last.tmp"),
    Call("rename", f"{C}/.last.tmp", f"{C}/last"),
    Call("fsync", C),
]


@pytest.mark.row(2)
def test_kill_at_any_save_syscall_leaves_old_or_new_checkpoint(torture: dict[str, Any]) -> None:
    found = result(torture, "system_calls")
    assert {name: save["faults"] for name, save in found["saves"].items() if save["faults"]} == {}
    assert found["survived"] == found["kills"] > 15
    for name in SCENARIOS:
        calls = found["saves"][f"{name} by Python"]["by_name"]
        assert {"mkdir", "write", "fsync", "replace", "symlink"} <= calls.keys()


@pytest.mark.process
@pytest.mark.row(2)
def test_save_order_is_write_fsync_rename_fsync_folder(torture: dict[str, Any]) -> None:
    found = result(torture, "system_calls")
    assert found["order_faults"] == []
    assert ("next by strace" in found["saves"]) is has_strace()


def test_the_order_of_a_good_save_is_accepted() -> None:
    assert order_faults(SAVE) == []


@pytest.mark.parametrize("missing", [index for index, call in enumerate(SAVE) if call.name == "fsync"])
def test_an_fsync_left_out_is_noticed(missing: int) -> None:
    assert len(order_faults(SAVE[:missing] + SAVE[missing + 1 :])) == 1


@pytest.mark.parametrize("late", ["state.pt", "model.safetensors"])
def test_a_write_after_the_fsync_is_noticed(late: str) -> None:
    at = SAVE.index(Call("fsync", f"{C}/.step-3.tmp"))
    assert order_faults([*SAVE[:at], Call("write", f"{C}/.step-3.tmp/{late}"), *SAVE[at:]]) == [
        f"no fsync of {late} between its last write and the rename"
    ]


def test_a_save_without_a_rename_is_noticed() -> None:
    in_place = [Call(call.name, call.path.replace(".step-3.tmp", "step-3"), call.to) for call in SAVE]
    assert order_faults(in_place[:8]) == ["0 renames to a checkpoint's name"]


def test_strace_lines_become_calls(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        '12 mkdir("run/a", 0777) = 0\n'
        '12 openat(AT_FDCWD</w>, "run/a/b", O_WRONLY|O_CREAT|O_CLOEXEC, 0666) = 3</w/run/a/b>\n'
        '12 openat(AT_FDCWD</w>, "run/a/b", O_RDONLY|O_CLOEXEC) = 3</w/run/a/b>\n'
        '12 write(3</w/run/a/b>, "x \\"y\\" ) = 1", 12) = 12\n'
        "12 fsync(3</w/run/a/b>)              = 0\n"
        '12 renameat(AT_FDCWD</w>, "run/a", AT_FDCWD</w>, "run/c") = 0\n'
        '12 unlinkat(4</w/run>, "d", 0) = 0\n'
        "12 +++ exited with 0 +++\n"
    )
    assert kernel_calls(log, Path("/w")) == [
        Call("mkdir", "/w/run/a"),
        Call("openat", "/w/run/a/b"),
        Call("openat", "/w/run/a/b", reads=True),
        Call("write", "/w/run/a/b"),
        Call("fsync", "/w/run/a/b"),
        Call("rename", "/w/run/a", "/w/run/c"),
        Call("unlinkat", "/w/run/d"),
    ]
