"""When a run is stopped early, against the rule written out naively."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.training.early_stopping import EarlyStopping, NoEarlyStopping
from effbench.training.state import TrainState
from tests.training.tiny import data, dense, trainer


def stops_at(values, mode="min", patience=2, min_delta=0.0, threshold=None) -> int | None:
    """The number (from 1) of the check that stops the run."""
    stopping, state = EarlyStopping("val/loss", mode, patience, min_delta, threshold), TrainState()
    for number, value in enumerate(values, start=1):
        state.metrics["val/loss"] = value
        stopping.check(state)
        if state.stop_reason:
            assert state.status == "stopped_early"
            return number
    return None


def test_patience_2_stops_at_second_check_without_improvement():
    assert stops_at([1.0, 0.9, 0.95, 0.91, 0.1]) == 4


def test_an_improvement_resets_the_count():
    assert stops_at([1.0, 1.1, 0.9, 1.0, 0.8, 0.9, 0.9]) == 7


def test_an_equal_value_is_no_improvement():
    assert stops_at([1.0, 1.0, 1.0]) == 3


def test_nan_is_no_improvement_and_never_the_best():
    nan = float("nan")
    assert stops_at([1.0, nan, nan]) == 3
    assert stops_at([nan, 1.0, 0.9, 0.8, 0.7]) is None
    assert stops_at([nan, 1.0, 1.0, 1.0]) == 4
    assert stops_at([nan, nan, nan, nan]) == 3


def test_a_validation_without_the_metric_is_no_check():
    stopping, state = EarlyStopping("val/f1", "max", 2, 0.0, threshold := 0.9), TrainState()
    for value in (0.5, None, None, None, 0.5, None):
        state.measured("val", {"val/loss": 1.0} | ({} if value is None else {"val/f1": value}))
        stopping.check(state)
        stopping.stop_if_due(state)  # as at a resume
        assert state.stop_reason is None
    assert (stopping.best, stopping.waited) == (0.5, 1)
    state.measured("val", {"val/f1": threshold})
    stopping.check(state)
    assert state.stop_reason == "val/f1 reached 0.9 (threshold 0.9)"


def test_max_waits_for_a_rise():
    assert stops_at([0.1, 0.2, 0.3, 0.3, 0.2], mode="max") == 5
    assert stops_at([0.1, 0.2, 0.3, 0.4, 0.5], mode="max") is None
    assert stops_at([0.5, 0.4, 0.3], mode="max") == 3


def test_an_improvement_of_exactly_min_delta_does_not_count():
    assert stops_at([1.0, 0.75, 0.75], min_delta=0.25) == 3
    assert stops_at([1.0, 0.74, 0.48], min_delta=0.25) is None


def test_many_small_steps_add_up_to_min_delta():
    """The best so far moves only on an improvement, so that slow progress is not taken for none."""
    assert stops_at([1.0, 0.9, 0.7, 0.6, 0.4], min_delta=0.25, patience=2) is None


def test_checks_while_the_learning_rate_still_rises_do_not_count():
    stopping, state = EarlyStopping("val/loss", "min", 2, 0.0, None, warmup=30), TrainState()
    for step, value in enumerate([1.0, 4.0, 5.0, 5.0, 5.0], start=1):
        state.step, state.metrics["val/loss"] = 10 * step, value
        stopping.check(state)
        assert bool(state.stop_reason) == (step >= 4)  # the second check without improvement from step 30 on


def test_patience_0_stops_as_patience_1_does():
    assert stops_at([1.0, 0.9, 0.9], patience=0) == stops_at([1.0, 0.9, 0.9], patience=1) == 3


@pytest.mark.parametrize(("mode", "values", "stop"), [("min", [3, 2, 1.9], 2), ("max", [0.3, 0.9, 0.8], 2)])
def test_the_threshold_stops_as_soon_as_it_is_reached(mode, values, stop):
    assert stops_at(values, mode, patience=9, threshold=values[1]) == stop


def naive(values, mode, patience, min_delta) -> int | None:
    better = {"min": lambda new, old: old - new > min_delta, "max": lambda new, old: new - old > min_delta}[mode]
    records = []  # the checks that improved
    for i, value in enumerate(values):
        if not records or better(value, values[records[-1]]):
            records.append(i)
        if i - records[-1] >= max(patience, 1):
            return i + 1
    return None


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 20), max_size=30),
    st.sampled_from(["min", "max"]),
    st.integers(0, 5),
    st.integers(0, 3),
)
def test_early_stopping_equals_a_naive_implementation(values, mode, patience, min_delta):
    assert stops_at(values, mode, patience, min_delta) == naive(values, mode, patience, min_delta)


def test_the_reason_names_metric_and_value():
    state = TrainState(metrics={"val/acc": 0.5})
    stopping = EarlyStopping("val/acc", "max", 1, 0.0, None)
    stopping.check(state)
    stopping.check(state)
    assert state.stop_reason == "val/acc has not improved on 0.5 for 1 checks"


@pytest.mark.row(17)
@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_the_count_is_restored_from_its_state(cut):
    values = [1.0, 1.1, 0.9, 1.0, 1.0, 1.0]
    stopping, state = EarlyStopping("m", "min", 3, 0.0, None), TrainState()
    for number, value in enumerate(values, start=1):
        if number == cut:
            saved, stopping = stopping.state_dict(), EarlyStopping("m", "min", 3, 0.0, None)
            stopping.load_state_dict(saved)
        state.metrics["m"] = value
        stopping.check(state)
        assert bool(state.stop_reason) == (number == 6)


def test_a_run_without_early_stopping_goes_to_its_limit():
    net = dense()
    run = trainer(data(), net, 9, validate=True, early_stopping=NoEarlyStopping())
    assert run.fit().status == "completed"
    assert run.state.step == 9


def test_a_train_metric_stops_a_run_without_validation():
    """lr 0: the loss of an epoch changes by rounding alone."""
    net = dense()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    stopping = EarlyStopping("train/loss", "min", 2, 0.01, None)
    run = trainer(data(), net, 30, optimizer=optimizer, early_stopping=stopping)
    state = run.fit()
    assert (state.status, state.epoch, state.step) == ("stopped_early", 3, 9)


def test_run_stops_after_the_validation_that_exhausts_patience():
    """lr 0: no validation improves on the first."""
    net = dense()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    stopping = EarlyStopping("val/loss", "min", 2, 0.0, None)
    run = trainer(data(), net, 30, optimizer=optimizer, validate=True, early_stopping=stopping)
    state = run.fit()
    assert (state.status, state.epoch, state.step) == ("stopped_early", 3, 9)
