"""A runtime in a process of its own: arrays come back as they are, and whatever happens there is an error here."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from effbench.export.isolated import Isolated, RuntimeFailedError
from tests.commandline import script
from tests.patience import patience

MODEL = "tests.export.isolated_model"
pytestmark = pytest.mark.process


def ended(pid: int) -> bool:
    """True within some seconds if the process has ended."""
    limit = time.monotonic() + patience(20)
    while time.monotonic() < limit:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and ") Z " in Path(f"/proc/{pid}/stat").read_text():
            return True  # its parent, who must ask for its exit code, is not us
        time.sleep(0.02)
    return False


def test_arrays_of_every_shape_and_type_come_back() -> None:
    double = Isolated(MODEL, b"double", 1)
    for shape in ((2, 3), (1,), (0, 4), (5, 1, 700, 300)):  # the last: 4 MB, more than a pipe holds
        for kind in (np.float32, np.int64):
            given = np.arange(np.prod(shape)).reshape(shape).astype(kind)
            got = double(given)
            assert got.dtype == given.dtype
            np.testing.assert_array_equal(got, given + given)
    given = np.arange(24.0).reshape(4, 6).T[::2]  # not contiguous
    np.testing.assert_array_equal(double(given), given + given)


def test_outputs_may_have_another_shape_than_inputs() -> None:
    given = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(Isolated(MODEL, b"sum", 1)(given), [6, 22, 38])
    assert Isolated(MODEL, b"threads", 3)(given).tolist() == [3, 3, 3]


def test_a_refused_file_is_an_error_with_the_reason() -> None:
    with pytest.raises(RuntimeFailedError, match=r"^no model of mine$"):
        Isolated(MODEL, b"refuse", 1)


def test_a_crash_while_loading_says_the_signal_and_the_last_line() -> None:
    with pytest.raises(RuntimeFailedError, match=r"crashed: .*signal SIGABRT: assertion failed: size > 0$"):
        Isolated(MODEL, b"abort", 1)


def test_a_crash_while_computing_is_an_error_each_time() -> None:
    crashing = Isolated(MODEL, b"crash", 1)
    for _ in range(2):
        with pytest.raises(RuntimeFailedError, match="signal SIGSEGV"):
            crashing(np.zeros((1, 2)))


def test_a_refused_input_leaves_the_model_usable() -> None:
    odd = Isolated(MODEL, b"odd", 1)
    with pytest.raises(RuntimeFailedError, match="an even batch"):
        odd(np.zeros((2, 2)))
    assert odd(np.zeros((3, 2))).shape == (3, 2)


def test_the_process_ends_with_its_model() -> None:
    model = Isolated(MODEL, b"process", 1)
    [pid] = model(np.zeros(1))
    assert pid != os.getpid()
    os.kill(pid, 0)  # it is there
    del model
    gc.collect()
    assert ended(pid)


ORPHAN = """
import os, signal
import numpy as np
from effbench.export.isolated import Isolated

model = Isolated("tests.export.isolated_model", b"process", 1)
[pid] = model(np.zeros(1))
print(pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_process_ends_if_its_caller_is_killed() -> None:
    done = script(ORPHAN, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert ended(int(done.stdout))


@pytest.fixture
def heard() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where a shell started the tests in the background and it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_an_interrupted_call_ends_the_process() -> None:
    """Otherwise the next call would read the answer of this one."""
    sleeping = Isolated(MODEL, b"sleep", 1)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.5, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        sleeping(np.zeros(1))
    with pytest.raises(RuntimeFailedError):
        sleeping(np.zeros(1))
