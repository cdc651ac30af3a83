"""A model in another runtime and in a process of its own: where the runtime crashes, the caller gets an error.

    python -m effbench.export.isolated DESCRIPTOR

is the child. It gets a header and the content of the file, and then arrays, each of which it answers with an array. It
ends where the caller closes the connection or dies. Imports no torch.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.connection import Connection, Pipe
from typing import IO, Any

import numpy as np

from effbench.errors import first_line

Array = np.ndarray[Any, Any]
_SHOWN = 200  # characters of a runtime's message
_TAIL = 1 << 16  # bytes of a log that are looked at


class RuntimeFailedError(RuntimeError):
    """The runtime refused the file or an input, or it crashed."""


class Isolated:
    """The model as a function of an array.

    Args:
        module: its `open_file(content, threads)` returns the function, in the child.
        content: of the file.
        threads: of the runtime.

    Raises:
        RuntimeFailedError: the runtime cannot read the file, or it crashed.
    """

    def __init__(self, module: str, content: bytes, threads: int):
        # a file, not a pipe: a runtime that prints much would wait for a reader
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                # -P: the current folder is not searched for modules; the header has the parent's own list
                [sys.executable, "-P", "-m", "effbench.export.isolated", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
                start_new_session=True,  # Ctrl-C is the caller's, which then ends this process
            )  # fmt: skip
        self._ended = "its process was ended by an interrupt"  # what a later call says
        self._end = weakref.finalize(self, _end, self._process, self._connection, self._log)
        with self._failures(every=True):
            self._ask({"module": module, "threads": threads, "path": [place for place in sys.path if place]}, content)

    def __call__(self, inputs: Array) -> Array:
        """Return the model's outputs.

        Raises:
            RuntimeFailedError: the runtime cannot compute them, or it crashed.
        """
        given = np.ascontiguousarray(inputs)
        with self._failures():
            about = self._ask({"dtype": str(given.dtype), "shape": given.shape}, _bytes(given))
            outputs = np.empty(about["shape"], about["dtype"])
            self._connection.recv_bytes_into(_bytes(outputs))
        return outputs

    def _ask(self, header: dict[str, Any], content: Any) -> dict[str, Any]:
        self._connection.send_bytes(json.dumps(header).encode())
        self._connection.send_bytes(content)
        reply: dict[str, Any] = json.loads(self._connection.recv_bytes())
        if "error" in reply:
            raise RuntimeFailedError(reply["error"])
        return reply

    @contextmanager
    def _failures(self, every: bool = False) -> Iterator[None]:
        """Say how the process ended, if it did. It is also ended where an answer is left in the connection.

        every: end it also where the runtime refused, as it has no model then.
        """
        try:
            yield
        except (EOFError, OSError) as error:
            if self._end.alive:
                self._ended = f"its runtime crashed: {death(self._process, self._log)}"
                self._end()
            raise RuntimeFailedError(self._ended) from error
        except BaseException as error:
            if every or not isinstance(error, RuntimeFailedError):
                self._end()
            raise


def death(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """Return how a process ended, with the last line that it printed.

    Args:
        process: it ends or has ended.
        log: what it printed.
    """
    code = process.wait()
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    # not by seek, which would move the place at which a process that shares the file writes
    start = max(0, os.fstat(log.fileno()).st_size - _TAIL)
    lines = os.pread(log.fileno(), _TAIL, start).decode("utf-8", errors="replace").strip().splitlines()
    return f"its process ended with {how}{f': {lines[-1]:.{_SHOWN}}' if lines else ''}"


def _end(process: subprocess.Popen[bytes], connection: Connection, log: IO[bytes]) -> None:
    connection.close()
    process.kill()
    process.wait()
    log.close()


def _bytes(array: Array) -> memoryview:
    """Return the memory of an array."""
    return array.reshape(-1).view(np.uint8).data


# --- in the child


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    with suppress(EOFError, OSError):  # the caller is gone, or needs no more answers
        _serve(connection)
    sys.stderr.flush()
    os._exit(0)  # threads of a runtime must not keep the process


def _serve(connection: Connection) -> None:
    header, content = json.loads(connection.recv_bytes()), connection.recv_bytes()
    # the parent's, so that the same libraries are found
    sys.path[:] = header["path"]
    try:
        run = import_module(header["module"]).open_file(content, header["threads"])
    except Exception as error:  # noqa: BLE001 - each runtime raises other classes; the caller makes an error of it
        _reply(connection, {"error": _reason(error)})
        return
    _reply(connection, {})
    while True:
        given = json.loads(connection.recv_bytes())
        inputs = np.empty(given["shape"], given["dtype"])
        connection.recv_bytes_into(_bytes(inputs))
        try:
            outputs = np.ascontiguousarray(run(inputs))
        except Exception as error:  # noqa: BLE001 - as above
            _reply(connection, {"error": _reason(error)})
            continue
        _reply(connection, {"dtype": str(outputs.dtype), "shape": outputs.shape})
        connection.send_bytes(_bytes(outputs))


def _reply(connection: Connection, content: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(content).encode())


def _reason(error: BaseException) -> str:
    return first_line(error).rstrip(".")[:_SHOWN]


if __name__ == "__main__":
    main()
