"""The luck of tuning against trials that are drawn again and again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.study.analysis import analyse
from effbench.study.table import FROM_STEPS, StudyRules
from effbench.study.tuning import contrast_lead, lead_needed, least_trials, quality_lead, time_lead
from tests.study.planted import confirmation, cost, study, trial

values = st.lists(st.none() | st.integers(0, 6).map(float), min_size=1, max_size=8)
DRAWS = 4000


def table_of(arms, times=None, **changes):
    trials = tuple(
        trial(arm, n, value, steps_to_target=None if times is None else times[arm][n])
        for arm, own in arms.items()
        for n, value in enumerate(own)
    )
    return study({arm: [] for arm in arms} | {"other": [0.5]}, trials=trials, pairs=(), **changes)


def redrawn(arms, outcomes=None, mode="max", worst=-math.inf):
    """Outcome of the best trial drawn, by arm, each trial drawn Poisson(rate) times; `worst` without one."""
    chance, least = np.random.default_rng(0), min(map(len, arms.values()))
    found = []
    for arm, own in arms.items():
        # as many different trials for all arms
        rate = -math.log(1 - (1 - math.exp(-1)) * least / len(own))
        outcome = [worst if each is None else each for each in (own if outcomes is None else outcomes[arm])]
        scores = np.array([-math.inf if value is None else value if mode == "max" else -value for value in own])
        drawn = np.where(chance.poisson(rate, (DRAWS, len(own))) > 0, scores, -math.inf)
        found.append(np.where(drawn.max(axis=1) > -math.inf, np.array(outcome)[drawn.argmax(axis=1)], worst))
    return np.array(found)


def share(left, right):
    return np.mean((left > right) + (left == right) / 2)


@settings(deadline=None, max_examples=15)
@given(values, values, st.sampled_from(["max", "min"]))
def test_a_lead_is_that_of_trials_drawn_again(a, b, mode):
    arms = {"a": a, "b": b}
    table = table_of(arms, mode=mode)
    found = quality_lead(table, "a", "b")
    worst = -math.inf if mode == "max" else math.inf
    left, right = redrawn(arms, mode=mode, worst=worst)
    assert found == pytest.approx(share(left, right) if mode == "max" else share(right, left), abs=0.04)
    assert quality_lead(table, "b", "a") == pytest.approx(1 - found)


@settings(deadline=None, max_examples=15)
@given(values, values, st.randoms())
def test_a_faster_lead_is_that_of_the_trials_chosen(a, b, chance):
    arms = {"a": a, "b": b}
    times = {arm: [chance.choice([None, 10.0, 20.0, 30.0]) for _ in own] for arm, own in arms.items()}
    found = time_lead(table_of(arms, times), "a", "b", "steps")
    if all(time is None for own in times.values() for time in own):
        assert found is None
        return
    left, right = redrawn(arms, times, worst=math.inf)
    assert found == pytest.approx(share(right, left), abs=0.04)


def test_a_contrast_lead_is_that_of_four_best_trials():
    chance = np.random.default_rng(1)
    arms = {
        name: (chance.normal(0.8, 0.01, 5) + shift).tolist()
        for name, shift in zip("abcd", (0.01, 0, 0, 0), strict=True)
    }
    a, b, c, d = redrawn(arms, worst=math.nan)
    contrast = (a - b) - (c - d)
    contrast = contrast[np.isfinite(contrast)]
    found = contrast_lead(table_of(arms), ("a", "b", "c", "d"))
    assert found == pytest.approx((contrast > 0).mean(), abs=0.03)
    assert contrast_lead(table_of(arms), ("b", "a", "d", "c")) == pytest.approx(1 - found)
    assert contrast_lead(table_of(arms | {"d": [None, None]}), ("a", "b", "c", "d")) is None


def test_the_best_trials_ahead_make_a_lead():
    """r best trials ahead of all others: at least 1 - e^-r, whatever the number of trials."""
    for trials in (8, 16, 64):
        for best in (2, 4):
            own = [2.0 + n for n in range(best)] + [0.0] * (trials - best)
            found = quality_lead(table_of({"a": own, "b": [1.0 + n / 100 for n in range(trials)]}), "a", "b")
            assert found == pytest.approx(1 - math.exp(-best), abs=1e-3)


def test_more_trials_alone_give_no_lead():
    chance = np.random.default_rng(2)
    found = [
        quality_lead(table_of({"a": chance.random(32).tolist(), "b": chance.random(8).tolist()}), "a", "b")
        for _ in range(400)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)


def test_arms_without_trials_have_no_lead():
    table = table_of({"a": [0.5], "b": []})
    assert quality_lead(table, "a", "b") is None
    assert time_lead(table, "a", "b", "steps") is None
    assert quality_lead(table_of({"a": [None], "b": [None]}), "a", "b") == 0.5


def test_more_arms_need_a_larger_lead():
    rules = StudyRules()
    assert [lead_needed(arms, rules) for arms in (1, 2, 4)] == pytest.approx([0.975, 0.975, 1 - 0.05 / 3])
    assert [least_trials(arms, rules) for arms in (2, 4, 6, 12)] == [4, 5, 5, 6]
    assert [least_trials(arms, rules, "random") for arms in (2, 4, 6, 12)] == [6, 8, 10, 12]


@pytest.mark.parametrize("arms", [2, 4, 6])
def test_random_trials_lead_by_chance_as_seldom_as_said(arms):
    """So many best trials are all of one of two equal arms: p by counting orders, times the number of pairs."""
    least = least_trials(arms, StudyRules(), "random")
    by_chance = 2 * math.prod((64 - n) / (128 - n) for n in range(least))
    assert by_chance * arms * (arms - 1) / 2 <= 0.05


def timed_study(times, trials=6, **changes):
    """Final runs of a reach the target first; the trials of both have these times."""
    runs = [
        confirmation(arm, seed, 0.8, steps_to_target=hit + seed, seconds_to_target=(hit + seed) / 10)
        for arm, hit in (("a", 40.0), ("b", 60.0))
        for seed in range(8)
    ]
    tried = [trial(arm, n, 0.7 + n / 100, steps_to_target=times[arm]) for arm in "ab" for n in range(trials)]
    costs = (cost("a", 0.1), cost("b", 0.1))
    return study(
        {"a": [0.8], "b": [0.8]}, confirmations=tuple(runs), trials=tuple(tried), target=0.75, target_source="given",
        clock=FROM_STEPS, costs=costs, planned_trials=trials, **changes,
    )  # fmt: skip


def test_a_faster_setting_of_a_lucky_tuning_is_no_faster_arm():
    result = analyse(timed_study({"a": 50.0, "b": 50.0}))
    for found in result.target_differences:
        assert (found.winner, found.faster_setting, found.tuned_ahead) == ("none", "a", pytest.approx(0.5))
        assert found.sentence.startswith(
            f"a and b: {found.unit} to target not distinguishable with this tuning; a's setting needs "
        )
        assert "but a is faster in only 50% of resampled tunings (97.5% needed)" in found.sentence
        assert found.sentence in result.verdicts
    for found in analyse(timed_study({"a": 40.0, "b": 60.0})).target_differences:
        assert (found.winner, found.faster_setting) == ("a", "a")
        assert found.sentence.startswith("a reaches the target before b: ")
    # an older file has no times of trials
    assert [each.winner for each in analyse(timed_study({"a": None, "b": None})).target_differences] == ["a", "a"]


def test_seconds_of_trials_are_those_of_steps_measured_alone():
    table = timed_study({"a": 40.0, "b": 60.0})
    assert time_lead(table, "a", "b", "seconds") > 0.9
    slow = study({"a": [], "b": []}, trials=table.trials, costs=(cost("a", 0.2), cost("b", 0.1)))
    assert time_lead(slow, "a", "b", "seconds") < 0.1


def test_too_few_trials_say_how_many_are_needed():
    good = [0.80, 0.81, 0.79, 0.80, 0.82, 0.80, 0.81, 0.79]
    trials = [trial(arm, n, 0.7 + n / 100 + (arm == "a") / 10) for arm in "ab" for n in range(2)]
    table = study({"a": [each + 0.1 for each in good], "b": good}, trials=tuple(trials), planned_trials=2)
    (found,) = analyse(table).comparisons
    assert (found.better_setting, found.winner) == ("a", "none")
    assert found.sentence.endswith("of resampled tunings (97.5% needed, which takes 4 tuning runs an arm)")


def interacting_study(spread):
    """Lion is better on swin by 5 points in the final runs; trials scatter by `spread`."""
    chance, names = np.random.default_rng(3), ["cnn/adamw", "cnn/lion", "swin/adamw", "swin/lion"]
    level = {name: 0.7 + 0.05 * (name == "swin/lion") for name in names}
    runs = {name: (level[name] + chance.normal(0, 0.005, 8)).tolist() for name in names}
    trials = tuple(
        trial(name, n, value)
        for name in names
        for n, value in enumerate((level[name] + spread * np.linspace(-1, 0, 16)).tolist())
    )
    return analyse(study(runs, trials=trials, planned_trials=16)).interaction


def test_an_interaction_of_lucky_settings_is_said_to_be_one():
    found = interacting_study(0.02)
    assert (found.told, found.contrasts[0].told) == (True, True)
    assert found.sentence.startswith("Which optimizer is better depends on the model: interaction p")
    lucky = interacting_study(1.0)
    assert lucky.p == found.p <= 0.05
    assert (lucky.told, lucky.contrasts[0].told) == (False, False)
    assert lucky.sentence.startswith("Which of the chosen settings is better depends on the model, but other tunings")
    assert "(of the chosen settings; in only " in lucky.contrasts[0].sentence
