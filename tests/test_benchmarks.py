"""What the benchmarks' figures rest on: intervals, the control that voids a row, and when measuring may end."""

from __future__ import annotations

import importlib
import pkgutil
import random
import sys
import time

import pytest

import benchmarks.rows
from benchmarks import alternate
from benchmarks.alternate import Arm, is_certain, race, rounds
from benchmarks.figures import Figure, figure, over
from benchmarks.page import _verdict
from effbench.stats import Interval
from tests.racing import STARTUP_S


def test_benchmarks_import_without_peers_or_side_effects(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for peer in ("pytorch_lightning", "accelerate", "timm", "pytorch_optimizer"):
        monkeypatch.setitem(sys.modules, peer, None)
    names = {module.name for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")}
    for name in sorted(name for name in names if "peer" not in name):  # those are run as scripts
        importlib.import_module(name)
    assert len(names) > 40
    assert not list(tmp_path.iterdir())


def noisy(count: int, spread: float, control: float = 1.0) -> list[dict[str, float]]:
    chance = random.Random(0)
    return [
        {"ours": 1.0, "theirs": 2.0, "ours again": control * chance.uniform(1 - spread, 1 + spread)}
        for _ in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(("control", "void"), [(1.0, False), (1.019, False), (1.03, True), (0.97, True)])
def test_a_control_off_by_more_than_two_per_cent_voids_a_figure(control, void):
    found = figure("theirs / ours", noisy(41, 0.001, control), over("theirs", "ours"), ">= 1.9")
    assert (found.void, found.passed) == (void, True)
    assert _verdict(found.as_json()) == ("void; by its interval reached" if void else "reached")
    assert list(found.arms) == ["ours", "theirs"]


@pytest.mark.parametrize(
    ("target", "passed"), [(">= 1.9", True), (">= 1.95", False), ("<= 2.1", True), ("<= 2.0", False), ("", None)]
)
def test_a_target_is_reached_by_the_pessimistic_end(target, passed):
    assert Figure("x", Interval(2.0, 1.9, 2.1, 9), target).passed is passed


@pytest.mark.slow
def test_a_control_is_certain_by_its_scatter_whatever_it_says():
    assert is_certain(noisy(41, 0.01, 1.5))
    assert not is_certain(noisy(41, 0.5, 1.0))
    assert is_certain([{"ours": 1.0}])


@pytest.mark.slow
@pytest.mark.parametrize(("patience", "spread", "processes"), [(1e9, 0.001, 3), (0, 0.5, 3), (1e9, 0.06, 5)])
def test_processes_are_added_until_control_is_certain_or_time_up(patience, spread, processes, monkeypatch):
    made = noisy(1000, spread)
    shares: list[int] = []

    def some(arms: list[Arm], share: int, _: int) -> list[dict[str, float]]:
        shares.append(share)
        assert [arm.name for arm in arms] == (
            ["ours", "theirs", "ours again"] if len(shares) % 2 else ["ours again", "theirs", "ours"]
        )
        return [made.pop() for _ in range(share)]

    monkeypatch.setattr(alternate, "_some_rounds", some)
    monkeypatch.setattr(alternate, "PATIENCE_S", patience)
    found = rounds([Arm("ours", "x:y"), Arm("theirs", "x:y")], 10, 3)
    assert len(found) == sum(shares)
    assert shares[:3] == [3, 3, 4]
    assert len(shares) >= processes if spread == 0.06 else len(shares) == processes


@pytest.mark.process
def test_a_race_counts_running_time_and_not_waiting_time(monkeypatch):
    monkeypatch.setattr(alternate, "SLICE_S", 0.05)
    arms = [Arm(name, "tests.racing:burn", {"seconds": seconds}) for name, seconds in (("ours", 0.5), ("theirs", 1.0))]
    begun = time.monotonic()
    found = race(arms)
    passed = time.monotonic() - begun
    assert list(found) == ["ours", "theirs", "ours again"]
    assert 0.4 + STARTUP_S < found["ours"] < found["theirs"]
    assert found["theirs"] > 0.9 + STARTUP_S
    assert sum(found.values()) - 3 * STARTUP_S < passed


@pytest.mark.process
@pytest.mark.parametrize(("turned", "order"), [(False, ["ours", "ours again"]), (True, ["ours again", "ours"])])
def test_a_race_starts_from_either_end(turned, order, monkeypatch):
    monkeypatch.setattr(alternate, "SLICE_S", 0.05)
    assert list(race([Arm("ours", "tests.racing:burn", {"seconds": 0.1})], turned)) == order


def test_control_only_rounds_count_for_the_control_only():
    alone = [{"ours": 1.0, "ours again": 1.04}] * 5
    found = figure("theirs / ours", noisy(3, 0.0), over("theirs", "ours"), ">= 1.9", alone=alone)
    assert found.void
    assert (found.control.n, found.control.estimate) == (8, 1.04)
    assert (found.value.n, found.value.estimate) == (3, 2.0)
