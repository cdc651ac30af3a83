"""Verdicts word for word."""

from __future__ import annotations

import numpy as np

from effbench.study.analysis import analyse
from effbench.study.table import StudyRules
from effbench.study.verdicts import plan_sentences
from tests.study.planted import study, trial

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
    assert sentence(-0.02, mode="min", as_percent=False) == (
        "Lion beats AdamW on Swin: -0.020 [-0.027, -0.013], p = 0.0078, 8 seeds"
    )


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
        "(+2.0 pt [1.3, 2.7], p = 0.0078, 8 seeds), but Lion leads in only 50% of resampled tunings"
    )
    clear = [trial(arm, number, 0.7 + number / 1000 + (arm == SWIN[0]) / 50) for arm in SWIN for number in range(4)]
    assert sentence(0.02, trials=tuple(clear), planned_trials=4).startswith("Lion beats AdamW on Swin: +2.0 pt")


def test_plans_say_what_they_can_find():
    assert plan_sentences(5, 3)[-1] == "No verdict is possible with 5 seeds."
    rules = StudyRules(relevant_difference=0.005)
    found = plan_sentences(8, 6, rules, deviation=0.01)
    assert found[0].startswith("8 seeds, 6 comparisons: smallest p 0.00781; Holm's correction asks for 0.0083 (least")
    assert found[1].startswith("If paired differences vary by 1 pt over seeds, a difference of 1.9 pt is found in 80%")
    assert "A difference of 0.5 pt is found in " in found[2]
    assert "seeds would find it in 80%" in found[2]
