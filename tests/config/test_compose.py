"""Which value wins, own folders and files, --cfg and --info."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from effbench import cli
from effbench.config.compose import compose, compose_raw, group_options, parse
from effbench.config.paths import conf_dir, recipes_dir
from effbench.errors import ConfigError

RECIPE = """# @package _global_
defaults:
  - override /model: mlp
  - override /optimizer: lion

optimizer:
  lr: 0.25
trainer:
  max_epochs: 7
data:
  batch_size: 33
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of own groups and recipes."""
    folder = tmp_path / "my conf ü"
    (folder / "model").mkdir(parents=True)
    (folder / "recipe").mkdir()
    (folder / "model" / "mine.yaml").write_text(
        "defaults: [_base, _self_]\n_target_: effbench.models.mlp.mlp\nhidden: [5]\ndropout: 0.0\n"
    )
    (folder / "recipe" / "mine.yaml").write_text(RECIPE.replace("model: mlp", "model: mine"))
    return folder


@pytest.mark.slow
def test_the_defaults_are_those_of_conf() -> None:
    config = compose([])
    trainer = yaml.safe_load((conf_dir() / "trainer" / "default.yaml").read_text())
    assert config.to_dict()["trainer"] == trainer
    adamw = yaml.safe_load((conf_dir() / "optimizer" / "adamw.yaml").read_text())
    assert config.to_dict()["optimizer"].items() >= {key: adamw[key] for key in adamw if key != "defaults"}.items()


@pytest.mark.parametrize("words", [["~loss.class_weights"], ["loss.label_smoothing=null", "~loss.label_smoothing"]])
@pytest.mark.parametrize("with_folder", [False, True])
def test_a_key_whose_value_is_null_can_be_deleted(words: list[str], with_folder: bool, own: Path) -> None:
    raw = compose_raw(words, own if with_folder else None)
    assert words[-1].removeprefix("~loss.") not in raw.loss
    assert raw.hydra.overrides.task == words


@pytest.mark.slow
def test_a_recipe_beats_the_groups(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    config = compose(["recipe=r.yaml"])
    assert config.model.target == "effbench.models.mlp.mlp"
    assert config.optimizer.target == "effbench.optimizers.Lion"
    assert (config.optimizer.lr, config.trainer.max_epochs, config.data.batch_size) == (0.25, 7, 33)


@pytest.mark.slow
def test_debug_beats_the_recipe_and_the_command_line_beats_all(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    smoke = compose(["recipe=r.yaml", "debug=smoke"])
    assert (smoke.trainer.max_epochs, smoke.data.batch_size, smoke.optimizer.lr) == (1, 4, 0.25)
    words = ["trainer.max_epochs=3", "optimizer.lr=0.5", "debug=smoke", "recipe=r.yaml", "model=cnn"]
    for order in (words, words[::-1]):
        config = compose(order)
        assert (config.trainer.max_epochs, config.optimizer.lr, config.data.batch_size) == (3, 0.5, 4)
        assert config.model.target == "effbench.models.cnn.cnn"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_adamw", "swin_lion_cpu"])
def test_a_copied_recipe_composes_like_the_packaged_one(name: str, tmp_path: Path) -> None:
    for path in recipes_dir().glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    assert compose([f"recipe={name}.yaml"]) == compose([f"recipe={name}"])


@pytest.mark.slow
def test_a_recipe_may_build_on_a_packaged_one_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# @package _global_\ndefaults:\n  - swin_lion\n\nseed: 5\n")
    mine, base = compose(["recipe=mine.yaml"]), compose(["recipe=swin_lion"])
    assert mine == base.model_copy(update={"seed": 5})


@pytest.mark.spread(2)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["a b.yaml", "ü😀.yaml", "it's.yaml", "a,b.yaml", "(x)=[y].yaml", "~x.yaml"])
def test_a_recipe_file_may_have_any_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "deep er" / name
    path.parent.mkdir()
    path.write_text(RECIPE)
    assert compose([f"recipe=./deep er/{name}"]).trainer.max_epochs == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# @package _global_\noptimizer: [\n", "line"),
        ("optimizer:\n  lr: 1\n", "@package _global_"),
        ("", "@package _global_"),
        ("# @package _global_\ntrainer:\n  max_epoch: 1\n", "trainer.max_epochs"),
        ("# @package _global_\ndefaults:\n  - override /model: mpl\n", "mpl"),
        ("# @package _global_\nallow_targets: [os]\n", "allow_targets"),
        ("# @package _global_\nhydra:\n  callbacks: {}\n", "hydra"),
        ("# @package hydra\ncallbacks: {}\n", "@package _global_"),
    ],
)
def test_a_broken_recipe_is_refused_with_the_reason(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"\S") as caught:
        compose(["recipe=r.yaml"])
    assert expected in str(caught.value)


@pytest.mark.parametrize("name", ["r.yml", "folder.yaml"])
def test_a_recipe_is_a_file_that_ends_in_yaml(name: str, tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text(RECIPE)
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"must exist, and end in \.yaml"):
        compose([f"recipe={name}"])


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        compose(["recipe=r.yaml"])


# --- --config-dir -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_own_groups_and_recipes_stand_beside_the_packaged_ones(own: Path) -> None:
    options = group_options(own)
    assert {"mine", "mlp", "mobilenet"} <= set(options["model"])
    assert {"mine", "swin_lion"} <= set(options["recipe"])
    assert "mine" not in group_options()["model"]  # and not for the next command
    assert compose(["model=mine"], own).model.options["hidden"] == [5]
    config = compose(["recipe=mine"], own)
    assert (config.model.options["hidden"], config.trainer.max_epochs) == ([5], 7)
    with pytest.raises(ConfigError, match="mine, mlp"):
        compose(["model=min"], own)


def test_help_lists_groups_recipes_and_own_members(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help", "--config-dir", str(own)]) == 0
    whole = re.sub(r",\n +", ", ", capsys.readouterr().out)  # long lines are wrapped
    lines = {line.split()[0]: line for line in whole.splitlines() if line.startswith("  ")}
    assert "swin_lion" in lines["recipe"]
    assert "mine" in lines["model"]
    assert "_base" not in lines["model"]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["my conf ü", "./my conf ü/", "../{0}/my conf ü"])
def test_the_user_folder_may_be_any_relative_path(where: str, own: Path) -> None:
    assert compose(["model=mine"], where.format(own.parent.name)).model.options["hidden"] == [5]


def test_a_broken_user_group_is_refused_with_the_reason(own: Path) -> None:
    (own / "model" / "mine.yaml").write_text("defaults: [_bse, _self_]\n")
    with pytest.raises(ConfigError, match="_bse"):
        compose(["model=mine"], own)


# --- Hydra's own pages ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cfg_job_prints_the_config_that_would_be_trained(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["model=mine", "optimizer.lr=0.5", "debug=smoke"]
    assert cli.main(["train", *words, "--cfg", "job", "--config-dir", str(own)]) == 0
    out, err = capsys.readouterr()
    assert not err
    assert parse(yaml.safe_load(out)) == compose(words, own)


@pytest.mark.slow
def test_cfg_job_of_a_package_prints_that_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--cfg", "job", "--package", "optimizer", "optimizer=lion"]) == 0
    part, whole = yaml.safe_load(capsys.readouterr().out), compose(["optimizer=lion"]).to_dict()["optimizer"]
    assert part == {key: whole[key] for key in part}
    assert part["_target_"] == "effbench.optimizers.Lion"
    assert cli.main(["train", "--cfg", "job", "--package", "nope"]) == 2


@pytest.mark.slow
def test_cfg_of_a_sweep_prints_its_first_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "model=mlp,cnn", "-m", "--cfg", "job"]) == 0
    out, err = capsys.readouterr()
    assert parse(yaml.safe_load(out)) == compose(["model=mlp"])
    assert "first of 2" in err


@pytest.mark.slow
def test_info_shows_recipes_and_own_folder_in_the_search_path(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--info", "searchpath", "--config-dir", str(own)]) == 0
    out = capsys.readouterr().out
    assert str(own) in out
    assert str(recipes_dir()) in out


@pytest.mark.slow
def test_printing_a_config_makes_no_folder(tmp_path: Path) -> None:
    assert cli.main(["train", "--cfg", "job"]) == 0
    assert cli.main(["train", "--info", "defaults-tree"]) == 0
    assert not any(tmp_path.iterdir())


# --- the object -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        compose([]).trainer.max_epochs = 3  # type: ignore[misc]


@pytest.mark.slow
def test_a_config_survives_yaml() -> None:
    config = compose(["recipe=swin_lion", "+optimizer.group_lr={head.*:0.5}"])
    assert parse(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config
    assert config.optimizer.group_lr == {"head.*": 0.5}
