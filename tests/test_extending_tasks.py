"""A metric of one's own is one file, a loss one file and one YAML; other tasks go through every verb."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from effbench import cli
from effbench.records import read_summary

OWN = '''
import torch
from effbench.data.splits import Split, Splits, digest
from effbench.metrics import Display, Metric
from effbench.tasks.losses import Loss


class Errors(Metric):
    name = "errors"
    display = Display("wrong answers", "min", unit="images", digits=1)

    def sums(self, outputs, targets):
        return (outputs.argmax(1) != targets).double().sum().reshape(1)

    def value(self, sums, samples):
        return sums[0]


class Undefined(Errors):
    def value(self, sums, samples):
        return float("nan")


class Vast(Errors):
    name = "vast"

    def value(self, sums, samples):
        return 1e150


class Misses(Errors):
    name = "acc"  # of a shipped metric, whose mode is max


class Coloured(Errors):
    display = Display("\x1b[31mwrong", "min")


class Slashed(Errors):
    name = "err/top5"


class Speed(Errors):
    name = "images_per_s"


class Shown(Errors):
    display = "wrong answers"


class Hinge(Loss):
    targets = ("class",)

    def __init__(self, margin: float = 1.0):
        self.margin = margin

    def summed(self, outputs, targets):
        own = outputs.gather(1, targets.unsqueeze(1))
        return (outputs - own + self.margin).clamp_min(0).sum() - self.margin * len(outputs)


class Odd(Hinge):
    def summed(self, outputs, targets):
        each = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
        return {"each": each, "number": each.sum().item(), "detached": each.sum().detach()}[self.margin]


class Bare(torch.nn.Module):
    def forward(self, outputs, targets):
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


def bands(kind: str = "labels", facts: dict = {}):
    """Which of three channels have a bright band, or how bright they are."""
    def split(count, seed):
        generator = torch.Generator().manual_seed(seed)
        has = torch.rand(count, 3, generator=generator) < 0.5
        images = torch.randint(0, 40, (count, 3, 8, 8), generator=generator)
        images += has.view(count, 3, 1, 1) * 150
        images = images.to(torch.uint8)
        return Split(images, has if kind == "labels" else images.float().mean((2, 3)) / 255)

    train, val, test = split(96, 0), split(32, 1), split(32, 2)
    return Splits(kind, train, val, test, ("red", "green", "blue"), digest(train.images), facts)


def arrays():
    return bands("values", {"seen": torch.ones(1)})
'''
SMALL = ["model=mlp", "model.hidden=[16]", "model.dropout=0", "device.threads=1", "augment=none"]
SYNTHETIC = ["data=synthetic", "data.num_train=64", "data.num_val=32", "data.num_test=32", "data.image_size=8"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that let a command see a user's own folder, which is the working one."""
    for group, text in {
        "data": "bands\nkind: labels  # labels or values",
        "loss": "Hinge\nmargin: 0.5  # of the outputs",
    }.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        content = f"defaults: [_base, _self_]\n_target_: taskfiles.{text}\n"
        (tmp_path / "conf" / group / "mine.yaml").write_text(content)
    (tmp_path / "taskfiles.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return ["--config-dir", "conf", "allow_targets=[taskfiles]"]


def summary(folder: str) -> dict[str, Any]:
    return dict(json.loads((Path(folder) / "summary.json").read_text()))


@pytest.mark.process
@pytest.mark.parametrize(("kind", "got"), [("each", "(16,)"), ("number", "float"), ("detached", "() without one")])
def test_a_loss_that_is_no_sum_is_named(
    kind: str, got: str, own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*own, *SMALL, *SYNTHETIC, "loss=mine", "loss._target_=taskfiles.Odd", f"loss.margin={kind}"]
    assert cli.main(["train", *words, "data.batch_size=16", "trainer.max_epochs=1"]) == 2
    told = capsys.readouterr().err
    assert "loss (Odd): summed must return the sum over the batch, a tensor () with a gradient; got" in told
    assert f"{got}." in told


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["+data.facts={mean: [0.5], shape: [1]}"], "values facts must not hold mean, shape, which effbench records."),
        (["data._target_=taskfiles.arrays", "~data.kind"], "values facts must be texts, numbers, lists and mappings"),
    ],
)
def test_facts_that_would_damage_the_record_are_refused(
    words: list[str], told: str, own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before training: mean and std in their place would change what predict and eval answer."""
    about = ["task=regression", "data=mine", "data.kind=values", *words]
    assert cli.main(["train", *own, *SMALL, *about, "data.batch_size=16", "trainer.max_epochs=1"]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.process
def test_custom_metric_and_loss_train_stop_rank_and_report(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["task.metrics=[taskfiles.Errors,acc]"]  # checkpoint.monitor and both modes follow from it
    stopping = ["early_stopping.monitor=val/errors", "early_stopping.stopping_threshold=3"]
    words = [*own, *SMALL, *SYNTHETIC, "loss=mine", "loss.margin=0.7", *chosen, *stopping]
    assert cli.main(["train", *words, "trainer.max_epochs=30", "hydra.run.dir=run"]) == 0
    found = summary("run")
    assert (found["status"], found["best"]["metric"]) == ("stopped_early", "val/errors")
    assert found["best"]["value"] == found["metrics"]["val/errors"] <= 3
    recorded = yaml.safe_load(Path("run/config.yaml").read_text())
    assert [recorded["checkpoint"][key] for key in ("monitor", "mode")] == ["val/errors", "min"]
    assert recorded["early_stopping"]["mode"] == "min"
    assert found["metrics"]["test/errors"] == pytest.approx(32 * (1 - found["metrics"]["test/acc"]))
    with Path("run/metrics.csv").open() as stream:
        assert {"train/errors", "val/errors"} <= set(next(csv.reader(stream)))
    assert cli.main(["verify", "run"]) == 0
    capsys.readouterr()
    assert cli.main(["eval", "run", "allow_targets=[taskfiles]"]) == 0
    assert f"test wrong answers  {found['metrics']['test/errors']:.1f}\n" in capsys.readouterr().out
    assert cli.main(["report", "run", "output=page.html"]) == 0
    assert "wrong answers (images)" in Path("page.html").read_text()


@pytest.mark.process
def test_a_metric_that_is_never_finite_chooses_no_model(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [*own, *SMALL, *SYNTHETIC, "task.metrics=[taskfiles.Undefined,acc]", "trainer.max_epochs=3"]
    assert cli.main(["train", *words, "hydra.run.dir=run"]) == 0
    assert "val/errors never had a finite value, so no checkpoint is the best: the last" in capsys.readouterr().err
    assert not Path("run/checkpoints/best").exists()
    tested = {key: value for key, value in summary("run")["metrics"].items() if key.startswith("test/")}
    capsys.readouterr()
    assert cli.main(["eval", "run", "checkpoint=last", "allow_targets=[taskfiles]", "--json"]) == 0
    out, err = capsys.readouterr()
    measured = json.loads(out, parse_constant=pytest.fail)  # NaN is no JSON
    assert (measured["test/errors"], measured["test/acc"]) == (None, tested["test/acc"])
    assert "not finite, and so null in the JSON: test/errors" in err
    assert cli.main(["eval", "run", "checkpoint=last", "allow_targets=[taskfiles]"]) == 0
    assert "test wrong answers  nan\n" in capsys.readouterr().out


@pytest.mark.process
def test_a_metric_beyond_1e100_counts_as_not_finite(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [*own, *SMALL, *SYNTHETIC, "task.metrics=[acc,taskfiles.Vast]", "trainer.max_epochs=1"]
    assert cli.main(["train", *words, "hydra.run.dir=run"]) == 0
    assert "test wrong answers  not a finite number" in capsys.readouterr().out
    assert summary("run")["metrics"]["val/vast"] == 1e150  # the file keeps what was computed
    assert read_summary(Path("run"))["metrics"]["val/vast"] is None
    assert cli.main(["verify", "run"]) == 0
    assert cli.main(["report", "run", "output=page.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))["problems"] == []


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.parametrize("monitor", [[], ["checkpoint.monitor=val/acc", "early_stopping.monitor=val/acc"]])
def test_own_metric_may_have_a_shipped_name_and_another_mode(monitor: list[str], own: list[str]) -> None:
    words = [*own, *SMALL, *SYNTHETIC, "task.metrics=[taskfiles.Misses]", "trainer.max_epochs=2", *monitor]
    assert cli.main(["train", *words, "hydra.run.dir=run"]) == 0
    recorded = yaml.safe_load(Path("run/config.yaml").read_text())
    for key in ("checkpoint", "early_stopping") if monitor else ("checkpoint",):
        assert (recorded[key]["monitor"], recorded[key]["mode"]) == ("val/acc", "min")
    with Path("run/metrics.csv").open() as stream:
        values = [float(row["val/acc"]) for row in csv.DictReader(stream) if row["row"] == "epoch"]
    assert summary("run")["best"]["value"] == pytest.approx(min(values))
    assert cli.main(["eval", "run", "allow_targets=[taskfiles]"]) == 0  # its config.yaml can be read
    assert cli.main(["train", *own, "resume=run", "trainer.max_epochs=3"]) == 0


@pytest.mark.proof
@pytest.mark.process
def test_the_job_with_the_lowest_value_of_a_min_metric_is_first(own: list[str]) -> None:
    words = [
        *own,
        *SMALL,
        *SYNTHETIC,
        "task.metrics=[taskfiles.Errors]",
        "trainer.max_epochs=3",
        "optimizer.lr=1e-3,1e-7",
        "hydra.sweep.dir=sweep",
    ]
    assert cli.main(["train", "-m", *words]) == 0
    with Path("sweep/sweep.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["overrides"] for row in rows] == ["optimizer.lr=0.001", "optimizer.lr=1e-07"]
    assert float(rows[0]["value"]) < float(rows[1]["value"])


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "better", "answer"),
    [
        (["task=multilabel", "loss=bce", "data=mine"], {"test/label_acc": 0.95, "test/macro_f1": 0.95}, "labels"),
        (
            ["task=regression", "loss=mse", "data=mine", "data.kind=values"],
            {"test/mae": -0.06, "test/rmse": -0.08},
            "values",
        ),
    ],
    ids=["multilabel", "regression"],
)
def test_another_task_goes_through_every_verb(
    words: list[str], better: dict[str, float], answer: str, own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *own, *SMALL, "data=mine", *words, "trainer.max_epochs=30", "hydra.run.dir=run"]) == 0
    metrics = summary("run")["metrics"]
    assert all(metrics[name] >= least if least > 0 else metrics[name] <= -least for name, least in better.items())
    mine = "allow_targets=[taskfiles]"
    capsys.readouterr()
    assert cli.main(["eval", "run", mine, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert {name: measured[name] for name in better} == pytest.approx({name: metrics[name] for name in better})
    picture = np.full((8, 8, 3), 20, np.uint8)
    picture[..., 1] = 170
    Image.fromarray(picture).save("green.png")
    assert cli.main(["predict", "run", "green.png", mine, "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    if answer == "labels":
        assert row["labels"] == ["green"]
    else:
        assert row["values"]["green"] == pytest.approx(170 / 255, abs=0.2)
        assert row["values"]["red"] == pytest.approx(20 / 255, abs=0.2)
    assert cli.main(["predict", "run", "green.png", mine]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("red,green,blue")
    assert cli.main(["export", "run", "format=torchscript", mine]) == 0
    assert cli.main(["train", "resume=run", "trainer.max_epochs=31", *own]) == 0
    assert cli.main(["verify", "run"]) == 0


@pytest.mark.spread(6)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=regression", "loss=cross_entropy"], "task=regression has targets of kind values. Write loss=mse"),
        (["task.metrics=[acc,f1]"], "metric in task.metrics 'f1' is not one of"),
        (["task.metrics=[acc,acc]"], "task.metrics names acc twice"),
        (["task.metrics=[os.path.join]"], "task.metrics 'os.path.join' is not allowed"),
        (["task.metrics=[taskfiles.Hinge]"], "must be a subclass of effbench.metrics.Metric"),
        (["loss._target_=taskfiles.bands"], "must be a subclass of Loss"),
        (["loss._target_=taskfiles.Bare"], "'taskfiles.Bare' has no argument reduction"),
        (["checkpoint.monitor=val/rmse"], "checkpoint.monitor 'val/rmse' is not one of"),
        (
            ["task.metrics=[taskfiles.Errors]", "checkpoint.mode=max"],
            "checkpoint.mode must be min for errors",
        ),
        (["early_stopping.monitor=val/acc", "early_stopping.mode=min"], "mode must be max where monitor is val/acc"),
        (["task.metrics=[taskfiles.Slashed]"], "the name of Slashed must be a text without spaces and '/'"),
        (["task.metrics=[taskfiles.Speed]"], "columns whose name ends with _per_s hold the throughput"),
        (["task.metrics=[taskfiles.Coloured]"], r"display.title of Coloured must hold printable characters only"),
        (["task.metrics=[taskfiles.Shown]"], "Shown needs display = Display(title, 'min' or 'max')"),
        (["loss._target_=torch.nn.NLLLoss"], "takes log-probabilities, and the outputs of a model are logits"),
        (["loss._target_=torch.nn.MSELoss"], "is for targets of kind values; task=classification"),
        (["loss=bce"], "is for targets of kind labels"),
        (["loss.class_weights=balanced", "data.targets=labels"], "is for class numbers; synthetic has other targets"),
    ],
)
def test_invalid_task_settings_are_refused_and_leave_no_folder(
    words: list[str], said: str, own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *own, *SMALL, *SYNTHETIC, *words, "hydra.run.dir=run"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert not Path("run").exists()
