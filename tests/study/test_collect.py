"""From outcomes to what the page draws: which final runs have a curve, and which predict one class."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from effbench.records import write_summary
from effbench.study.collect import curves_of, outcome_of
from effbench.study.table import curves_from_json


def outcome(status: str, curve: list[list[float]]) -> dict[str, Any]:
    return {"status": status, "curve": curve}


def test_only_runs_with_a_result_have_a_curve() -> None:
    """In the order of their seeds, without values that no figure can show."""
    ended = {
        2: (None, outcome("stopped_early", [[10, 0.4]])),
        0: (None, outcome("completed", [[10, 0.5], [20, math.nan], [30, 1e200], [40, 0.6]])),
        1: (None, outcome("diverged", [[10, 0.3]])),
        3: (None, outcome("failed", [])),
    }
    plan: Any = SimpleNamespace(arms=[SimpleNamespace(name="a"), SimpleNamespace(name="b")])
    ledger: Any = SimpleNamespace(outcomes=lambda phase, arm: ended if (phase, arm) == ("confirm", "a") else {})
    found = curves_of(plan, ledger)
    assert found == {"a": [[(10, 0.5), (40, 0.6)], [(10, 0.4)]], "b": []}
    assert curves_from_json('{"a": [[[10, 0.5], [40, 0.6]], [[10, 0.4]]], "b": []}') == found


@pytest.mark.parametrize(
    ("targets", "predicted", "one_class"),
    [("0120", "1111", True), ("0120", "1112", False), ("1111", "1111", False), ("0", "1", False)],
)
def test_a_run_that_predicts_one_of_several_classes_is_known(
    targets: str, predicted: str, one_class: bool, tmp_path: Path
) -> None:
    lines = [f"{target},{guess},0.9" for target, guess in zip(targets, predicted, strict=True)]
    (tmp_path / "predictions.csv").write_text("\n".join(["target,predicted,probability", *lines]) + "\n")
    write_summary(tmp_path, {"status": "completed", "metrics": {}, "argv": []})
    found = outcome_of(tmp_path, "acc", "run")
    assert (found["samples"], found["one_class"]) == (len(targets), one_class)
