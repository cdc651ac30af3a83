"""Search spaces: what a file may say, and what is sampled."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scipy.stats

from effbench.config.compose import compose
from effbench.config.static_compose import group_options
from effbench.config.study_files import content_of, options
from effbench.errors import ConfigError
from effbench.study.space import Sampler, sampled, search_space, short_words_of, words_of

pytest.importorskip("optuna")
SAMPLERS: tuple[Sampler, ...] = ("qmc", "random")

MIXED = {
    "optimizer.lr": {"log": [1e-4, 1e-1]},
    "optimizer.weight_decay": {"uniform": [0.0, 0.5]},
    "model.depth": {"int": [1, 3]},
    "scheduler.warmup": {"choices": [0, "5%"]},
}


@pytest.mark.proof
@pytest.mark.slow
def test_the_space_of_every_optimizer_composes() -> None:
    named_so = set(group_options()["optimizer"]) & set(options("search_space"))
    assert {"sgd", "rmsprop", "adam", "adamw", "nadamw", "lion", "adan", "muon", "schedule_free"} <= named_so
    for name in named_so:
        space = search_space(name, content_of("search_space", name))
        for corner in space.corners():
            config = compose(["model=mlp", f"optimizer={name}", *words_of(corner)])
            assert config.optimizer.lr == corner["optimizer.lr"]


def test_samples_fill_every_range_evenly_on_its_scale() -> None:
    settings = sampled(search_space("mixed", MIXED), 64, seed=3)
    decades = [math.floor(-math.log10(each["optimizer.lr"]) + 1e-9) for each in settings]
    assert {decade: decades.count(decade) for decade in (1, 2, 3)} == pytest.approx({1: 21, 2: 21, 3: 21}, abs=2)
    assert sum(each["optimizer.weight_decay"] < 0.25 for each in settings) == pytest.approx(32, abs=1)
    assert {depth: sum(each["model.depth"] == depth for each in settings) for depth in (1, 2, 3)} == pytest.approx(
        {1: 21, 2: 21, 3: 21}, abs=2
    )
    assert sum(each["scheduler.warmup"] == "5%" for each in settings) == pytest.approx(32, abs=1)


@pytest.mark.parametrize("sampler", ["qmc", "random"])
def test_samples_depend_on_the_seed_and_not_on_their_number(sampler: Any) -> None:
    space = search_space("mixed", MIXED)
    assert sampled(space, 8, 1, sampler) == sampled(space, 16, 1, sampler)[:8]
    assert sampled(space, 8, 1, sampler) != sampled(space, 8, 2, sampler)


def test_random_samples_are_uniform_but_not_evenly_spread() -> None:
    settings = sampled(search_space("x", {"optimizer.lr": {"uniform": [0.0, 1.0]}}), 512, 0, "random")
    values = [float(each["optimizer.lr"]) for each in settings]
    assert scipy.stats.kstest(values, "uniform").pvalue > 0.01
    tenths = [sum(tenth <= 10 * value < tenth + 1 for value in values) for tenth in range(10)]
    assert max(tenths) - min(tenths) > 10  # of 51; a Sobol sequence has nearly equal ones


def test_arms_with_equally_many_settings_get_the_same_points() -> None:
    spaces = [search_space("x", {key: {"uniform": [0.0, 1.0]} for key in keys}) for keys in (("a", "b"), ("a", "c"))]
    for sampler in SAMPLERS:
        points = [[tuple(each.values()) for each in sampled(space, 16, 5, sampler)] for space in spaces]
        assert points[0] == points[1]


def test_no_setting_is_tried_twice() -> None:
    space = search_space("x", {"a": {"choices": [1, 2, 3]}, "b": {"choices": ["u", "v", "w"]}})
    for sampler in SAMPLERS:
        settings = sampled(space, 9, 0, sampler)
        assert len({tuple(each.values()) for each in settings}) == 9


def test_sampled_settings_stay_in_their_range_and_read_well() -> None:
    for each in sampled(search_space("mixed", MIXED), 128, seed=0):
        assert 1e-4 <= each["optimizer.lr"] <= 1e-1
        assert float(f"{each['optimizer.lr']:.4g}") == each["optimizer.lr"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "search space x is empty"),
        ({"optimizer.lr": 0.1}, "must be one of"),
        ({"optimizer.lr": {"log": [0, 1]}}, "0 < LOW < HIGH"),
        ({"optimizer.lr": {"log": [1, 0.1]}}, "LOW < HIGH"),
        ({"optimizer.lr": {"uniform": [1, 1]}}, "LOW < HIGH"),
        ({"optimizer.lr": {"log": ["a", 1]}}, "two numbers"),
        ({"model.depth": {"int": [1.5, 3]}}, "two numbers"),
        ({"optimizer.betas": {"choices": [[0.9, 0.99]]}}, "A list is a choice in quotes"),
        ({"optimizer.lr": {"choices": [0.1, 0.1]}}, "different"),
        ({"optimizer.lr": {"log": [1, math.inf]}}, "two numbers"),
    ],
)
def test_a_space_that_cannot_be_sampled_is_refused(content: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search_space("x", content)


def test_a_list_is_a_choice_that_composes() -> None:
    space = search_space("x", {"optimizer.betas": {"choices": ["[0.9,0.99]", "[0.95,0.98]"]}})
    words = words_of(space.corners()[1])
    assert compose(["model=mlp", "optimizer=lion", *words]).optimizer.betas == [0.95, 0.98]


def test_a_log_line_has_the_ends_of_keys_unless_two_are_alike() -> None:
    found = short_words_of({"optimizer.lr": 0.25, "model.head.dropout": 0.5, "model.dropout": 0.125, "loss.l1": 2})
    assert found == ["lr=0.25", "model.head.dropout=0.5", "model.dropout=0.125", "l1=2"]


def test_every_choice_is_in_a_setting_that_is_checked() -> None:
    space = search_space(
        "x", {"a": {"choices": [1, 2, 3, 4]}, "b": {"log": [0.1, 1.0]}, "c": {"choices": ["u", "v", "w"]}}
    )
    corners = space.corners()
    assert corners[:2] == [{"a": 1, "b": 0.1, "c": "u"}, {"a": 4, "b": 1.0, "c": "w"}]
    assert {each["a"] for each in corners} == {1, 2, 3, 4}
    assert {each["c"] for each in corners} == {"u", "v", "w"}
    assert len(corners) == 4
