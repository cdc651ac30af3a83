"""One thread: these networks are small, and idle OpenMP threads on busy cores made single tests take 15 s."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from effbench.gc_pause import uncollected

with uncollected():  # a third of the import's time
    import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
# The compiled functions and decoded images of tests, kept from run to run, out of the user's own cache.
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parents[1] / ".pytest_cache" / "xdg")
settings.register_profile("effbench", deadline=None)  # an example takes as long as a busy machine takes
settings.load_profile("effbench")


# Minutes together, and few tests: begun first, so that no worker is left alone with them.
LONG = (
    "tests/torture/", "tests/cli/test_export.py", "tests/test_readme.py", "tests/study/test_engine.py", "tests/cli/",
    "tests/cpu/", "tests/security/",
)  # fmt: skip
ONE_UNIT = ("tests/torture/",)  # these share a fixture of a minute across files


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """A file's tests go to one worker, which makes its module fixtures once (--dist loadgroup ignores pytest 9.2)."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return next((unit for unit in ONE_UNIT if path.startswith(unit)), path)

    config.option.loadscopereorder = False  # the order of collection, which is ours
    return ByFile(config, log)


# Fixtures that start processes or train for seconds: every test that uses them is marked `process`.
WITH_PROCESSES = {"exports", "finished", "folders", "sweeps", "torture", "two_epochs", "uninterrupted", "whole"}


def mark_most_cases(items: list[pytest.Item]) -> None:
    """Of a test marked `spread(n)`, n cases in equal distances stay in `make test`; the others become proofs."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("spread"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for found in cases.values():
        [number] = found[0].get_closest_marker("spread").args
        kept = {place * len(found) // number for place in range(number)}
        for place, item in enumerate(found):
            if place not in kept:
                item.add_marker("proof")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; unmarked tests are `unit`; reports say which rows of faults a test tries."""
    items.sort(key=lambda item: next((n for n, path in enumerate(LONG) if item.nodeid.startswith(path)), len(LONG)))
    mark_most_cases(items)
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if WITH_PROCESSES & fixtures:
            item.add_marker("process")
        if "torture" in fixtures:
            item.add_marker("proof")
        if not any(item.get_closest_marker(name) for name in ("process", "slow", "proof")):
            item.add_marker("unit")
        rows = sorted({number for mark in item.iter_markers("row") for number in mark.args})
        if rows:
            item.user_properties.append(("rows", rows))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """No pass over the millions of objects of modules and tests, which stay: now, and later in every few tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True, scope="session")
def compiled() -> None:
    """The compiled functions and the processor's name, before a test that starts no process needs them."""
    from effbench.cpu.library import library

    library()
    platform.platform()  # asks `uname`, once a process


_started: list[str] = []  # processes, by this one


def _note_start(event: str, _: tuple[object, ...]) -> None:
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
        _started.append(event)


sys.addaudithook(_note_start)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A unit test starts no process: `make test-fast` relies on the mark."""
    _started.clear()
    yield
    if _started and item.get_closest_marker("unit"):
        pytest.fail(f"starts a process ({_started[0]}); mark it @pytest.mark.process", pytrace=False)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Before each test, since training in this process sets its own number."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """No curves.png from runs in this process: half of the time of a small one. Session fixtures and processes draw."""
    if "effbench.run.session" in sys.modules:
        monkeypatch.setattr("effbench.run.session.draw_curves", lambda *_: None)


@pytest.fixture(autouse=True)
def no_terminal_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are as wide as without a terminal, whatever the shell or a library has set."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True, scope="session")
def absl_closes_no_stream() -> None:
    """When Hydra sets up logging, absl closes what stderr was at its import: the stream that all tests share."""
    with contextlib.suppress(ImportError):
        from absl import logging as absl_logging

        absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """As it was: `--info` and Hydra's launchers turn logging on, for a process that is theirs."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in list(root.handlers):
        if handler not in handlers and not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
