"""Every file of conf/model keeps the factory contract; none has to be listed here."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from effbench.config.compose import compose
from effbench.models.accounting import macs, parameters
from effbench.optimizers.groups import EXEMPT_NAMES
from effbench.run.validate import own_setting
from tests.fitting import IMAGES, NEEDS, takes, words_beside

FOLDER = Path(__file__).parents[2] / "conf" / "model"
BASE = yaml.safe_load((FOLDER / "_base.yaml").read_text())
FILES = sorted(path for path in FOLDER.glob("*.yaml") if not path.stem.startswith("_"))
OF_IMAGES = [path for path in FILES if takes(path.stem, IMAGES)]
OF_OTHERS = [path for path in FILES if path not in OF_IMAGES]
BIG = {"torchvision", "swin", "resnet50", "resnet152", "vit_b", "vit_l"}  # shapes only: on the meta device


def factory(path: Path, **facts: Any) -> nn.Module:
    """Calls the file's target as effbench/build.py does."""
    config = yaml.safe_load(path.read_text())
    module, _, name = config["_target_"].rpartition(".")
    taken = {"defaults", "_target_", *BASE}
    target = getattr(import_module(module), name)
    words = inspect.signature(target).parameters
    known = {k: v for k, v in facts.items() if k in words or "options" in words}
    return target(**known, **{k: v for k, v in config.items() if k not in taken})


def undecided(model: nn.Module) -> list[str]:
    """Tables and tokens that would decay because their name says neither weight nor what they are (groups.py)."""
    names = [name.split(".")[-1] for name, parameter in model.named_parameters() if parameter.ndim > 1]
    return [name for name in names if "weight" not in name and name not in EXEMPT_NAMES]


@pytest.mark.spread(10)
@pytest.mark.slow
@pytest.mark.parametrize("path", OF_IMAGES, ids=lambda path: path.stem)
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (3, 224)])
def test_every_model_maps_images_to_logits(path: Path, channels: int, side: int) -> None:
    with torch.device("meta"):
        model = factory(path, num_classes=7, in_channels=channels, image_size=(side, side))
    assert not undecided(model)
    with torch.inference_mode():
        assert model.eval()(torch.zeros(1, channels, side, side, device="meta")).shape == (1, 7)


@pytest.mark.spread(1)
@pytest.mark.slow
@pytest.mark.parametrize("path", OF_OTHERS, ids=lambda path: path.stem)
def test_every_model_of_other_samples_maps_them_to_logits(path: Path) -> None:
    if path.stem in NEEDS and find_spec(NEEDS[path.stem]) is None:
        pytest.skip(f"needs {NEEDS[path.stem]}")
    setting = own_setting(compose([f"model={path.stem}", *words_beside(f"model={path.stem}")]))
    with torch.device("meta"):
        model = factory(path, num_classes=7, **setting.modality.facts)
    assert not undecided(model)
    places = setting.modality.shape if setting.modality.target_kind == "tokens" else ()
    assert model.eval()(setting.modality.example().to("meta")).shape == (1, *places, 7)


@pytest.mark.spread(6)
@pytest.mark.parametrize("path", [path for path in OF_IMAGES if path.stem not in BIG], ids=lambda path: path.stem)
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32)])
def test_every_small_model_trains_a_step_in_its_memory_format(path: Path, channels: int, side: int) -> None:
    torch.manual_seed(0)
    wish = {**BASE, **yaml.safe_load(path.read_text())}["memory_format"]
    layout = torch.channels_last if wish == "channels_last" else torch.contiguous_format
    model = factory(path, num_classes=7, in_channels=channels, image_size=(side, side)).to(memory_format=layout)
    images = torch.randn(4, channels, side, side).to(memory_format=layout)
    before = [p.detach().clone() for p in model.parameters()]
    nn.functional.cross_entropy(model(images), torch.arange(4)).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert all(p.isfinite().all() for p in model.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_model_yaml_extends_base_with_valid_memory_format(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    assert config["defaults"] == ["_base", "_self_"]
    assert {**BASE, **config}["memory_format"] in ("auto", "channels_last", "contiguous")


@pytest.mark.parametrize("path", [FOLDER / "_base.yaml", *FILES], ids=lambda path: path.stem)
def test_every_key_of_a_model_yaml_has_a_comment(path: Path) -> None:
    keys = [line for line in path.read_text().splitlines() if re.match(r"\w+:", line)]
    bare = [line for line in keys if "#" not in line and not line.startswith(("defaults:", "_target_:"))]
    assert not bare


# As said in the files' own headers: (file, classes, image shape, million parameters, GMACs).
@pytest.mark.spread(3)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "classes", "side", "millions", "gmacs"),
    [
        ("mobilenet", 1000, 224, 2.54, 0.06),
        ("swin", 1000, 224, 28.3, 4.49),
        ("swin_micro", 10, 32, 1.27, 0.05),
        ("resnet18", 1000, 224, 11.7, 1.81),
        ("resnet50", 1000, 224, 25.6, 4.09),
        ("resnet152", 1000, 224, 60.2, 11.51),
        ("vit_tiny", 1000, 224, 5.7, 1.25),
        ("vit_tiny", 10, 32, 5.4, 0.37),
        ("vit_b", 1000, 224, 86.6, 17.56),
        ("vit_l", 1000, 224, 304.3, 61.55),
        ("timm", 1000, 224, 3.8, None),
    ],
)
def test_the_sizes_in_the_headers_are_true(
    name: str, classes: int, side: int, millions: float, gmacs: float | None
) -> None:
    with torch.device("meta"):
        model = factory(FOLDER / f"{name}.yaml", num_classes=classes, in_channels=3, image_size=(side, side))
    assert parameters(model).total / 1e6 == pytest.approx(millions, rel=0.01)
    if gmacs is not None:
        assert macs(model, torch.empty(1, 3, side, side)).macs / 1e9 == pytest.approx(gmacs, abs=0.0051)
