"""Optuna's storage of a study: by default a journal file in the study's folder, otherwise a database."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from effbench.errors import ConfigError, EffbenchError, MissingExtraError, first_line
from effbench.redaction import redact

log = logging.getLogger(__name__)

JOURNAL = "journal.log"
# For libpq, which without them waits for ever for a host that is gone without a word (switched off, cable pulled):
# seconds until a connection must be made, and 30 + 3 x 10 s of silence after which one is given up.
POSTGRESQL = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


def optuna_library() -> Any:
    """Return Optuna, quiet. Raises MissingExtraError if it is not installed."""
    try:
        # imported here: it takes a second, and is an extra
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
    except ImportError as error:
        raise MissingExtraError("effbench study", "study") from error
    # its log has a line a trial, with an Optuna study's name that means nothing to a user
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # QMCSampler has been "experimental" since version 3.0
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


class FileLock:
    """A lock for the journal that the system releases when its process ends; it also removes a line cut short.

    Optuna's own lock files outlive a killed process, and a half-written line (full disk, kill) spoils the journal.
    """

    def __init__(self, journal: Path):
        # a file beside the journal: POSIX releases a lock when any descriptor of the file is closed, and Optuna opens
        # and closes the journal at each step
        self._journal, self._path = journal, journal.with_name(f"{journal.name}.lock")
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        import fcntl  # here, because Windows has none

        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        # Optuna acquires the lock before it appends, and only then: nobody else is writing the line.
        self._remove_half_line()
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _remove_half_line(self) -> None:
        """Cut the journal after its last end of line.

        Readers skip a half line at the end, but another line after it would make Optuna refuse the whole journal.
        """
        try:
            with self._journal.open("r+b") as stream:
                size = stream.seek(0, os.SEEK_END)
                end = size
                # backwards in blocks: the journal of a large study need not be read whole at each step
                while end:
                    start = max(0, end - 4096)
                    stream.seek(start)
                    found = stream.read(end - start).rfind(b"\n")
                    if found >= 0:
                        end = start + found + 1
                        break
                    end = start
                if end < size:
                    log.warning(f"{self._journal}: the last line was cut short and is removed; its step is done again")
                    stream.truncate(end)
        except FileNotFoundError:
            return


def opened(url: str | None, folder: Path) -> Any:
    """Return the Optuna storage.

    Args:
        url: of a database; None for the journal file.
        folder: of the study.

    Raises:
        ConfigError: the database does not answer, or its driver is missing.
    """
    optuna = optuna_library()
    if url is None:
        backend = optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL), lock_obj=FileLock(folder / JOURNAL))
        with _explained(f"{folder / JOURNAL}"):
            return optuna.storages.JournalStorage(backend)
    with _explained(f"study.storage={redact(url)}"):
        return optuna.storages.RDBStorage(url, engine_kwargs=_engine_options(url))


def check_answers(url: str) -> None:
    """Connect to a database and change nothing. Raises ConfigError if it does not answer, or its driver is missing."""
    optuna_library()  # the extra that brings SQLAlchemy
    import sqlalchemy

    with _explained(f"study.storage={redact(url)}"):
        engine = sqlalchemy.create_engine(url, **_engine_options(url))
        engine.connect().close()
        engine.dispose()


def _engine_options(url: str) -> dict[str, Any]:
    """Return options of SQLAlchemy's create_engine."""
    # pre-ping: a worker asks every few seconds, or not for hours while it measures; a server that was started again
    # meanwhile has closed its connections
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("postgresql"):
        options["connect_args"] = dict(POSTGRESQL)
    return options


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn errors of the storage into one message."""
    try:
        yield
    except EffbenchError:
        raise
    except Exception as error:  # each database driver has exceptions of its own
        text = " ".join(redact(first_line(error)).split())
        missing = isinstance(error, ImportError)
        remedy = (
            "Install its driver (pip install 'psycopg[binary]')."
            if missing
            else (
                "Check that the server runs and that address, user and database are right; or leave study.storage out."
            )
        )
        raise ConfigError(f"{what} does not answer: {type(error).__name__}: {text}. {remedy}") from error


def distributions(record: Mapping[str, Mapping[str, Sequence[Any]]]) -> dict[str, Any]:
    """Return Optuna's distributions of a space's record. Optuna's own tools (dashboard, importances) read them."""
    found = optuna_library().distributions
    made: dict[str, Any] = {}
    for key, line in record.items():
        [(kind, values)] = line.items()
        if kind == "choices":
            made[key] = found.CategoricalDistribution(list(values))
        elif kind == "int":
            made[key] = found.IntDistribution(int(values[0]), int(values[1]))
        else:
            made[key] = found.FloatDistribution(float(values[0]), float(values[1]), log=kind == "log")
    return made
