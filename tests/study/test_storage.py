"""The ledger: each task is done once, whoever plans it, claims it or dies at it.

White-box: a race between two planners is written by hand.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from effbench.errors import ConfigError
from effbench.study.ledger import Ledger, Task
from effbench.study.storage import JOURNAL, check_answers, opened

pytest.importorskip("optuna")
FORK = multiprocessing.get_context("fork")
TASKS = [Task("tune", "a", index, settings={}) for index in range(6)]


def ledger(folder: Path) -> Ledger:
    return Ledger(opened(None, folder), "s", True, {"a": {}, "b": {}})


def test_two_workers_that_plan_at_once_run_each_task_once(tmp_path: Path) -> None:
    first, second = ledger(tmp_path), ledger(tmp_path)
    first.add(TASKS)
    second.add(TASKS)
    first._enqueue(TASKS[0])  # what a race between them would leave
    taken = []
    while claim := (first if len(taken) % 2 else second).take(TASKS):
        taken.append(claim.task.index)
    assert taken == [0, 1, 2, 3, 4, 5]


def test_an_outcome_is_kept_and_its_task_is_not_taken_again(tmp_path: Path) -> None:
    one = ledger(tmp_path)
    claim = one.take(TASKS[:1])
    assert claim is not None
    one.finish(claim, {"value": 0.5, "status": "completed"})
    two = ledger(tmp_path)
    assert two.outcomes("tune", "a")[0][1] == {"value": 0.5, "status": "completed"}
    assert two.take(TASKS[:1]) is None


def test_a_diverged_run_is_an_outcome_and_not_repeated(tmp_path: Path) -> None:
    one = ledger(tmp_path)
    claim = one.take(TASKS[:1])
    assert claim is not None
    one.finish(claim, {"value": None, "status": "diverged"})
    assert one.take(TASKS[:1]) is None
    assert one.outcomes("tune", "a")[0][1]["status"] == "diverged"


def claim_and_die(folder: Path) -> None:
    assert ledger(folder).take(TASKS[:1]) is not None
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.process
def test_the_task_of_a_killed_worker_is_taken_up_again(tmp_path: Path) -> None:
    process = FORK.Process(target=claim_and_die, args=(tmp_path,))
    process.start()
    process.join()
    one = ledger(tmp_path)
    claim = one.take(TASKS[:1])
    assert claim is not None
    assert claim.task.index == 0
    assert ledger(tmp_path).take(TASKS[:1]) is None  # this worker lives


# another machine; another container of this one, whose pids are not ours
@pytest.mark.parametrize("elsewhere", [{"host": "elsewhere"}, {"processes": "pid:[1]", "pid": 2**22 + 1}])
def test_a_task_of_a_living_worker_elsewhere_is_left_to_it(
    elsewhere: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = ledger(tmp_path), ledger(tmp_path)
    there.workers.own = {**there.workers.own, **elsewhere}
    there.workers.beat()
    assert there.take(TASKS[:1]) is not None
    now = [0.0]
    monkeypatch.setattr("effbench.study.workers.time.monotonic", lambda: now[0])
    assert here.take(TASKS[:1]) is None
    now[0] = 1000.0  # no sign of life for longer than STALE_S
    assert here.take(TASKS[:1]) is not None


def test_a_task_that_is_put_back_counts_the_processes_that_died(tmp_path: Path) -> None:
    one = ledger(tmp_path)
    for attempt in range(3):
        claim = one.take(TASKS[:1])
        assert claim is not None
        assert claim.task.attempt == attempt
        one.put_back(claim, died=True)


def test_a_line_cut_short_in_the_journal_is_removed(tmp_path: Path) -> None:
    one = ledger(tmp_path)
    one.add(TASKS)
    with (tmp_path / JOURNAL).open("ab") as stream:
        stream.write(b'{"op_code": 4, "worker_id"')
    two = ledger(tmp_path)
    claim = two.take(TASKS)
    assert claim is not None
    two.finish(claim, {"value": 1.0})
    assert ledger(tmp_path).outcomes("tune", "a")[0][1] == {"value": 1.0}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqlite:////no/such/folder/x.db", "does not answer"),
        ("nonsense://x", "does not answer"),
    ],
)
def test_a_storage_that_does_not_answer_is_refused(tmp_path: Path, url: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        opened(url, tmp_path)


def test_postgresql_is_reached_by_the_driver_that_is_named() -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    assert sqlalchemy.make_url("postgresql://me@host/x").get_dialect().driver == "psycopg"


def test_a_database_that_is_asked_gets_no_table(tmp_path: Path) -> None:
    check_answers(f"sqlite:///{tmp_path}/s.db")
    assert (tmp_path / "s.db").read_bytes() == b""
    with pytest.raises(ConfigError, match="does not answer"):
        check_answers("sqlite:////no/such/folder/x.db")


def test_a_password_in_the_address_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        opened("nonsense://me:hunter22@host/db", tmp_path)
    assert "hunter22" not in str(refusal.value)


@pytest.mark.slow
def test_a_database_serves_as_storage(tmp_path: Path) -> None:
    def own() -> Ledger:
        storage: Any = opened(f"sqlite:///{tmp_path}/s.db", tmp_path)
        return Ledger(storage, "s", True, {"a": {}})

    one, two = own(), own()
    first, second = one.take(TASKS[:2]), two.take(TASKS[:2])
    assert first is not None
    assert second is not None
    assert (first.task.index, second.task.index) == (0, 1)
    one.finish(first, {"value": 0.25})
    assert two.outcomes("tune", "a")[0][1] == {"value": 0.25}
