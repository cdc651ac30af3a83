"""The arms take turns: forwards and backwards, in every round, and one that fails does not stop the others.

White-box: `_LIMIT_S`, the time for an answer, is half an hour.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from effbench.bench import measure as measuring
from effbench.bench import processes
from effbench.bench.measure import TURNS, Arm, measure
from effbench.bench.options import BenchOptions
from effbench.bench.processes import ArmError, ArmProcess

NAMES = ("a", "b", "c")


class FakeProcess:
    """Writes down what it is asked; a process of the arm in `failing` fails at its n-th question, if of `only`."""

    asked: ClassVar[list[str]] = []
    failing: ClassVar[dict[str, int]] = {}
    only: ClassVar[str] = ""  # end of the name of the batch
    living: ClassVar[set[str]] = set()

    def __init__(self, job: Mapping[str, Any], folder: Path, threads: int):
        del folder
        self.name, self.questions, self.job = Path(job["file"]).name, 0, job
        assert (threads, job["threads"]) == (2, 2)
        self.living.add(self.name)

    def ask(self, question: str = "load") -> dict[str, Any]:
        self.asked.append(f"{question} {self.name}")
        self.questions += 1
        if self.questions == self.failing.get(self.name) and self.job["samples"].endswith(self.only):
            raise ArmError("it broke")
        return {"load_s": 1.0} if question == "load" else {"calls_s": [1.0]}

    def close(self) -> None:
        self.living.discard(self.name)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(measuring, "ArmProcess", FakeProcess)
    monkeypatch.setattr(measuring, "calibration_s", lambda: 1.0)
    monkeypatch.setattr(FakeProcess, "asked", [])
    monkeypatch.setattr(FakeProcess, "failing", {})
    monkeypatch.setattr(FakeProcess, "only", "")
    return FakeProcess.asked


def measured(rounds: int, sizes: tuple[int, ...] = (1,)) -> list[Arm]:
    arms = [Arm(name, "eager", Path(name)) for name in NAMES]
    options = BenchOptions(rounds=rounds, threads=2, batch_sizes=sizes)
    measure(arms, {size: Path(f"batch-{size}.npy") for size in sizes}, options, Path())
    assert FakeProcess.living == set()
    return arms


def turns(asked: list[str], question: str) -> list[str]:
    """Names in the order in which they were asked, a text of three a turn."""
    names = "".join(each.removeprefix(f"{question} ") for each in asked if each.startswith(question))
    return [names[start : start + len(NAMES)] for start in range(0, len(names), len(NAMES))]


def test_arms_take_turns_and_every_second_one_is_backwards(asked: list[str]) -> None:
    arms = measured(rounds=3)
    # also every second round: an arm does not always follow the same one
    assert turns(asked, "load") == ["abc", "cba", "abc"]
    forwards, backwards = ["abc", "cba"] * 2 + ["abc"], ["cba", "abc"] * 2 + ["cba"]
    assert len(forwards) == TURNS
    assert turns(asked, "go") == [*forwards, *backwards, *forwards]
    assert turns(asked, "end") == ["abc", "cba", "abc"]
    for arm in arms:
        assert [process["round"] for process in arm.processes] == [0, 1, 2]
        assert all(len(process["turns"]) == TURNS for process in arm.processes)


def test_each_batch_size_has_processes_of_its_own(asked: list[str]) -> None:
    arms = measured(rounds=3, sizes=(1, 8))
    assert [(each["round"], each["batch_size"]) for each in arms[0].processes] == [
        (number, size) for number in range(3) for size in (1, 8)
    ]
    assert turns(asked, "load") == ["abc", "abc", "cba", "cba", "abc", "abc"]


@pytest.mark.parametrize(("question", "left"), [(1, "load"), (3, "go"), (TURNS + 2, "end")])
def test_an_arm_that_fails_does_not_stop_the_others(question: int, left: str, asked: list[str]) -> None:
    FakeProcess.failing["b"] = question
    arms = measured(rounds=3)
    assert [arm.failed for arm in arms] == ["", "it broke", ""]
    assert [len(arm.processes) for arm in arms] == [3, 0, 3]
    assert all(len(process["turns"]) == TURNS for arm in arms for process in arm.processes)
    # no question after its failure, also in later rounds
    assert [each for each in asked if each.endswith("b")][-1] == f"{left} b"
    assert sum(each.endswith("b") for each in asked) == question


@pytest.mark.parametrize("question", [1, 3, TURNS + 2])
def test_a_failure_at_one_batch_size_keeps_the_others(question: int, asked: list[str]) -> None:
    FakeProcess.failing["b"], FakeProcess.only = question, "batch-8.npy"
    arms = measured(rounds=3, sizes=(1, 8))
    assert [arm.failed for arm in arms] == ["", "", ""]
    assert [arm.outcome() for arm in arms[:2]] == [
        {"status": "ok", "reason": None}, {"status": "ok", "reason": "failed at batch 8: it broke"},
    ]  # fmt: skip
    assert [(each["round"], each["batch_size"]) for each in arms[1].processes] == [(0, 1), (1, 1), (2, 1)]
    assert all(len(process["turns"]) == TURNS for arm in arms for process in arm.processes)
    assert len(arms[0].processes) == len(arms[2].processes) == 6
    # no question with that batch size after its failure
    assert sum(each.endswith("b") for each in asked) == question + 3 * (TURNS + 2)


@pytest.mark.process
def test_a_process_that_does_not_answer_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would compute beside the turns of the others."""
    monkeypatch.setattr(processes, "_LIMIT_S", 0.0)
    process = ArmProcess({}, tmp_path, 1)
    with pytest.raises(ArmError, match="no answer within 0 min"):
        process.ask()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
