"""Acceleration is for training: whatever other tools are given consists of the plain classes that they look for."""

from __future__ import annotations

import copy
import sys
import types
from pathlib import Path

import pytest
import torch
import torchvision.models as tv
from torch import fx, nn
from torch.ao.nn.quantized.dynamic import Linear as DynamicLinear
from torch.ao.quantization import fuse_modules, quantize_dynamic
from torchvision.models.feature_extraction import create_feature_extractor

import effbench
from effbench import build
from effbench.config.compose import compose
from effbench.config.paths import conf_dir
from effbench.cpu.accelerate import accelerate, remove_acceleration
from effbench.cpu.eligibility import Accelerated
from effbench.data.images.modality import Images
from effbench.training.trainer import Trainer
from tests.fitting import IMAGES, takes

MODELS = sorted(path.stem for path in conf_dir().glob("model/[!_]*.yaml") if takes(path.stem, IMAGES))
PLAIN = ("torch.", "torchvision.", "timm.", "effbench.models.layers")
TWO_STEPS = ["trainer.max_steps=2", "device.threads=1", "data.batch_size=8", "trainer.limit_val_batches=1"]


def built(*words: str) -> nn.Module:
    if "model=timm" in words:
        pytest.importorskip("timm")
    with torch.device("meta"):
        return build.model(compose(list(words)), 1000, Images.blank((3, 224, 224)))


def classes(model: nn.Module) -> list[type[nn.Module]]:
    return [type(module) for module in model.modules()]


@pytest.mark.spread(2)
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_models_are_built_of_plain_classes(name: str) -> None:
    assert [kind for kind in classes(built(f"model={name}")) if not kind.__module__.startswith(PLAIN)] == []


@pytest.mark.spread(1)
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["mobilenet_v2", "mobilenet_v3_small", "resnet18"])
def test_fx_sees_the_same_as_in_torchvision_s_model(arch: str) -> None:
    ours = built("model=mobilenet", f"model.arch={arch}", "~model.width_mult", "~model.dropout", "model.stem=imagenet")
    with torch.device("meta"):
        theirs = tv.get_model(arch)
    assert classes(ours) == classes(theirs)
    assert str(fx.symbolic_trace(ours).graph) == str(fx.symbolic_trace(theirs).graph)


@pytest.mark.slow
def test_torchvision_s_feature_extractor_takes_a_mobilenet() -> None:
    found = create_feature_extractor(built("model=mobilenet"), ["features.3"])
    assert list(found(torch.empty(1, 3, 224, 224, device="meta"))) == ["features.3"]


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_trained_model_quantizes_fuses_and_traces(tmp_path: Path) -> None:
    words = ["model=cnn", "model.channels=[8,8]", "model.hidden=128", "trainer.precision=32-true"]
    run = effbench.train(compose([*words, *TWO_STEPS]), tmp_path / "run")
    model, x = run.model(), torch.randn(64, 1, 28, 28)
    expected = model(x)
    assert not any(isinstance(module, Accelerated) for module in model.modules())
    assert sum(type(module) is DynamicLinear for module in quantize_dynamic(model, {nn.Linear}).modules()) == 2
    fused = fuse_modules(copy.deepcopy(model), [["block1.0", "block1.1", "block1.2"]])
    assert type(fused.block1[1]) is nn.Identity
    for other in (fused, fx.symbolic_trace(model), torch.jit.script(model)):
        torch.testing.assert_close(other(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.process
def test_a_user_s_model_is_plain_after_training_and_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 10))
    module = types.ModuleType("my_networks")

    def network() -> nn.Module:
        return own

    network.__module__, module.network = "my_networks", network
    monkeypatch.setitem(sys.modules, "my_networks", module)
    words = ["model._target_=my_networks.network", "allow_targets=[my_networks]"]
    before, config = classes(own), compose(["model=mlp", "~model.hidden", "~model.dropout", *words, *TWO_STEPS])
    run = effbench.train(config, tmp_path / "run")
    assert classes(own) == before
    assert classes(run.model()) == before


def test_acceleration_comes_off_and_on_without_a_trace() -> None:
    torch.manual_seed(0)
    model = tv.mobilenet_v3_small(num_classes=10).to(memory_format=torch.channels_last)
    plain, weights = classes(model), {key: value.clone() for key, value in model.state_dict().items()}
    accelerate(model)
    quick = classes(model)
    assert quick != plain
    remove_acceleration(model)
    assert classes(model) == plain
    remove_acceleration(model)
    assert classes(model) == plain
    accelerate(model)
    assert classes(model) == quick
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.process
def test_the_loop_trains_and_averages_accelerated_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def note(trainer: Trainer, _state: object) -> None:
        models = (trainer.model, trainer.averaged.model)
        seen.extend(any(isinstance(module, Accelerated) for module in model.modules()) for model in models)

    monkeypatch.setattr(Trainer, "log_if_due", note)
    effbench.train(compose(["model=mlp", "model.hidden=[32]", "ema=on", *TWO_STEPS]), tmp_path / "run")
    assert seen == [True] * 4
