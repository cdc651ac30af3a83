"""The machine and the checkout that a number was measured with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from effbench.report.environment import git_state, peak_memory
from tests.commandline import python


def git(*words: str, folder: Path) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.process
def test_git_state_is_the_commit_and_whether_files_changed(tmp_path: Path) -> None:
    git("init", "-q", folder=tmp_path)
    (tmp_path / "a").write_text("1")
    git("add", "a", folder=tmp_path)
    git("commit", "-q", "-m", "first", folder=tmp_path)
    commit = git("rev-parse", "HEAD", folder=tmp_path)
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == {"commit": commit, "dirty": True}


@pytest.mark.process
def test_outside_a_checkout_there_is_no_git_state(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    assert git_state(tmp_path / "nowhere") is None


def test_peak_memory_is_in_bytes_and_never_falls() -> None:
    before = peak_memory()["peak_rss_bytes"]
    block = torch.ones(30_000_000)  # 120 MB
    during = peak_memory()["peak_rss_bytes"]
    del block
    assert 50e6 < before < 200e9
    slack = 4_000_000  # the kernel counts pages by processor and adds them up now and then
    assert peak_memory()["peak_rss_bytes"] + slack >= during
    assert during + slack >= before


@pytest.mark.process
def test_peak_memory_excludes_the_parent_process(tmp_path: Path) -> None:
    """Linux's getrusage would: a peak is handed on by fork and exec."""
    held = bytearray(600_000_000)
    held[::4096] = b"1" * len(held[::4096])
    say = "from effbench.report.environment import peak_rss; print(peak_rss())"  # torch's own size differs by kernel
    done = python("-c", say, cwd=tmp_path)
    assert 1e6 < int(done.stdout) < 300e6, done.stderr
    assert peak_memory()["peak_rss_bytes"] > 600e6
