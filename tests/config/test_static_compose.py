"""What is composed without Hydra is what Hydra composes: every file of conf/ and recipes/, alone and together."""

from __future__ import annotations

import os
from pathlib import Path

import hydra
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from effbench.config import static_compose as static
from effbench.config.compose import loader

OPTIONS = static.group_options()
TOGETHER = [
    [(group, options[index % len(options)]) for group, options in OPTIONS.items() if group != "recipe"]
    for index in range(max(map(len, OPTIONS.values())))
]
RECIPES = [[("recipe", name)] for name in OPTIONS["recipe"]]


def hydras(choices: list[tuple[str, str]]) -> object:
    """Hydra's content, its interpolations as they stand in the files."""
    with loader():
        raw = hydra.compose(static.ROOT, overrides=[f"{group}={name}" for group, name in choices])
    return OmegaConf.to_container(raw, resolve=False)


def test_groups_and_choices_are_hydras() -> None:
    with loader() as config_loader:
        theirs = {
            group: [name for name in config_loader.get_group_options(group) if not name.startswith("_")]
            for group in sorted(set(config_loader.list_groups("")) - {"hydra", *static.STUDY_GROUPS})
        }
    assert static.group_options() == theirs


@pytest.mark.spread(10)
@pytest.mark.slow
@pytest.mark.parametrize("choices", [*TOGETHER, *RECIPES], ids=str)
def test_every_file_composes_as_hydra_composes_it(choices: list[tuple[str, str]]) -> None:
    assert static.composed(choices) == hydras(choices)


CHOICES = st.fixed_dictionaries(
    {}, optional={group: st.sampled_from(options) for group, options in OPTIONS.items()}
).map(lambda chosen: list(chosen.items()))  # fmt: skip


@pytest.mark.proof
@pytest.mark.slow
@settings(deadline=None, max_examples=6)
@given(choices=CHOICES)
def test_any_choices_compose_as_hydra_composes_them(choices: list[tuple[str, str]]) -> None:
    """Recipes and debug settings with groups that the words choose over theirs."""
    assert static.composed(choices) == hydras(choices)


def test_several_choices_of_a_group_are_merged_in_order() -> None:
    choices = [("callbacks", "[none,keep_weights]")]
    assert static.composed(choices) == hydras(choices)


def test_a_users_folder_adds_choices(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: a.b\n")
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "best.yaml").write_text("# @package _global_\n")
    found = static.group_options(tmp_path)
    assert "mine" in found["model"]
    assert {"best", "swin_lion"} <= set(found["recipe"])


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("x: 1\n")
    assert static.read(path) == {"x": 1}
    path.write_text("x: 2\n")
    os.utime(path, ns=(1, 1))
    assert static.read(path) == {"x": 2}
