"""A config that cannot work is refused at once: the key named, exit code 2, nothing imported, nothing left behind."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from effbench import cli
from tests.commandline import TINY, python


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(words: list[str], capsys: pytest.CaptureFixture[str], verb: str = "train") -> str:
    """What stderr says of a command that must end with 2, print nothing and leave no file."""
    before = sorted(Path.cwd().rglob("*"))
    assert cli.main([verb, *words]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert sorted(Path.cwd().rglob("*")) == before
    return err


# Each: the overrides, and what the message must hold.
UNKNOWN = {
    "a mistyped group": (["modle=mlp"], ["'modle'", "model"]),
    "a mistyped section": (["optimzer.lr=1"], ["'optimzer.lr'", "optimizer.lr"]),
    "a mistyped key": (["optimizer.lrr=1"], ["'optimizer.lrr'", "optimizer.lr"]),
    "a key of another section": (["trainer.lr=1"], ["'trainer.lr'", "optimizer.lr"]),
    "a key that is like none": (["qqq=1"], ["'qqq'", "effbench train --cfg job"]),
    "a member that is like one": (["model=mobilnet"], ["mlp, mobilenet", "Did you mean 'mobilenet'?"]),
    "a member that is like none": (
        ["optimizer=xyzzy"],
        ["adam, adamw, adan, lion, muon, nadamw, rmsprop, schedule_free, sgd"],
    ),
    "a member in capitals": (["model=MLP"], ["model 'MLP'", "mlp"]),
    "no member": (["model="], ["model ''", "mlp"]),
    "null as a member": (["recipe=null"], ["recipe 'null'", "mobilenet_adamw"]),
    "a mistyped recipe": (["recipe=swin_loin"], ["Did you mean 'swin_lion'?", "mobilenet_adamw"]),
    "a recipe file that is not there": (["recipe=./nope.yaml"], ["nope.yaml", "must exist"]),
    "a key that is added": (["+foo=1"], ["key 'foo'", "trainer"]),
    "a key that is added to a section": (["+trainer.max_epoch=1"], ["Did you mean 'trainer.max_epochs'?"]),
    "a key that is forced": (["++ema.decays=1"], ["ema.decays", "ema.decay"]),
    "a base file as a member": (["model=_base"], ["model._target_ is missing"]),
    "a hydra key that is none": (["hydra.run.dirr=x"], ["hydra.run.dirr"]),
    "an unknown launcher": (["hydra/launcher=nope"], ["hydra/launcher"]),
    "a deleted group": (["~optimizer"], ["optimizer is missing"]),
    "a deleted key whose value is null": (["~trainer.max_steps"], ["trainer.max_steps is missing"]),
    "a deleted key of a key": (["~loss.class_weights.a"], ["no key 'loss.class_weights.a'"]),
    "a deleted key": (["~optimizer.lr"], ["optimizer.lr is missing"]),
}
VALUES = {
    "text for a number": (["optimizer.lr=abc"], ["optimizer.lr", "number", "'abc'"]),
    "a fraction for a count": (["trainer.max_epochs=1.5"], ["trainer.max_epochs", "integer", "1.5"]),
    "text for a flag": (["ema.enabled=perhaps"], ["ema.enabled", "boolean", "'perhaps'"]),
    "names for a flag": (["optimizer.no_decay=[bias]"], ["optimizer.no_decay", "true or false", "no_weight_decay()"]),
    "a number for a list": (["optimizer.betas=3"], ["optimizer.betas", "list", "3"]),
    "too small": (["optimizer.lr=-1"], ["optimizer.lr", "greater than 0", "-1"]),
    "nan": (["optimizer.lr=nan"], ["optimizer.lr", "nan"]),
    "infinite": (["optimizer.lr=inf"], ["optimizer.lr", "finite", "inf"]),
    "a percentage for a fraction": (["loss.label_smoothing=10"], ["loss.label_smoothing", "less than 1", "10"]),
    "an item out of range": (["optimizer.betas=[0.9,1.5]"], ["optimizer.betas", "less than 1", "1.5"]),
    "a limit that is neither count nor fraction": (["trainer.limit_train_batches=1.5"], ["less than or equal to 1"]),
    "a choice that is none": (["trainer.precision=fp8"], ["'32-true', '16-mixed', 'bf16-mixed' or 'auto'", "'fp8'"]),
    "a seed out of range": (["seed=-1"], ["seed", "greater than or equal to 0"]),
    "more threads than torch survives": (["device.threads=100000"], ["device.threads", "1024"]),
    "a duration that is none": (["trainer.max_time=soon"], ["trainer.max_time", "15m", "'soon'"]),
    "no end": (["trainer.max_epochs=null"], ["trainer.max_epochs", "trainer.max_steps", "must be set"]),
    "a metric mistyped": (
        ["early_stopping.monitor=val/los"],
        ["train/acc, train/loss, val/acc, val/loss", "'val/loss'"],
    ),
    "a checkpoint metric mistyped": (["checkpoint.monitor=accuracy"], ["checkpoint.monitor", "val/acc, val/loss"]),
    "an interpolation of nothing": (["seed=${nope}"], ["nope"]),
    "an unset variable": (["logger.project=${oc.env:EFFBENCH_NOT_SET}"], ["EFFBENCH_NOT_SET"]),
    "several values": (["model=mlp,cnn"], ["model=mlp,cnn", "needs -m"]),
    "several numbers": (["optimizer.lr=1,2"], ["optimizer.lr=1,2", "needs -m"]),
    "new keys without a plus": (["optimizer.group_lr={head.*:0.1}"], ["+optimizer.group_lr={head.*:0.1}"]),
}
UNREADABLE = {
    "no equals sign": (["model"], ["'model'", "key=value"]),
    "no key": (["=mlp"], ["'=mlp'"]),
    "an open bracket": (["optimizer.betas=[0.9"], ["optimizer.betas=[0.9"]),
    "a space": (["a b"], ["'a b'", "Quote"]),
    "a folder of groups that is none": (["--config-dir", "nowhere"], ["--config-dir nowhere"]),
    "a page of --cfg that is none": (["--cfg", "jobs"], ["Did you mean 'job'?"]),
    "a run to resume that is none": (["resume=nowhere"], ["resume=nowhere", "no run"]),
    "another working folder for the job": (["hydra.job.chdir=true"], ["hydra.job.chdir"]),
    "an empty output folder": (["hydra.run.dir="], ["hydra.run.dir"]),
    "no record of the overrides": (["hydra.output_subdir=null"], ["hydra.output_subdir", "resume=RUN", "null"]),
    "a record elsewhere": (["hydra.output_subdir=there"], ["hydra.output_subdir", ".hydra", "there"]),
}
SMALL = ["data=synthetic", "data.num_train=80", "data.num_val=20", "data.num_test=20", "data.image_size=8"]
BY_BUILDING = {
    "options of another optimizer": (
        ["optimizer=sgd", "optimizer._target_=torch.optim.Adagrad"],
        ["optimizer option 'momentum'", "write ~optimizer.momentum ~optimizer.nesterov."],
    ),
    "an option that only another optimizer has": (
        ["optimizer._target_=torch.optim.Adamax"],
        ["optimizer option 'fused'", "write ~optimizer.fused."],
    ),
    "an option that the constructor does not have": (["+optimizer.foo=1"], ["optimizer option 'foo'", "amsgrad"]),
    "too few betas": (["optimizer.betas=[0.9]"], ["optimizer", "torch.optim.AdamW"]),
    "momentum out of range": (["optimizer=sgd", "optimizer.momentum=-1"], ["optimizer.momentum", "[0, 1)", "-1"]),
    "nesterov without momentum": (["optimizer=sgd", "optimizer.momentum=0"], ["Write optimizer.nesterov=false"]),
    "an alpha out of range": (["optimizer=rmsprop", "optimizer.alpha=2"], ["optimizer.alpha", "[0, 1)", "got 2"]),
    "text as a rate": (["optimizer=nadamw", "optimizer.momentum_decay=x"], ["optimizer.momentum_decay", ">= 0", "'x'"]),
    "a number as a flag": (["optimizer.fused=3"], ["optimizer.fused", "true or false", "got 3"]),
    "a seed that is text": (["data.split_seed=abc"], ["data", "split_seed"]),
    "a split that is none": (["data.subset=half"], ["data.subset", "'half'"]),
    "a span that is none": (["scheduler.warmup=soon"], ["scheduler.warmup", "'5%'", "'soon'"]),
    "a span beyond the run": (["scheduler.warmup=200%"], ["scheduler.warmup", "100%"]),
    "a batch larger than the data": (["data.batch_size=100000"], ["data.batch_size", "5400"]),
    "a pattern that matches nothing": (["model.freeze=[nope]"], ["model.freeze", "'nope'"]),
    "everything frozen": (["model.freeze=['*']"], ["model.freeze", "nothing would be left to train"]),
    "weights that are not there": (["model.pretrained=nope.pt"], ["model.pretrained", "nope.pt"]),
    "class weights that do not fit": (["loss.class_weights=[1,2]"], ["loss.class_weights", "10", "2"]),
    "a reduction": (
        ["loss._target_=torch.nn.CrossEntropyLoss", "+loss.reduction=mean"],
        ["loss.reduction=mean would have no effect", "'none'"],
    ),
    "parameters of its own": (["+optimizer.params=3"], ["optimizer.params=3 would have no effect"]),
    "a schedule's optimizer": (["+scheduler.optimizer=3"], ["scheduler.optimizer=3 would have no effect"]),
    "outputs of a task": (["+task.num_outputs=3"], ["task.num_outputs=3 would have no effect"]),
    "outputs of a model": ([*SMALL, "+model.num_classes=3"], ["model.num_classes=3 would have no effect", "to 10"]),
    "another image size": ([*SMALL, "+model.image_size=[8,9]"], ["model.image_size=[8, 9] would have no effect"]),
    "class numbers for mixed labels": (
        [*SMALL, "loss._target_=torch.nn.CrossEntropyLoss", "+loss.ignore_index=3", "augment.mixup_alpha=0.5"],
        ["(torch.nn.CrossEntropyLoss) does not take the mixed targets", "loss.ignore_index=3", "do not mix"],
    ),
    "a data folder that is not there": (["data=image_folder", "data.root=nope"], ["data.root", "nope"]),
}


@pytest.mark.spread(9)
@pytest.mark.row(38)
@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unknown_name_is_refused_with_the_valid_names(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, expected = UNKNOWN[case]
    message = refused(words, capsys)
    assert all(part in message for part in expected), message


BEFORE_DATA = {
    "a share as steps": (["scheduler.warmup=0.05"], ["scheduler.warmup", "got 0.05", "write '5%'"]),
    "a percentage as a share": (["scheduler=one_cycle", "scheduler.pct_start=30"], ["scheduler.pct_start", "got 30"]),
    "a growing rate": (["scheduler=step", "scheduler.gamma=1.5"], ["scheduler.gamma", "(0, 1]", "got 1.5"]),
    "a floor above the top": (["scheduler.min_factor=2"], ["scheduler.min_factor", "[0, 1]", "got 2"]),
    "a mode that is none": (["scheduler=plateau", "scheduler.mode=maximum"], ["scheduler.mode", "'maximum'"]),
    "no reduction": (["scheduler=plateau", "scheduler.factor=1"], ["scheduler.factor", "(0, 1)", "got 1"]),
    "a warm-up longer than its schedule": (
        ["scheduler.total_steps=500", "scheduler.warmup=600"], ["scheduler.warmup", "shorter than total_steps (500)"],
    ),
    "a number for hidden layers": (
        ["model=mlp", "model.hidden=256"],
        ["model.hidden must be a list of numbers, such as [256]; got 256. Write model.hidden=[256]."],
    ),
    "a text for channels": (["model=cnn", "model.channels='8,16'"], ["Write model.channels=[8,16]."]),
    "null for widths": (["model=text_cnn", "model.widths=null"], ["model.widths must be a list", "got null"]),
    "a number for heads": (["model=swin_micro", "model.num_heads=4"], ["Write model.num_heads=[4]."]),
}  # fmt: skip


@pytest.mark.spread(4)
@pytest.mark.slow
@pytest.mark.row(38)
@pytest.mark.parametrize("case", BEFORE_DATA)
def test_wrong_numbers_are_refused_before_data_are_read(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The data are not there, which would be the first complaint of reading them."""
    words, expected = BEFORE_DATA[case]
    message = refused(["data=image_folder", "data.root=nowhere", *words], capsys)
    assert all(part in message for part in expected), message
    assert "nowhere" not in message


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["scheduler.warmup=2000"],
        ["scheduler.warmup=3 epochs", "scheduler.total_steps=500"],
        ["scheduler=step", "scheduler.step_size=0.01%"],
        ["scheduler=plateau"],
        ["scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "~scheduler.min_factor", "~scheduler.warmup",
         "~scheduler.warmup_start", "+scheduler.max_lr=0.1"],
        ["scheduler._target_=torch.optim.lr_scheduler.CyclicLR", "~scheduler.min_factor", "~scheduler.warmup",
         "~scheduler.warmup_start", "~scheduler.total_steps", "+scheduler.base_lr=0.1", "+scheduler.max_lr=0.2"],
    ],
)  # fmt: skip
def test_what_depends_on_the_length_of_a_run_waits_for_the_data(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(["data=image_folder", "data.root=nowhere", *words], capsys)
    assert "nowhere" in message


@pytest.mark.spread(10)
@pytest.mark.slow
@pytest.mark.row(38, 39)
@pytest.mark.parametrize("case", VALUES)
def test_invalid_value_is_refused_with_key_rule_and_value(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, expected = VALUES[case]
    message = refused(words, capsys)
    assert all(part in message for part in expected), message


@pytest.mark.spread(5)
@pytest.mark.row(38)
@pytest.mark.parametrize("case", UNREADABLE)
def test_words_that_make_no_sense_are_quoted_back(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, expected = UNREADABLE[case]
    message = refused(words, capsys)
    assert all(part in message for part in expected), message


@pytest.mark.spread(3)
@pytest.mark.slow
@pytest.mark.row(38)
@pytest.mark.parametrize("case", BY_BUILDING)
def test_a_refusal_while_building_leaves_no_folder(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, expected = BY_BUILDING[case]
    words = ["model=mlp", "device.threads=1", *words]
    message = refused(words, capsys)
    assert all(part in message for part in expected), message


@pytest.mark.slow
@pytest.mark.row(38)
def test_all_broken_rules_are_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(["optimizer.lr=-1", "seed=x", "loss.l1=-3"], capsys)
    assert all(key in message for key in ("optimizer.lr", "seed", "loss.l1"))
    assert len(message.strip().splitlines()) == 3


@pytest.mark.slow
def test_a_device_that_is_not_there_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "device=auto" in refused([*TINY, "device=cuda"], capsys)


@pytest.mark.process
@pytest.mark.row(39)
def test_a_missing_validation_split_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (8, 8), (index * 60, 0, 0)).save(tmp_path / "pets" / label / f"{index}.png")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = [
        *TINY,
        "data=image_folder",
        "data.root=pets",
        "data.image_size=8",
        "data.val_fraction=0",
        "data.test_fraction=0",
    ]
    assert cli.main(["train", *words]) == 2
    message = capsys.readouterr().err
    assert "no validation split" in message
    assert "data.val_fraction" in message
    assert "write checkpoint.save_top_k=0 early_stopping=off." in message
    # only what is still to be done, a remedy for each
    assert cli.main(["train", *words, "early_stopping=off", "scheduler=plateau"]) == 2
    message = capsys.readouterr().err
    assert "checkpoint.monitor reads val/acc and scheduler reads val/loss, but" in message
    assert "write checkpoint.save_top_k=0 scheduler=cosine." in message
    assert not (tmp_path / "outputs").exists()
    assert cli.main(["train", *words, "early_stopping=off", "checkpoint.save_top_k=0", "hydra.run.dir=run"]) == 0


@pytest.mark.slow
def test_a_refused_config_removes_no_existing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results").mkdir()
    refused(["model=mlp", "device.threads=1", "model.freeze=[nope]", "hydra.run.dir=results/a/run"], capsys)
    assert (tmp_path / "results").is_dir()


@pytest.mark.process
@pytest.mark.row(38)
@pytest.mark.parametrize(
    "words", [["optimizer.lrr=1"], ["optimizer.lr=abc"], ["model=mpl"]], ids=["key", "type", "member"]
)
def test_refusal_is_fast_imports_no_torch_and_makes_no_folder(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from effbench.cli import main; code = main(['train', *sys.argv[1:]]);"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    # The processor's time, not the clock's: another process may have the core.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python("-c", code, *words, cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2, done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    assert not any(tmp_path.iterdir())
