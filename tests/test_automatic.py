"""What `auto` becomes: settings that give a small set enough steps, and leave the user's own numbers alone."""

from __future__ import annotations

import pytest

from effbench.automatic import batch_size_for, described, settings, settled
from effbench.config.compose import compose
from effbench.config.schema import Config
from effbench.data.images.modality import Images
from effbench.data.rows.modality import Rows
from effbench.errors import ConfigError


def chosen(images: int, *words: str, **options: object) -> tuple[object, ...]:
    """(batch size, epochs, patience) of `effbench train WORDS` on so many train images."""
    return numbers(settled(compose(words), images, Images, (1, 28, 28), **options))  # type: ignore[arg-type]


def numbers(config: Config) -> tuple[object, ...]:
    return config.data.batch_size, config.trainer.max_epochs, config.early_stopping.patience


@pytest.mark.slow
def test_auto_gives_the_default_run_its_former_values() -> None:
    assert chosen(5400) == (64, 12, 5)
    assert chosen(45_000, "data=cifar10") == (64, 12, 5)
    assert chosen(5400, "data.batch_size=128") == (128, 12, 5)
    assert described(settings(compose([]), settled(compose([]), 5400, Images, (1, 28, 28))), 5400, "image") is None


@pytest.mark.slow
def test_limit_1_0_is_the_whole_split_and_1_is_one_batch() -> None:
    assert chosen(325, "trainer.limit_train_batches=1.0") == chosen(325) != chosen(325, "trainer.limit_train_batches=1")


def test_a_patience_longer_than_the_run_is_not_announced() -> None:
    values = {"data.batch_size": 8, "early_stopping.patience": 223}
    assert described(values, 72, "image", validations=3) == "auto, for 72 train images: data.batch_size=8"
    longer = "auto, for 72 train images: data.batch_size=8 early_stopping.patience=223"
    assert described(values, 72, "image", validations=300) == longer
    # With automatic epochs the patience tells that all of them are trained.
    every = {**values, "trainer.max_epochs": 223}
    assert "patience=223" in str(described(every, 72, "image", validations=223))


@pytest.mark.parametrize(
    ("images", "size"), [(6, 6), (12, 8), (100, 8), (319, 8), (320, 16), (640, 32), (1280, 64), (1_000_000, 64)]
)
def test_auto_batch_size_is_the_largest_with_20_steps_per_epoch(images: int, size: int) -> None:
    assert batch_size_for(images) == size


@pytest.mark.slow
@pytest.mark.parametrize("images", [8, 40, 100, 325, 999, 1500, 3000, 10_000])
def test_auto_gives_small_sets_2000_steps_and_full_patience(images: int) -> None:
    batch_size, epochs, patience = chosen(images)
    steps = images // int(batch_size)  # type: ignore[call-overload]
    least = min(2000, 64_000 / batch_size)  # type: ignore[operator]
    assert steps * epochs >= least > steps * (epochs - 1) or epochs in (12, 300)  # type: ignore[operator]
    assert patience == (5 if epochs == 12 else epochs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trainer.max_epochs=2"], (16, 2, 100)),
        (["trainer.max_epochs=null", "trainer.max_steps=90"], (16, None, 100)),
        (["trainer.max_steps=3000"], (16, None, 100)),
        (["data.batch_size=64"], (64, 100, 100)),
        (["early_stopping.patience=3"], (16, 100, 3)),
        (["trainer.min_steps=300"], (16, 15, 100)),
        (["trainer.min_steps=null"], (16, 12, 100)),
        (["trainer.limit_train_batches=2"], (16, 12, 5)),
        (["trainer.limit_train_batches=2", "trainer.min_steps=50"], (16, 25, 5)),
        (["trainer.accumulate_grad_batches=4"], (16, 100, 100)),
        (["trainer.check_val_every_n_epoch=2"], (16, 100, 50)),
        (["recipe=mobilenet_adamw"], (64, 12, 100)),
        (["debug=smoke"], (4, 1, 5)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_auto_keeps_values_set_by_the_user_or_a_recipe(words: list[str], expected: tuple[object, ...]) -> None:
    assert chosen(325, *words) == expected


@pytest.mark.slow
def test_a_resumed_run_keeps_the_numbers_that_it_was_begun_with() -> None:
    before = settled(compose([]), 325, Images, (1, 28, 28)).to_dict()
    assert chosen(2000, before=before) == (16, 100, 100)
    assert chosen(325, "trainer.max_epochs=70", before=before) == (16, 70, 100)
    assert chosen(325, "trainer.max_steps=3000", before=before) == (16, None, 100)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "standardises"),
    [("loss=mse", True), ("loss._target_=torch.nn.modules.loss.L1Loss", True), ("loss._target_=mine.Relative", False)],
)
def test_targets_are_standardised_unless_the_loss_is_your_own(loss: str, standardises: bool) -> None:
    words = ["data=table_csv", "task=regression", "loss=mse", loss]
    own = compose([*words, "allow_targets=[mine]"])
    assert settled(own, 1000, Rows, (3,)).task.options["standardise"] is standardises
    # a resumed run keeps what it was begun with, whatever its loss is now
    before = {"task": {"standardise": not standardises}}
    assert settled(own, 1000, Rows, (3,), before=before).task.options["standardise"] is not standardises


def test_values_once_settled_do_not_change() -> None:
    config = settled(compose(["scheduler=plateau"]), 325, Images, (1, 64, 64))
    assert settled(config, 9999, Images, (1, 9, 9)) == config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "length"), [(["trainer.max_epochs=2"], "40 steps"), (["trainer.max_steps=30"], "30 steps")]
)
def test_a_run_shorter_than_its_own_min_steps_is_refused(words: list[str], length: str) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.min_steps=500 contradicts .*{length}"):
        chosen(325, *words, "trainer.min_steps=500")


@pytest.mark.slow
@pytest.mark.parametrize("images", [325, 5400])
def test_plateau_reduces_before_early_stopping_stops(images: int) -> None:
    config = settled(compose(["scheduler=plateau"]), images, Images, (1, 28, 28))
    assert config.scheduler.options["patience"] + 1 < config.early_stopping.patience  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "words", "patience"),
    [
        (5400, [], 2),  # 12 epochs
        (100, [], 16),  # 167 epochs: half of early stopping's patience is 83
        (100, ["trainer.max_epochs=40"], 4),
        (100, ["trainer.max_epochs=null", "trainer.max_steps=1200"], 10),
        (100, ["trainer.check_val_every_n_epoch=3"], 5),
        (100, ["early_stopping.patience=5"], 2),
        (100, ["early_stopping.patience=0"], 0),
        (100, ["scheduler.patience=30"], 30),
    ],
    ids=str,
)
def test_plateau_waits_a_tenth_of_the_run_at_most(images: int, words: list[str], patience: int) -> None:
    config = settled(compose(["scheduler=plateau", *words]), images, Images, (1, 28, 28))
    assert config.scheduler.options["patience"] == patience


def test_the_chosen_patience_of_plateau_is_announced_and_kept() -> None:
    asked = compose(["scheduler=plateau"])
    line = described(settings(asked, settled(asked, 100, Images, (1, 28, 28))), 100, "image")
    assert str(line).endswith(" scheduler.patience=16")
    assert "scheduler" not in str(described(settings(asked, settled(asked, 5400, Images, (1, 28, 28))), 5400, "image"))
    # of a run that was begun by an older version
    before = {"scheduler": {"patience": 83}}
    assert settled(asked, 100, Images, (1, 28, 28), before=before).scheduler.options["patience"] == 83


def test_every_process_gets_the_two_images_that_batch_norm_needs() -> None:
    assert batch_size_for(100, world_size=8) == 16


@pytest.mark.slow
@pytest.mark.parametrize(("side", "padding"), [(8, 2), (28, 2), (32, 2), (64, 5), (224, 18)])
def test_crops_move_an_image_by_a_twelfth_of_its_side(side: int, padding: int) -> None:
    config = compose([])
    assert settled(config, 325, Images, (1, side, side)).augment.crop_padding == padding
    assert settled(compose(["augment.crop_padding=7"]), 325, Images, (1, side, side)).augment.crop_padding == 7
    before = settled(compose(["augment.crop_padding=1"]), 325, Images, (1, side, side)).to_dict()
    assert settled(config, 325, Images, (1, side, side), before=before).augment.crop_padding == 1


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["augment.crop_padding=2"], "augment.crop_padding=2"),
        (["augment.flip=0.1", "augment.rotate=5"], "augment.flip=0.1 augment.rotate=5.0"),
        (["augment=strong"], "augment=strong"),
        (["augment=strong", "augment.flip=0"], "augment=strong augment.flip=0.0"),
        (["augment=none", "augment.cutmix_alpha=1"], "augment=none augment.cutmix_alpha=1.0"),
    ],
)
def test_refused_augmentation_names_only_what_was_given(words: list[str], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settled(compose(words), 325, Rows, (16,))
    assert str(caught.value).startswith(f"{named}: the augment group is not for rows.")


@pytest.mark.parametrize("words", [[], ["augment=none"], ["augment.crop_padding=0", "augment.flip=0"]])
def test_default_augmentation_counts_as_none_without_augment(words: list[str]) -> None:
    off = compose(["augment=none"]).augment
    assert settled(compose(words), 325, Rows, (16,)).augment == off
