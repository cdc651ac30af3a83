"""The files of a run: whole or not there, never with NaN, and named where they cannot be read or written."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.errors import ConfigError, EffbenchError, MissingExtraError
from effbench.records import (
    STATUSES,
    SUMMARY_SCHEMA,
    MetricsFile,
    NoSpaceError,
    check_new_run,
    keep_rows_up_to,
    naming_place,
    read_any_summary,
    read_metrics,
    read_summary,
    replacing,
    require_writable,
    sha256_of,
    write_summary,
    write_text,
)
from tests.patience import patience

OLD, NEW = b"old" * 1000, b"new" * 2000
EMPTY_SHA = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


# --- files that are whole or not there


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_the_block_ends_well(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    with replacing(path) as stream:
        stream.write(NEW)
        stream.flush()
        assert path.read_bytes() == OLD
    assert path.read_bytes() == NEW
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(error, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)

    def write_half() -> None:
        with replacing(path) as stream:
            stream.write(NEW)
            raise error("half way")

    with pytest.raises(error, match="half way"):
        write_half()
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["file"]


def write_until_killed(path: Path, at: str) -> None:
    """A process that is killed at one of the system calls of a replacement."""

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if at == "write":
        with replacing(path) as stream:
            stream.write(NEW)
            stream.flush()
            die()
    if at in ("fsync", "rename"):
        setattr(*{"fsync": (os, "fsync"), "rename": (Path, "replace")}[at], die)
    with replacing(path) as stream:
        stream.write(NEW)
    die()


@pytest.mark.process
@pytest.mark.row(2)
@pytest.mark.parametrize(("at", "expected"), [("write", OLD), ("fsync", OLD), ("rename", OLD), ("end", NEW)])
def test_kill_during_atomic_write_leaves_old_or_new_file_whole(at, expected, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    process = multiprocessing.get_context("fork").Process(target=write_until_killed, args=(path, at))
    process.start()
    process.join(patience(30))
    assert process.exitcode == -signal.SIGKILL
    assert path.read_bytes() == expected


@pytest.mark.row(2)
def test_atomic_write_syncs_file_then_renames_then_syncs_folder(tmp_path, monkeypatch):
    events, rename = [], Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: events.append(Path(f"/proc/self/fd/{fd}").readlink().name))
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append("rename"), rename(self, to))[1])
    write_text(tmp_path / "file", "text")
    assert events[0].startswith(".file.")
    assert events[1:] == ["rename", tmp_path.name]


def test_two_writers_at_once_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as one, replacing(path) as two:
        one.write(OLD)
        two.write(NEW)
    assert path.read_bytes() == OLD  # the outer one ended last
    assert names(tmp_path) == ["file"]


def test_text_that_utf8_cannot_hold_is_escaped(tmp_path):
    write_text(tmp_path / "file", "ü 图 \udcff")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "ü 图 \\udcff"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.row(5)
def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path):
    path = tmp_path / "summary.json"
    path.write_bytes(OLD)
    with largest_file(4000), pytest.raises(EffbenchError) as caught:
        write_text(path, "x" * 100_000)
    assert f"no space at {path}" in str(caught.value)
    assert "free" in str(caught.value)
    assert "hydra.run.dir" in str(caught.value)
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["summary.json"]


PLACE = "output=FOLDER"


@pytest.mark.row(5)
def test_the_remedy_is_the_option_of_the_verb_around_a_run(tmp_path):
    with largest_file(4000), pytest.raises(NoSpaceError, match=PLACE) as caught, naming_place(PLACE):
        write_text(tmp_path / "summary.json", "x" * 100_000)
    assert "hydra.run.dir" not in str(caught.value)
    with pytest.raises(MissingExtraError, match="'it' needs") as missing, naming_place(PLACE):
        raise MissingExtraError("'it'", "compress")
    assert PLACE not in str(missing.value)


def test_another_error_of_the_disk_keeps_its_name(tmp_path):
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path, "x")
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "nowhere" / "file", "x")


def test_the_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert sha256_of(tmp_path / "empty") == EMPTY_SHA


# --- the run's folder


def test_a_new_folder_is_left_empty(tmp_path):
    check_new_run(tmp_path)
    require_writable(tmp_path / "a" / "b")
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a" / "b") == []


@pytest.mark.parametrize("trace", ["summary.json", "checkpoints/step-00000003"])
def test_folder_with_a_run_is_refused_and_resume_is_suggested(trace, tmp_path):
    (tmp_path / trace).parent.mkdir(exist_ok=True)
    (tmp_path / trace).touch()
    with pytest.raises(ConfigError, match=rf"{tmp_path} holds a run already.*resume={tmp_path}"):
        check_new_run(tmp_path)


@pytest.mark.row(7)
def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=rf"output folder {path} cannot be written"):
            require_writable(path)


@pytest.mark.process
@pytest.mark.row(7)
@pytest.mark.parametrize("options", ["ro", "size=1m,nr_inodes=1"], ids=["read-only", "full"])
def test_a_folder_that_takes_no_file_is_refused(options, tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    try:
        with pytest.raises(ConfigError, match=rf"output folder {tmp_path} cannot be written .*hydra\.run\.dir"):
            require_writable(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# --- the summary

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=12,
)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(), JSON))
def test_a_summary_is_strict_json_whatever_the_numbers(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("run")
    write_summary(folder, {"status": "completed", **content})
    text = (folder / "summary.json").read_text(encoding="utf-8")
    back = json.loads(text, parse_constant=refuse)
    assert next(iter(back)) == "schema_version"
    assert read_any_summary(folder) == back if content.get("schema_version", 1) == 1 else True


def test_numbers_that_are_not_finite_become_null_at_any_depth(tmp_path):
    content = {"metrics": {"val/loss": math.nan, "ok": 1.5}, "list": [math.inf, (1, -math.inf)], "n": None}
    write_summary(tmp_path, content)
    expected = {"metrics": {"val/loss": None, "ok": 1.5}, "list": [None, [1, None]], "n": None}
    assert read_any_summary(tmp_path) == {"schema_version": SUMMARY_SCHEMA, **expected}


def test_a_summary_keeps_floats_to_the_bit(tmp_path):
    write_summary(tmp_path, {"value": 0.1 + 0.2})
    assert read_any_summary(tmp_path)["value"] == 0.1 + 0.2
    assert "diverged" in STATUSES


def test_a_folder_that_is_not_a_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match=rf"{tmp_path} is not a run: it holds no summary\.json\. Give"):
        read_summary(tmp_path)
    with pytest.raises(ConfigError, match=r"nowhere is not a run: there is no such folder"):
        read_summary(tmp_path / "nowhere")
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("[]")
    with pytest.raises(ConfigError, match=rf"was killed.*Go on with: effbench train resume={tmp_path}$"):
        read_summary(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema_version": 1', b"\xff\xfe"])
def test_a_summary_that_is_not_json_is_named(content, tmp_path):
    (tmp_path / "summary.json").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{tmp_path / 'summary.json'} is not valid JSON"):
        read_summary(tmp_path)


@pytest.mark.parametrize("content", ["[]", "3", "null", "{}", '{"schema_version": "1"}', '{"schema_version": 0}'])
def test_a_summary_without_a_schema_version_is_refused(content, tmp_path):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(ConfigError, match=r"summary\.json: schema_version must be 1; got "):
        read_summary(tmp_path)


# --- the metrics

COLUMNS = ["row", "epoch", "step", "train/loss", "lr/a,b"]


def log(folder: Path, steps: list[int]) -> None:
    file = MetricsFile(folder / "metrics.csv", COLUMNS)
    for step in steps:
        file.row({"row": "step", "epoch": 0, "step": step, "lr/a,b": step / 3, "other": 1})
    file.close()


def test_csv_rows_have_all_columns_and_empty_cells_if_not_logged(tmp_path):
    log(tmp_path, [1, 2])
    rows = read_metrics(tmp_path)
    assert list(rows[0]) == COLUMNS
    assert rows[1] == {"row": "step", "epoch": "0", "step": "2", "train/loss": "", "lr/a,b": "0.66666667"}


def test_a_row_can_be_read_as_soon_as_it_is_logged(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv", COLUMNS)
    file.row({"step": 1})
    assert [row["step"] for row in read_metrics(tmp_path)] == ["1"]
    file.close()


def test_a_resumed_log_appends_below_one_header(tmp_path):
    log(tmp_path, [1, 2])
    log(tmp_path, [3])
    assert [row["step"] for row in read_metrics(tmp_path)] == ["1", "2", "3"]
    assert (tmp_path / "metrics.csv").read_text().count("train/loss") == 1


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (2, 2), (4, 4), (9, 4)])
def test_resume_drops_rows_after_checkpoint_and_keeps_the_others(step, kept, tmp_path):
    log(tmp_path, [1, 2, 3, 4])
    lines = (tmp_path / "metrics.csv").read_bytes().splitlines(keepends=True)
    keep_rows_up_to(tmp_path / "metrics.csv", step)
    assert (tmp_path / "metrics.csv").read_bytes() == b"".join(lines[: kept + 1])


def test_resume_drops_the_row_of_an_epoch_open_in_the_checkpoint(tmp_path):
    """Interrupted at an epoch's last step, resumed, killed in the save that follows the epoch's row."""
    path = tmp_path / "metrics.csv"
    text = "row,step,val/loss\nstep,5,\nepoch,5,1\nstep,10,\nepoch,10,2\n"
    for epoch_ended, kept in ((True, 5), (False, 4)):
        path.write_text(text)
        keep_rows_up_to(path, 10, epoch_ended)
        assert path.read_text() == "".join(text.splitlines(keepends=True)[:kept])


def test_dropping_rows_of_an_empty_or_missing_log_is_a_no_op(tmp_path):
    keep_rows_up_to(tmp_path / "metrics.csv", 3)
    assert names(tmp_path) == []
    log(tmp_path, [])
    before = (tmp_path / "metrics.csv").read_bytes()
    keep_rows_up_to(tmp_path / "metrics.csv", 3)
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_resume_drops_a_truncated_row_at_any_cut(tmp_path):
    log(tmp_path, [1, 2])
    path = tmp_path / "metrics.csv"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        keep_rows_up_to(path, 9)
        complete = [line for n, line in enumerate(lines) if cut >= len(b"".join(lines[: n + 1]))]
        assert path.read_bytes() == b"".join(complete), whole[:cut]
        log(tmp_path, [7])
        assert [row["step"] for row in read_metrics(tmp_path)] == [*["1", "2"][: max(len(complete) - 1, 0)], "7"]


@pytest.mark.row(6)
def test_a_full_disk_ends_the_log_but_not_the_run(tmp_path, capfd):
    file = MetricsFile(tmp_path / "metrics.csv", COLUMNS)
    with largest_file(4000):
        for step in range(1000):
            file.row({"step": step})
        file.close()
    said = capfd.readouterr().err
    assert said == f"warning: {tmp_path / 'metrics.csv'} is no longer written: File too large; training continues\n"
    keep_rows_up_to(tmp_path / "metrics.csv", 10**6)
    steps = [int(row["step"]) for row in read_metrics(tmp_path)]
    assert steps == list(range(len(steps)))
    assert len(steps) > 100


@pytest.mark.row(6)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_full_from_the_start_ends_the_log_but_not_the_run(capfd):
    file = MetricsFile(Path("/dev/full"), COLUMNS)
    file.row({"step": 1})
    file.close()
    said = capfd.readouterr().err
    assert said == "warning: /dev/full is no longer written: No space left on device; training continues\n"
