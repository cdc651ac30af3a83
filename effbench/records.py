"""The record of a run: its folder, files that are whole or not there, and the summary others read.

config.yaml     metrics.csv     summary.json     checkpoints/     curves.png     .hydra/
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import logging
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from effbench.disk import move, require_moves, sync, sync_folder
from effbench.errors import ConfigError, EffbenchError
from effbench.guarded import METRICS_BYTES, MissingFileError, read_bytes, read_text
from effbench.redaction import redact, redact_environment
from effbench.summary_schema import check_plain, complaints, wrong_fields
from effbench.units import human_bytes

log = logging.getLogger(__name__)

SUMMARY_SCHEMA = 1
FINISHED = ("completed", "stopped_early")  # the statuses of a run that trained to its end and was tested
STATUSES = (*FINISHED, "interrupted", "diverged", "failed")
RUN_FOLDER = "hydra.run.dir=DIR"  # what names another place for a run, in a message's remedy


class NoSpaceError(EffbenchError):
    """The disk is full, or a quota or a size limit is reached."""


@contextmanager
def replacing(path: Path, needed_bytes: int | None = None, elsewhere: str = RUN_FOLDER) -> Iterator[IO[bytes]]:
    """A binary file that takes `path`'s place when the block ends well: written, fsynced, renamed, folder fsynced.

    Its `name` is the temporary path. Raises NoSpaceError naming the path and the room needed when the disk is full; the
    old file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with naming_disk_faults(path, needed_bytes, elsewhere), temporary.open("wb") as stream:
            yield stream
            stream.flush()
            sync(stream.fileno())
        with naming_disk_faults(path, needed_bytes, elsewhere):
            move(temporary, path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming_disk_faults(path: Path, needed_bytes: int | None = None, elsewhere: str = RUN_FOLDER) -> Iterator[None]:
    """Turns 'disk full' and 'not permitted' into errors that name the path, what it needs and what is free.

    elsewhere: the option that names another place.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO):
            why = f"{path} cannot be written ({error.strerror})"
            raise EffbenchError(f"{why}. What was saved before is kept.") from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = human_bytes(shutil.disk_usage(path.parent).free)
        need = f", needs {human_bytes(needed_bytes)}" if needed_bytes else ""
        raise NoSpaceError(
            f"no space at {path}{need}; {free} free ({error.strerror}). What was saved before is kept. Make room, "
            f"or write elsewhere with {elsewhere}."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Values of secret environment variables become ***, wherever in the text they stand."""
    with replacing(path) as stream:
        stream.write(_encoded(text))


def _encoded(text: str) -> bytes:
    return redact_environment(text).encode("utf-8", errors="backslashreplace")


@contextmanager
def writing_output(path: Path, elsewhere: str = "output=FILE") -> Iterator[IO[bytes]]:
    """A binary file that the user named: as `replacing`, but a link stays and its file is replaced, and a pipe or a
    device is written to, as a shell does.

    Not for files of a run's folder: a stranger's may hold links to files of the reader's.
    """
    if not _is_written_through(path):
        with replacing(Path(os.path.realpath(path)), elsewhere=elsewhere) as stream:
            yield stream
        return
    try:
        with naming_disk_faults(path, elsewhere=elsewhere), _opened(path) as stream:
            yield stream
    except OSError as error:
        raise EffbenchError(f"{path} cannot be written ({error.strerror}).") from error


def write_output(path: Path, text: str, elsewhere: str = "output=FILE", redacted: bool = False) -> None:
    """As write_text, for a file that the user named. redacted: the text holds no secret any more."""
    content = memoryview(text.encode("utf-8", errors="backslashreplace") if redacted else _encoded(text))
    with writing_output(path, elsewhere) as stream:
        while content:
            content = content[stream.write(content) :]


def _opened(path: Path) -> IO[bytes]:
    """Unbuffered. A descriptor of this process is continued: opened again, its file would be cut to nothing."""
    if named := _DESCRIPTOR.fullmatch(os.path.abspath(path)):  # noqa: PTH100 - resolved, /dev/stdout is another
        number = named[1] or {"stdin": "0", "stdout": "1", "stderr": "2"}[named[2]]
        return os.fdopen(os.dup(int(number)), "wb", buffering=0)
    return path.open("wb", buffering=0)


_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/(?:fd/(\d+)|(stdin|stdout|stderr))", re.ASCII)


def _is_written_through(path: Path) -> bool:
    """Whether it is a pipe, a device or a file that is open already (/dev/stdout), whose place no other may take."""
    if os.path.abspath(path).startswith(("/dev/", "/proc/")):  # noqa: PTH100 - resolved, /dev/stdout is another
        return not path.is_dir()
    return path.exists() and not path.is_file() and not path.is_dir()


def output_problem(path: Path) -> str | None:
    """Why the user's `path` can be no output, or None."""
    if path.is_dir() or not path.name:
        return "it is a folder"
    if _is_written_through(path):
        return None if os.access(path, os.W_OK) else "it may not be written to"
    folder = Path(os.path.realpath(path)).parent
    return None if os.access(folder, os.W_OK) else f"{folder} is no folder that can be written to"


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_new_run(folder: Path) -> None:
    """Raises ConfigError where the writable `folder` holds a run already, or its file system can hold none."""
    if (folder / "summary.json").exists() or any((folder / "checkpoints").glob("step-*")):
        raise ConfigError(f"{folder} holds a run already. Continue it with resume={folder}, or choose another folder.")
    if (folder / "checkpoints").is_dir():  # of a run that was killed before it saved
        require_writable(folder / "checkpoints")
    try:
        require_moves(folder)
    except OSError as error:
        raise ConfigError(
            f"the output folder {folder} cannot hold a run: its file system does not rename files and folders "
            f"({error.strerror}). Choose another with {RUN_FOLDER}."
        ) from error


def require_writable(folder: Path, elsewhere: str = RUN_FOLDER) -> None:
    """Raises ConfigError, before any time is spent, where no file can be made in `folder` or it cannot be made."""
    probe = folder / f".write-test-{os.getpid()}"
    try:
        str(folder).encode("utf-8")  # safetensors writes under no other names
        folder.mkdir(parents=True, exist_ok=True)
        probe.unlink(missing_ok=True)  # a link there, in a stranger's run, would lead to a file of the reader's
        with probe.open("xb"):
            pass
        probe.unlink()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        name = str(folder).encode("utf-8", "backslashreplace").decode("utf-8")
        raise ConfigError(
            f"the output folder {name} cannot be written ({why}). Choose another with {elsewhere}."
        ) from error


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """summary.json: the seam that reports and studies read. No secrets; numbers that are not finite become null."""
    content = redact({"schema_version": SUMMARY_SCHEMA, **summary})
    text = json.dumps(_finite(content), indent=2, allow_nan=False, ensure_ascii=False)
    write_text(folder / "summary.json", text + "\n")


def _no_summary(folder: Path) -> str:
    """What there is in its place."""
    if (folder / ".hydra" / "overrides.yaml").is_file():
        return (
            f"{folder} is a run that has not come to its end, or was killed: it holds no summary.json yet. "
            f"Go on with: effbench train resume={folder}"
        )
    hint = "" if folder.is_dir() else " There is no such folder."
    return f"{folder} is not a run: it holds no summary.json.{hint} Give a folder that train wrote."


def read_summary(folder: Path) -> dict[str, Any]:
    """Raises ConfigError where `folder` is not a run, or its summary is not one: a field of another type too."""
    summary = read_any_summary(folder)
    if wrong := list(complaints(wrong_fields(summary))):
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ConfigError(f"{folder / 'summary.json'} is damaged: {', '.join(wrong[:5])}{more}.")
    return summary


def read_any_summary(folder: Path, follow_links: bool = True) -> dict[str, Any]:
    """As read_summary, with its fields as they are: for whoever looks into each of them."""
    path = folder / "summary.json"
    try:
        summary = json.loads(read_bytes(path, follow_links=follow_links).decode("utf-8"))
        check_plain(summary)
    except MissingFileError as error:
        raise MissingFileError(_no_summary(folder)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON ({error}).") from error
    version = summary.get("schema_version") if isinstance(summary, dict) else None
    if version != SUMMARY_SCHEMA:
        raise ConfigError(f"{path} has schema_version {version!r}; this effbench reads {SUMMARY_SCHEMA}.")
    return dict(summary)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class MetricsFile:
    """metrics.csv: one row a logged step or epoch, flushed at once; a full disk costs the log, not the run."""

    def __init__(self, path: Path, columns: Sequence[str]):
        self._path, self._columns = path, list(columns)
        if path.is_symlink():  # a stranger's run may lead to a file of the reader's by it
            path.unlink()
        self._stream: IO[str] | None = path.open("a", newline="", encoding="utf-8")
        if self._stream.tell() == 0:
            self._emit([redact_environment(column) for column in self._columns])

    def row(self, values: Mapping[str, Any]) -> None:
        self._emit([_cell(values.get(column)) for column in self._columns])

    def _emit(self, cells: Sequence[str]) -> None:
        if self._stream is None:
            return
        try:
            csv.writer(self._stream).writerow(cells)
            self._stream.flush()
        except OSError as error:
            log.warning(f"{self._path} ends here: {error.strerror}; training goes on")
            stream, self._stream = self._stream, None
            with suppress(OSError):  # what is left in its buffer has no room either
                stream.close()

    def sync(self) -> None:
        """Makes the rows durable."""
        if self._stream is not None:
            with suppress(OSError):  # a pipe, or a full disk that the next row will tell of
                sync(self._stream.fileno())

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def keep_rows_up_to(path: Path, step: int, epoch_ended: bool = True) -> None:
    """Drops what an interrupted run logged after the checkpoint it is resumed from, and a line that a kill tore.

    epoch_ended: whether that checkpoint, of `step`, came after the row of an epoch that ended there.
    """
    try:
        content = read_bytes(path, METRICS_BYTES)
    except MissingFileError:
        return
    header, *rows = [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")] or [b""]

    def is_kept(line: bytes) -> bool:
        row = dict(zip(columns, _cells(line), strict=False))
        late = row["step"] == str(step) and row.get("row") == "epoch" and not epoch_ended
        return int(row["step"]) <= step and not late

    try:
        columns = _cells(header) if header else []
        kept = [row for row in rows if is_kept(row)]
    except (KeyError, ValueError, StopIteration, csv.Error) as error:
        raise ConfigError(
            f"{path} holds a line that no run writes ({error!r}): put it right, or move it away."
        ) from error
    with replacing(path) as stream:
        stream.write(header + b"".join(kept))


def _cells(line: bytes) -> list[str]:
    return next(csv.reader([line.decode("utf-8")]))


def read_metrics(folder: Path, follow_links: bool = True) -> list[dict[str, str]]:
    """The rows of metrics.csv as text; cells that were not logged in a row are empty."""
    text = read_text(folder / "metrics.csv", METRICS_BYTES, follow_links)
    return list(csv.DictReader(io.StringIO(text, newline="")))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.8g}" if isinstance(value, float) else str(value)
