"""YAML without quotes means what the same text means on the command line, in every file that is read, or is refused."""

from __future__ import annotations

import math
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.config.compose import compose, compose_raw
from effbench.config.paths import conf_dir, recipes_dir
from effbench.config.yaml_text import YamlError, parse_yaml, read_yaml, write_yaml
from effbench.errors import ConfigError
from effbench.run.load import targets_from
from effbench.units import seconds_from

pytestmark = pytest.mark.row(62)

PARSER = OverridesParser.create()
SURPRISES = [
    "1:12:00:00", "10:00:00:00", "1:30", "-1:30", "1:30.5", "190:20:30", "yes", "no", "on", "off", "y", "n",
    "Yes", "NO", "On", "OFF", "true", "True", "tRUE", "FALSE", "null", "Null", "nULL", "010", "0777", "-010",
    "0o17", "0x1F", "0b11", "1_000", "1__0", "1_", "_1", "1e3", "1E3", "1e+3", "1e-3", "+1e3", ".5", ".5e3",
    "5.", "1.5.2", "-.5", "0", "-0", "+0", "00", "0.0", "007.5", "1_0.5_0", "inf", "-inf", "+Inf", "nan", "NaN",
    "2024-01-01", "2024-01-01T10:00:00Z", "=", "<<", "1e400", "9" * 30, "infinity", "1,5", "None", "none", ".",
    "..", "e3", "1e", "12e03", "a1", "1a", "-", "--", "-a",
]  # fmt: skip


def on_the_command_line(text: str) -> tuple[Any]:
    """A tuple of the value, or an empty one where Hydra refuses it or takes it for several."""
    try:
        override = PARSER.parse_override(f"key={text}")
        return () if override.is_sweep_override() else (override.value(),)  # type: ignore[return-value]
    except (HydraException, ValueError):
        return ()  # type: ignore[return-value]


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))


def agrees(text: str) -> None:
    given = on_the_command_line(text)
    try:
        event = next(item for item in yaml.parse(f"key: {text}\n") if getattr(item, "value", "key") != "key")
        content = parse_yaml(f"key: {text}\n", "file")["key"]
    except (YamlError, yaml.YAMLError, StopIteration):
        return  # refused, or empty
    if given and getattr(event, "style", None) is None and not isinstance(content, dict | list):
        assert same(content, given[0]), (text, content, given[0])


@pytest.mark.parametrize("text", SURPRISES)
def test_yaml_1_1_surprises_are_read_as_on_the_command_line(text: str) -> None:
    agrees(text)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.text(alphabet=string.digits + "+-._:eExXobnulltrfasyifNATFO", min_size=1, max_size=12))
def test_unquoted_yaml_text_is_read_as_on_the_command_line(text: str) -> None:
    agrees(text)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=8)
        | st.sampled_from(SURPRISES),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)  # fmt: skip
def test_written_yaml_is_read_back_by_other_parsers_too(value: Any) -> None:
    try:
        "".join(str(value)).encode("utf-8")
    except UnicodeEncodeError:
        return
    text = write_yaml({"key": value})
    assert repr(parse_yaml(text, "file", recorded=True)["key"]) == repr(value)
    assert repr(yaml.safe_load(text)["key"]) == repr(value)


@pytest.mark.proof
@pytest.mark.slow
def test_a_recipe_s_time_limit_of_a_day_and_a_half_is_36_hours(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    for text, hours in (("1:12:00:00", 36), ("10:00:00:00", 240), ("1.5h", 1.5), ("5400", 1.5)):
        recipe.write_text(f"# @package _global_\ntrainer:\n  max_time: {text}\n")
        config = compose([f"recipe={recipe}"])
        assert seconds_from(config.trainer.max_time or 0, "max_time") == hours * 3600
        assert compose([f"trainer.max_time={text}"]).trainer.max_time == config.trainer.max_time


@pytest.mark.slow
def test_yaml_1_1_booleans_are_text_in_defaults_and_in_values(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("# @package _global_\ndefaults:\n  - override /ema: on\n")
    assert compose([f"recipe={recipe}"]).ema.enabled
    recipe.write_text("# @package _global_\nema:\n  enabled: yes\n")
    with pytest.raises(ConfigError, match=r"ema\.enabled.*'yes'"):
        compose([f"recipe={recipe}"])


@pytest.mark.slow
def test_config_dir_and_hydra_searchpath_are_parsed_alike(tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "mine.yaml").write_text("defaults: [default, _self_]\nmax_time: 1:12:00:00\n")
    assert compose(["trainer=mine"], tmp_path).trainer.max_time == "1:12:00:00"
    raw = compose_raw(["trainer=mine", f"hydra.searchpath=['file://{tmp_path}']"])
    assert raw.trainer.max_time == "1:12:00:00"


def test_yaml_value_without_cli_form_is_refused_by_file_and_key() -> None:
    for text, key in (("a: {b: .inf}", r"file: a\.b"), ("a: [1, .NaN]", r"file: a\.1"), ("a: !!int '3'", "file: a")):
        with pytest.raises(YamlError, match=key):
            parse_yaml(text, "file")
    assert targets_from("[a.b, on]") == ["a.b", "on"]


def test_our_own_files_mean_the_same_to_any_reader() -> None:
    for path in [*conf_dir().rglob("*.yaml"), *recipes_dir().rglob("*.yaml")]:
        ours, theirs = read_yaml(path), yaml.safe_load(path.read_text())
        assert ours == theirs, path
