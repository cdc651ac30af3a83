"""The record of a run: its folder, atomically written files, and the summary that reports read.

config.yaml     metrics.csv     summary.json     checkpoints/     curves.png     .hydra/
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import logging
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from effbench.cache_dir import is_file, is_folder, is_there
from effbench.disk import move, require_moves, sync, sync_folder
from effbench.errors import ConfigError, EffbenchError
from effbench.guarded import METRICS_BYTES, MissingFileError, checked_version, read_bytes, read_text
from effbench.redaction import redact, redact_environment
from effbench.strict_json import json_text
from effbench.summary_schema import check_plain, complaints, without_large_values, wrong_fields
from effbench.units import human_bytes

log = logging.getLogger(__name__)

SUMMARY_SCHEMA = 1
FINISHED = ("completed", "stopped_early")  # statuses of a run that trained to its end and was tested
STATUSES = (*FINISHED, "interrupted", "diverged", "failed")
STUDY_FILE = "study.json"  # the frozen plan of a study, in its folder
RUN_FOLDER = "hydra.run.dir=DIR"  # sets another run folder; for remedies in messages
_LONGEST_NAME = 200  # bytes of a file's name; file systems take 255, and a temporary one has 25 more


class NoSpaceError(EffbenchError):
    """The disk is full, or a quota or size limit is reached."""


@contextmanager
def replacing(path: Path, needed_bytes: int | None = None, elsewhere: str = RUN_FOLDER) -> Iterator[IO[bytes]]:
    """Open a temporary binary file that replaces `path` at the end of the block.

    It is written, fsynced and renamed, and the folder is fsynced. Its `name` is the temporary path. After an error the
    old file stays.

    Args:
        path: the file to replace.
        needed_bytes: size of the content, for the message.
        elsewhere: the option that sets another place, for the message.

    Raises:
        NoSpaceError: the disk is full.
        EffbenchError: writing is not permitted.
    """
    # in the same folder: a rename across file systems is not atomic
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with naming_disk_faults(path, needed_bytes, elsewhere), temporary.open("wb") as stream:
            yield stream
            stream.flush()
            # before the rename: else a power cut could leave the new name with an empty file
            sync(stream.fileno())
        with naming_disk_faults(path, needed_bytes, elsewhere):
            move(temporary, path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming_disk_faults(path: Path, needed_bytes: int | None = None, elsewhere: str = RUN_FOLDER) -> Iterator[None]:
    """Turn 'disk full' and 'not permitted' into errors with the path, the needed and the free space.

    Args:
        path: the file.
        needed_bytes: size of the content, for the message.
        elsewhere: the option that sets another place, for the message.

    Raises:
        NoSpaceError: the disk is full.
        EffbenchError: writing is not permitted.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO):
            why = f"{path} cannot be written ({error.strerror})"
            raise EffbenchError(f"{why}. Earlier files are kept.") from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        # the folder, because the file may not exist yet
        free = human_bytes(shutil.disk_usage(path.parent).free)
        need = f", needs {human_bytes(needed_bytes)}" if needed_bytes else ""
        raise NoSpaceError(
            f"no space at {path}{need}; {free} free ({error.strerror}). Earlier files are kept. Free some space, "
            f"or write to another place with {elsewhere}."
        ) from error


@contextmanager
def naming_place(option: str) -> Iterator[None]:
    """Name the option of the verb that writes runs where their errors name RUN_FOLDER, which it may refuse."""
    try:
        yield
    except EffbenchError as error:
        if RUN_FOLDER in str(error):
            error.args = (str(error).replace(RUN_FOLDER, option),)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text atomically; values of secret environment variables become ***."""
    with replacing(path) as stream:
        stream.write(_encoded(text))


def _encoded(text: str) -> bytes:
    return redact_environment(text).encode("utf-8", errors="backslashreplace")


@contextmanager
def writing_output(path: Path, elsewhere: str = "output=FILE") -> Iterator[IO[bytes]]:
    """Open an output file that the user named.

    Like `replacing`, but a link stays and its target is replaced, and a pipe or a device is written to directly. Not
    for files in a run folder: an untrusted folder may contain links to private files.
    """
    if not _is_written_through(path):
        with replacing(Path(os.path.realpath(path)), elsewhere=elsewhere) as stream:
            yield stream
        return
    own = _DESCRIPTOR.fullmatch(os.path.abspath(path))  # noqa: PTH100 - resolved, /dev/stdout is another
    try:
        with naming_disk_faults(path, elsewhere=elsewhere):
            if own:  # a descriptor of this process is duplicated: opening it again would truncate its file
                number = own[1] or {"stdin": "0", "stdout": "1", "stderr": "2"}[own[2]]
                opened: IO[bytes] = os.fdopen(os.dup(int(number)), "wb", buffering=0)
            else:
                opened = path.open("wb", buffering=0)
            with opened:
                yield opened
    except OSError as error:
        raise EffbenchError(f"{path} cannot be written ({error.strerror}).") from error


def write_output(path: Path, text: str, elsewhere: str = "output=FILE", redacted: bool = False) -> None:
    """Write a text to an output file of the user; secrets become ***.

    Args:
        path: the file.
        text: its content.
        elsewhere: the option that sets another path, for messages.
        redacted: True if the text contains no secrets any more.

    Raises:
        EffbenchError: it cannot be written.
    """
    # an unbuffered stream may take only a part of it
    content = memoryview(text.encode("utf-8", errors="backslashreplace") if redacted else _encoded(text))
    with writing_output(path, elsewhere) as stream:
        while content:
            content = content[stream.write(content) :]


_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/(?:fd/(\d+)|(stdin|stdout|stderr))", re.ASCII)


def _is_written_through(path: Path) -> bool:
    """Return True for a pipe, a device or an open file (/dev/stdout), which cannot be replaced by a rename."""
    if os.path.abspath(path).startswith(("/dev/", "/proc/")):  # noqa: PTH100 - resolved, /dev/stdout is another
        return not is_folder(path)
    return is_there(path) and not is_file(path) and not is_folder(path)


RECORD_FILES = frozenset(("config.yaml", "metrics.csv", "summary.json"))


def output_problem(path: Path) -> str | None:
    """Return why the user's `path` cannot be an output, or None."""
    if is_folder(path) or not path.name:
        return "it is a folder"
    if len(path.name.encode(errors="backslashreplace")) > _LONGEST_NAME:
        return f"its name is longer than {_LONGEST_NAME} bytes"
    if _is_written_through(path):
        return None if os.access(path, os.W_OK) else "it may not be written to"
    # a mistyped output= must not destroy a result
    if path.name in RECORD_FILES and is_file(path.parent / "summary.json"):
        return "it is a file of a run's record"
    # a link is followed: its target is written
    folder = Path(os.path.realpath(path)).parent
    return None if os.access(folder, os.W_OK) else f"{folder} is no folder that can be written to"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as a hex string."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_plain(value: Any) -> str:
    """Return the SHA-256 of a value of plain containers as a hex string."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def check_new_run(folder: Path) -> None:
    """Raise ConfigError if the writable `folder` holds a run already, or its file system cannot hold one."""
    if (folder / "summary.json").exists() or any((folder / "checkpoints").glob("step-*")):
        word = shlex.quote(f"resume={folder}")
        raise ConfigError(f"{folder} holds a run already. Continue it with {word}, or choose another folder.")
    if (folder / "checkpoints").is_dir():  # left by a run that was killed before it saved
        require_writable(folder / "checkpoints")
    try:
        require_moves(folder)
    except OSError as error:
        raise ConfigError(
            f"the output folder {folder} cannot hold a run: its file system does not rename files and folders "
            f"({error.strerror}). Choose another with {RUN_FOLDER}."
        ) from error


def require_writable(folder: Path, elsewhere: str = RUN_FOLDER) -> None:
    """Raise ConfigError if `folder` cannot be created, or no file can be created in it."""
    probe = folder / f".write-test-{os.getpid()}"
    try:
        str(folder).encode("utf-8")  # safetensors accepts only names in UTF-8
        folder.mkdir(parents=True, exist_ok=True)
        probe.unlink(missing_ok=True)  # in an untrusted run it could be a link to a private file
        with probe.open("xb"):
            pass
        probe.unlink()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        name = str(folder).encode("utf-8", "backslashreplace").decode("utf-8")
        raise ConfigError(
            f"the output folder {name} cannot be written ({why}). Choose another with {elsewhere}."
        ) from error


def check_replaceable(paths: Iterable[Path], elsewhere: str) -> None:
    """Raise ConfigError if something that is no file, such as a folder, has one of these names.

    Args:
        paths: of files that will be written after work of minutes.
        elsewhere: the option that sets another place, for the message.
    """
    for path in paths:
        if is_there(path) and not is_file(path):
            raise ConfigError(f"{path} is no file that could be replaced. Choose another folder with {elsewhere}.")


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json, the interface for reports, without secrets. Numbers that are not finite become null."""
    # argv and error messages may hold secrets
    content = redact({"schema_version": SUMMARY_SCHEMA, **summary})
    text = json_text(content)
    write_text(folder / "summary.json", text + "\n")


def read_summary(folder: Path) -> dict[str, Any]:
    """Return summary.json.

    Raises:
        MissingFileError: the folder is not a run.
        ConfigError: the file is damaged, or a value has a wrong type.
    """
    summary = read_any_summary(folder)
    if summary.get("status") is None:
        raise ConfigError(f"{folder / 'summary.json'} is damaged: it has no status.")
    # five are enough to see what happened to the file
    if wrong := list(complaints(wrong_fields(summary))):
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ConfigError(f"{folder / 'summary.json'} is damaged: {', '.join(wrong[:5])}{more}.")
    return summary


def read_any_summary(folder: Path, follow_links: bool = True) -> dict[str, Any]:
    """Return summary.json without a check of its values' types. A metric beyond 1e100 is null, like one of NaN.

    Raises:
        MissingFileError: the folder is not a run.
        ConfigError: the file is not valid JSON, or has another schema version.
    """
    path = folder / "summary.json"
    try:
        summary = json.loads(read_bytes(path, follow_links=follow_links).decode("utf-8"))
        check_plain(summary)
    except MissingFileError as error:
        if is_file(folder / ".hydra" / "overrides.yaml"):
            raise MissingFileError(
                f"{folder} is a run that is not finished, or was killed: it holds no summary.json yet. "
                f"Go on with: effbench train {shlex.quote(f'resume={folder}')}"
            ) from error
        if folder.is_file():
            why = "it is a file. An exported file is taken by eval, predict and bench."
        else:
            why = "it holds no summary.json." if folder.is_dir() else "there is no such folder."
        raise MissingFileError(f"{folder} is not a run: {why} Give a folder that train wrote.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON ({error}).") from error
    # an unknown version is refused: fields could have another meaning
    checked_version(summary.get("schema_version") if isinstance(summary, dict) else None, SUMMARY_SCHEMA, str(path))
    without_large_values(summary)
    return dict(summary)


class MetricsFile:
    """metrics.csv: one row a logged step or epoch, flushed at once. A full disk ends this file, not the run.

    An existing file is continued; columns that it lacks are added to it.
    """

    def __init__(self, path: Path, columns: Sequence[str]):
        self._path = path
        if path.is_symlink():  # in an untrusted run it could lead to a private file
            path.unlink()
        self._columns = _with_columns(path, columns) if path.is_file() else list(columns)
        self._stream: IO[str] | None = path.open("a", newline="", encoding="utf-8")
        if self._stream.tell() == 0:
            self._emit([redact_environment(column) for column in self._columns])

    def row(self, values: Mapping[str, Any]) -> None:
        """Write a row; missing columns stay empty. Numbers get eight significant digits."""
        found = [values.get(column) for column in self._columns]
        self._emit(
            ["" if value is None else f"{value:.8g}" if isinstance(value, float) else str(value) for value in found]
        )

    def _emit(self, cells: Sequence[str]) -> None:
        if self._stream is None:
            return
        try:
            csv.writer(self._stream).writerow(cells)
            self._stream.flush()  # a row is visible at once, and a kill loses none
        except OSError as error:
            log.warning(f"{self._path} is no longer written: {error.strerror}; training continues")
            # training goes on: its result and its checkpoints may still fit
            stream, self._stream = self._stream, None
            with suppress(OSError):  # the rest of its buffer cannot be written either
                stream.close()

    def sync(self) -> None:
        """Make the rows durable."""
        if self._stream is not None:
            with suppress(OSError):  # a pipe; or a full disk, which the next row reports
                sync(self._stream.fileno())

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def _with_columns(path: Path, columns: Sequence[str]) -> list[str]:
    """Add the columns that a metrics.csv lacks, with empty cells; return all columns in the order of the file."""
    rows = list(csv.reader(io.StringIO(read_text(path, METRICS_BYTES), newline="")))
    if not rows:
        return list(columns)
    # names are redacted before they are compared, as they are in the file
    missing = [column for column in columns if redact_environment(column) not in rows[0]]
    if missing:
        text = io.StringIO(newline="")
        written = csv.writer(text)
        written.writerow([*rows[0], *map(redact_environment, missing)])
        written.writerows([*row, *[""] * len(missing)] for row in rows[1:])
        with replacing(path) as stream:
            stream.write(text.getvalue().encode("utf-8"))
    named = {redact_environment(column): column for column in columns}
    return [*(named.get(cell, cell) for cell in rows[0]), *missing]


def keep_rows_up_to(path: Path, step: int, epoch_ended: bool = True) -> None:
    """Remove rows that an interrupted run logged after its checkpoint, and a line that a kill cut short.

    Args:
        path: metrics.csv.
        step: step of the checkpoint.
        epoch_ended: True if the checkpoint was saved after the row of an epoch that ended at `step`.

    Raises:
        ConfigError: a line was not written by a run.
    """
    try:
        content = read_bytes(path, METRICS_BYTES)
    except MissingFileError:
        return
    # a line without its end was cut short by a kill
    header, *rows = [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")] or [b""]
    kept = []
    try:
        columns = _cells(header) if header else []
        for line in rows:
            row = dict(zip(columns, _cells(line), strict=False))
            # the epoch row of this step comes after the checkpoint, if that was saved within the epoch
            late = row["step"] == str(step) and row.get("row") == "epoch" and not epoch_ended
            if int(row["step"]) <= step and not late:
                kept.append(line)
    except (KeyError, ValueError, StopIteration, csv.Error) as error:
        raise ConfigError(
            f"{path} holds a line that no run writes ({error!r}): repair the file, or move it away."
        ) from error
    with replacing(path) as stream:
        stream.write(header + b"".join(kept))


def _cells(line: bytes) -> list[str]:
    return next(csv.reader([line.decode("utf-8")]))


def read_metrics(folder: Path, follow_links: bool = True) -> list[dict[str, str]]:
    """Return the rows of metrics.csv as text; values that were not logged are empty."""
    text = read_text(folder / "metrics.csv", METRICS_BYTES, follow_links)
    return list(csv.DictReader(io.StringIO(text, newline="")))
