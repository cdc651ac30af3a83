"""Paths in overrides and config files: ~ is the home folder, and a folder's name is text whatever it looks like."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from effbench.cache_dir import expanded
from effbench.config.as_overrides import words_for
from effbench.config.compose import compose, compose_raw, parse
from effbench.config.recipes import absolute_recipe, quoted, unquoted
from effbench.config.words import as_meant
from effbench.errors import ConfigError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


NAMES = ["2024", "2024.10", "1e3", "1_000", "-5", "true", "No", "TRUE", "nan", "0123", "~/photos", "a", ".5", "+7"]


@pytest.mark.spread(12)
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["data.root", "data.cache_dir"])
def test_a_path_is_the_text_that_was_typed(key: str, name: str) -> None:
    config = compose(["data=image_folder", f"{key}={name}"])
    assert config.data.options[key.partition(".")[2]] == name


@pytest.mark.slow
def test_an_existing_path_needs_no_quotes_whatever_it_holds(home: Path) -> None:
    name = "my photos (1), [new]{x}"
    (home / name).mkdir()
    assert compose(["data=image_folder", f"data.root={name}"]).data.options["root"] == name


@pytest.mark.slow
def test_null_and_quotes_in_a_path_are_read_as_in_hydra() -> None:
    assert compose(["data=image_folder", "data.root=null"]).data.options["root"] is None
    assert compose(["data=image_folder", "data.root='null'"]).data.options["root"] == "null"


def test_swept_paths_stay_several_values() -> None:
    assert as_meant("data.root=2023,2024.10,a") == "data.root='2023','2024.10',a"


@pytest.mark.parametrize("key", ["data.file", "data.val_file", "data.test_file", "data.tokenizer"])
def test_files_of_texts_and_tables_are_paths_too(key: str, home: Path) -> None:
    assert as_meant(f"{key}=~/reviews.csv") == f"{key}='~/reviews.csv'"
    (home / "reviews (1), new.csv").touch()
    assert as_meant(f"{key}=reviews (1), new.csv") == f"{key}='reviews (1), new.csv'"


def test_other_keys_keep_their_numbers() -> None:
    assert as_meant("data.batch_size=2024") == "data.batch_size=2024"
    assert as_meant("+data.root=1") == "+data.root='1'"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["run", "sweep"])
def test_the_output_folder_below_home_is_no_folder_named_tilde(home: Path, part: str) -> None:
    for word in (f"hydra.{part}.dir=~/runs/a", f"hydra.{part}.dir='~/runs/a'", f"hydra.{part}.dir='~/runs/${{seed}}'"):
        folder = str(compose_raw([word], None).hydra[part].dir)
        assert folder in (str(home / "runs" / "a"), str(home / "runs" / "42"), str(home / "runs" / "0"))


@pytest.mark.slow
def test_yaml_path_may_be_an_integer_but_not_a_float_or_bool() -> None:
    content = compose(["data=image_folder"]).to_dict()
    content["data"]["root"] = 2024
    assert parse(content).data.options["root"] == "2024"
    for lost in (2024.1, True):
        content["data"]["root"] = lost
        with pytest.raises(ConfigError, match=r"data\.root must be text; YAML reads it as .*quotes"):
            parse(content)


def test_a_home_that_is_not_there_is_named(home: Path) -> None:
    assert expanded("~/x") == home / "x"
    assert expanded("x/~") == Path("x/~")
    with pytest.raises(ConfigError, match="no home folder ~nosuchuser"):
        expanded("~nosuchuser/x")
    (home / "~odd").mkdir()
    assert expanded("~odd/x") == Path("~odd/x")


TEXTS = ["a'b", "C:\\dir\\", "a\\'", "\\\\", "'", "\\'\\", "a b, [c]", "it's ${seed}", '"', "a\\b"]


@pytest.mark.spread(3)
@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_the_grammar_of_overrides(text: str) -> None:
    parser = OverridesParser.create()
    assert parser.parse_override(f"x={quoted(text)}").value() == text
    assert unquoted(quoted(text)) == text
    path = f"/{text}/r.yaml"
    once = absolute_recipe(f"recipe={quoted(path)}")
    assert parser.parse_override(once).value() == path
    assert absolute_recipe(once) == once
    content = {"logger": {**compose().to_dict()["logger"], "extra": text}}
    [word] = [word for word in words_for({**compose().to_dict(), **content}) if ".extra=" in word]
    assert OmegaConf.create({"x": parser.parse_override(word).value()}).x == text
