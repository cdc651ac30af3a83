"""Traps: what a hostile file would do if anything of it ran, and what notices it."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effbench import cli
from tests.commandline import TINY

SENTINEL = "sentinel"
WATCHED = {
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.kill", "os.remove", "os.rmdir", "os.rename", "os.chmod",
    "subprocess.Popen", "shutil.rmtree", "shutil.copyfile", "shutil.move", "shutil.unpack_archive", "socket.connect",
    "socket.getaddrinfo", "urllib.Request", "ftplib.connect", "smtplib.connect", "pickle.find_class",
    "webbrowser.open", "ctypes.dlopen", "ctypes.dlsym", "code.__new__", "function.__new__",
}  # fmt: skip


# What effbench itself does when it reads git, forks a job and replaces a file.
ROUTINE = {
    "os.rename", "os.remove", "os.rmdir", "os.fork", "os.posix_spawn", "os.kill", "os.chmod", "subprocess.Popen",
    "shutil.rmtree", "ctypes.dlopen", "ctypes.dlsym", "code.__new__", "function.__new__",
}  # fmt: skip


class Evil:
    """A pickle that touches the sentinel when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(SENTINEL),)


def told_anew(checkpoint: Path, name: str) -> None:
    """The manifest vouches for the file as it is now, and for itself."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
    manifest.pop("digest", None)
    manifest["digest"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


class Watch:
    """What the interpreter itself reports of its doings, while this is on (an audit hook cannot be taken off)."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in WATCHED:
            self.seen.append(event)


_watch = Watch()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def traps(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the hostile targets would find: pickles, a module, a script, an archive."""
    torch.save(Evil(), "evil.pt")
    np.save("evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    text = f"open({str(elsewhere / SENTINEL)!r}, 'w').close()\ndef thing(**_): pass\n"
    for name in ("evil.py", "hubconf.py"):
        (elsewhere / name).write_text(text)
    (elsewhere / "inside").mkdir()
    (elsewhere / "inside" / SENTINEL).touch()
    shutil.make_archive("evil", "zip", "inside")
    monkeypatch.syspath_prepend(str(elsewhere))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    return elsewhere


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main(["train", *TINY, "checkpoint.save_last=true", f"hydra.run.dir='{folder}'"]) == 0
    return folder


@pytest.fixture
def run(finished: Path, traps: Path) -> Path:
    """A copy of a finished run, to be made hostile."""
    folder = Path(shutil.copytree(finished, traps / "run", symlinks=True))
    _watch.seen.clear()  # copying is one of the things that the traps hear
    return folder


@pytest.fixture
def quiet(traps: Path) -> Iterator[Path]:
    """The test's folder; the test fails if anything of note was called in it, or the sentinel is there."""
    watch = _watch
    watch.seen.clear()
    watch.on = True
    yield traps
    watch.on = False
    assert watch.seen == []
    assert not (traps / SENTINEL).exists()
    assert "evil" not in sys.modules


@pytest.fixture
def guarded(traps: Path) -> Iterator[Path]:
    """As `quiet`, for tests that let a command do its own work."""
    _watch.seen.clear()
    _watch.on = True
    yield traps
    _watch.on = False
    assert set(_watch.seen) <= ROUTINE
    assert not (traps / SENTINEL).exists()
    assert (traps / "inside").is_dir()
    assert (traps / "evil.pt").is_file()
    assert "evil" not in sys.modules


@pytest.fixture
def heard(traps: Path) -> Iterator[list[str]]:
    """What is called, as the traps hear it: to see that they work."""
    assert not (traps / SENTINEL).exists()
    _watch.seen.clear()
    _watch.on = True
    yield _watch.seen
    _watch.on = False
