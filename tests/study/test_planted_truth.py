"""Whole studies with a known truth: errors, power and what the verdicts say."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.study.analysis import analyse
from effbench.study.comparisons import compare_arms
from effbench.study.interaction import interaction
from effbench.study.power import power
from effbench.study.results import result_from_json, result_to_json
from effbench.study.table import FROM_STEPS, MEASURED, Arm, StudyRules, pairs_to_compare
from effbench.study.tuning import time_lead
from tests.study.luck import Case, interacting, leads, named, quality, time_leads, tuned
from tests.study.luck import timed as timed_arms
from tests.study.planted import confirmation, cost, pair_differences, study, trial, winners

STUDIES = 1000


def equal_arms(chance, arms=4, seeds=8):
    """Accuracies that share what the seed does to all arms."""
    shape = (STUDIES, arms, seeds)
    return 0.8 + chance.normal(0, 0.02, (STUDIES, 1, seeds)) + chance.normal(0, 0.01, shape)


def by_name(values_AK):
    return {f"arm {index}": row.tolist() for index, row in enumerate(values_AK)}


# --- no effect --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("arms", "seeds"), [(2, 6), (4, 8), (6, 10)])
def test_equal_arms_beat_each_other_in_at_most_5_percent(arms, seeds):
    """Family-wise: 1, 6 or 15 comparisons, 1,000 studies."""
    found = winners(pair_differences(equal_arms(np.random.default_rng(arms), arms, seeds)))
    assert (found != 0).any(axis=1).mean() <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("random", [False, True])
def test_equal_arms_are_not_told_apart_by_their_tuning(random):
    """1,000 studies of 4 arms x 16 points in 3 settings: chosen settings differ, arms do not."""
    better, arms = quality(Case(curve=0.5, weights=(1.0, 1.0, 1.0), random=random), STUDIES, 1)
    assert (better != 0).any(axis=1).mean() > 0.5
    assert (arms != 0).any(axis=1).mean() <= 0.05


@pytest.mark.slow
def test_equal_arms_are_not_faster_by_their_tuning():
    """The time to the target depends on the first setting, the choice on the quality."""
    better, arms = timed_arms(Case(), 3.0, STUDIES, 2)
    assert (better != 0).any(axis=1).mean() > 0.5
    assert (arms != 0).any(axis=1).mean() <= 0.05


@pytest.mark.slow
def test_equal_arms_do_not_interact_by_their_tuning():
    """2 x 2 arms."""
    settings_differ, arms = interacting(Case(curve=0.5), 2, 400, 3)
    assert settings_differ.any(axis=1).mean() > 0.2
    assert arms.any(axis=1).mean() <= 0.05


@pytest.mark.slow
def test_a_real_difference_is_still_named_after_tuning():
    """The rule for tunings takes little from a difference of 2 and 3 standard deviations, if settings matter little."""
    for lift, least in ((2, 0.6), (3, 0.9)):
        better, arms = (each[:, :3] > 0 for each in quality(Case(lift=lift, curve=0.1), 400, 4))
        assert arms.mean() > least
        assert arms.mean() > better.mean() - 0.1


@pytest.mark.slow
def test_the_better_setting_of_tuned_arms_is_found_as_planned():
    """Power is planned for settings: what the rule for tunings takes from it is not in the plan."""
    better, arms = (each[:, 0] for each in quality(Case(arms=2, lift=1.2, curve=0.01), STUDIES, 6))
    assert (better == 1).mean() == pytest.approx(power(1.2, 1.0, 8, 1), abs=0.05)
    assert (arms == 1).mean() < (better == 1).mean()


@pytest.mark.slow
def test_the_analysis_judges_tunings_as_these_simulations_do():
    """Quality, steps to the target and interaction of whole tables."""
    case = Case(curve=0.1, lift=2.0)
    values, runs, lr = tuned(case, np.random.default_rng(5), 12)
    steps = 1000 * np.exp(-2 * lr)
    better = winners(pair_differences(runs))
    arms, ahead, early = named(better, leads(values), case), leads(values), time_leads(values, steps)
    assert {0, 1} <= set(arms[better != 0].astype(int)) | {0}
    for at in range(12):
        names = ["x/a", "x/b", "y/a", "y/b"]
        trials = tuple(
            trial(name, n, value, steps_to_target=step)
            for name, row, times in zip(names, values[at].tolist(), steps[at].tolist(), strict=True)
            for n, (value, step) in enumerate(zip(row, times, strict=True))
        )
        pairs = pairs_to_compare([Arm(name) for name in names], "all")
        table = study(dict(zip(names, runs[at].tolist(), strict=True)), trials=trials, planned_trials=16, pairs=pairs)
        found = compare_arms(table, StudyRules())
        assert [{"a": 1, "b": -1, "none": 0}[each.winner] for each in found] == arms[at].tolist()
        assert [each.tuned_ahead for each in found] == pytest.approx(ahead[at].tolist())
        assert [time_lead(table, a, b, "steps") for a, b in pairs] == pytest.approx(early[at].tolist())


@pytest.mark.slow
def test_the_analysis_judges_as_these_simulations_do():
    values = equal_arms(np.random.default_rng(2))[:12]
    values[:, 0] += np.linspace(0, 0.03, 12)[:, None]
    wanted = winners(pair_differences(values))
    assert len({1, -1, 0} & set(wanted.ravel().astype(int))) > 1
    for each, row in zip(values, wanted, strict=True):
        found = analyse(study(by_name(each))).comparisons
        assert [{"a": 1, "b": -1, "none": 0}[one.winner] for one in found] == row.tolist()


@pytest.mark.slow
def test_a_lucky_test_set_is_no_reason_to_win():
    """Equal arms that disagree on samples: every seed says the same, because all have the same 200 samples."""
    chance, false_wins, by_seeds = np.random.default_rng(3), 0, 0
    for _ in range(100):
        right = chance.random((2, 200)) < 0.8
        bits = (right[:, None] ^ (chance.random((2, 8, 200)) < 0.02)).astype(bool)
        runs = tuple(
            confirmation(arm, seed, float(row.mean()), correct=tuple(row.tolist()))
            for arm, rows in zip("ab", bits, strict=True)
            for seed, row in enumerate(rows, 1)
        )
        table = study({"a": [0.0] * 8, "b": [0.0] * 8}, confirmations=runs)
        false_wins += analyse(table).comparisons[0].winner != "none"
        by_seeds += analyse(dataclasses.replace(table, same_test_samples=False)).comparisons[0].winner != "none"
    assert by_seeds > 50  # the seeds alone would be sure
    assert false_wins <= 100 * 0.05 + 2 * math.sqrt(100 * 0.05 * 0.95)


# --- an effect --------------------------------------------------------------------------------------------------------


def test_a_planted_effect_is_found_as_often_as_planned():
    chance = np.random.default_rng(4)
    values = equal_arms(chance)
    values[:, 0] += 0.03
    differences = pair_differences(values)
    deviation = 0.01 * math.sqrt(2)
    found = winners(differences)[:, :3]
    # three true differences: Holm's later steps make each a little easier than planned
    assert power(0.03, deviation, 8, 6) - 0.05 <= (found == 1).mean()
    alone = winners(differences[:, :1])[:, 0]
    assert (alone == 1).mean() == pytest.approx(power(0.03, deviation, 8, 1), abs=0.05)


@pytest.mark.slow
@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=6)
def test_swapped_arms_give_the_opposite(seed):
    values = equal_arms(np.random.default_rng(seed))[0, :2] + np.array([[0.02], [0]])
    runs = {"a": values[0].tolist(), "b": [None, *values[1].tolist()[1:]]}
    (one,) = analyse(study(runs)).comparisons
    (other,) = analyse(study(dict(reversed(runs.items())))).comparisons
    assert other.p == one.p
    assert {"a": "b", "b": "a", "none": "none"}[other.winner] == one.winner
    assert other.difference.low == pytest.approx(-one.difference.high)
    assert other.probability.estimate == pytest.approx(1 - one.probability.estimate)
    assert (other.wins, other.ties, other.losses) == (one.losses, one.ties, one.wins)
    assert (other.missed_a, other.missed_b) == (one.missed_b, one.missed_a)


@pytest.mark.slow
@given(st.integers(0, 10**6), st.sampled_from([0.01, 100.0]))
@settings(deadline=None, max_examples=6)
def test_units_and_direction_change_no_verdict(seed, unit):
    values = equal_arms(np.random.default_rng(seed))[0] + np.array([[0.03], [0.02], [0], [0]])
    plain = analyse(study(by_name(values))).comparisons
    losses = analyse(study(by_name(-unit * values), mode="min", as_percent=False)).comparisons
    for one, other in zip(plain, losses, strict=True):
        assert (one.p_holm, one.winner) == (pytest.approx(other.p_holm), other.winner)
        assert other.difference.estimate == pytest.approx(-unit * one.difference.estimate)
        assert one.seeds_needed == other.seeds_needed


def test_the_order_of_arms_changes_no_verdict():
    values = by_name(equal_arms(np.random.default_rng(7))[0] + np.array([[0.03], [0.02], [0], [0]]))
    one, other = analyse(study(values)), analyse(study(dict(reversed(values.items()))))
    p_values = {frozenset((each.a, each.b)): each.p_holm for each in one.comparisons}
    assert {frozenset((each.a, each.b)): each.p_holm for each in other.comparisons} == p_values
    assert {(each.arm, each.rank) for each in one.qualities} == {(each.arm, each.rank) for each in other.qualities}


def test_diverged_runs_are_counted_and_lose():
    good = [0.80, 0.81, 0.79, 0.80, 0.82, 0.80, 0.81, 0.79]
    (found,) = analyse(study({"a": good, "b": [None] * 8})).comparisons
    assert (found.winner, found.wins, found.missed_b, found.difference) == ("a", 8, 8, None)
    assert "b has no result on 8 of 8 seeds" in found.sentence
    better = [value - 0.02 for value in good[:2]] + [value + 0.05 for value in good[2:6]] + [None, None]
    (found,) = analyse(study({"a": good, "b": better})).comparisons
    assert (found.winner, found.losses, found.wins) == ("none", 4, 4)
    result = analyse(study({"a": good, "b": better}))
    assert [(each.finished, each.diverged) for each in result.qualities if each.arm == "b"] == [(6, 2)]


def test_more_misses_never_help_the_arm_that_misses():
    """Where both finished they are about equal: with 6 misses of 8, the two finished pairs must not decide alone."""
    good = [0.80, 0.81, 0.79, 0.80, 0.82, 0.80, 0.81, 0.79]
    alike = [value + shift for value, shift in zip(good, [0.002, -0.001] * 4, strict=True)]
    found = [analyse(study({"a": good, "b": [None] * n + alike[n:]})).comparisons[0] for n in range(9)]
    p_values = [each.p for each in found]
    assert p_values[1:] == sorted(p_values[1:], reverse=True)
    assert [each.winner for each in found] == ["none"] * 5 + ["a"] * 4
    swapped = [analyse(study({"a": [None] * n + alike[n:], "b": good})).comparisons[0] for n in range(9)]
    assert [each.p for each in swapped] == p_values


def test_a_diverged_run_is_a_miss_even_with_a_value():
    table = study({"a": [0.8] * 6, "b": [0.7] * 6})
    runs = [dataclasses.replace(run, status="diverged") if run.arm == "a" else run for run in table.confirmations]
    (found,) = analyse(dataclasses.replace(table, confirmations=tuple(runs))).comparisons
    assert (found.winner, found.missed_a, found.losses) == ("b", 6, 6)


def test_interrupted_runs_do_not_count_yet():
    table = study({"a": [0.8] * 3, "b": [0.7] * 3})
    last = dataclasses.replace(table.confirmations[-1], status="interrupted", test=None)
    (found,) = analyse(dataclasses.replace(table, confirmations=(*table.confirmations[:-1], last))).comparisons
    assert (found.wins, found.missed_b) == (2, 0)


# --- the interaction --------------------------------------------------------------------------------------------------

CELLS = [f"{model}/{optimizer}" for model in ("cnn", "swin", "mlp") for optimizer in ("adamw", "lion", "sgd")]


def factorial(chance, size):
    """Average effects everywhere; on swin lion is better by `size`."""
    values = 0.7 + chance.normal(0, 0.01, (9, 8)) + chance.normal(0, 0.02, 8)
    values += np.repeat([0.0, 0.1, -0.1], 3)[:, None] + np.tile([0.0, 0.02, -0.05], 3)[:, None]
    values[CELLS.index("swin/lion")] += size
    return dict(zip(CELLS, values.tolist(), strict=True))


def test_a_planted_interaction_is_found_where_it_is():
    found = analyse(study(factorial(np.random.default_rng(0), 0.05))).interaction
    assert found.p <= 0.05
    assert found.sentence.startswith("Which optimizer is better depends on the model: interaction p")
    told = [each for each in found.contrasts if each.p <= 0.05]
    assert told
    assert all("swin" in each.models and "lion" in each.optimizers for each in told)
    largest = max(found.cells, key=lambda cell: cell.effect.estimate)
    assert (largest.model, largest.optimizer) == ("swin", "lion")
    assert largest.effect.estimate == pytest.approx(0.05 * 4 / 9, abs=0.01)  # double centring leaves (1 - 1/3)^2


@pytest.mark.slow
def test_average_effects_are_no_interaction():
    chance = np.random.default_rng(1)
    found = [analyse(study(factorial(chance, 0.0), pairs=())).interaction for _ in range(60)]
    assert np.mean([each.p <= 0.05 for each in found]) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 60)
    covered = np.mean([each.contrasts[0].difference.low <= 0 <= each.contrasts[0].difference.high for each in found])
    assert covered >= 0.9


def test_a_lucky_test_set_is_no_interaction():
    """No interaction over new samples; each seed has the same 200 samples, on which the four arms disagree."""
    chance, names, false_finds, by_seeds = np.random.default_rng(5), CELLS[:2] + CELLS[3:5], 0, 0
    for _ in range(60):
        right = chance.random((4, 200)) < 0.8
        bits = (right[:, None] ^ (chance.random((4, 8, 200)) < 0.02)).astype(bool)
        runs = tuple(
            confirmation(arm, seed, float(row.mean()), correct=tuple(row.tolist()))
            for arm, rows in zip(names, bits, strict=True)
            for seed, row in enumerate(rows, 1)
        )
        table = study({arm: [0.0] * 8 for arm in names}, confirmations=runs, pairs=())
        found = interaction(table, StudyRules())
        without = interaction(dataclasses.replace(table, same_test_samples=False), StudyRules())
        false_finds += found.p <= 0.05
        by_seeds += without.p <= 0.05
        assert found.contrasts[0].difference.low <= without.contrasts[0].difference.low
        assert found.cells[0].effect.high >= without.cells[0].effect.high
        assert found.cells[0].effect.estimate == pytest.approx(without.cells[0].effect.estimate)
    assert by_seeds > 30  # the seeds alone would be sure
    assert false_finds <= 60 * 0.05 + 2 * math.sqrt(60 * 0.05 * 0.95)


def test_intervals_of_an_arm_count_its_test_samples():
    """Accuracy 0.8 of 400 samples has a standard error of 2 pt, whatever the seeds agree on."""
    chance = np.random.default_rng(6)
    right = chance.random(400) < 0.8
    runs = []
    for arm in "ab":
        for seed in range(1, 9):
            row = right ^ (chance.random(400) < 0.01)
            runs.append(confirmation(arm, seed, float(row.mean()), correct=tuple(row.tolist())))
    table = study({"a": [0.0] * 8, "b": [0.0] * 8}, confirmations=tuple(runs), costs=(cost("a", 1.0), cost("b", 2.0)))
    (found, _) = analyse(table).qualities
    assert (found.test.high - found.test.low) / 2 == pytest.approx(1.96 * 0.02, rel=0.15)
    (narrow, _) = analyse(dataclasses.replace(table, same_test_samples=False)).qualities
    assert narrow.test.high - narrow.test.low < (found.test.high - found.test.low) / 3


def test_incomplete_seeds_are_left_out_of_the_interaction():
    values = factorial(np.random.default_rng(2), 0.05)
    values["cnn/sgd"][3] = None
    found = analyse(study(values)).interaction
    assert (found.seeds, found.left_out) == (7, 1)
    assert analyse(study({name: values[name] for name in CELLS[:3]})).interaction is None


# --- the target -------------------------------------------------------------------------------------------------------


def timed(arm, seed, hit_at, **changes):
    hit = {"steps_to_target": hit_at, "seconds_to_target": None if hit_at is None else hit_at / 10}
    return confirmation(arm, seed, 0.8, **hit, **changes)


def test_a_faster_arm_reaches_the_target_first():
    runs = [timed("a", seed, 40.0 + seed) for seed in range(8)] + [timed("b", seed, 60.0 + seed) for seed in range(7)]
    runs.append(timed("b", 7, None))
    table = study({"a": [0.8], "b": [0.8]}, confirmations=tuple(runs), target=0.75, target_source="given")
    result = analyse(table)
    steps = {each.arm: each for each in result.target_times if each.unit == "steps"}
    assert (steps["b"].reached, steps["b"].runs, steps["b"].horizon) == (7, 8, 100)
    assert steps["b"].restricted_mean.estimate == pytest.approx((sum(range(60, 67)) + 100) / 8)
    found = next(each for each in result.target_differences if each.unit == "steps")
    assert found.winner == "a"
    assert found.difference.estimate == pytest.approx(43.5 - 541 / 8)
    assert found.sentence.startswith("a reaches the target before b: ")
    assert found.ratio > 1


def test_untrusted_seconds_have_no_winner():
    runs = [timed(arm, seed, hit + seed) for arm, hit in (("a", 40.0), ("b", 60.0)) for seed in range(8)]
    costs = (cost("a", 0.1), cost("b", 0.1, contaminated=True))
    table = study({"a": [0.8], "b": [0.8]}, confirmations=tuple(runs), target=0.75, target_source="given", costs=costs)
    for clock, reason in ((FROM_STEPS, "the step time of b was disturbed"), (MEASURED, "no step time was measured")):
        own = dataclasses.replace(table, clock=clock, costs=costs if clock == FROM_STEPS else ())
        found = {each.unit: each for each in analyse(own).target_differences}
        assert (found["steps"].winner, found["steps"].doubt) == ("a", "")
        assert found["seconds"].winner == "none"
        assert reason in found["seconds"].doubt
        assert found["seconds"].sentence.startswith("a and b: seconds to target cannot be told: ")
    alone = dataclasses.replace(table, clock=FROM_STEPS, costs=(cost("a", 0.1), cost("b", 0.1)))
    assert [each.winner for each in analyse(alone).target_differences] == ["a", "a"]


def test_a_diverged_run_never_reaches_the_target():
    """It ended after 5 steps: censored there it would hardly count."""
    runs = [timed("a", seed, 50.0) for seed in range(4)] + [timed("b", seed, 50.0) for seed in range(3)]
    runs.append(timed("b", 3, None, status="diverged", steps=5, seconds=0.5))
    table = study({"a": [0.8], "b": [0.8]}, confirmations=tuple(runs), target=0.75, target_source="given")
    found = {each.arm: each for each in analyse(table).target_times if each.unit == "steps"}
    assert found["b"].restricted_mean.estimate == pytest.approx((3 * 50 + 100) / 4)
    assert (found["b"].reached, found["b"].runs) == (3, 4)


# --- cost and files ---------------------------------------------------------------------------------------------------


def test_the_front_respects_the_intervals_of_both():
    chance = np.random.default_rng(8)
    noise = chance.normal(0, 0.01, (4, 8)) + chance.normal(0, 0.05, 8)
    values = {
        name: (level + row).tolist() for name, level, row in zip("abcd", (0.8, 0.7, 0.8, 0.9), noise, strict=True)
    }
    costs = (cost("a", 1.0), cost("b", 1.5), cost("c", 1.01), cost("d", 2.0))
    found = {each.arm: each for each in analyse(study(values, costs=costs)).front if each.cost == "step_seconds"}
    assert {arm: each.status for arm, each in found.items()} == {
        "a": "on the front", "b": "dominated", "c": "on the front", "d": "on the front",
    }  # fmt: skip
    assert set(found["b"].by) == {"a", "c"}
    slow = (cost("a", 1.0), cost("b", 1.5), cost("c", 1.2), cost("d", 2.0, contaminated=True))
    found = {each.arm: each for each in analyse(study(values, costs=slow)).front if each.cost == "step_seconds"}
    assert (found["c"].status, found["c"].by, found["d"].status) == ("perhaps dominated", ("a",), "unknown")


def test_the_front_says_no_more_than_the_verdict():
    """Six seeds, three pairs: 0.03 for one pair alone, but not distinguishable among three."""
    values = {arm: [0.8 + 0.1 * at + seed / 100 for seed in range(6)] for at, arm in enumerate("abc")}
    costs = (cost("a", 1.0), cost("b", 1.0), cost("c", 0.5))
    found = analyse(study(values, costs=costs))
    assert {each.winner for each in found.comparisons} == {"none"}
    places = {each.arm: each.status for each in found.front if each.cost == "step_seconds"}
    assert places == {"a": "perhaps dominated", "b": "perhaps dominated", "c": "on the front"}
    only = dataclasses.replace(study(values, costs=costs), pairs=(("a", "b"),))
    assert {each.arm: each.by for each in analyse(only).front if each.cost == "parameters"}["a"] == ("b", "c")


def test_a_lucky_test_set_dominates_nobody():
    """a is ahead by 3 of 100 samples on every seed: of other samples it may be behind."""
    right = {"a": np.arange(100) < 83, "b": np.arange(100) >= 20}
    runs = [
        confirmation(arm, seed, float(row.mean()), correct=tuple(row.tolist()))
        for arm, own in right.items()
        for seed in range(1, 9)
        for row in [own ^ (np.arange(100) == seed)]
    ]
    costs = (cost("a", 1.0), cost("b", 2.0))
    table = study({"a": [0.0] * 8, "b": [0.0] * 8}, confirmations=tuple(runs), costs=costs)
    for same, status in ((False, "dominated"), (True, "perhaps dominated")):
        found = analyse(dataclasses.replace(table, same_test_samples=same)).front
        assert {each.status for each in found if each.arm == "b" and each.cost == "step_seconds"} == {status}


def test_results_survive_json():
    values = factorial(np.random.default_rng(9), 0.05)
    trials = tuple(trial(arm, number, 0.7 + number / 100) for arm in values for number in range(4))
    result = analyse(study(values, trials=trials, planned_trials=4), StudyRules(relevant_difference=0.005))
    assert result_from_json(result_to_json(result)) == result
    assert len(result.budget) == 9 * 3
    assert any(text.startswith("Tuning on swin: after 1 ") for text in result.verdicts)


def test_an_empty_study_has_an_analysis():
    result = analyse(study({"a": [], "b": []}))
    assert result.comparisons[0].sentence == "a and b: not compared, no seed was run with both"
    assert result_from_json(result_to_json(result)) == result
