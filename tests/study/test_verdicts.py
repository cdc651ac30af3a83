"""Verdicts word for word."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from effbench.metrics import Accuracy, Display
from effbench.stats import Interval
from effbench.study.analysis import analyse
from effbench.study.plan_words import plan_sentences
from effbench.study.power import power
from effbench.study.results import BudgetPoint
from effbench.study.table import FROM_STEPS, Arm, StudyRules
from effbench.study.verdicts import budget_verdict
from effbench.study.wording import difference_text, interval_text, listed
from tests.study.planted import confirmation, cost, study, trial

SWIN = ("Swin/Lion", "Swin/AdamW")
NOISE = np.array([0.7, -1.1, 0.4, 0.2, -0.5, 1.3, -0.9, -0.1]) / 100


def sentence(difference, rules=None, **changes):
    base = 0.8 + NOISE[::-1]
    values = {SWIN[0]: (base + difference + NOISE).tolist(), SWIN[1]: base.tolist()}
    return analyse(study(values, **changes), rules).comparisons[0].sentence


def test_a_winner_is_named_with_its_difference():
    assert sentence(0.02) == "Lion beats AdamW on Swin: +2.0 pt [1.3, 2.7], p = 0.0078, 8 seeds"
    assert sentence(-0.02) == "AdamW beats Lion on Swin: +2.0 pt [1.3, 2.7], p = 0.0078, 8 seeds"


def test_a_metric_without_percent_is_written_in_its_unit():
    found = [
        sentence(difference, mode="min", as_percent=False, unit=unit, digits=digits)
        for difference, unit, digits in ((-0.02, "", 4), (-0.02, "nats", 1), (-0.02, "kg", 0))
    ]
    assert found == [
        "Lion beats AdamW on Swin: -0.0200 [-0.0268, -0.0132], p = 0.0078, 8 seeds",
        # more digits than the metric has, where its interval would have no width without them
        "Lion beats AdamW on Swin: -0.020 nats [-0.027, -0.013], p = 0.0078, 8 seeds",
        "Lion beats AdamW on Swin: -0.020 kg [-0.027, -0.013], p = 0.0078, 8 seeds",
    ]


def test_sizes_in_a_unit_have_two_digits_and_no_exponent():
    kilograms = Display("mass", "min", "kg", digits=0)
    assert [difference_text(size, kilograms) for size in (1234.0, 12.34, 0.01234)] == ["1,200 kg", "12 kg", "0.012 kg"]
    assert difference_text(0.005, Accuracy.display) == "0.5 pt"
    wide = Interval(1234.5, 1200.0, 1269.0, 8)
    assert interval_text(wide, kilograms) == "+1234 kg [1200, 1269]"


def test_what_cannot_be_told_says_how_many_seeds_could():
    found = sentence(0.001, StudyRules(relevant_difference=0.005))
    assert found == (
        "Lion and AdamW on Swin: not distinguishable with 8 seeds (+0.1 pt [-0.6, 0.8]); "
        "about 25 would tell 0.5 pt apart"
    )


def test_a_lucky_tuning_is_named():
    trials = [trial(arm, number, 0.7 + number / 100) for arm in SWIN for number in range(4)]
    assert sentence(0.02, trials=tuple(trials), planned_trials=4) == (
        "Lion and AdamW on Swin: not distinguishable with this tuning; Lion's setting is better "
        "(+2.0 pt [1.3, 2.7], p = 0.0078, 8 seeds), but Lion leads in only 50% of resampled tunings (97.5% needed)"
    )
    clear = [trial(arm, number, 0.7 + number / 1000 + (arm == SWIN[0]) / 50) for arm in SWIN for number in range(4)]
    assert sentence(0.02, trials=tuple(clear), planned_trials=4).startswith("Lion beats AdamW on Swin: +2.0 pt")


def test_a_small_but_sure_difference_is_called_small():
    """40 seeds find 0.4 standard deviations, with which an arm wins on Phi(0.4) = 66 % of new seeds only."""
    noise = np.random.default_rng(1).normal(size=40)
    noise = (noise - noise.mean()) / noise.std(ddof=1) / 100
    for size, small in ((0.004, True), (0.012, False)):
        table = study({SWIN[0]: (0.8 + size + noise).tolist(), SWIN[1]: [0.8] * 40})
        for own in (table, dataclasses.replace(table, pairs=(SWIN[::-1],))):
            (found,) = analyse(own).comparisons
            assert (found.winner != "none", found.meaningful) == (True, not small)
            assert ("; small: it wins on 65% [53, 76] of new seeds" in found.sentence) == small
            assert ("small" in found.sentence) == small


def test_a_meaningful_share_with_a_wide_interval_is_small():
    """Of 8 seeds b misses 6 and is about equal on 2, so a wins on 6 of 8."""
    good = [0.80, 0.81, 0.79, 0.80, 0.82, 0.80, 0.81, 0.79]
    (found,) = analyse(study({"a": good, "b": [0.801, 0.812, *[None] * 6]})).comparisons
    assert (found.winner, found.meaningful, found.probability.estimate) == ("a", False, 0.75)
    assert found.sentence.startswith("a beats b: -0.2 pt [-0.8, 0.5] where both finished, p = ")
    assert "; small: it wins on 75% [41, 93] of new seeds" in found.sentence


def test_plans_say_what_they_can_find():
    assert plan_sentences(5, 3)[-1] == "No verdict is possible with 5 seeds."
    rules = StudyRules(relevant_difference=0.005)
    found = plan_sentences(8, 6, rules, deviation=0.01)
    assert found[0].startswith("8 seeds, 6 comparisons: the smallest possible p is 0.00781; Holm's ")
    assert found[0].endswith("Holm's correction needs 0.0083 or less (at least 8 seeds).")
    assert found[1].startswith("If paired differences vary by 1 pt over seeds, a difference of 1.9 pt between two ")
    assert "A difference of 0.5 pt is found in " in found[2]
    assert "seeds would find it in 80%" in found[2]


def test_plans_answer_the_question_that_was_asked():
    """A relevant difference without a guess of the spread: how large the spread may be."""
    rules = StudyRules(relevant_difference=0.005)
    *_, first, second = plan_sentences(8, 6, rules)
    assert first.startswith("A true difference of 1.9 standard deviations")
    assert second == (
        "A difference of 0.5 pt is found in 80% if the paired differences vary by 0.26 pt or less (standard deviation "
        "over seeds)."
    )
    assert power(0.005, 0.0026, 8, 6) == pytest.approx(0.8, abs=0.03)
    assert "relevant" not in " ".join(plan_sentences(8, 6))


def test_plans_tell_a_better_setting_from_a_better_arm():
    assert plan_sentences(8, 6, trials=16, arms=4)[-1] == (
        "An arm is named better only if it also leads in 98.3% of resampled tunings: surely, if its 5 best of 16 "
        "tuning runs are better than all of the other arm."
    )
    assert plan_sentences(8, 6, trials=3, arms=4)[-1] == (
        "No arm will be named better with 3 tuning runs an arm, only its setting: 5 are the least that can show that "
        "another tuning would agree."
    )
    assert "tunings" not in " ".join(plan_sentences(8, 6))


def test_the_error_rate_is_said_of_each_kind_of_finding():
    runs = [
        confirmation(
            f"{model}/{optimizer}", seed, 0.8 + seed / 1000, steps_to_target=50.0 + seed, seconds_to_target=5.0
        )
        for model in "xy"
        for optimizer in "ab"
        for seed in range(1, 9)
    ]
    levels = {f"{model}/{optimizer}": 0.0 for model in "xy" for optimizer in "ab"}
    changes = {"confirmations": tuple(runs), "target": 0.7, "target_source": "given"}
    (rate,) = (text for text in several(levels, **changes) if text.startswith("Error rate"))
    assert rate == (
        "Error rate: without any true difference, at most 5% of such studies find one, for each of quality, steps to "
        "target, seconds to target and interaction; each is corrected for its own number of comparisons"
    )
    assert not any(text.startswith("Error rate") for text in several({"a": 0.0, "b": 0.0}))


def several(levels, **changes):
    """Verdicts of a study whose arms have these effects."""
    chance = np.random.default_rng(3)
    values = {arm: (0.8 + level + chance.normal(0, 0.01, 8)).tolist() for arm, level in levels.items()}
    rules = changes.pop("rules", None)
    return list(analyse(study(values, **changes), rules).verdicts)


def test_pairs_that_cannot_be_told_share_one_sentence():
    found = several({"a": 0.0, "b": 0.0, "c": 0.0, "d": -0.2})
    assert [text.split(":")[0] for text in found[:3]] == ["a beats d", "b beats d", "c beats d"]
    (alike,) = found[3:]
    head, pairs = alike.split("): ", 1)
    assert head == (
        "Not distinguishable with 8 seeds (in brackets: the difference seen, and the seeds that would tell it apart"
    )
    assert [part.split(" (")[0] for part in pairs.split("), ")] == ["a and b", "a and c", "b and c"]
    assert " pt, about " in pairs


def test_listed_pairs_name_each_model_once():
    levels = {f"{model}/{optimizer}": 0.0 for model in ("cnn", "swin") for optimizer in ("sgd", "adamw", "lion")}
    found = several(levels, rules=StudyRules(relevant_difference=0.005))
    alike = next(text for text in found if text.startswith("Not distinguishable"))
    assert alike.startswith(
        "Not distinguishable with 8 seeds (in brackets: the seeds that would tell 0.5 pt apart): on cnn sgd and adamw ("
    )
    assert (alike.count("on cnn"), alike.count("on swin"), alike.count(" and ")) == (1, 1, 6)


def test_a_pair_with_a_miss_keeps_its_own_sentence():
    values = {"a": [0.8, 0.81, 0.79, 0.8], "b": [0.81, 0.8, None, 0.79], "c": [0.8, 0.79, 0.8, 0.82]}
    found = list(analyse(study(values)).verdicts)
    assert sum("b has no result on 1 of 4 seeds" in text for text in found) == 2
    assert len(found) == 3


def test_doubted_seconds_share_one_sentence():
    levels = {"x/a": 0.0, "x/b": 0.0, "x/c": 0.0}
    runs = [
        confirmation(arm, seed, 0.8, steps_to_target=50.0 + seed, seconds_to_target=5.0)
        for arm in levels
        for seed in range(1, 9)
    ]
    costs = (cost("x/a", 0.1, contaminated=True), cost("x/b", 0.1), cost("x/c", 0.1))
    changes = {"confirmations": tuple(runs), "target": 0.7, "target_source": "given", "clock": FROM_STEPS}
    found = several(levels, **changes, costs=costs)
    assert "Seconds to target cannot be told (the step time of x/a was disturbed) on x: a and b, a and c" in found
    assert "Steps to target not distinguishable: all 3 pairs" in found
    every = several(levels, **changes, costs=tuple(cost(arm, 0.1, contaminated=True) for arm in levels))
    assert "Seconds to target cannot be told (the step times of all 3 arms were disturbed): all 3 pairs" in every
    assert "b and c on x: seconds to target not distinguishable within 10 seconds, 8 seeds" in found


def test_leaders_of_the_tuning_are_said_by_budget():
    trials = [trial(arm, n, 0.7 + n / 100 + (arm == "a") / 10) for arm in "ab" for n in range(4)]
    found = several({"a": 0.0, "b": 0.0}, trials=tuple(trials), planned_trials=4)
    assert found[-1] == ("Tuning: after 1 to 4 runs a has the best validation most often (100% of resampled tunings)")


def points(*wins):
    """Budgets 1, 2, ... with the share of wins of the arms a, b, ..."""
    return [
        BudgetPoint(arm, trials, 0.8, 0.7, 0.9, share)
        for trials, shares in enumerate(wins, start=1)
        for arm, share in zip("abc", shares, strict=False)
    ]


def test_shares_of_a_leader_are_the_least_and_the_most():
    found = budget_verdict(points((0.5, 0.4), (0.7, 0.3), (0.6, 0.4), (0.2, 0.8)), (Arm("a"), Arm("b")))
    assert found == (
        "Tuning: after 1 to 3 runs a has the best validation most often (50% to 70% of resampled tunings), "
        "after 4 runs b (80%)"
    )


@pytest.mark.parametrize("shares", [(0.0, 0.0, 0.0), (0.4, 0.4, 0.2)])
def test_nobody_leads_where_all_diverged_or_two_are_equal(shares):
    arms = (Arm("a"), Arm("b"), Arm("c"))
    assert budget_verdict(points(shares), arms) == "Tuning: after 1 run no arm has the best validation most often"
    assert budget_verdict(points(shares, (0.1, 0.6, 0.3)), arms) == (
        "Tuning: after 1 run no arm has the best validation most often, after 2 runs b (60% of resampled tunings)"
    )


def test_names_are_listed_as_in_a_sentence():
    assert [listed(list(names)) for names in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
