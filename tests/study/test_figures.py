"""Figures of a study: names beside lines, Pareto fronts with error bars, what a screen reader says."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from effbench.pareto import FrontPoint
from effbench.report.charts import BOTTOM, RIGHT, WIDTH
from effbench.report.figures import Series, figure
from effbench.report.fronts import front_figure
from effbench.stats import Interval
from effbench.study.analysis import analyse
from effbench.study.figures import learning_curves, target_band, target_curve
from effbench.study.grids import FRONT, RANKING, TARGET, details
from effbench.study.page import figures
from effbench.study.results import SurvivalPoint
from effbench.study.table import FROM_STEPS, MEASURED
from tests.study.planted import confirmation, cost, study


def lines(*heights, name="arm"):
    return [Series(f"{name}{at}", at, [(0.0, 0.0), (10.0, height)]) for at, height in enumerate(heights)]


def drawn(series, **changes):
    found = figure("title", "step", series, "{:.3g}".format, **changes)
    assert found is not None
    return found


def test_lines_carry_their_names_where_there_is_room():
    found = drawn(lines(1.0, 0.5, 0.48))
    assert found.named
    assert [label.text for label in found.labels] == ["arm0", "arm1", "arm2"]
    heights = sorted(label.y for label in found.labels)
    assert min(np.diff(heights)) >= 11 - 1e-9
    assert all(found.right < label.x < WIDTH for label in found.labels)
    assert max(heights) <= BOTTOM + 4


@pytest.mark.parametrize("series", [lines(*[0.5] * 8), lines(1.0, name="a very long name of an arm ")])
def test_names_without_room_are_left_to_the_legend(series):
    found = drawn(series)
    assert (found.named, found.labels, found.right) == (False, (), RIGHT)


def test_shares_span_the_whole_axis():
    found = drawn(lines(0.0), limits=(0.0, 1.0))
    assert [tick.text for tick in found.panel.y_ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


def test_an_arm_at_the_target_stays_there():
    curve = [SurvivalPoint(5.0, 0.5, 0.0, 1.0), SurvivalPoint(8.0, 0.0, 0.0, 1.0)]
    assert target_curve(curve, 20.0)[-2:] == [(8.0, 1.0), (20.0, 1.0)]
    assert target_curve(curve[:1], 20.0)[-1] == (5.0, 0.5)


NAMES = {arm: (index, arm) for index, arm in enumerate("abcd")}


def place(arm, value, status="on the front", by=(), width=0.0):
    interval = None if value is None else Interval(value, value - width, value + width, 3)
    return FrontPoint(arm, "step_seconds", interval, status, by)


def front(points, qualities):
    return front_figure(
        "test acc against time", "time", points, qualities, NAMES, ("{:.3g} s".format, "{:.0%}".format, "{:.0%}".format)
    )


def test_a_front_shows_both_intervals_and_says_them():
    qualities = {"a": Interval(0.8, 0.7, 0.9, 8), "b": Interval(0.6, 0.5, 0.7, 8)}
    found = front([place("a", 1.0, width=0.1), place("b", 2.0, "dominated", ("a",))], qualities)
    assert [(mark.label, mark.status, len(mark.bars)) for mark in found.marks] == [
        ("a", "on the front", 2), ("b", "dominated", 1),
    ]  # fmt: skip
    assert found.text == (
        "test acc against time. a: 80% [70%, 90%] at 1 s [0.9 s, 1.1 s], on the front; "
        "b: 60% [50%, 70%] at 2 s, dominated by a"
    )
    a, b = found.marks
    assert a.y < b.y
    assert a.x < b.x
    assert {label.text for label in found.labels} == {"a", "b"}


def test_a_front_needs_two_arms_with_known_values():
    qualities = {"a": Interval(0.8, 0.7, 0.9, 8), "b": Interval(0.6, 0.5, 0.7, 8)}
    assert front([place("a", 1.0), place("b", None, "unknown")], qualities) is None
    assert front([place("a", 1.0), place("c", 1.0)], qualities) is None


def test_one_seed_has_no_bar_and_wide_costs_go_by_powers():
    qualities = {arm: Interval(0.8, -math.inf, math.inf, 1) for arm in "abc"}
    found = front([place("a", 1.0), place("b", 30.0), place("c", 1000.0)], qualities)
    assert [mark.bars for mark in found.marks] == [[], [], []]
    assert "powers of ten" in found.panel.x_label
    assert [tick.text for tick in found.panel.x_ticks] == ["1 s", "10 s", "100 s", "1e+03 s"]
    a, b, c = (mark.x for mark in found.marks)
    assert b - a == pytest.approx((c - a) * math.log10(30) / 3, abs=0.2)


def test_names_cover_neither_marks_nor_each_other():
    chance = np.random.default_rng(0)
    names = {f"arm-{at:02d}": (at, f"arm-{at:02d}") for at in range(12)}
    points = [place(arm, float(chance.random() + 1)) for arm in names]
    qualities = {arm: Interval(value := float(chance.random()), value - 0.01, value + 0.01, 8) for arm in names}
    found = front_figure("t", "c", points, qualities, names, ("{:.2g}".format,) * 3)
    boxes = [
        (label.x if label.anchor == "start" else label.x - 40, label.y - 8, label.x + 40 * (label.anchor == "start"))
        for label in found.labels
    ]
    assert len(boxes) >= 9
    for left, top, right in boxes:
        assert 0 <= left < right <= WIDTH
        inside = [mark for mark in found.marks if left < mark.x < right and top < mark.y < top + 8]
        assert inside == []


def test_a_study_of_two_models_has_a_figure_each():
    arms = {f"{model}/{optimizer}": [0.8, 0.81] for model in ("cnn", "mlp") for optimizer in ("sgd", "adam")}
    curves = {arm: [[[10, 0.5], [20, 0.8]]] * 2 for arm in arms}
    costs = tuple(cost(arm, 0.1 + at / 10, 1000 + at) for at, arm in enumerate(arms))
    table = study(arms, costs=costs)
    found = figures(table, analyse(table), curves)
    assert [each.panel.title for each in found[RANKING]] == [
        "validation acc on cnn (mean, range of seeds)", "validation acc on mlp (mean, range of seeds)",
    ]  # fmt: skip
    first, second = ([(line.label, line.colour) for line in each.panel.lines] for each in found[RANKING])
    assert first == second == [("sgd", 0), ("adam", 1)]
    assert {mark.label for mark in found[FRONT][0].marks} == set(arms)


def test_equal_networks_do_not_differ_in_latency():
    """One and the same network was measured at 0.28, 0.20 and 0.14 ms beside other work: noise is no front."""
    values = {arm: [0.8 + 0.1 * at + seed / 100 for seed in range(8)] for at, arm in enumerate("abc")}
    costs = [cost(arm, 1.0, latency_p50_seconds=late) for arm, late in zip("abc", (1e-4, 2e-4, 3e-4), strict=True)]
    found = [each for each in analyse(study(values, costs=tuple(costs))).front if each.cost == "latency_p50_seconds"]
    assert [each.status for each in found] == ["perhaps dominated", "perhaps dominated", "on the front"]
    costs[2] = cost("c", 1.0, 5000, latency_p50_seconds=3e-4)  # another network
    found = [each for each in analyse(study(values, costs=tuple(costs))).front if each.cost == "latency_p50_seconds"]
    assert [each.status for each in found] == ["perhaps dominated", "on the front", "on the front"]


def test_memory_that_differs_by_noise_is_the_same():
    values = {arm: [0.8 + 0.1 * at + seed / 100 for seed in range(6)] for at, arm in enumerate("ab")}
    costs = (cost("a", 1.0, peak_memory_bytes=549_000_000), cost("b", 1.0, peak_memory_bytes=549_200_000))
    found = [each for each in analyse(study(values, costs=costs)).front if each.cost == "peak_memory_bytes"]
    assert [each.status for each in found] == ["perhaps dominated", "on the front"]


def test_a_failed_run_or_an_early_stop_takes_no_curve_away():
    """Three seeds: one goes on to step 30, one stopped early at 20 with its best at 10, one failed."""
    curves = {"a": [[(10, 0.5), (20, 0.6), (30, 0.7)], [(10, 0.8), (20, 0.4)]], "b": [[(10, 0.1)]] * 3}
    runs = [confirmation(arm, seed, None if (arm, seed) == ("a", 3) else 0.8) for arm in "ab" for seed in (1, 2, 3)]
    table = study({"a": [], "b": []}, confirmations=tuple(runs))
    (drawn,) = figures(table, analyse(table), curves)[RANKING]
    assert drawn.text.endswith("a: 75% at 30; b: 10% at 10")  # (0.7 + 0.8) / 2
    assert drawn.note == (
        "Mean over the runs with a result: a 2 of 3. a: a run that stopped early counts with its best value after its "
        "end."
    )
    whole, _ = (series.band for series in learning_curves(curves, NAMES, "max")[:2])
    assert whole == [(10.0, 0.5, 0.8), (20.0, 0.4, 0.6), (30.0, 0.7, 0.8)]
    assert learning_curves(curves, NAMES, "min")[0].band[-1] == (30.0, 0.4, 0.7)


def with_target(**changes):
    reached = {"steps_to_target": 40.0, "seconds_to_target": 4.0}
    runs = [confirmation(arm, seed, 0.8, **reached) for arm in ("mlp/sgd", "mlp/lion") for seed in (1, 2, 3)]
    fields = {"target": 0.7, "target_source": "given", "clock": FROM_STEPS, "confirmations": tuple(runs)}
    costs = (cost("mlp/sgd", 0.1), cost("mlp/lion", 0.1))
    return study({"mlp/sgd": [], "mlp/lion": []}, **(fields | {"costs": costs} | changes))


@pytest.mark.parametrize(
    ("changes", "units"),
    [
        ({}, ["optimizer step", "seconds of training"]),
        ({"clock": MEASURED}, ["optimizer step"]),
        ({"costs": tuple(cost(f"mlp/{each}", 0.1, contaminated=True) for each in ("sgd", "lion"))}, ["optimizer step"]),
        ({"target": None, "target_source": "none"}, []),
    ],
)
def test_seconds_to_target_are_drawn_where_they_can_be_trusted(changes, units):
    table = with_target(**changes)
    result = analyse(table)
    assert [each.panel.x_label for each in figures(table, result, {})[TARGET]] == units
    grids = [grid for grid in details(table, result) if grid.heading == TARGET]
    shown = [("training time" in grid.heads) for grid in grids]
    assert shown == ([len(units) == 2] if units else [])


def test_the_band_of_runs_at_the_target_is_kaplan_and_meier_s():
    curve = [SurvivalPoint(5.0, 0.5, 0.2, 0.75), SurvivalPoint(8.0, 0.0, 0.0, 0.75)]
    assert target_band(curve, 20.0) == [
        (0.0, 0.0, 0.0), (5.0, 0.0, 0.0), (5.0, 0.25, 0.8), (8.0, 0.25, 0.8), (8.0, 0.25, 1.0), (20.0, 0.25, 1.0),
    ]  # fmt: skip
    assert target_band(curve[:1], 20.0)[-1] == (5.0, 0.25, 0.8)
    assert [x for x, _, _ in target_band(curve, 20.0)] == [x for x, _ in target_curve(curve, 20.0)]


def test_runs_without_validation_have_no_curve():
    table = study({"a": [], "b": []}, confirmations=(confirmation("a", 1, None),))
    assert figures(table, analyse(table), {"a": [[]], "b": []})[RANKING] == []


def test_every_line_of_the_page_has_a_dash_in_the_legend(tmp_path):
    from effbench.study.page import write_page

    arms = [f"an arm with a long name {at}" for at in range(9)]
    table = study({arm: [0.8] for arm in arms})
    curves = {arm: [[[10, 0.5], [20, 0.8]]] for arm in arms}
    page = write_page(tmp_path, table, analyse(table), curves).read_text()
    keys = re.findall(r'<span class="(c\d d\d)"><svg class="key"', page)
    assert len(set(keys)) == len(keys) == 9
    assert set(re.findall(r'<g class="(c\d d\d)"><title>', page)) == set(keys)
