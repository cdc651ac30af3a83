"""Row 57: file systems without links or fsync of folders, and renames that fail once."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from effbench import disk
from effbench.errors import ConfigError
from effbench.records import check_new_run, write_text
from tests.commandline import TINY, python
from tests.compiler import needs_compiler

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
static int ours(const char *path) { return strstr(path, "checkpoints") || strstr(path, "summary.json"); }
int symlink(const char *to, const char *path) { (void)to; (void)path; errno = EPERM; return -1; }
int fsync(int fd) {
    struct stat found;
    if (!fstat(fd, &found) && S_ISDIR(found.st_mode)) { errno = EINVAL; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
int rename(const char *from, const char *to) {
    static int calls;
    int done = ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(from, to);
    if (ours(to) && calls++ % 3 == 0) {  /* every third answers with an error; every sixth has happened all the same */
        if (!done && calls % 2) ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(to, from);
        errno = ESTALE;
        return -1;
    }
    return done;
}
"""
CALLS = """
import sys
from effbench.cli import main
words = {words}
assert main(["train", *words, "hydra.run.dir=run"]) == 0
assert main(["verify", "run"]) == 0
assert main(["train", "resume=run", "trainer.max_epochs=2"]) == 0
assert main(["verify", "run"]) == 0
assert main(["eval", "run"]) == 0
"""


@pytest.mark.proof
@pytest.mark.process
@needs_compiler
@pytest.mark.row(57)
@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")
def test_run_works_if_links_folder_fsync_and_renames_fail(tmp_path: Path) -> None:
    (tmp_path / "shim.c").write_text(SHIM)
    compiler = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", "shim.so", "shim.c", "-ldl"]
    subprocess.run(compiler, cwd=tmp_path, check=True)
    words = [*TINY, "checkpoint.save_top_k=1"]
    done = python("-c", CALLS.format(words=words), cwd=tmp_path, LD_PRELOAD=str(tmp_path / "shim.so"))
    assert done.returncode == 0, done.stderr
    last = tmp_path / "run" / "checkpoints" / "last"
    assert not last.is_symlink()
    assert last.read_text().startswith("step-")


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Any:
    """faulty(name, number, times): the first calls of os.NAME fail with that errno."""
    monkeypatch.setattr(disk, "WAITS_S", (0.0,) * 4)

    def fail(name: str, number: int, times: int = 10**6) -> list[int]:
        real, left = getattr(os, name), [times]

        def call(*arguments: Any, **named: Any) -> Any:
            if left[0] > 0:
                left[0] -= 1
                raise OSError(number, os.strerror(number))
            return real(*arguments, **named)

        monkeypatch.setattr(os, name, call)
        return left

    return fail


@pytest.mark.row(57)
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EBUSY, errno.EACCES, errno.EIO])
def test_a_rename_that_fails_transiently_is_retried(number: int, faulty: Any, tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    left = faulty("replace", number, 2)
    write_text(tmp_path / "file", "new")
    assert left == [0]
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.row(57)
def test_rename_that_keeps_failing_raises_and_keeps_the_old_file(faulty: Any, tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    faulty("replace", errno.ESTALE)
    with pytest.raises(OSError, match="Stale"):
        write_text(tmp_path / "file", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_permanent_error_is_not_retried(faulty: Any, tmp_path: Path) -> None:
    left = faulty("replace", errno.ENOSPC, 3)
    (tmp_path / "a").write_text("a")
    with pytest.raises(OSError, match="No space"):
        disk.move(tmp_path / "a", tmp_path / "b")
    assert left == [2]


def test_a_source_that_was_never_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("b")
    with pytest.raises(FileNotFoundError):
        disk.move(tmp_path / "a", tmp_path / "b")


@pytest.mark.row(57)
def test_a_text_file_stands_for_a_link_and_gives_way_to_one(faulty: Any, tmp_path: Path) -> None:
    for name in ("step-1", "step-2"):
        (tmp_path / name).mkdir()
    faulty("symlink", errno.EPERM, 1)
    disk.point(tmp_path / "last", "step-1")
    assert (tmp_path / "last").read_text() == "step-1\n"
    assert disk.pointed(tmp_path / "last") == "step-1"
    assert disk.followed(tmp_path / "last") == tmp_path / "step-1"
    disk.point(tmp_path / "last", "step-2")
    assert (tmp_path / "last").is_symlink()
    assert disk.pointed(tmp_path / "last") == "step-2"


@pytest.mark.parametrize("content", ["", "../elsewhere", "/etc", "a/b", "x" * 5000, "\0", ".", ".."])
def test_a_text_that_names_no_sibling_is_no_link(content: str, tmp_path: Path) -> None:
    (tmp_path / "last").write_text(content)
    assert disk.pointed(tmp_path / "last") is None


def test_a_copied_folder_in_place_of_a_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "step-1").mkdir()
    shutil.copytree(tmp_path / "step-1", tmp_path / "last")
    disk.point(tmp_path / "last", "step-1")
    assert (tmp_path / "last").is_symlink()


@pytest.mark.row(57)
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_unsupported_folder_fsync_is_ignored_but_io_errors_raise(number: int, faulty: Any, tmp_path: Path) -> None:
    faulty("fsync", number, 1)
    disk.sync_folder(tmp_path)
    faulty("fsync", errno.EIO, 1)
    with pytest.raises(OSError, match="Input/output"):
        disk.sync_folder(tmp_path)


@pytest.mark.row(57)
def test_file_system_without_rename_is_refused_before_training(faulty: Any, tmp_path: Path) -> None:
    faulty("replace", errno.ENOTSUP)
    with pytest.raises(ConfigError, match="cannot hold a run: its file system does not rename"):
        check_new_run(tmp_path)
    assert not list(tmp_path.iterdir())
