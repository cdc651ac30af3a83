"""timm's models by name: the contract, and what is refused."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from effbench.errors import ConfigError, MissingExtraError
from effbench.models.timm_zoo import create

# not importorskip: its import takes seconds in every worker that only collects
pytestmark = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")


@pytest.mark.parametrize("name", ["mobilenetv4_conv_small", "test_vit", "test_resnet"])
@pytest.mark.parametrize(("channels", "side"), [(1, 32), (3, 64)])
def test_maps_images_to_logits_at_the_datas_size_and_trains(name: str, channels: int, side: int) -> None:
    model = create(name, num_classes=7, in_channels=channels, image_size=(side, side))
    logits = model(torch.randn(2, channels, side, side))
    logits.square().sum().backward()
    assert logits.shape == (2, 7)


def test_the_network_is_bit_exact_to_timm() -> None:
    torch.manual_seed(5)
    ours = create("test_resnet", num_classes=7, in_channels=3, image_size=(64, 64)).state_dict()
    import timm

    torch.manual_seed(5)
    theirs = timm.create_model("test_resnet", num_classes=7).state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.slow
def test_a_model_with_a_fixed_input_is_built_for_the_datas_size() -> None:
    with torch.device("meta"):
        model = create("vit_tiny_patch16_224", 7, 3, (32, 64))
    assert model.patch_embed.img_size == (32, 64)


def test_options_reach_timm_and_none_keeps_its_default() -> None:
    model = create("test_resnet", 7, 3, (64, 64), drop_rate=0.4, drop_path_rate=None)
    assert model.drop_rate == 0.4


def test_unknown_timm_name_shows_only_the_nearest_5() -> None:
    import timm

    with pytest.raises(
        ConfigError, match=r"model.name 'resnet51' is not one of: .*resnet50.*Did you mean 'resnet5"
    ) as e:
        create("resnet51", 7, 3, (64, 64))
    assert str(e.value).count(",") == 4
    assert f"The nearest of timm's {len(timm.list_models())} models" in str(e.value)


def test_a_name_without_a_near_match_says_how_to_list_models() -> None:
    with pytest.raises(ConfigError, match=r"resembles none of timm's \d+ models; timm.list_models\(\)"):
        create("###", 7, 3, (64, 64))


def test_a_hub_name_is_refused_so_that_nothing_is_downloaded() -> None:
    with pytest.raises(ConfigError, match="hf-hub:timm/resnet18"):
        create("hf-hub:timm/resnet18", 7, 3, (64, 64))


def test_an_option_that_the_model_does_not_take_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.name 'test_resnet' refuses its options \{'depths': 3\}"):
        create("test_resnet", 7, 3, (64, 64), depths=3)


@pytest.mark.parametrize(("option", "value"), [("drop_rate", -1), ("drop_rate", 1), ("drop_path_rate", 2)])
def test_a_fraction_outside_0_to_1_is_refused_with_its_key(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"model.{option} must be a fraction in \[0, 1\); got {value}"):
        create("test_vit", 7, 3, (32, 32), **{option: value})


def test_an_image_that_patches_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="'test_vit' cannot take data.image_size 30 x 30"):
        create("test_vit", 7, 3, (30, 30))


def test_without_timm_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"model=timm needs the extra 'timm': pip install 'effbench\[timm\]'"):
        create("resnet18", 7, 3, (64, 64))
