"""The processes of the arms, as the coordinator sees them: start, ask, end; a dead one has a reason."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from effbench.bench.worker import KERNELS
from effbench.export.isolated import death

_LIMIT_S = 1800.0  # for one answer: torch.compile takes minutes for a large model


class ArmError(Exception):
    """The arm failed; the text is the reason in its row."""


class ArmProcess:
    """A process of one arm; it works only between a question and its answer.

    Args:
        job: what effbench.bench.worker reads.
        folder: for its log and its caches.
        threads: of its runtime.

    Raises:
        ArmError: it cannot be started.
    """

    def __init__(self, job: Mapping[str, Any], folder: Path, threads: int):
        # a file, not a pipe: a runtime that prints much would wait for a reader
        try:
            self._log: IO[bytes] = (folder / f"log-{time.monotonic_ns()}").open("w+b")
        except OSError as error:
            raise ArmError(f"its log cannot be written: {error.strerror}") from error
        count = str(threads)
        variables = {
            **os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count,
            KERNELS: str(folder / "inductor" / job.get("kernels", "")),
        }  # fmt: skip
        self._process = subprocess.Popen(
            # -P: the current folder is not searched for modules; the job has the parent's own list
            [sys.executable, "-P", "-m", "effbench.bench.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=variables,
            start_new_session=True,  # Ctrl-C is the coordinator's, which then ends this process
        )  # fmt: skip
        self._rest = b""
        # "" at a Python prompt is the current folder, where the modules of the user are
        self._send({**job, "path": [place or str(Path.cwd()) for place in sys.path]})

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def ask(self, question: str = "") -> dict[str, Any]:
        """Return the answer to a question; without one, the next answer.

        Raises:
            ArmError: the arm failed, or its process died or gave no answer in time. It is ended.
        """
        try:
            if question:
                self._send(question)
            answer: dict[str, Any] = json.loads(self._line())
            if "error" in answer:
                raise ArmError(answer["error"])
        except ArmError:
            self.close()  # it may still work, beside the turns of the others
            raise
        return answer

    def close(self) -> None:
        """End the process if it still runs."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with suppress(OSError):  # a full pipe to a dead process
                    stream.close()

    def _send(self, content: Any) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ArmError(death(self._process, self._log)) from error

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        deadline = time.monotonic() + _LIMIT_S
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise ArmError(f"no answer within {_LIMIT_S / 60:.0f} min")
            some = os.read(self._process.stdout.fileno(), 1 << 20)
            if not some:
                raise ArmError(death(self._process, self._log))
            self._rest += some
        line, _, self._rest = self._rest.partition(b"\n")
        return line
