"""Row 58, compiled code: one compiles, a planted or damaged library is never loaded, a missing home is no refusal.

White-box: asks for the compiler that was chosen.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from effbench.cache_dir import cache_home
from effbench.cpu.build import find_or_build
from effbench.cpu.library import _compiler
from tests.commandline import python
from tests.patience import patience

pytestmark = pytest.mark.process

KEY = "k" * 24
COMPILER = """#!/bin/sh
echo run >> "$LOG"
while [ "$1" != -o ]; do shift; done
sleep "${PAUSE:-0}"
echo "a library" > "$2"
"""
posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are those of POSIX")


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command that stands for a C compiler: it leaves a line in `log` and writes a file."""
    script = tmp_path / "compiler"
    script.write_text(COMPILER)
    script.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return [str(script), "-O3"]


def compilations(tmp_path: Path) -> int:
    log = tmp_path / "log"
    return log.read_text().count("run") if log.exists() else 0


@pytest.mark.row(58)
@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_library_is_made_again(damage: str, compiler: list[str], tmp_path: Path) -> None:
    said: list[str] = []
    path = find_or_build(KEY, compiler, said.append)
    whole = path.read_bytes()
    assert find_or_build(KEY, compiler, said.append) == path
    assert compilations(tmp_path) == 1
    path.write_bytes({"cut": whole[:4], "flip": b"A" + whole[1:], "empty": b""}[damage])
    assert find_or_build(KEY, compiler, said.append).read_bytes() == whole
    assert compilations(tmp_path) == 2
    assert [line for line in said if "damaged" in line] == [
        f"{path} is not loaded: it is damaged (its sha256 differs); compiling again"
    ]


@posix
@pytest.mark.row(58)
@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_library_that_others_may_write_is_made_again(mode: int, compiler: list[str], tmp_path: Path) -> None:
    path = find_or_build(KEY, compiler, print)
    path.chmod(mode)
    assert find_or_build(KEY, compiler, print).stat().st_mode & 0o777 == 0o755
    assert compilations(tmp_path) == 2


@posix
@pytest.mark.row(58)
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("planted", ["library", "kernels", "effbench"])
def test_what_another_user_put_there_is_not_loaded(planted: str, compiler: list[str], tmp_path: Path) -> None:
    first = find_or_build(KEY, compiler, print)
    theirs = {"library": first, "kernels": first.parent, "effbench": first.parents[1]}[planted]
    os.chown(theirs, 4242, 4242)
    said: list[str] = []
    second = find_or_build(KEY, compiler, said.append)
    assert compilations(tmp_path) == 2
    assert any("belongs to another user (uid 4242)" in line for line in said)
    if planted != "library":
        assert not second.is_relative_to(tmp_path / "cache")
    assert second.stat().st_uid == os.geteuid()


@posix
@pytest.mark.row(58)
def test_a_link_to_elsewhere_is_not_loaded(compiler: list[str], tmp_path: Path) -> None:
    path = find_or_build(KEY, compiler, print)
    path.rename(tmp_path / "elsewhere.so")
    path.symlink_to(tmp_path / "elsewhere.so")
    assert not find_or_build(KEY, compiler, print).is_symlink()


@posix
def test_a_folder_made_under_a_loose_umask_is_tightened(compiler: list[str]) -> None:
    folder = cache_home() / "kernels"
    folder.mkdir(parents=True)
    for path in (folder, folder.parent):
        path.chmod(0o777)
    assert find_or_build(KEY, compiler, print).parent == folder
    assert [path.stat().st_mode & 0o777 for path in (folder, folder.parent)] == [0o755, 0o755]


@pytest.mark.row(58)
def test_of_many_first_starts_one_compiles_and_leftovers_go(compiler: list[str], tmp_path: Path) -> None:
    left = cache_home() / "kernels" / f"{KEY}.killed.tmp"
    left.mkdir(parents=True)
    code = (
        "import sys; from effbench.cpu.build import find_or_build\n"
        f"print(find_or_build({KEY!r}, {compiler!r}, lambda line: print(line, file=sys.stderr)))"
    )
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=os.environ | {"PAUSE": "2"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]  # fmt: skip
    told = [start.communicate(timeout=patience(60)) for start in starts]
    assert len({out for out, _ in told}) == 1
    assert compilations(tmp_path) == 1
    assert sum("compiling its C functions, once" in err for _, err in told) == 1
    assert not left.exists()


@pytest.mark.row(64)
def test_without_a_home_the_temporary_folder_serves(
    compiler: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = find_or_build(KEY, compiler, print)
    assert path.parent == tmp_path / f"effbench-{os.geteuid()}" / "kernels"
    assert cache_home() == path.parents[1]

    def nobody(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nobody)
    assert cache_home() == path.parents[1]
    assert find_or_build(KEY, compiler, print) == path
    assert compilations(tmp_path) == 1


@pytest.mark.parametrize(
    ("word", "options"), [("", []), ("sh", []), ("sh -m64", ["-m64"]), ("env sh -m64", ["sh", "-m64"])]
)
def test_cc_is_a_command_with_options(word: str, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", word)
    found = _compiler()
    if word:
        assert found is not None
        assert Path(found[0]).name == word.split()[0]
        assert found[1:] == options


def test_a_cc_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    code = "from effbench.cpu import library as kernels; print(kernels.unavailable())"
    done = python("-c", code, cwd=tmp_path, CC="cc 'x", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert 'CC="cc \'x" cannot be read' in done.stdout
