"""The compiled functions are there where a compiler is, and nothing breaks where there is none."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.commandline import TINY, effbench, script
from tests.compiler import needs_compiler

pytestmark = pytest.mark.process

SAY = "from effbench.cpu import library as kernels; print(kernels.library() is not None, kernels.unavailable())"


def said(tmp_path: Path, **environment: str) -> tuple[str, str]:
    done = script(SAY, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"), **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


@pytest.fixture
def quick_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cc` is the real one, but does not optimize: where the file goes does not depend on what is in it."""
    compiler = tmp_path / "bin" / "cc"
    compiler.parent.mkdir()
    compiler.write_text(f'#!/bin/sh\nexec "{shutil.which("cc")}" "$@" -O0\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{compiler.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CC", raising=False)


@pytest.mark.proof
@needs_compiler
@pytest.mark.usefixtures("quick_compiler")
def test_they_are_compiled_once_into_the_cache(tmp_path):
    assert said(tmp_path) == ("True None", "note: effbench: compiling its C functions, once for this machine\n")
    [built] = (tmp_path / "cache" / "effbench" / "kernels").glob("*.so")
    before = built.stat().st_mtime_ns
    assert said(tmp_path, CC="cc") == ("True None", "")
    assert [built] == list(built.parent.glob("*.so"))
    assert built.stat().st_mtime_ns == before


@pytest.mark.parametrize("word", ["off", "OFF", "0", "false"])
def test_the_switch_turns_them_off(word, tmp_path):
    assert said(tmp_path, EFFBENCH_KERNELS=word) == ("False EFFBENCH_KERNELS=off", "")
    assert not (tmp_path / "cache").exists()


def test_an_unknown_switch_is_refused_before_data_is_read(tmp_path):
    done = effbench("train", *TINY, "hydra.run.dir=run", cwd=tmp_path, EFFBENCH_KERNELS="of")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: EFFBENCH_KERNELS must be on or off; got 'of'."
    assert not (tmp_path / "run").exists()


def test_a_run_s_record_says_whether_they_were_there(tmp_path):
    done = effbench("train", *TINY, "hydra.run.dir=run", cwd=tmp_path, EFFBENCH_KERNELS="0")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["environment"]["kernels"] == "EFFBENCH_KERNELS=off"


def test_without_a_compiler_the_reason_is_kept(tmp_path):
    assert said(tmp_path, CC="no-such-compiler") == ("False there is no C compiler (cc)", "")


def test_a_compiler_that_fails_is_told_once_and_gone_without(tmp_path):
    out, err = said(tmp_path, CC="false")
    assert out.startswith("False")
    assert err.count("note: effbench: its C functions cannot be used") == 1


@pytest.mark.proof
@needs_compiler
@pytest.mark.row(64)
@pytest.mark.usefixtures("quick_compiler")
def test_an_unwritable_cache_is_replaced_by_a_temporary_folder(tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert said(tmp_path, TMPDIR=str(tmp_path))[0] == "True None"
    assert list(tmp_path.glob("effbench-*/kernels/*.so"))


@pytest.mark.spread(1)
@pytest.mark.parametrize("optimizer", ["lion", "adan"])
def test_a_run_learns_without_a_compiler_too(optimizer, tmp_path):
    small = ["data=synthetic", "data.num_train=64", "data.num_val=16", "data.num_test=16"]
    words = ["model=mobilenet", "model.width_mult=0.3", f"optimizer={optimizer}", *small, *TINY[2:]]
    done = effbench("train", *words, "hydra.run.dir=run", cwd=tmp_path, CC="no-such-compiler")
    assert done.returncode == 0, done.stderr
