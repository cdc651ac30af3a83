"""What is said without Hydra is what Hydra says.

White-box: compares the two ways of completing words.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from effbench.cli import completion
from effbench.config import names
from effbench.config.compose import compose, compose_raw
from effbench.config.static_compose import group_options, member
from effbench.errors import ConfigError
from tests.commandline import python

LINES = [
    "", "op", "h", "optimizer=l", "optimizer.", "optimizer.betas", "optimizer.betas.", "optimizer.lr=",
    "optimizer.eps=", "optimizer.lr=0.0", "trainer.max", "trainer.max_epochs=", "trainer=", "seed=", "resume=",
    "ema.enabled=", "model..", "recipe=", "recipe.", "recipe=swin_lion model.", "recipe=vit_l_adan_cpu optimizer.",
    "nope", "nope.x", "model.nope=", "model=mlp model.hid", "-m optimizer=lion,ad", "debug=smoke tr",
    "trainer.max_epochs=3 op", "optimizer=lion -m",
]  # fmt: skip


@pytest.mark.spread(12)
@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_completion_is_hydras(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COMP_LINE", f"effbench {line}")
    assert completion._hydra("query=bash") == 0
    of_runs = [word for word in capsys.readouterr().out.split() if word not in ("search_space=", "study=")]
    assert completion._of_config(line) == of_runs  # the two groups of `effbench study` are no keys of a run


@pytest.mark.parametrize("line", ["optimizer.betas=", "hydra.", "model=nope op", "data.root=./", "+x", "model=a,b op"])
def test_words_only_hydra_can_complete_are_left_to_hydra(line: str) -> None:
    assert completion._of_config(line) is None


@pytest.mark.spread(1)
@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [["optimizer.lrr=1"], ["modle=mlp"], ["model=resnet19"], ["recipe=swin"], ["model=mlp", "model.arch=x"], ["a.b=1"]],
)
def test_a_mistyped_word_gets_the_same_message_as_from_hydra(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as ours:
        names.refuse_mistyped(words)
    with pytest.raises(ConfigError) as theirs:  # a folder of one's own is Hydra's to look through
        compose_raw(words, tmp_path)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["data.file=reviews.csv"],
            "there is no key 'data.file' here. It is a key of data=table_csv, text_csv, text_file. Write data=NAME "
            "data.file=reviews.csv with one of these names.",
        ),
        (
            ["data.suffixes=[.md]"],
            "there is no key 'data.suffixes' here. It is a key of data=text_folder. Write data=text_folder "
            "'data.suffixes=[.md]'.",
        ),
    ],
)
def test_a_key_of_other_choices_is_told_with_their_names(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        names.refuse_mistyped(words)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer.lrr=1", "hydra.searchpath=[there]"],
        ["+optimizer.lrr=1"],
        ["model=1"],
        ["model=null"],
        ["model=_base"],
        ["recipe=a/b.yaml", "optimizer.lrr=1"],
        ["optimizer.betas.0=1"],
        ["hydra.nope=1"],
        ["optimizer.lr=0.1", "seed=3", "hydra.run.dir=a/b"],
    ],
)
def test_words_that_cannot_be_checked_are_accepted(words: list[str]) -> None:
    names.refuse_mistyped(words)


@pytest.mark.process
def test_interactive_commands_import_neither_torch_nor_hydra(tmp_path: Path) -> None:
    code = """
import os, sys
from effbench.cli import main
for line in ("effbench tr", "effbench train recipe=swin_lion model.", "effbench train optimizer="):
    os.environ["COMP_LINE"] = line
    main(["-sc", "query=bash"])
main(["train", "--help"])
main(["train", "optimizer.lrr=1"])
main(["train", "model=resnet19"])
heavy = {"torch", "hydra", "omegaconf", "pydantic"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.process
def test_choices_in_the_hydra_config_store_are_accepted(tmp_path: Path) -> None:
    code = (
        "from hydra.core.config_store import ConfigStore\n"
        "from effbench.config import names\n"
        "import effbench, hydra\n"
        "ConfigStore.instance().store(group='model', name='mine', node={})\n"
        "names.refuse_mistyped(['model=mine'])\n"
    )
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.spread(6)
@pytest.mark.slow
@pytest.mark.parametrize("name", [*group_options()["model"], "vit_tiny model.depth=3", "cnn model.channels=[8]"])
def test_a_model_label_is_its_choice_or_its_architecture(name: str) -> None:
    label = compose([f"model={name.split()[0]}", *name.split()[1:]]).model.label
    found = member("model", name.split()[0])
    assert label == (found.get("arch") or found.get("name") or name.split()[0])


@pytest.mark.slow
def test_a_users_factory_is_called_by_its_module() -> None:
    words = ["model=mlp", "allow_targets=[mylab]"]
    assert compose([*words, "model._target_=mylab.mynet.create"]).model.label == "mynet"
    assert compose([*words, "model._target_=mylab.nets.TinyNet"]).model.label == "TinyNet"
