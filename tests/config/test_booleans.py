"""`no` and `off` are text to YAML 1.2 and on the command line; where a boolean is meant, they are refused in both."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from effbench import build, cli
from effbench.config.compose import compose
from effbench.errors import ConfigError

MODULE = """
from torch import nn
def net(num_classes, in_channels, image_size, bias=True, free=None, name="x", kind: "str | None" = None, **more):
    raise AssertionError("is not called")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "boolean_net.py").write_text(MODULE)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    monkeypatch.delitem(sys.modules, "boolean_net", raising=False)
    return tmp_path / "conf"


@pytest.mark.spread(1)
@pytest.mark.slow
@pytest.mark.parametrize("key", ["bias", "free", "unnamed"])
@pytest.mark.parametrize(("value", "meant"), [("no", "false"), ("Off", "false"), ("n", "false"), ("yes", "true")])
def test_a_boolean_word_for_an_option_that_is_no_text_is_refused(own: Path, key: str, value: str, meant: str) -> None:
    (own / "model" / "mine.yaml").write_text(f"defaults: [_base]\n_target_: boolean_net.net\n{key}: {value}\n")
    allowed = "allow_targets=[boolean_net]"
    for words in (["model=mine", allowed], ["model=mine", allowed, f"model.{key}={value}"]):
        with pytest.raises(ConfigError, match=rf"model.{key} is the text '{value}'.* Write model.{key}={meant}\."):
            build.check_options(compose(words, own))
    build.check_options(compose(["model=mine", allowed, f"model.{key}={meant}"], own))


@pytest.mark.slow
def test_text_may_be_such_a_word(own: Path) -> None:
    (own / "model" / "mine.yaml").write_text("defaults: [_base]\n_target_: boolean_net.net\nname: no\nkind: 'on'\n")
    config = compose(["model=mine", "allow_targets=[boolean_net]"], own)
    build.check_options(config)
    assert config.model.options == {"name": "no", "kind": "on"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "word", ["optimizer.fused=no", "trainer.deterministic=off", "data.drop_last=N", "trainer.compile=yes"]
)
def test_shipped_options_say_which_boolean_to_write(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    key, _, value = word.partition("=")
    assert cli.main(["train", "debug=smoke", "device.threads=1", word]) == 2
    assert f"Write {key}={'true' if value == 'yes' else 'false'}." in capsys.readouterr().err


@pytest.mark.slow
def test_a_file_without_its_groups_base_says_so(own: Path) -> None:
    (own / "model" / "mine.yaml").write_text("_target_: boolean_net.net\n")
    with pytest.raises(ConfigError, match=r"model.freeze is missing. .* begins with defaults: \[_base\]"):
        compose(["model=mine", "allow_targets=[boolean_net]"], own)
    # no base sets it
    (own / "model" / "mine.yaml").write_text("defaults: [_base, _self_]\n")
    with pytest.raises(ConfigError, match=r"model._target_ is missing\.$"):
        compose(["model=mine"], own)
