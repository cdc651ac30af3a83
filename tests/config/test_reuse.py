"""Compositions of one process merge the shipped files once: the same configs, and edits of files are seen.

White-box: switches the reuse off.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from effbench.config import compose, hydra_loader
from effbench.config.compose import compose_raw
from effbench.config.paths import conf_dir
from effbench.errors import ConfigError

WORDS = [
    "model=mlp", "model=resnet18", "optimizer=lion", "optimizer.lr=0.1", "recipe=swin_lion", "hydra.run.dir=a",
    "+model.x=1", "~ema", "++trainer.q=2", "seed=3", "optimizer@second=sgd", "model=mlp,resnet18", "nope=1",
    "model.hidden=[1,2]", "+task.foo={a:1}", "hydra.job.name=z", "~optimizer.lr", "scheduler=null", "augment={a:1}",
    "data=null", "trainer.max_epochs=${seed}", "optimizer.lr=1,2", "hydra.sweep.dir=x", "hydra/launcher=basic",
    "seed=${hydra.job.num}", "hydra.job.num=4", "'model'=mlp", "data.root='a b'", "+hydra.job.num=4",
    "~loss.class_weights", "loss.label_smoothing=null",
]  # fmt: skip


def composed(words: list[str]) -> Any:
    try:
        return OmegaConf.to_container(compose_raw(words), resolve=False, enum_to_str=True)
    except ConfigError as error:
        return str(error)


@pytest.mark.proof
@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=5, unique=True))
def test_reused_files_give_what_hydra_alone_gives(words: list[str]) -> None:
    first, second = composed(words), composed(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hydra_loader, "_reusable", lambda *_: False)
        alone = composed(words)
    assert first == second == alone


def test_a_forced_folder_is_a_word_of_hydras() -> None:
    raw = compose_raw(["++hydra.run.dir=a", "seed=3"])
    assert (raw.hydra.overrides.hydra, raw.hydra.overrides.task) == (["++hydra.run.dir=a"], ["seed=3"])


def test_a_composition_does_not_change_the_next_one() -> None:
    before = composed(["seed=1"])
    changed = compose_raw(["seed=1"])
    OmegaConf.set_struct(changed, False)
    changed.optimizer.lr, changed.hydra.job.name = 77.0, "other"
    assert composed(["seed=1"]) == before


@pytest.mark.slow
def test_edited_files_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "conf"
    shutil.copytree(conf_dir(), folder)
    for module in (compose, hydra_loader):
        monkeypatch.setattr(module, "conf_dir", lambda: folder)
    assert compose_raw(["optimizer=sgd"]).optimizer.momentum == 0.9
    path = folder / "optimizer" / "sgd.yaml"
    path.write_text(path.read_text().replace("momentum: 0.9", "momentum: 0.25"))
    assert compose_raw(["optimizer=sgd"]).optimizer.momentum == 0.25


@pytest.mark.slow
def test_configs_stored_by_a_notebook_are_read_again() -> None:
    store = ConfigStore.instance()
    try:
        for value in (1, 2):
            store.store(group="augment", name="stored", node={"flip": value}, package="augment")
            assert compose_raw(["augment=stored"]).augment.flip == value
    finally:
        del store.repo["augment"]


def test_the_working_folder_is_that_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compose_raw(["seed=1"])
    monkeypatch.chdir(tmp_path)
    assert compose_raw(["seed=1"]).hydra.runtime.cwd == str(tmp_path)
