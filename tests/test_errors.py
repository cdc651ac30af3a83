"""Values in messages are written as a user writes them."""

from __future__ import annotations

import pytest

from effbench.config.compose import compose
from effbench.config.options import COUNT
from effbench.errors import ConfigError, OptionError, shown
from effbench.units import steps_from


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ("None", "'None'"),
        ([None, "a", [False]], "[null, 'a', [false]]"),
        ({"a": None, "b": {"c": True}}, "{'a': null, 'b': {'c': true}}"),
        (0.5, "0.5"),
        ((1, 2), "(1, 2)"),
    ],
)
def test_a_value_is_shown_as_yaml_has_it(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_text_is_shown_without_quotes_where_asked() -> None:
    assert shown("adam", quotes=False) == "adam"
    assert shown(["adam"], quotes=False) == "['adam']"


def test_an_option_s_message_says_null() -> None:
    with pytest.raises(OptionError, match=r"scheduler\.step_size must be .*; got null\."):
        COUNT.check(None, "scheduler.step_size")
    with pytest.raises(ConfigError, match=r"got true\."):
        steps_from(True, "scheduler.warmup", 10, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("optimizer.lr=null", "optimizer.lr should be a valid number; got null."),
        ("seed=true", "seed should be a valid integer; got true."),
        ("model.freeze=[null]", "model.freeze should be a valid string; got null."),
        ("optimizer.no_decay=null", "optimizer.no_decay should be a valid boolean; got null."),
    ],
)
def test_a_refused_override_is_shown_as_it_was_written(word: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([word])
    assert str(caught.value) == text
