"""torchvision's networks against torchvision's own: same weights, same counts, and the changes that are asked for."""

from __future__ import annotations

import pytest
import torch
import torchvision.models as tv
from torch import nn
from torchvision.ops import StochasticDepth

from effbench.errors import ConfigError
from effbench.models.torchvision_zoo import create

ONE_OF_EACH_FAMILY = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "maxvit_t", "mnasnet1_0", "mobilenet_v2",
    "mobilenet_v3_large", "mobilenet_v3_small", "resnet18", "resnet50", "resnet152", "resnext50_32x4d",
    "shufflenet_v2_x1_0", "squeezenet1_1", "swin_t", "swin_s", "swin_b", "swin_v2_t", "vgg11_bn", "vit_b_16",
    "vit_l_16",
]  # fmt: skip
SMALL = ["mobilenet_v3_small", "mobilenet_v3_large", "mobilenet_v2", "resnet18"]


def meta(arch: str, in_channels: int = 3, side: int = 224, num_classes: int = 1000, **options: object) -> nn.Module:
    with torch.device("meta"):
        return create(arch, num_classes=num_classes, in_channels=in_channels, image_size=(side, side), **options)


def first_conv(model: nn.Module) -> nn.Conv2d:
    return next(module for module in model.modules() if isinstance(module, nn.Conv2d))


def first_conv_side(model: nn.Module, side: int) -> int:
    """The side of the first convolution's output for a square image."""
    return first_conv(model)(torch.empty(1, first_conv(model).in_channels, side, side, device="meta")).shape[-1]


@pytest.mark.parametrize("arch", SMALL)
def test_imagenet_stem_network_is_bit_exact_to_torchvision(arch: str) -> None:
    torch.manual_seed(7)
    ours = create(arch, num_classes=13, in_channels=3, image_size=(64, 64)).state_dict()
    torch.manual_seed(7)
    theirs = tv.get_model(arch, num_classes=13).state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.spread(4)
@pytest.mark.slow
@pytest.mark.parametrize("arch", ONE_OF_EACH_FAMILY)
def test_imagenet_stem_has_torchvision_state_dict_and_parameters(arch: str) -> None:
    with torch.device("meta"):
        theirs = tv.get_model(arch)
    ours = meta(arch)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    published = next(iter(tv.get_model_weights(arch))).meta["num_params"]
    assert sum(p.numel() for p in ours.parameters()) == published


@pytest.mark.slow
def test_googlenet_has_no_auxiliary_heads_and_returns_logits() -> None:
    model = meta("googlenet").train()
    assert sum(p.numel() for p in model.parameters()) == tv.GoogLeNet_Weights.IMAGENET1K_V1.meta["num_params"]
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


@pytest.mark.spread(2)
@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32)])
def test_small_images_go_forward_and_backward(arch: str, channels: int, side: int) -> None:
    model = create(arch, num_classes=10, in_channels=channels, image_size=(side, side))
    logits = model(torch.randn(2, channels, side, side))
    logits.square().sum().backward()
    assert logits.shape == (2, 10)
    assert first_conv(model).weight.grad.abs().sum() > 0


@pytest.mark.spread(2)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "imagenet_side", "small_side"),
    [
        ("mobilenet_v3_small", 16, 32),
        ("mobilenet_v2", 16, 32),
        ("resnet18", 16, 32),
        ("efficientnet_b0", 16, 32),
        ("densenet121", 16, 32),
        ("swin_t", 8, 16),
        ("swin_v2_t", 8, 16),
        ("convnext_tiny", 8, 16),
        ("vgg11", 32, 32),
    ],
)
def test_small_stem_keeps_the_resolution_imagenet_stem_reduces(arch: str, imagenet_side: int, small_side: int) -> None:
    assert first_conv_side(meta(arch, side=32, stem="imagenet"), 32) == imagenet_side
    assert first_conv_side(meta(arch, side=32, stem="small"), 32) == small_side


@pytest.mark.parametrize(("side", "first_side"), [(32, 32), (63, 63), (64, 32), (224, 112)])
def test_stem_auto_is_small_below_64_px(side: int, first_side: int) -> None:
    assert first_conv_side(meta("resnet18", side=side), side) == first_side


def test_small_resnet_stem_is_3x3_stride_1_without_max_pool() -> None:
    model = meta("resnet50", side=32)
    conv = model.conv1
    assert (conv.kernel_size, conv.stride, conv.padding, conv.bias) == ((3, 3), (1, 1), (1, 1), None)
    assert isinstance(model.maxpool, nn.Identity)
    assert model.layer1[0].conv1(model.maxpool(model.conv1(torch.empty(1, 3, 32, 32, device="meta")))).shape[-1] == 32


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "mobilenet_v2"])
def test_a_small_mobilenet_stem_changes_the_stride_and_no_weight(arch: str) -> None:
    torch.manual_seed(3)
    small = create(arch, num_classes=10, in_channels=3, image_size=(32, 32), stem="small")
    torch.manual_seed(3)
    theirs = tv.get_model(arch, num_classes=10)
    assert first_conv(small).stride == (1, 1)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), theirs.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "small_side", "tiny_side"), [("mobilenet_v3_small", 2, 4), ("mobilenet_v2", 2, 4)])
def test_a_tiny_mobilenet_stem_halves_the_resolution_once_less(arch: str, small_side: int, tiny_side: int) -> None:
    sides = {stem: meta(arch, side=32, stem=stem).features(torch.empty(1, 3, 32, 32, device="meta")).shape[-1]
             for stem in ("small", "tiny")}  # fmt: skip
    assert sides == {"small": small_side, "tiny": tiny_side}


def test_a_tiny_stem_is_for_mobilenets() -> None:
    with pytest.raises(ConfigError, match="model.stem 'tiny' is for MobileNets; got model.arch 'resnet18'"):
        meta("resnet18", stem="tiny")


@pytest.mark.parametrize("arch", ["vit_b_16", "maxvit_t"])
def test_a_stem_that_cannot_be_small_says_so(arch: str) -> None:
    with pytest.raises(ConfigError, match=rf"model.stem 'small' is not possible for '{arch}'.*model=vit_tiny"):
        meta(arch, side=224, stem="small")


def test_stem_auto_keeps_a_stem_that_cannot_be_small() -> None:
    assert first_conv(meta("vit_b_16", side=32)).kernel_size == (16, 16)


# How the standard deviation of the first kernel changes from 3 to 12 channels: fan-out and constant ones do not,
# fan-in ones halve.
@pytest.mark.spread(2)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "factor"),
    [
        ("resnet18", 1.0),
        ("mobilenet_v2", 1.0),
        ("mobilenet_v3_small", 1.0),
        ("efficientnet_b0", 1.0),
        ("mnasnet0_5", 1.0),
        ("regnet_y_400mf", 1.0),
        ("convnext_tiny", 1.0),
        ("googlenet", 1.0),
        ("densenet121", 0.5),
        ("squeezenet1_1", 0.5),
        ("shufflenet_v2_x0_5", 0.5),
        ("swin_t", 0.5),
    ],
)
def test_first_conv_for_other_channels_has_torchvision_init(arch: str, factor: float) -> None:
    torch.manual_seed(0)
    ours = first_conv(create(arch, num_classes=2, in_channels=12, image_size=(224, 224), stem="imagenet"))
    options = {"init_weights": True} if arch == "googlenet" else {}
    theirs = first_conv(tv.get_model(arch, num_classes=2, **options))
    assert ours.weight.shape == (theirs.out_channels, 12, *theirs.kernel_size)
    assert (ours.stride, ours.padding, ours.bias is None) == (theirs.stride, theirs.padding, theirs.bias is None)
    assert float((ours.weight.std() / theirs.weight.std()).detach()) == pytest.approx(factor, rel=0.12)
    if theirs.bias is not None and not theirs.bias.any():
        assert not ours.bias.any()


@pytest.mark.slow
def test_bn_momentum_sets_all_batch_norms_and_none_keeps_default() -> None:
    momenta = [
        {m.momentum for m in meta("mobilenet_v3_small", bn_momentum=value).modules() if isinstance(m, nn.BatchNorm2d)}
        for value in (0.1, None)
    ]
    assert momenta == [{0.1}, {0.01}]


@pytest.mark.parametrize("value", [0, 1.5])
def test_bn_momentum_outside_0_to_1_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"model.bn_momentum must be in \(0, 1\]"):
        meta("resnet18", bn_momentum=value)


def test_bn_momentum_where_there_is_no_batch_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="model.bn_momentum has nothing to set: 'swin_t' has no batch norm"):
        meta("swin_t", bn_momentum=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "mobilenet_v2", "efficientnet_b0", "vgg11", "swin_t"])
def test_dropout_reaches_the_network(arch: str) -> None:
    model = meta(arch, dropout=0.37)
    assert 0.37 in {module.p for module in model.modules() if isinstance(module, nn.Dropout)}


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "prob"), [("swin_t", 0.2), ("convnext_tiny", 0.1)])
def test_stochastic_depth_rises_as_torchvisions_own_does(arch: str, prob: float) -> None:
    def depths(model: nn.Module) -> list[float]:
        return [module.p for module in model.modules() if isinstance(module, StochasticDepth)]

    with torch.device("meta"):
        theirs = depths(tv.get_model(arch))
    assert depths(meta(arch, stochastic_depth_prob=prob)) == pytest.approx(theirs)
    assert depths(meta(arch)) == pytest.approx(theirs)
    assert set(depths(meta(arch, stochastic_depth_prob=0.0))) == {0.0}


def test_stochastic_depth_where_there_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="model.stochastic_depth_prob has nothing to set: 'resnet18'"):
        meta("resnet18", stochastic_depth_prob=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "mobilenet_v2"])
def test_width_mult_half_thins_the_network(arch: str) -> None:
    def size(**options: float) -> int:
        return sum(p.numel() for p in meta(arch, num_classes=10, **options).parameters())

    assert size(width_mult=0.5) < 0.5 * size()


def test_an_unknown_arch_lists_all_archs_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"model.arch 'resnet51' is not one of: alexnet, .*Did you mean 'resnet50'\?"):
        meta("resnet51")


def test_an_unknown_stem_lists_the_four() -> None:
    with pytest.raises(ConfigError, match="model.stem 'mini' is not one of: auto, imagenet, small, tiny"):
        meta("resnet18", stem="mini")


def test_option_torchvision_ignores_is_refused_with_the_nearest() -> None:
    tv.mobilenet_v3_small(dropot=0.9)  # torchvision takes it without a word
    with pytest.raises(ConfigError, match=r"model.arch 'mobilenet_v3_small', 'dropot' is not one of.*'dropout'"):
        meta("mobilenet_v3_small", dropot=0.9)


def test_value_refused_by_the_constructor_names_arch_and_options() -> None:
    with pytest.raises(ConfigError, match=r"model.arch 'densenet121' refuses its options \{'growth_rate': 1.5\}"):
        meta("densenet121", growth_rate=1.5)


@pytest.mark.parametrize("value", [-1, 0, float("nan"), float("inf"), "wide"])
@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "mobilenet_v2"])
def test_a_width_that_is_not_above_0_is_refused(arch: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"model.width_mult must be a finite number above 0; got {value!r}"):
        meta(arch, width_mult=value)


@pytest.mark.parametrize(
    ("arch", "option", "value"),
    [
        ("mobilenet_v3_small", "dropout", -0.1),
        ("vgg11", "dropout", 7),
        ("efficientnet_b0", "dropout", 1.0),
        ("swin_t", "attention_dropout", "much"),
        ("densenet121", "drop_rate", -1),  # torchvision skips dropout there
        ("resnet18", "stochastic_depth_prob", -0.1),
    ],
)
def test_a_fraction_outside_0_to_1_is_refused_with_its_key(arch: str, option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"model.{option} must be a fraction in \[0, 1\); got {value!r}"):
        meta(arch, **{option: value})


@pytest.mark.parametrize(("arch", "side"), [("vgg11", 28), ("inception_v3", 32)])
def test_an_image_that_is_too_small_is_refused_when_building(arch: str, side: int) -> None:
    with pytest.raises(ConfigError, match=f"model.arch '{arch}' cannot take data.image_size {side} x {side}"):
        meta(arch, side=side)


def test_vision_transformer_refuses_a_non_square_image() -> None:
    with pytest.raises(ConfigError, match="data.image_size must be square for model.arch 'vit_b_16'; got 224 x 192"):
        create("vit_b_16", num_classes=2, in_channels=3, image_size=(224, 192))
