"""Whatever is given as a config: a Config or a ConfigError, never another exception."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.config.compose import compose, parse
from effbench.config.schema import Config
from effbench.errors import ConfigError

KEYS = [
    "model", "optimizer", "scheduler", "data", "trainer", "recipe", "debug", "seed", "resume", "allow_targets",
    "optimizer.lr", "optimizer.betas", "optimizer._target_", "optimizer.group_lr", "model.pretrained", "model.hidden.0",
    "data.batch_size", "trainer.max_time", "trainer.limit_train_batches", "early_stopping.monitor", "hydra.run.dir",
    "loss.class_weights", "hydra", "hydra/launcher", "model/foo", "recipe@x", "", "a.b.c",
]  # fmt: skip
VALUES = [
    "mlp", "1", "-1", "nan", "null", "true", "''", "[]", "{}", "[1,2]", "{a:{b:2}}", "a,b", "range(3)", "glob(*)",
    "${seed}", "${nope}", "../x", "./a.yaml", "a b", "'a", "ü😀", "_base", "???", "a=b", "$", "\\", "int(3)",
    "shuffle(1,2)", "interval(0,1)", "0x10", "%", "a:b", "~", "@", "\0",
]  # fmt: skip
value = st.one_of(st.sampled_from(VALUES), st.text(max_size=8), st.integers().map(str), st.floats().map(str))
word = st.builds(
    lambda prefix, key, equals, text: f"{prefix}{key}{equals}{text}",
    st.sampled_from(["", "", "+", "++", "~"]),
    st.one_of(st.sampled_from(KEYS), st.text(max_size=6)),
    st.sampled_from(["=", "=", ""]),
    value,
)


def outcome(make: Callable[[], Config]) -> Config | ConfigError:
    """The config, or the refusal; any other exception is not caught."""
    try:
        return make()
    except ConfigError as error:
        return error


@pytest.mark.slow
@pytest.mark.row(38)
@pytest.mark.parametrize("examples", [10, pytest.param(60, marks=pytest.mark.proof)])
def test_any_words_make_a_config_or_a_config_error(examples: int) -> None:
    @settings(max_examples=examples, deadline=None, database=None)
    @given(st.lists(word, min_size=1, max_size=2))
    def check(words: list[str]) -> None:
        assert isinstance(outcome(lambda: compose(words)), Config | ConfigError)

    check()


@pytest.fixture(scope="module")
def valid() -> dict[str, Any]:
    return compose([]).to_dict()


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=6), children, max_size=3),
    max_leaves=4,
)


@pytest.mark.slow
@pytest.mark.row(38)
@settings(max_examples=300, deadline=None, database=None)
@given(data=st.data(), replacement=plain)
def test_any_value_anywhere_makes_a_config_or_a_config_error(
    data: st.DataObject, replacement: Any, valid: dict[str, Any]
) -> None:
    content = copy.deepcopy(valid)
    section = data.draw(st.sampled_from(sorted(content)))
    if isinstance(content[section], dict) and data.draw(st.booleans()):
        key = data.draw(st.one_of(st.sampled_from(sorted(content[section]) or [""]), st.text(max_size=6)))
        content[section][key] = replacement
    else:
        content[section] = replacement
    result = outcome(lambda: parse(content))
    assert isinstance(result, Config) or section in str(result)
