"""A dataset's file chooses the model and the task that fit, a task's file the loss, where nobody else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from effbench.cli.help_pages import page
from effbench.config import names
from effbench.config import static_compose as static
from effbench.config.compose import compose
from effbench.errors import ConfigError
from effbench.run.validate import dry_build, own_setting
from tests.fitting import words_beside

TABLE = "length,colour,label\n" + "".join(f"{row},{'red' if row % 3 else 'blue'},{row % 2}\n" for row in range(40))
MODELS = {  # of the shipped ones
    "breast_cancer": "mlp", "cifar10": "mobilenet", "fashion_mnist": "mobilenet", "image_folder": "mobilenet",
    "kjv": "gpt", "kjv_kinds": "ngrams", "language_id": "ngrams", "synthetic": "mobilenet",
    "synthetic_rows": "mlp", "table_csv": "mlp", "text_csv": "ngrams", "text_file": "gpt",
    "text_folder": "ngrams", "wordnet_gloss": "ngrams",
}  # fmt: skip


@pytest.mark.spread(5)
@pytest.mark.slow
@pytest.mark.parametrize("name", static.group_options()["data"])
def test_every_dataset_has_a_model_and_a_task_that_fit(name: str, tmp_path: Path) -> None:
    # a dataset that names no model of its own gets one that fits it
    words = [f"data={name}", *([] if name in MODELS else words_beside(f"data={name}"))]
    if name == "table_csv":  # its number of features is known only when it is read
        (tmp_path / "t.csv").write_text(TABLE)
        words.append(f"data.file={tmp_path / 't.csv'}")
    config = compose(words)
    if name in MODELS:
        assert config.model.target == static.member("model", MODELS[name])["_target_"]
    dry_build(config, own_setting(config))


@pytest.mark.slow
def test_the_user_s_and_the_recipe_s_choice_beat_the_dataset_s() -> None:
    text_cnn = static.member("model", "text_cnn")["_target_"]
    assert compose(["data=language_id", "model=text_cnn"]).model.target == text_cnn
    assert compose(["model=text_cnn", "data=language_id"]).model.target == text_cnn
    swin = static.composed([("recipe", "swin_lion")])["model"]
    assert static.composed([("recipe", "swin_lion"), ("data", "language_id")])["model"] == swin
    # a recipe that names only the data gets what fits them
    assert compose(["recipe=gpt_kjv", "task=classification"]).task.target.endswith("Classification")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "loss"),
    [
        ([], "cross_entropy"),
        (["task=regression"], "mse"),
        (["task=multilabel"], "bce"),
        (["loss=focal", "task=multilabel"], "focal"),
        (["data=kjv"], "cross_entropy"),
        (["task=regression", "data=kjv"], "mse"),
    ],
)
def test_a_task_chooses_its_loss_unless_the_user_does(words: list[str], loss: str) -> None:
    assert compose(words).loss.target == static.member("loss", loss)["_target_"]
    pairs = [tuple(word.split("=")) for word in words]
    assert static.composed(pairs)["loss"] == static.member("loss", loss)


def test_a_recipe_that_names_only_data_gets_their_model(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("# @package _global_\ndefaults:\n  - override /data: language_id\n")
    assert compose([f"recipe={recipe}"]).model.target == static.member("model", "ngrams")["_target_"]


def test_a_dataset_of_the_user_s_takes_the_defaults_of_texts(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    target = static.member("data", "language_id")["_target_"]
    (tmp_path / "data" / "mine.yaml").write_text(f"defaults: [_texts, _self_]\n_target_: {target}\n")
    assert compose(["data=mine"], tmp_path).model.target == static.member("model", "ngrams")["_target_"]


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ([], {}),
        (["data=cifar10"], {}),
        (["data=text_csv", "optimizer=lion"], {"model": "ngrams"}),
        (["data=kjv"], {"model": "gpt", "task": "next_token"}),
        (["data=kjv", "task=next_token"], {"model": "gpt"}),
        (["data=kjv", "model=gpt", "task=next_token"], {}),
        (["recipe=gpt_kjv"], {}),
        (["data=[kjv,cifar10]"], {}),
    ],
)
def test_what_a_dataset_chose_is_known_from_the_words(words: list[str], chosen: dict[str, str]) -> None:
    assert static.chosen_by_data(words) == chosen


def test_completion_and_refusals_know_the_dataset_s_model() -> None:
    assert "model.buckets=" in (names.completions(["data=text_csv"], "model.b") or [])
    assert "model.width_mult=" in (names.completions([], "model.w") or [])
    names.refuse_mistyped(["data=text_csv", "model.buckets=64"])
    with pytest.raises(ConfigError, match=r"model\.width_mult"):
        names.refuse_mistyped(["data=text_csv", "model.width_mult=0.5"])


def test_the_help_says_what_a_dataset_chooses() -> None:
    assert "where no other is chosen: model=gpt task=next_token" in page(["data=kjv"], None)
    assert "where no other is chosen" not in page(["data=cifar10"], None)


@pytest.mark.slow
@pytest.mark.parametrize(("data", "model", "fit"), [("language_id", "mlp", "ngrams"), ("breast_cancer", "cnn", "mlp")])
def test_a_model_for_other_samples_is_refused(data: str, model: str, fit: str) -> None:
    """The MLP takes images or rows: no argument of its constructor is required, and it still takes no texts."""
    config = compose([f"data={data}", f"model={model}"])
    with pytest.raises(ConfigError, match=rf"write model=.*{fit}"):
        dry_build(config, own_setting(config))
