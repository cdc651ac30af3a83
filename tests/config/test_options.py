"""Rules of options against their meaning written out, and the message that names key, rule, value and remedy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from effbench.config import options
from effbench.config.options import COUNT, FRACTION, POSITIVE, Rule
from effbench.errors import ConfigError, OptionError

MEANING: dict[str, Callable[[Any], bool]] = {
    "BOOL": lambda x: isinstance(x, bool),
    "WHOLE": lambda x: isinstance(x, int) and x >= 0,
    "COUNT": lambda x: isinstance(x, int) and x >= 1,
    "THREADS": lambda x: isinstance(x, int) and 1 <= x <= 1024,
    "ODD": lambda x: isinstance(x, int) and x >= 1 and x % 2 == 1,
    "FRACTION": lambda x: 0 <= x <= 1,
    "FRACTION_BELOW_1": lambda x: 0 <= x < 1,
    "FRACTION_ABOVE_0": lambda x: 0 < x <= 1,
    "FRACTION_BETWEEN": lambda x: 0 < x < 1,
    "NON_NEGATIVE": lambda x: 0 <= x < math.inf,
    "POSITIVE": lambda x: 0 < x < math.inf,
    "FROM_1": lambda x: 1 <= x < math.inf,
    "AT_LEAST_2": lambda x: isinstance(x, int) and x >= 2,
    "ODD_FROM_3": lambda x: isinstance(x, int) and x >= 3 and x % 2 == 1,
    "SEED": lambda x: isinstance(x, int) and -(2**63) <= x < 2**64,
}


def test_every_rule_is_tried_here() -> None:
    assert {name for name, value in vars(options).items() if isinstance(value, Rule)} == set(MEANING)


@pytest.mark.parametrize("name", MEANING)
@given(
    value=st.one_of(
        st.integers(-3, 5), st.integers(1023, 1026), st.floats(-2, 2), st.sampled_from([0.0, 1.0, math.inf, math.nan])
    )
)
def test_a_rule_holds_for_what_it_says(name: str, value: float) -> None:
    assert getattr(options, name).holds(value) is bool(MEANING[name](value))


@pytest.mark.parametrize("value", [True, "1", None, [1], torch.tensor(1), np.int64(1), 1j], ids=repr)
@pytest.mark.parametrize("name", MEANING)
def test_what_is_no_plain_number_keeps_no_rule(name: str, value: object) -> None:
    assert getattr(options, name).holds(value) is (name == "BOOL" and value is True)


def test_a_message_names_key_rule_value_and_remedy() -> None:
    with pytest.raises(OptionError, match=r"^a\.b must be in \[0, 1\]; got 30\. For 30 % write 0\.3\.$"):
        FRACTION.check(30, "a.b", remedy="For 30 % write 0.3.")
    with pytest.raises(ConfigError, match=r"^a\.b must be a whole number of steps; got '3'\.$"):
        COUNT.check("3", "a.b", "a whole number of steps")


def test_a_whole_number_for_a_float_becomes_one() -> None:
    assert isinstance(POSITIVE.check(2, "a"), float)
