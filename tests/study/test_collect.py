"""From outcomes to what the page draws: which final runs have a curve, and which predict one class."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from effbench.data.images.fashion_mnist import fashion_mnist
from effbench.data.images.image_folder import image_folder
from effbench.data.images.synthetic import synthetic
from effbench.data.rows.breast_cancer import breast_cancer
from effbench.data.rows.synthetic import synthetic_rows
from effbench.data.rows.table_csv import table_csv
from effbench.data.text.text_csv import text_csv
from effbench.records import write_summary
from effbench.study.analysis import analyse
from effbench.study.collect import curves_of, failed_outcome, outcome_of, table_of
from effbench.study.grids import ranking
from effbench.study.ledger import Task
from effbench.study.planning import planned
from effbench.study.table import curves_from_json, table_from_json, table_to_json
from effbench.study.tasks import ledger_of


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


@pytest.mark.proof
@pytest.mark.slow
def test_each_model_has_the_target_of_its_own_baseline(tmp_path: Path) -> None:
    """No swin would reach what a mobilenet does: the study would tell nothing about swin's time to target."""
    pytest.importorskip("optuna")
    words = ["study=smoke", "study.models=[mlp,cnn]", "study.baseline=mlp-adamw", f"study.folder={tmp_path}"]
    plan = planned([*words, "study.optimizers=[sgd,adamw]", "study.trials=1", "study.seeds=8"])
    ledger = ledger_of(plan)
    for arm, value in {"mlp-sgd": 0.8, "mlp-adamw": 0.9, "cnn-sgd": 0.6, "cnn-adamw": 0.5}.items():
        for index in range(3):
            best = value + index / 100
            claim = ledger.take([Task("confirm", arm, index, index + 1)])
            assert claim is not None
            ended = {"status": "completed", "value": best, "test": best, "curve": [[10, value], [20, best]]}
            ledger.finish(claim, {**failed_outcome("", arm), **ended})
    table = table_of(plan, ledger)
    assert (table.target, table.target_source) == (None, "validation")
    assert {arm: table.target_of(arm) for arm in table.targets} == pytest.approx(
        {"mlp-sgd": 0.91, "mlp-adamw": 0.91, "cnn-sgd": 0.51, "cnn-adamw": 0.51}
    )
    steps: dict[str, list[float | None]] = {}
    for run in table.confirmations:
        steps.setdefault(run.arm, []).append(run.steps_to_target)
    assert steps == {
        "mlp-sgd": [None] * 3, "mlp-adamw": [None, 20, 20], "cnn-sgd": [10] * 3, "cnn-adamw": [None, 20, 20],
    }  # fmt: skip
    assert "Target: validation 91.00 % for mlp, 51.00 % for cnn (median best of mlp-adamw and cnn-adamw on " in (
        ranking(table, analyse(table)).lead
    )
    assert table_from_json(table_to_json(table)) == table
    # a study that was frozen before has one target for all
    before = replace(plan, frozen=(plan.digest, replace(plan.rules, target_per_model=False)))
    assert (table_of(before, ledger).target, table_of(before, ledger).targets) == (0.91, {})
    one = planned([*words, "study.optimizers=[sgd,adamw]", "study.trials=1", "study.seeds=8", "study.target=0.7"])
    assert (table_of(one, ledger).target, table_of(one, ledger).target_source) == (0.7, "given")


COMMIT = {"commit": "c" * 40, "dirty": True}


@pytest.mark.parametrize(
    ("summary", "program"),
    [
        ({"git": COMMIT}, "c" * 40 + " (changed)"),  # as older runs were recorded
        ({"git": COMMIT, "program": None}, "effbench 0.1.0"),  # installed; the commit is of the user's notes
        ({"git": COMMIT, "program": {"commit": "d" * 40, "dirty": False}}, "d" * 40),
        ({}, "effbench 0.1.0"),
    ],
)
def test_the_program_of_a_run_is_effbench_not_the_users_folder(
    summary: dict[str, Any], program: str, tmp_path: Path
) -> None:
    write_summary(tmp_path, {"status": "completed", "metrics": {}, "environment": {"effbench": "0.1.0"}, **summary})
    assert outcome_of(tmp_path, "acc", "run")["commit"] == program


def test_an_outcome_keeps_what_tells_data_apart(tmp_path: Path) -> None:
    write_summary(tmp_path, {"status": "completed", "metrics": {}, "data": {"sha256": "ab", "test_split": "drawn"}})
    found = outcome_of(tmp_path, "acc", "run")
    assert (found["data"], found["test_split"]) == ("ab", "drawn")


@pytest.mark.slow
@pytest.mark.parametrize(("test_split", "same"), [("", True), ("drawn", False), ("generated", False), (None, True)])
def test_test_samples_of_other_seeds_are_not_paired(test_split: str | None, same: bool, tmp_path: Path) -> None:
    """Their targets are equal: draws that keep the order of the classes give the same. None: an older outcome."""
    pytest.importorskip("optuna")
    plan = planned(["study=smoke", "study.trials=1", f"study.folder={tmp_path}"])
    ledger = ledger_of(plan)
    for index in range(2):
        claim = ledger.take([Task("confirm", "mlp-sgd", index, index + 1)])
        assert claim is not None
        ended: dict[str, Any] = {"status": "completed", "value": 0.5, "test": 0.5, "curve": [], "targets": "t"}
        ended |= {} if test_split is None else {"test_split": test_split, "data": f"data {index}"}
        ledger.finish(claim, {**failed_outcome("", f"run {index}"), **ended})
    table = table_of(plan, ledger)
    assert (table.same_test_samples, table.test_split) == (same, test_split or "")
    assert [run.data for run in table.confirmations] == ["", ""] if test_split is None else ["data 0", "data 1"]
    assert table_from_json(table_to_json(table)) == table


def text_table(folder: Path, name: str) -> str:
    folder.mkdir(exist_ok=True)
    lines = [f"{kind} {number},{kind}" for number in range(30) for kind in ("up", "down")]
    (folder / name).write_text("\n".join(["text,label", *lines]) + "\n")
    return str(folder / name)


def number_table(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    lines = [f"{number},{kind}" for number in range(30) for kind in ("up", "down")]
    (folder / "numbers.csv").write_text("\n".join(["x,label", *lines]) + "\n")
    return str(folder / "numbers.csv")


def images(folder: Path, *splits: str) -> str:
    for split in splits or ("",):
        for kind in ("a", "b"):
            place = folder / split / kind
            place.mkdir(parents=True)
            for number in range(12):
                Image.new("L", (4, 4), 10 * number + len(split)).save(place / f"{number}.png")
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "read",
    [
        lambda _, seed: breast_cancer(split_seed=seed),
        lambda _, seed: synthetic(split_seed=seed, num_test=32),
        lambda _, seed: synthetic_rows(split_seed=seed, num_test=32),
        lambda _, seed: fashion_mnist(split_seed=seed),
        lambda folder, seed: text_csv(text_table(folder, "all.csv"), split_seed=seed, test_fraction=0.3),
        lambda folder, seed: text_csv(
            text_table(folder, "all.csv"), test_file=text_table(folder, "test.csv"), split_seed=seed
        ),
        lambda folder, seed: table_csv(number_table(folder), split_seed=seed, test_fraction=0.3),
        lambda folder, seed: image_folder(images(folder / f"{seed}"), image_size=4, split_seed=seed, test_fraction=0.3),
        lambda folder, seed: image_folder(images(folder / f"{seed}", "train", "test"), image_size=4, split_seed=seed),
    ],
)  # fmt: skip
def test_data_say_whether_the_test_split_follows_the_seed(read: Any, tmp_path: Path) -> None:
    tests = [read(tmp_path, seed).test for seed in (1, 2)]
    differ = not torch.equal(tests[0].inputs, tests[1].inputs)
    assert bool(read(tmp_path / "again", 3).test_split) == differ
