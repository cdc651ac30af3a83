"""Durations and sizes as people write them, against the arithmetic they stand for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effbench.errors import ConfigError, shown
from effbench.units import counted, human_bytes, human_count, seconds_from, steps_from

TOTALS = st.integers(1, 10**7)
NUMBERS = st.integers(0, 10**6)


def steps(span, total=1000, epoch=100):
    return steps_from(span, "scheduler.warmup", total, epoch)


# --- spans of training


@given(NUMBERS, TOTALS, TOTALS)
def test_a_number_is_steps_whatever_the_run(number, total, epoch):
    assert steps_from(number, "key", total, epoch) == number
    assert steps_from(f"{number} steps", "key", total, epoch) == number
    assert steps_from("total", "key", total, epoch) == total


@given(st.integers(0, 1000), TOTALS, TOTALS)
def test_epochs_are_multiples_of_the_epochs_steps(number, total, epoch):
    assert steps_from(f"{number} epochs", "key", total, epoch) == number * epoch


@given(st.integers(0, 100), TOTALS)
def test_percent_are_of_the_run_to_the_nearest_step(percent, total):
    got = steps_from(f"{percent}%", "key", total, 1)
    assert abs(100 * got - percent * total) <= 50
    assert 0 <= got <= total


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (0, 0),
        ("1 step", 1),
        ("1 epoch", 100),
        ("0.5 epochs", 50),
        ("2.5 %", 25),
        ("2.5%", 25),
        ("7.25%", 72),
        (" 5% ", 50),
        ("100%", 1000),
        ("0%", 0),
        ("3epochs", 300),
    ],
)
def test_a_span_reads_as_it_is_written(span, expected):
    assert steps(span) == expected


@pytest.mark.parametrize(
    "span",
    [
        -1,
        True,
        False,
        1.5,
        None,
        "",
        "5",
        "five",
        "-5%",
        "5 %%",
        "1e3 steps",
        "2 weeks",
        "total ",
        [5],
        "9" * 400 + " steps",
    ],
)
def test_an_invalid_span_is_refused_with_the_key_and_examples(span):
    with pytest.raises(ConfigError) as caught:
        steps(span)
    message = str(caught.value)
    assert message.startswith("scheduler.warmup must be")
    assert "'2 epochs'" in message
    assert message.endswith(f"got {shown(span)}.")


def test_more_than_the_whole_run_is_refused():
    with pytest.raises(ConfigError, match=r"scheduler\.warmup must be at most 100% of the run; got '101%'\."):
        steps("101%")


@given(st.text() | st.integers() | st.floats() | st.none())
def test_any_span_gives_steps_or_a_config_error(span):
    try:
        got = steps(span)
    except ConfigError:
        return
    assert isinstance(got, int)
    assert got >= 0


# --- clock time


@given(st.integers(0, 99), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_lightnings_form_is_days_hours_minutes_seconds(days, hours, minutes, seconds):
    expected = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    text = f"{days:02}:{hours:02}:{minutes:02}:{seconds:02}"
    if expected:
        assert seconds_from(text, "key") == expected
    else:
        with pytest.raises(ConfigError, match="key must be"):
            seconds_from(text, "key")


@pytest.mark.parametrize(
    ("text", "expected"),
    [(90, 90.0), (0.5, 0.5), ("90s", 90.0), ("15m", 900.0), ("1.5h", 5400.0), ("2d", 172800.0), (" 3 m ", 180.0)],
)
def test_a_duration_reads_as_it_is_written(text, expected):
    got = seconds_from(text, "trainer.max_time")
    assert isinstance(got, float)
    assert got == expected


@pytest.mark.parametrize(
    "duration",
    [
        0,
        -1,
        True,
        math.nan,
        math.inf,
        "0s",
        "0.0h",
        "",
        "90",
        "5 weeks",
        "-5s",
        "1:2",
        "00:99",
        None,
        "1e3s",
        "9" * 400 + "s",
    ],
)
def test_invalid_duration_is_refused_with_key_and_examples(duration):
    with pytest.raises(ConfigError, match=r"trainer\.max_time must be .*'90s', '15m'.*got"):
        seconds_from(duration, "trainer.max_time")


@given(st.text() | st.integers() | st.floats())
def test_any_duration_gives_seconds_or_a_config_error(duration):
    try:
        got = seconds_from(duration, "key")
    except ConfigError:
        return
    assert 0 < got < math.inf


# --- sizes for people


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.4, "999 B"),
        (999.5, "1 kB"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (12_345_678, "12.3 MB"),
        (2.5e9, "2.5 GB"),
        (7e12, "7 TB"),
        (-1500, "-1.5 kB"),
    ],
)
def test_bytes_are_shown_in_decimal_units_and_three_digits(count, expected):
    assert human_bytes(count) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0"), (999, "999"), (1000, "1k"), (2_542_856, "2.54M"), (60.19e6, "60.2M"), (11.5e9, "11.5G"), (3e12, "3T")],
)
def test_counts_are_shown_in_decimal_units_and_three_digits(count, expected):
    assert human_count(count) == expected


SCALE = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@given(st.floats(0, 9e14))
def test_human_numbers_are_within_half_a_percent_and_no_exponent(count):
    for text, unit in ((human_bytes(count), "B"), (human_count(count), "")):
        number = text.removesuffix(unit).strip()
        prefix = number[-1] if number[-1] in SCALE else ""
        number = number.removesuffix(prefix).strip()
        assert float(number) * SCALE[prefix] == pytest.approx(count, rel=0.0051, abs=0.0051)
        assert "e" not in number or count < 1


@pytest.mark.parametrize(("count", "expected"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (1200, "1,200 steps")])
def test_one_is_counted_in_the_singular(count, expected):
    assert counted(count, "step") == expected
