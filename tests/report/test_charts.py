"""Curves as the numbers of an SVG."""

from __future__ import annotations

import math
from typing import Any

import pytest

from effbench.metrics import display_of
from effbench.report.charts import BOTTOM, LEFT, RIGHT, TOP, Curve, Panel, panels_of_run, panels_of_runs, thinned
from tests.report.pages import COLUMNS, curve

DISPLAYS = {name: display_of(name) for name in ("loss", "acc")}


def drawn(rows: list[dict[str, Any]], label: str = "a", colour: int = 0, per_step: float | None = 1 / 8) -> Curve:
    """As metrics.csv is read: all columns, all text."""
    texts = [{name: str(row.get(name, "")) for name in COLUMNS} for row in rows]
    return Curve(label, colour, texts, per_step)


def placed(panel: Panel, line: int = 0) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in panel.lines[line].points.split())]


def test_each_run_is_a_line_of_its_own_colour_in_each_panel() -> None:
    panels = panels_of_runs([drawn(curve(), "a", 0), drawn(curve(scale=2.0), "b", 3)], DISPLAYS)
    assert [panel.title.split(" (")[0] for panel in panels] == [
        "validation accuracy", "validation loss", "training loss", "learning rate",
    ]  # fmt: skip
    for panel in panels:
        assert [(line.label, line.colour) for line in panel.lines] == [("a", 0), ("b", 3)]


def test_values_lie_where_the_ticks_say() -> None:
    [_, loss, *_] = panels_of_runs([drawn(curve())], DISPLAYS)  # validated at epochs 1 and 2: 1/8 and 1/16
    (x_1, y_1), (x_2, y_2) = placed(loss)
    ticks = {tick.text: tick.place for tick in loss.x_ticks}
    assert loss.x_label == "epoch"
    assert (x_1, x_2) == pytest.approx((ticks["1"], ticks["2"]), abs=0.1)
    low, high = loss.y_ticks[0], loss.y_ticks[-1]
    per_unit = (high.place - low.place) / (float(high.text) - float(low.text))
    assert y_1 == pytest.approx(low.place + (1 / 8 - float(low.text)) * per_unit, abs=0.2)
    assert y_2 == pytest.approx(low.place + (1 / 16 - float(low.text)) * per_unit, abs=0.2)
    assert y_1 < y_2  # higher up


def test_everything_lies_within_the_frame() -> None:
    for panel in panels_of_runs([drawn(curve()), drawn(curve(scale=-3.0)), drawn(curve(5))], DISPLAYS):
        for number in range(len(panel.lines)):
            assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in placed(panel, number))
        assert all(TOP <= tick.place <= BOTTOM for tick in panel.y_ticks)
        assert 2 <= len(panel.y_ticks) <= 8


def test_losses_of_very_different_scale_get_a_log_axis() -> None:
    [_, loss, *_] = panels_of_runs([drawn(curve()), drawn(curve(scale=1e9))], DISPLAYS)
    assert loss.title.endswith("by powers of ten")
    assert {"1", "1e+08"} & {tick.text for tick in loss.y_ticks}
    (_, y_a), (_, y_b) = placed(loss, 0)[0], placed(loss, 1)[0]
    assert y_b < y_a


@pytest.mark.parametrize("value", [0.0, 5.0, -1e-300, 1e99, 1e-9])
def test_a_flat_curve_and_a_single_point_are_drawn(value: float) -> None:
    rows = [{"row": "epoch", "epoch": 1, "step": 8, "val/loss": value}]
    for many in (rows, [*rows, {**rows[0], "epoch": 2, "step": 16}]):
        [panel] = panels_of_runs([drawn(many)], DISPLAYS)
        assert all(math.isfinite(number) for point in placed(panel) for number in point)
        assert panel.lines[0].dots


def test_steps_are_the_measure_where_epochs_are_not_known() -> None:
    panel = panels_of_runs([drawn(curve(), per_step=None), drawn(curve())], DISPLAYS)[0]
    assert panel.x_label == "optimizer step"
    assert {tick.text for tick in panel.x_ticks} >= {"5", "10", "15"}


def test_no_rows_are_no_panels() -> None:
    assert panels_of_runs([drawn([])], DISPLAYS) == []
    assert panels_of_runs([], DISPLAYS) == []
    assert panels_of_run(drawn([]), DISPLAYS) == []


def test_single_run_chart_overlays_train_and_validation() -> None:
    loss, accuracy, rate = panels_of_run(drawn(curve()), DISPLAYS)
    assert [line.label for line in loss.lines] == [line.label for line in accuracy.lines] == ["train", "val"]
    assert len(rate.lines) == 1


def test_thinning_keeps_the_ends_and_every_spike() -> None:
    series = [(float(x), math.sin(x / 50)) for x in range(10_000)]
    series[4321] = (4321.0, 99.0)
    series[7654] = (7654.0, -99.0)
    kept = thinned(series, 240)
    assert len(kept) <= 242
    assert kept[0] == series[0]
    assert kept[-1] == series[-1]
    assert {(4321.0, 99.0), (7654.0, -99.0)} <= set(kept)
    assert kept == sorted(kept)
    assert thinned(series[:240], 240) == series[:240]
