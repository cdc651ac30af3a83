"""Other tools' names lead to ours: the refusal ends with the override to write."""

from __future__ import annotations

import re
import shlex

import pytest
import torch
import torchvision

from effbench import build
from effbench.cli import main
from effbench.config import hint_tables, hints
from effbench.config import static_compose as static
from effbench.config.compose import compose

CASES = {
    "optimizer=AdamW": "Write optimizer=adamw.",
    "optimizer=fused_adam": "Write optimizer=adam.",
    "optimizer=Muon": "Write optimizer=muon.",
    "optimizer=MuonWithAuxAdam": "Write optimizer=muon.",
    "optimizer=NAdam": "Write optimizer=nadamw (NAdam with decoupled weight decay).",
    "optimizer=SAM": "sgd. It takes the gradient more than once a step, and the loop takes it once",
    "optimizer=soap": "A class of an installed package that steps once a gradient is used by optimizer=adamw",
    "loss=dice": "There are cross_entropy, focal, bce (for task=multilabel) and mse (for task=regression)",
    "optimizer=ScheduleFree": "Write optimizer=schedule_free.",
    "optimizer=AdamWScheduleFree": "Write optimizer=schedule_free scheduler=constant scheduler.warmup=5%.",
    "optimizer=SGDScheduleFree": "Install schedulefree and write optimizer=sgd optimizer._target_=schedulefree.SGD",
    "callback=keep_weights": "Write callbacks=keep_weights.",
    "trainer.callbacks=keep_weights": "Write callbacks=keep_weights (early_stopping=on|off",
    "device=gpu": "Write device=cuda.",
    "device=cuda:0": "Write device=cuda ",
    "device.name=gpu": "Write device.name=cuda.",
    "model=ResNet-18": "Write model=resnet18.",
    "model=resnet34": "Write model=resnet18 model.arch=resnet34.",
    "model=wide_resnet50_2": "Write model=resnet18 model.arch=wide_resnet50_2.",
    "model=mobilenet_v2": "Write model=mobilenet model.arch=mobilenet_v2.",
    "model=efficientnet_b0": "Write model=torchvision model.arch=efficientnet_b0.",
    "model=convnext_tiny.fb_in1k": "Write model=timm model.name=convnext_tiny.fb_in1k.",
    "model=vit_small_patch16_224": "Write model=timm model.name=vit_small_patch16_224.",
    "model=swinn": "Did you mean 'swin'?",
    "scheduler=CosineAnnealingLR": "Write scheduler=cosine.",
    "scheduler=ReduceLROnPlateau": "Write scheduler=plateau.",
    "data=FashionMNIST": "Write data=fashion_mnist.",
    "logger=tb": "Write logger=tensorboard.",
    "ema=true": "Write ema=on.",
    "epochs=5": "Write trainer.max_epochs=5.",
    "lr=0.1": "Write optimizer.lr=0.1.",
    "optimizer.learning_rate=0.1": "Write optimizer.lr=0.1.",
    "batch_size=32": "Write data.batch_size=32.",
    "optim=AdamW": "Write optimizer=adamw.",
    "arch=resnet34": "Write model=resnet18 model.arch=resnet34.",
    "dataset=cifar-10": "Write data=cifar10.",
    "optimizers=lion": "Write optimizer=lion.",
    "momentum=0.9": "Write optimizer=sgd optimizer.momentum=0.9.",
    "precision=16": "Write trainer.precision=16-mixed.",
    "trainer.precision=bf16": "Write trainer.precision=bf16-mixed.",
    "Trainer.Max_Epochs=3": "Write trainer.max_epochs=3.",
    "trainer.log_every_n_step=3": "Write trainer.log_every_n_steps=3.",
    "gpus=1": "Write device=cuda.",
    "use_cuda=false": "Leave it out",
    "trainer.fast_dev_run=true": "Write debug=smoke.",
    "trainer.fast_dev_run=false": "Leave it out",
    "+trainer.fast_dev_run=true": "Write debug=smoke.",
    "trainer.accelerator=gpu": "Write device=cuda.",
    "trainer.devices=2": "Write torchrun --nproc_per_node=2 -m effbench train",
    "trainer.enable_checkpointing=false": "Write checkpoint.save_top_k=0 checkpoint.save_last=false",
    "trainer.enable_checkpointing=true": "Leave it out",
    "trainer.overfit_batches=10": "Write trainer.limit_train_batches=10",
    "mlp": "Write model=mlp.",
    "--epochs 5": "Write trainer.max_epochs=5.",
    "--lr=0.1": "Write optimizer.lr=0.1.",
    "--batch-size 64": "Write data.batch_size=64.",
    "--model mlp": "Write model=mlp.",
    "--seed 3": "Write seed=3.",
}


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1
    return err


@pytest.mark.spread(24)
@pytest.mark.parametrize("line", CASES)
def test_another_tools_word_leads_to_ours(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert CASES[line] in refusal(["train", *line.split()], capsys)


@pytest.mark.parametrize(
    ("verb", "ours"), [("fit", "train"), ("test", "eval"), ("sweep", "train -m"), ("list", "recipe ls")]
)
def test_another_tools_verb_leads_to_ours(verb: str, ours: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"Write effbench {ours}." in refusal([verb], capsys)


def test_missing_verb_and_dashed_option_get_the_correct_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Write effbench train model=mlp." in refusal(["model=mlp"], capsys)
    assert "top_k=5" in refusal(["predict", "--top-k", "5"], capsys)


def test_only_torchvision_architectures_get_a_model_arch_hint() -> None:
    archs = torchvision.models.list_models(module=torchvision.models)
    options = static.group_options()["model"]
    for arch in set(archs) - set(options):
        found = hints.for_choice("model", arch, options)
        assert found is not None
        assert found.endswith(f" model.arch={arch}"), found
    for name in ("resnet19", "vgg17", "densenet120", "swin_x"):
        assert "model.arch" not in (hints.for_choice("model", name, options) or "")


def test_every_hint_is_a_valid_override() -> None:
    """The first word of each hint names a group's choice, a key of some config, or is a command."""
    groups = static.group_options()
    keys = {"hydra.run.dir"}
    for group, options in groups.items():
        for option in options:
            keys |= static.all_keys(static.composed([(group, option)], groups))
    for override in [*hint_tables.KEYS, *(text for table in hint_tables.CHOICES.values() for text in table)]:
        for word in re.findall(r"(?<![+a-z_.])[a-z_.]+=[^ ,)]+", override):
            key, _, value = word.partition("=")
            if key.startswith("nproc") or key.startswith("nnodes") or key.isupper():
                continue
            if key.isupper() or key in ("optimizer._target_", "scheduler._target_"):
                continue
            assert key in keys | set(groups), override
            if key in groups and not value.startswith(("{", "RUN")):
                assert set(value.split("|")) <= set(groups[key]), override


@pytest.mark.slow
@pytest.mark.parametrize(
    "override",
    [text for group in ("optimizer", "scheduler") for text in hint_tables.CHOICES[group] if "_target_" in text],
)
def test_the_hint_for_a_class_that_is_not_shipped_builds_it(override: str) -> None:
    config = compose(shlex.split(override.partition(" (")[0]))
    build.check_options(config)
    over = build.optimizer(config, torch.nn.Linear(2, 2))
    assert over.__class__.__module__.startswith(("torch.optim", "timm.optim"))
    build.schedule(config, over, total_steps=10, steps_per_epoch=2)
