"""Small sets of one's own pictures: what `auto` makes of them, kept by a resume, and a word where nothing is learnt.

White-box: asks a session for its warnings without a training.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from effbench import cli
from effbench.data.images.modality import Images
from effbench.run.session import TrainingSession
from effbench.tasks.class_counts import ClassCounts

AVERAGED = ["optimizer=schedule_free"]
MLP = ["data=image_folder", "data.image_size=8", "model=mlp", "model.hidden=[4]", "device.threads=1"]


def pictures(root: Path, each: int, colours: dict[str, tuple[int, int, int]]) -> str:
    """ROOT/CLASS/*.png of one colour a class."""
    for name, colour in colours.items():
        (root / name).mkdir(parents=True)
        for number in range(each):
            Image.new("RGB", (8 + number % 3, 8), colour).save(root / name / f"{number}.png")
    return f"data.root={root}"


def summary(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "summary.json").read_text()))


@pytest.mark.process
def test_tiny_dataset_trains_and_resumes_with_the_auto_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pictures(tmp_path / "photos", 6, {"dark": (9, 9, 9), "bright": (250, 250, 250)})
    run = tmp_path / "run"
    words = [*MLP, root, f"hydra.run.dir={run}"]
    assert cli.main(["train", *words, "trainer.max_epochs=3"]) == 0  # 8 to train on: a step an epoch
    err = capsys.readouterr().err
    assert "auto, for 8 train images: data.batch_size=8" in err
    assert "patience=" not in err, "it is longer than the run"
    assert summary(run)["auto"] == {
        "data.batch_size": 8,
        "augment.crop_padding": 2,
        "early_stopping.patience": 300,
    }
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["data"]["batch_size"], config["trainer"]["max_epochs"]) == (8, 3)
    assert cli.main(["train", f"resume={run}", "trainer.max_epochs=5"]) == 0
    assert summary(run)["steps"] == 5
    assert cli.main(["verify", str(run)]) == 0


@pytest.mark.process
@pytest.mark.row(54)
def test_indistinguishable_classes_end_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path / "photos", 50, {"one": (90, 90, 90), "other": (90, 90, 90)})
    run = tmp_path / "run"
    assert cli.main(["train", *MLP, root, "trainer.max_epochs=1", f"hydra.run.dir={run}"]) == 0
    found = summary(run)["warnings"]
    assert isinstance(found, list)
    assert any(warning.startswith("exact copies under two classes") for warning in found), "those of the data too"
    warnings = [warning for warning in found if not warning.startswith("exact copies")]
    assert [warning.split(":")[0] for warning in warnings] == ["val", "test"]
    err = capsys.readouterr().err
    assert all(f"warning: {warning}" in err and "for all of the 10 images" in warning for warning in warnings)
    assert all(warning.endswith("Then augment.flip=0") for warning in warnings)


@pytest.mark.row(54)
@pytest.mark.parametrize(("best", "told"), [(9, True), (6, False)])
def test_the_last_validation_is_not_that_of_the_best_weights(best: int, told: bool) -> None:
    """The result is of the best weights: what the last ones predict says nothing about it."""
    counts = ClassCounts()
    counts.add(torch.eye(2)[[1] * 40], torch.tensor([0, 1] * 20))
    checkpoints = SimpleNamespace(monitor="val/acc", ranking=[(0.9, f"step-{best:08d}")])
    task, state = SimpleNamespace(names=("loss", "acc"), kind="class"), SimpleNamespace(step=9)
    trainer = SimpleNamespace(task=task, state=state, checkpoints=checkpoints, prediction_check=counts)
    augment, ranks = SimpleNamespace(options={"flip": 0.0}), SimpleNamespace(is_main=True)
    session: Any = SimpleNamespace(ranks=ranks, warnings=[], config=SimpleNamespace(augment=augment))
    data = SimpleNamespace(classes=("cat", "dog"), modality=Images)
    TrainingSession._warn_of_predictions(session, "val", trainer, data, {"val/loss": 1.0, "val/acc": 0.5})  # type: ignore[arg-type]
    assert [warning.partition(".")[0] for warning in session.warnings] == [
        "val: the model predicts 'dog' for all of the 40 images"
    ] * told


@pytest.mark.spread(2)
@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["scheduler=step"], None),
        (["scheduler=plateau"], None),
        (["scheduler=constant"], None),
        (["scheduler=cosine"], None),
        (["scheduler=step", "scheduler.step_size=30 epochs"], "scheduler Step leaves the learning rate as it is"),
        (["scheduler=plateau", "scheduler.patience=10"], "early_stopping.patience=7 ends the run by then"),
        (["scheduler=plateau", "scheduler.patience=10", "early_stopping=off"], "more validations than the 8"),
        (["scheduler=constant", "scheduler.warmup=999"], "it ends before the warm-up does"),
        ([*AVERAGED, "scheduler=cosine"], "ScheduleFree averages the weights instead of lowering the learning rate"),
        ([*AVERAGED, "scheduler=plateau"], "use scheduler=constant scheduler.warmup=5%"),
        ([*AVERAGED, "scheduler=constant", "scheduler.warmup=5%"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_schedule_without_effect_is_noted_before_training(
    words: list[str], line: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["data=synthetic", "data.num_train=128", "data.num_val=8", "data.num_test=8", "data.image_size=8"]
    if words[:1] == AVERAGED:
        pytest.importorskip("schedulefree")
    own = ["trainer.max_epochs=8", "early_stopping.patience=7", *words, f"hydra.run.dir={tmp_path / 'run'}"]
    settings = [*data, "model=mlp", "model.hidden=[4]", "device.threads=1", *own]
    assert cli.main(["train", *settings]) == 0
    err = capsys.readouterr().err
    assert (
        (line in err and err.index(line) < err.index("epoch 1/"))
        if line
        else not re.search("note: (scheduler|optimizer)", err)
    )


@pytest.mark.slow
def test_notes_on_settings_and_on_a_cut_schedule_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data=synthetic", "data.num_train=64", "data.num_val=8", "data.num_test=8", "data.image_size=8"]
    words += ["data.batch_size=auto", "model=mlp", "model.hidden=[4]", "device.threads=1", "optimizer=sgd"]
    words += ["loss.class_weights=balanced", "trainer.max_time=0.001", f"hydra.run.dir={tmp_path / 'run'}"]
    assert cli.main(["train", *words, "scheduler.warmup=0"]) == 0
    before, _, after = capsys.readouterr().err.partition("epoch 0/")
    assert "note: optimizer.lr=0.1 is for batches of 128, and data.batch_size=auto gives 8" in before
    assert "note: loss.class_weights weighs what training minimises, but checkpoint.monitor=val/acc and" in before
    assert "note: at the end of trainer.max_time the learning rate was still 100 % of its highest" in after
