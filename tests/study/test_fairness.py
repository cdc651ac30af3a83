"""Planted unfairness is named, a fair study is not."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from effbench.study.fairness import at_edge, objections
from effbench.study.table import Arm, Range
from tests.study.planted import confirmation, cost, study, trial

SPACE = {"lr": Range(1e-4, 1e-1, log=True), "weight_decay": Range(0.0, 0.5), "warmup": Range(0, 10)}
FAIR = {"lr": 3e-3, "weight_decay": 0.0, "warmup": 5}


def fair():
    arms = (Arm("a", space=SPACE), Arm("b", space=SPACE))
    trials = [
        trial(
            arm.name,
            number,
            0.7 - number / 100,
            settings=FAIR | {"lr": 3e-3 + number * 1e-3},
            run=f"t{arm.name}{number}",
        )
        for arm in arms
        for number in range(4)
    ]
    runs = [
        confirmation(arm.name, seed, 0.8 + seed / 1000, settings=FAIR, run=f"c{arm.name}{seed}")
        for arm in arms
        for seed in range(1, 7)
    ]
    return study(
        {"a": [0.8] * 6, "b": [0.8] * 6}, arms=arms, trials=tuple(trials), confirmations=tuple(runs), planned_trials=4,
        target=0.75, target_source="given", costs=(cost("a", 1.0), cost("b", 1.0)),
    )  # fmt: skip


def with_run(table, index, **changes):
    runs = list(table.confirmations)
    runs[index] = dataclasses.replace(runs[index], **changes)
    return dataclasses.replace(table, confirmations=tuple(runs))


def with_settings(table, **settings):
    chosen = FAIR | settings
    trials = [
        dataclasses.replace(each, settings=chosen) if each.arm == "a" and each.number == 0 else each
        for each in table.trials
    ]
    runs = [dataclasses.replace(each, settings=chosen) if each.arm == "a" else each for each in table.confirmations]
    return dataclasses.replace(table, trials=tuple(trials), confirmations=tuple(runs))


UNFAIR = {
    "unequal seeds": (lambda t: dataclasses.replace(t, confirmations=t.confirmations[:-1]), "b lacks seed 6"),
    "seeds not fresh": (lambda t: with_run(t, 0, seed=0), "use seed 0"),
    "too few seeds": (lambda t: dataclasses.replace(t, planned_seeds=(1, 2, 3, 4, 5)), "5 seeds give .* 0.0625"),
    "unequal tuning": (
        lambda t: dataclasses.replace(t, trials=(*t.trials, trial("a", 4, 0.1))), "a has 5 tuning runs, more than the 4"
    ),
    "target chosen on test": (
        lambda t: dataclasses.replace(t, target_source="test"), "target 75.00 % comes from test"
    ),
    "mixed commits": (lambda t: with_run(t, 3, commit="bad"), "2 commits: c0ffee .19 runs., bad .1 run."),
    "mixed machines": (lambda t: with_run(t, 3, machine="two"), "2 machines"),
    "run repeated": (
        lambda t: dataclasses.replace(t, confirmations=(*t.confirmations, confirmation("a", 1, 0.9, settings=FAIR))),
        "a has 2 final runs with seed 1",
    ),
    "settings changed": (lambda t: with_run(t, 1, settings=FAIR | {"lr": 0.01}), "runs of a have different settings"),
    "setting not from tuning": (
        lambda t: dataclasses.replace(t, trials=(*t.trials[1:], trial("a", 9, 0.9, settings=FAIR | {"lr": 0.02}))),
        "The final runs of a have lr=0.003",
    ),
    "unequal budget": (lambda t: with_run(t, 2, epochs=8.0), "Runs of a did not train for 4 epochs"),
    "contaminated measurement": (
        lambda t: dataclasses.replace(t, costs=(cost("a", 1.0, contaminated=True),)), "the cost of a"
    ),
    "setting at the edge": (lambda t: with_settings(t, lr=0.09), "lr of a .0.09 in .0.0001, 0.1.. is at the upper"),
}  # fmt: skip


def test_a_fair_study_has_no_objection():
    assert objections(fair()) == []


@pytest.mark.parametrize("kind", UNFAIR)
def test_planted_unfairness_is_named(kind):
    change, text = UNFAIR[kind]
    found = [each for each in objections(change(fair())) if each.kind == kind]
    assert found
    assert any(re.search(text, each.sentence) for each in found)


def test_a_typed_target_that_is_a_test_result_is_named():
    table = dataclasses.replace(fair(), target=0.8035)
    for index in range(3, 6):
        table = with_run(table, index, validation=0.7)
    assert [each.kind for each in objections(table)] == ["target chosen on test"]
    tuned_on_validation = dataclasses.replace(fair(), target=0.8035)
    assert objections(tuned_on_validation) == []


def test_one_folder_for_two_runs_is_named():
    table = with_run(fair(), 1, run="ca1")
    assert [(each.kind, each.arms) for each in objections(table)] == [("run repeated", ("a",))]


def test_two_seeds_right_on_the_same_samples_are_named():
    bits = tuple(index % 5 != 0 for index in range(100))
    table = with_run(with_run(fair(), 0, correct=bits, validation=0.8), 1, correct=bits, validation=0.8)
    (found,) = objections(table)
    assert found.sentence == "a is right on the same test samples with seeds 1 and 2."


def test_arms_that_differ_in_nothing_are_named():
    """A plateau schedule with a patience of two validations is a constant one in a run of two."""
    table, chance = fair(), np.random.default_rng(3)
    own = [tuple(bool(bit) for bit in chance.integers(0, 2, 100)) for _ in range(6)]
    for index in range(12):
        table = with_run(table, index, correct=own[index % 6], validation=0.8)
    (found,) = objections(table)
    assert (found.kind, found.arms) == ("arms without difference", ("a", "b"))
    assert objections(with_run(table, 11, correct=tuple(not bit for bit in own[5]), validation=0.8)) == []
    assert objections(with_run(table, 11, correct=own[5], validation=0.81)) == []
    assert objections(dataclasses.replace(table, pairs=())) == []


def test_runs_that_predict_one_class_are_called_so():
    """They are right on the same samples whatever their seed: they are no copies of each other."""
    bits = tuple(index % 10 == 0 for index in range(100))
    table = fair()
    for index in (0, 2):
        table = with_run(table, index, correct=bits, validation=0.1, one_class=True)
    (found,) = objections(table)
    assert (found.kind, found.arms) == ("one class predicted", ("a",))
    assert found.sentence == "Final runs of a (seeds 1, 3) predict one class for all test samples."


@pytest.mark.parametrize("right", [True, False])
def test_seeds_that_are_all_right_or_all_wrong_may_agree(right):
    bits = (right,) * 100
    value = float(right)
    assert (
        objections(with_run(with_run(fair(), 0, correct=bits, validation=value), 1, correct=bits, validation=value))
        == []
    )


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"lr": 1.1e-4}, "widen lr downwards"),
        ({"lr": 0.1}, "widen lr upwards"),
        ({"weight_decay": 0.5}, "widen weight_decay upwards"),
        ({"warmup": 10}, "widen warmup upwards"),
    ],
)
def test_a_setting_at_the_edge_says_what_to_widen(settings, remedy):
    assert [each.remedy for each in objections(with_settings(fair(), **settings))] == [remedy]


def test_nothing_lies_below_zero_and_words_have_no_edge():
    assert at_edge(0.0, Range(0.0, 0.5)) is None
    assert at_edge("cosine", Range(0.0, 1.0)) is None
    assert at_edge(0.02, Range(0.01, 0.5)) == "downwards"
    assert at_edge(0.02, Range(0.001, 0.5, log=True)) is None


def test_arms_with_the_same_fault_share_one_objection():
    disturbed = tuple(cost(arm, 1.0, contaminated=True) for arm in "ab")
    (found,) = objections(dataclasses.replace(fair(), costs=disturbed))
    assert found.arms == ("a", "b")
    assert "the cost of a and b was measured" in found.sentence

    more = (*fair().trials, trial("a", 4, 0.1), trial("b", 4, 0.1), trial("b", 5, 0.1))
    assert [each.sentence for each in objections(dataclasses.replace(fair(), trials=more))] == [
        "a has 5 tuning runs, more than the 4 of the plan.", "b has 6 tuning runs, more than the 4 of the plan.",
    ]  # fmt: skip
    (found,) = objections(dataclasses.replace(fair(), trials=more[:-1]))
    assert found.sentence == "a and b have 5 tuning runs, more than the 4 of the plan."

    short = [each for each in fair().confirmations if each.seed != 6]
    (found,) = objections(dataclasses.replace(fair(), confirmations=tuple(short)))
    assert found.sentence == "a and b lack seed 6."


def test_edges_of_one_setting_share_one_objection():
    table = with_settings(fair(), lr=0.09)
    renamed = [dataclasses.replace(each, arm="c") for each in (*table.trials, *table.confirmations) if each.arm == "a"]
    both = dataclasses.replace(
        table, arms=(*table.arms, Arm("c", space=SPACE)), pairs=(),
        trials=(*table.trials, *(each for each in renamed if hasattr(each, "number"))),
        confirmations=(*table.confirmations, *(each for each in renamed if not hasattr(each, "number"))),
    )  # fmt: skip
    (found,) = [each for each in objections(both) if each.kind == "setting at the edge"]
    assert found.arms == ("a", "c")
    assert found.remedy == "widen lr upwards"


@pytest.mark.parametrize(
    ("space", "inside", "outside"),
    [
        (Range(1e-4, 1e-1, log=True), 10**-3.84, 10**-3.86),  # 5 % of three decades: 0.15
        (Range(1e-4, 1e-1, log=True), 10**-1.16, 10**-1.14),
        (Range(1.0, 101.0), 6.1, 5.9),
        (Range(1.0, 101.0), 95.9, 96.1),
    ],
)
def test_the_outer_5_percent_on_the_range_s_scale_are_edge(space, inside, outside):
    assert at_edge(inside, space) is None
    assert at_edge(outside, space) == ("upwards" if outside > inside else "downwards")


def in_seconds(steps_of_a, step_of_a):
    """A study with 100 seconds a run: arm b has 100 steps of 1 second."""
    runs = [dataclasses.replace(run, steps=steps_of_a[0] if run.arm == "a" else 100) for run in fair().confirmations]
    runs[0] = dataclasses.replace(runs[0], steps=steps_of_a[1])
    # trials share the machine with others, so their own seconds are longer than the budget
    trials = [
        dataclasses.replace(each, steps=steps_of_a[0] if each.arm == "a" else 100, seconds=170.0)
        for each in fair().trials
    ]
    return dataclasses.replace(
        fair(), planned_epochs=None, planned_seconds=100.0, confirmations=tuple(runs), trials=tuple(trials),
        costs=(step_of_a, cost("b", 1.0)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "step", "told"),
    [
        ((200, 200), cost("a", 0.5), False),
        ((200, 200), cost("a", 0.53), False),  # its interval, 2 %, reaches 0.52
        ((200, 200), cost("a", 0.9, contaminated=True), False),
        ((200, 200), cost("a", 0.6), True),
        ((200, 200), cost("a", 0.4), True),
        ((200, 220), cost("a", 0.5), True),
    ],
)
def test_equal_seconds_are_steps_times_the_step_time_alone(steps, step, told):
    kinds = [each.kind for each in objections(in_seconds(steps, step))]
    assert ("unequal budget" in kinds) == told


def test_a_target_by_rule_or_a_round_one_is_no_test_result():
    table = fair()
    for index in range(6):
        table = with_run(table, index, validation=0.7 + index / 1000)
    assert [each.kind for each in objections(dataclasses.replace(table, target=0.8035))] == ["target chosen on test"]
    assert objections(dataclasses.replace(table, target=0.8035, target_source="validation")) == []
    assert objections(dataclasses.replace(table, target=0.806)) == []  # the best test metric, by chance


def test_a_commit_with_changes_and_a_run_without_are_told_apart():
    clean = "0123456789abcdef0123456789abcdef01234567"
    table = fair()
    runs = tuple(dataclasses.replace(run, commit=clean) for run in table.confirmations)
    trials = tuple(dataclasses.replace(each, commit=clean) for each in table.trials)
    table = dataclasses.replace(table, confirmations=runs, trials=trials)
    # a run that failed before it began has neither; its arm is not the one with another program
    failed = with_run(table, 11, commit="", machine="", status="failed", test=None, validation=None)
    assert objections(failed) == []
    (found,) = objections(with_run(failed, 0, commit=f"{clean} (changed)"))
    assert found.sentence == (
        "The runs come from 2 commits: 0123456789ab (18 runs), 0123456789ab (changed) (1 run). "
        "These arms do not have all of them: b."
    )


def test_machines_are_written_out():
    (found,) = objections(with_run(fair(), 0, machine="AMD EPYC 9654, 2 cores, torch 2.14.1"))
    assert "AMD EPYC 9654, 2 cores, torch 2.14.1 (1 run)" in found.sentence


def with_data(table, data_of):
    """The study with these data, by (arm, seed)."""
    trials = tuple(dataclasses.replace(each, data=data_of((each.arm, each.seed))) for each in table.trials)
    runs = tuple(dataclasses.replace(each, data=data_of((each.arm, each.seed))) for each in table.confirmations)
    return dataclasses.replace(table, trials=trials, confirmations=runs)


@pytest.mark.parametrize(
    ("data_of", "told"),
    [
        (lambda _: "a" * 64, False),
        (lambda run: f"{run[1]:064x}", False),  # the seed divides the data, or makes them
        (lambda run: "" if run[1] < 3 else "a" * 64, False),  # an older effbench kept none
        (lambda run: ("a" if run[1] < 4 else "b") * 64, True),
        (lambda run: ("a" if run != ("b", 5) else "b") * 64, True),
        (lambda run: f"{run[1] + 9 * (run == ('b', 5)):064x}", True),
    ],
)
def test_data_that_change_in_mid_study_are_named(data_of, told):
    found = objections(with_data(fair(), data_of))
    assert [each.kind for each in found] == ["mixed data"] * told
    assert all("The data are not the same in all runs: sha256 " in each.sentence for each in found)


def test_an_arm_may_have_data_of_its_own():
    table = with_data(fair(), lambda run: run[0] * 64)
    assert [each.kind for each in objections(table)] == ["mixed data"]
    arms = (table.arms[0], dataclasses.replace(table.arms[1], overrides=("data.image_size=64",)))
    assert objections(dataclasses.replace(table, arms=arms)) == []


def test_test_samples_that_tuning_has_seen_are_named():
    assert [each.kind for each in objections(dataclasses.replace(fair(), test_split="drawn"))] == [
        "test samples in tuning"
    ]
    assert objections(dataclasses.replace(fair(), test_split="generated")) == []
