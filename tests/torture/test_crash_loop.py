"""Row 1: runs killed at random, and the comparison that would tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.torture import runs
from tests.torture.conftest import result
from tests.torture.crash_loop import Tally


@pytest.mark.process
@pytest.mark.row(1)
def test_runs_killed_at_random_end_as_if_they_had_not_been(torture: dict[str, Any]) -> None:
    tally = result(torture, "crash_loop")
    assert tally["faults"] == []
    assert (tally["corrupt"], tally["mismatched"], tally["errors"]) == (0, 0, 0)
    assert tally["kills"] == 20
    assert tally["kills_inside_a_save"] >= 5
    assert tally["runs"] > tally["runs_by_resume_auto"] > 0
    assert tally["checkpoints_verified"] > 20
    assert tally["most_steps_lost"] <= 3 + 3 + 1  # a save every 3 steps, written while the next 3 are taken


@pytest.mark.parametrize(
    ("a", "b", "differ"),
    [
        (torch.tensor([1.0]), torch.tensor([1.0]), False),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), False),
        (torch.tensor([0.0]), torch.tensor([-0.0]), True),
        (torch.tensor(1.0), torch.tensor(1.0).nextafter(torch.tensor(2.0)), True),
        (torch.tensor([1]), torch.tensor([1.0]), True),
        (torch.zeros(2, 1), torch.zeros(1, 2), True),
        (torch.arange(6).view(2, 3).t(), torch.arange(6).view(2, 3).t().contiguous(), False),
        (0.0, -0.0, True),
        (float("nan"), float("nan"), False),
        (1, 1.0, True),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}, False),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, True),
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ([1, 2], [1], True),
    ],
)
def test_the_comparison_is_by_bits(a: Any, b: Any, differ: bool) -> None:
    assert bool(list(runs.differences(a, b))) is differ
    assert bool(list(runs.differences(b, a))) is differ


def test_a_folder_that_is_no_checkpoint_is_called_broken(tmp_path: Path) -> None:
    half = tmp_path / "checkpoints" / "step-00000003"
    half.mkdir(parents=True)
    (tmp_path / "checkpoints" / "last").symlink_to("step-00000006")
    assert len(runs.broken(tmp_path)) == 2


def test_a_tally_counts_every_fault_and_reports_the_first() -> None:
    tally = Tally()
    assert tally.clean
    tally.blame("corrupt", [f"{number}" for number in range(30)])
    tally.blame("mismatched", ["one more"])
    assert (tally.corrupt, tally.mismatched, len(tally.faults)) == (30, 1, 20)
    assert not tally.clean


def test_300_kills_without_a_failure_bound_its_rate_at_1_percent() -> None:
    assert runs.rate_bound(300) == pytest.approx(0.01)
    assert pytest.approx(1 - (1 - runs.rate_bound(300)) ** 300, abs=0.001) == 0.95
