"""Runs in processes of their own, for sweeps and studies: start, pass signals on, wait, record what died.

Processes are forked from this one, which has imported torch but computed nothing: they start fast, and do not share
memory or failures.
"""

from __future__ import annotations

import importlib
import logging
import math
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from effbench.errors import ConfigError, EffbenchError
from effbench.gc_pause import uncollected
from effbench.log import LOGGER, print_above_bar
from effbench.records import read_summary, write_summary
from effbench.run.launch import Composed, composed, train_composed
from effbench.run.lock import holding
from effbench.run.signals import ENDING, Interrupted, handled_signals

log = logging.getLogger(__name__)

IMPORTS = (
    "effbench.run.session", "effbench.models.torchvision_zoo", "effbench.data.images.fashion_mnist", "torch._dynamo",
    "matplotlib.figure", "matplotlib.backends.backend_agg",
)  # fmt: skip

ALIVE_S = 5.0  # between two calls of `alive` while a called function runs

Result = TypeVar("Result")
Stamp = tuple[int, int] | None  # inode and time of a summary.json


def import_for_all_jobs() -> None:
    """Import what every job needs: torch imports its compiler (1.5 s) when the first optimizer is made."""
    with uncollected():
        for name in IMPORTS:
            importlib.import_module(name)


class Relay:
    """Passes signals to the running jobs, each of which has its own process group and gets them only from here."""

    def __init__(self) -> None:
        self.signals: list[int] = []  # received signals that end the work
        self.processes: list[BaseProcess] = []

    def handle(self, number: int, _frame: FrameType | None) -> None:
        # Python calls a handler in the main thread, between two instructions: no lock is needed.
        self.signals.append(number)
        # no more jobs are started; a second signal reaches the running ones, too, and kills them
        for process in self.processes:
            if process.pid is not None and process.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def start(self, process: BaseProcess) -> bool:
        """Start the process unless a signal arrived; signals that arrive meanwhile wait until they can be passed on."""
        with _signals_blocked():
            if self.signals:
                return False
            process.start()
            self.processes.append(process)
        return True

    def interruption(self) -> Interrupted:
        """Return the error that ends the work after the first signal, with the exit code of its name."""
        return Interrupted(signal.Signals(self.signals[0]).name)

    def told_to_end(self, process: BaseProcess) -> bool:
        """Return True if the process ended by a signal that was passed on: it has saved its state, no failure."""
        ends = [code for number in self.signals for code in (-number, 128 + number)]
        return process.exitcode in ends


@contextmanager
def relaying() -> Iterator[Relay]:
    """Pass the signals that end a run to the processes of the relay, for the duration of the block."""
    relay = Relay()
    old = {number: signal.signal(number, relay.handle) for number in handled_signals()}
    try:
        yield relay
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block signals until the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def job_process(
    folder: Path,
    words: Sequence[str],
    whole: Composed | None = None,
    config_dir: str | None = None,
    quiet: bool = False,
) -> BaseProcess:
    """Return the process of one run, not started yet.

    Args:
        folder: of the run; a refusal is recorded there, also one of its resume.
        words: overrides, with hydra.run.dir or resume.
        whole: the composed config of the words, if it is ready.
        config_dir: folder with the user's groups.
        quiet: print neither the result nor lines below errors.
    """
    import_for_all_jobs()
    # fork: the job inherits the imported torch
    arguments = (folder, list(words), whole, config_dir, quiet)
    return multiprocessing.get_context("fork").Process(target=_child, args=arguments)


def _child(folder: Path, words: list[str], whole: Composed | None, config_dir: str | None, quiet: bool) -> None:
    become_job()
    if quiet:
        LOGGER.setLevel(logging.CRITICAL)
    written = stamp(folder)
    try:
        with ExitStack() as block:
            if quiet:
                nowhere = block.enter_context(Path(os.devnull).open("w"))
                block.enter_context(redirect_stdout(nowhere))
            code = train_composed(whole or composed(words, config_dir), config_dir=config_dir)
    except EffbenchError as error:
        log.error(error)
        # refused before it began, or before it went on: its own record does not say so
        record_unrecorded(folder, written, error)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def become_job() -> None:
    """Leave the parent's process group and its signal handlers, and end when it ends; first thing in a fork."""
    os.setpgid(0, 0)  # Ctrl-C reaches a whole process group
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # the parent's handlers are inherited; an ignored signal (nohup) stays ignored
    for number in ENDING[1:]:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    # _signals_blocked blocked them during the fork
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    print_above_bar(None)  # the parent's progress bar is not this one's
    # A job whose parent is killed ends too. It saves first, so that a resumed parent does not find it running.
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def record_failure(folder: Path, error: EffbenchError) -> None:
    """Write a summary for a job that could not write one; what an interrupted session recorded is kept.

    Raises:
        ConfigError: another process uses the folder.
    """
    with holding(folder):
        try:
            before = {**read_summary(folder), "stop_reason": None}
        except ConfigError:  # none, or a damaged one
            before = {"metrics": {}}
        write_summary(folder, {**before, "status": "failed", "error": str(error), "argv": sys.argv})


def record_unrecorded(folder: Path, written: Stamp, error: EffbenchError) -> None:
    """Record a job's failure, unless the job has recorded how it ended, or another process uses its folder.

    Args:
        folder: of the job.
        written: `stamp` of the folder before the job started.
        error: why it failed.
    """
    if not _has_recorded(folder, written):
        with suppress(ConfigError):
            record_failure(folder, error)


def _has_recorded(folder: Path, written: Stamp) -> bool:
    """Return True if summary.json says how a session ended that began after `written`."""
    if stamp(folder) == written:
        return False
    try:
        sessions = read_summary(folder).get("sessions") or []
    except ConfigError:
        return True
    # a resumed session writes a summary when it begins
    return not sessions or sessions[-1].get("status") != "running"


def stamp(folder: Path) -> Stamp:
    """Return what changes when summary.json is written; None without one."""
    try:
        found = (folder / "summary.json").stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns  # it is replaced, never changed in place


def called(
    relay: Relay,
    function: Callable[..., Result],
    *args: Any,
    limit_s: float | None = None,
    alive: Callable[[], None] | None = None,
) -> Result | None:
    """Call a function in a process of its own, so that torch computes nothing in this one.

    Args:
        relay: passes signals on.
        function: its result and its EffbenchErrors come back.
        *args: its arguments.
        limit_s: seconds after which the process is killed; None for no limit.
        alive: called every few seconds in this process while the function runs.

    Returns:
        The result; None if a signal ended it.

    Raises:
        EffbenchError: the function raised it, or its process died or was killed.
    """
    import_for_all_jobs()
    # fork: function and arguments need not be picklable, and torch is imported already.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, args))
    if not relay.start(process):
        return None
    # Now only the child holds the writing end: if it dies, the read below ends with EOFError.
    sender.close()
    try:
        # A process that is forked from one in which torch has computed with threads may wait for them for ever.
        if not _answered(receiver, limit_s, alive):
            process.kill()
    except BaseException:  # `alive` raised
        process.kill()
        process.join()
        relay.processes.remove(process)
        raise
    try:
        # Read before join(): a long answer fills the pipe, and the child would wait for its reader for ever.
        answer = pickle.loads(receiver.recv_bytes())
    except EOFError:
        answer = None
    process.join()
    relay.processes.remove(process)
    if relay.signals:
        return None
    if answer is None:
        raise EffbenchError(f"a process of effbench ended with exit code {process.exitcode}.")
    kind, value = answer
    if kind == "error":
        raise value
    result: Result = value
    return result


def _answered(receiver: Any, limit_s: float | None, alive: Callable[[], None] | None) -> bool:
    """Wait for an answer, or the end of the process that gives it; False if neither came within the limit."""
    if alive is None:
        return bool(receiver.poll(limit_s))
    deadline = math.inf if limit_s is None else time.monotonic() + limit_s
    while (left_s := deadline - time.monotonic()) > 0:
        if receiver.poll(min(left_s, ALIVE_S)):
            return True
        alive()
    return False


def _answer(sender: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    become_job()
    try:
        answer = ("result", function(*args))
    except ConfigError as error:
        # Class and text only: a cause from a user's module may not be picklable.
        answer = ("error", ConfigError(str(error)))
    except EffbenchError as error:
        answer = ("error", EffbenchError(str(error)))
    except KeyboardInterrupt:
        return
    sender.send_bytes(pickle.dumps(answer))
