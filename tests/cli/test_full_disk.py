"""A disk that is full, or a folder that cannot be written: what costs the run, what costs only a log."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from effbench import records
from effbench.training import checkpoint, checkpoint_files
from effbench.training.checkpoint_files import read_checkpoint
from tests.cli.conftest import Effbench
from tests.cli.interrupting import FOUR_EPOCHS_OF_FIVE_STEPS, ends_like, rows, summary, weights
from tests.training.tiny import same


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_from(number: int, whole: Any) -> Any:
    """`whole` until its call `number` (from 1); from then on there is no space."""
    count = 0

    def call(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        return full() if count >= number else whole(*args, **options)

    return call


@pytest.mark.spread(3)
@pytest.mark.process
@pytest.mark.row(5)
@pytest.mark.parametrize(
    ("part", "number"),
    [
        ("_write_tensors", 5),
        ("_write_tensors", 6),
        ("_write_state", 3),
        ("_sync_file", 9),
        ("sync_folder", 5),
        ("sync_folder", 6),
        ("point", 5),
    ],
)
def test_disk_full_in_a_save_is_named_and_run_resumes_with_space(
    part: str, number: int, uninterrupted: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        module = checkpoint_files if hasattr(checkpoint_files, part) else checkpoint
        patch.setattr(module, part, full_from(number, getattr(module, part)))
        code, out, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")
    assert (code, out) == (1, "")
    checkpoints = tmp_path / "run" / "checkpoints"
    assert "error: no space at run/checkpoints/" in err
    assert "Free some space" in err
    assert "No space left on device" in err
    assert summary(tmp_path / "run")["status"] == "failed"
    assert all(read_checkpoint(path) for path in checkpoints.glob("step-*"))
    assert not list(checkpoints.glob(".step-*"))
    assert effbench("train", "resume=run")[0] == 0
    ends_like(tmp_path / "run", uninterrupted)


@pytest.mark.process
@pytest.mark.row(6)
def test_metrics_csv_may_end_early_and_the_run_ends_well(
    uninterrupted: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Writer:
        row = staticmethod(full_from(9, lambda stream, cells: written(stream).writerow(cells)))

        def __init__(self, stream: Any):
            self._stream = stream

        def writerow(self, cells: Any) -> None:
            Writer.row(self._stream, cells)

    written = records.csv.writer
    monkeypatch.setattr(records.csv, "writer", Writer)
    code, out, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")
    assert (code, "completed" in out) == (0, True)
    told = [line for line in err.splitlines() if line.startswith("warning")]
    assert told == ["warning: run/metrics.csv is no longer written: No space left on device; training continues"]
    monkeypatch.undo()
    os.chdir(tmp_path)
    assert rows(tmp_path / "run") == rows(uninterrupted)[:7]
    assert same(weights(tmp_path / "run"), weights(uninterrupted))


@pytest.mark.process
@pytest.mark.row(6)
def test_curves_png_may_be_missing_and_the_run_ends_well(
    effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effbench.run.session.draw_curves", full)
    code, out, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "trainer.max_epochs=1", "hydra.run.dir=run")
    assert (code, "completed" in out) == (0, True)
    assert "warning: curves.png was not drawn: [Errno 28] No space left on device" in err
    assert summary(tmp_path / "run")["status"] == "completed"


@pytest.mark.process
@pytest.mark.row(6)
@pytest.mark.parametrize("at", [2, 30])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_logger_s_disk_may_be_full_and_the_run_ends_well(
    at: int, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard writes in a thread of its own and tells of it at a later call."""
    record_writer = pytest.importorskip("tensorboard.summary.writer.record_writer")
    patched = full_from(at, record_writer.RecordWriter.write)
    monkeypatch.setattr(record_writer.RecordWriter, "write", lambda self, data: patched(self, data))
    words = [*FOUR_EPOCHS_OF_FIVE_STEPS, "logger=tensorboard", "hydra.run.dir=run"]
    code, out, err = effbench("train", *words)
    assert (code, "completed" in out) == (0, True), err
    told = [line for line in err.splitlines() if line.startswith("warning")]
    assert told == ["warning: logger=tensorboard stopped: [Errno 28] No space left on device; training continues"]
    assert len(rows(tmp_path / "run")) == 24


@pytest.mark.process
@pytest.mark.row(6)
def test_run_without_space_for_its_summary_is_tested_on_resume(
    uninterrupted: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the run's record, not a log: without it nobody knows that the run was finished."""
    with monkeypatch.context() as patch:
        whole = records.os.fsync
        patch.setattr(records.os, "fsync", lambda descriptor: _no_summary(descriptor) or whole(descriptor))
        code, out, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")
    assert (code, out) == (1, "")
    assert "error: no space at run/summary.json" in err
    assert not (tmp_path / "run" / "summary.json").exists()
    assert not list((tmp_path / "run").glob(".summary*"))
    assert effbench("train", "resume=run")[0] == 0
    ends_like(tmp_path / "run", uninterrupted)


def _no_summary(descriptor: int) -> None:
    if "summary.json" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
        full()


# --- folders


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are root's alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.row(7)
@pytest.mark.parametrize("inside", ["", "/new/run"])
def test_folder_without_write_permission_is_refused_early(
    inside: str, open_to_all: Path, effbench: Effbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    locked = open_to_all / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        code, out, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, f"hydra.run.dir={locked}{inside}")
    finally:
        if root:
            os.seteuid(0)
    assert (code, out) == (2, "")
    assert f"the output folder {locked}{inside} cannot be written (Permission denied)" in err
    assert "hydra.run.dir=DIR" in err
    assert "epoch" not in err
    assert not list(locked.iterdir())


@pytest.mark.slow
@pytest.mark.row(7)
def test_checkpoints_folder_without_write_permission_is_refused(
    open_to_all: Path, effbench: Effbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run leaves it that was killed before it saved."""
    monkeypatch.chdir("/")
    run = open_to_all / "run"
    (run / "checkpoints").mkdir(parents=True)
    run.chmod(0o777)
    (run / "checkpoints").chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        code, out, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, f"hydra.run.dir={run}")
    finally:
        if root:
            os.seteuid(0)
    assert (code, out) == (2, "")
    assert "checkpoints cannot be written (Permission denied)" in err


@pytest.mark.process
@pytest.mark.row(8)
def test_renames_stay_in_their_folder_with_tmpdir_on_another_fs(
    uninterrupted: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    before = set(elsewhere.iterdir())
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setattr(tempfile, "tempdir", None)
    renamed: list[tuple[Path, Path]] = []
    for name in ("rename", "replace"):
        whole = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda a, b, whole=whole, **o: (renamed.append((Path(a), Path(b))), whole(a, b, **o))[1]
        )
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")[0] == 0
    inside = [(a, b) for a, b in renamed if b.is_relative_to("run")]
    assert {b.name for _, b in inside} >= {"last", "best", "config.yaml", "summary.json", "step-00000020"}
    assert all(a.parent == b.parent for a, b in inside)
    assert set(elsewhere.iterdir()) == before
    ends_like(tmp_path / "run", uninterrupted)
