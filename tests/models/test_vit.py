"""The Vision Transformer against torchvision's named ones, and its refusals."""

from __future__ import annotations

import pytest
import torch
import torchvision.models as tv
from torch import nn

from effbench.errors import ConfigError
from effbench.models.vit import vit

SIZES = {
    "vit_b_16": {"dim": 768, "depth": 12, "heads": 12, "mlp_dim": 3072},
    "vit_l_16": {"dim": 1024, "depth": 24, "heads": 16, "mlp_dim": 4096},
}


@pytest.mark.parametrize("arch", SIZES)
def test_vit_at_224_px_has_torchvision_keys_and_parameter_count(arch: str) -> None:
    with torch.device("meta"):
        ours = vit(1000, 3, (224, 224), **SIZES[arch])
        theirs = tv.get_model(arch)
    published = tv.get_model_weights(arch)["IMAGENET1K_V1"].meta["num_params"]
    assert sum(p.numel() for p in ours.parameters()) == published
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_vit_equals_torchvision_with_the_same_weights() -> None:
    ours = vit(10, 3, (32, 32), dim=24, depth=2, heads=3)
    theirs = tv.VisionTransformer(
        image_size=32, patch_size=4, num_layers=2, num_heads=3, hidden_dim=24, mlp_dim=96, num_classes=10
    )
    nn.init.normal_(theirs.heads.head.weight)  # at its initial zeros every network would agree
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [28, 32])
def test_small_images_go_forward_and_backward(channels: int, side: int) -> None:
    model = vit(10, channels, (side, side), dim=48, depth=2)
    nn.init.normal_(model.heads.head.weight)  # zero at first, which would stop the gradient there
    logits = model(torch.randn(2, channels, side, side))
    logits.square().sum().backward()
    assert logits.shape == (2, 10)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(("side", "patch"), [(28, 4), (32, 4), (60, 4), (64, 16), (224, 16)])
def test_patch_size_auto_is_16_px_from_64_px_on_and_4_below(side: int, patch: int) -> None:
    with torch.device("meta"):
        assert vit(10, 3, (side, side)).conv_proj.kernel_size == (patch, patch)


def test_other_channels_are_initialised_with_the_patchs_fan_in() -> None:
    torch.manual_seed(0)
    conv = vit(10, 12, (32, 32), depth=1).conv_proj
    assert float(conv.weight.detach().std()) == pytest.approx((12 * 4 * 4) ** -0.5, rel=0.05)
    assert not conv.bias.any()


def test_image_not_divisible_by_patch_lists_valid_patch_sizes() -> None:
    with pytest.raises(
        ConfigError, match=r"data.image_size must be a multiple of model.patch_size; got 28 px .* 16 px.*: 2, 4, 7, 14"
    ):
        vit(10, 3, (28, 28), patch_size=16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "model.heads must divide model.dim; got 5 heads for a width of 192"),
        ({"patch_size": "big"}, "model.patch_size must be a number of px or 'auto'; got 'big'"),
        ({"dropout": 2}, "model.dropout must be a fraction"),
        ({"dim": 0}, "model.dim must be a whole number of channels, at least 1; got 0"),
        ({"dim": -192}, "model.dim .* got -192"),
        ({"depth": 0}, "model.depth must be a whole number of blocks, at least 1; got 0"),
        ({"heads": 0}, "model.heads must be a whole number of heads, at least 1; got 0"),
        ({"mlp_dim": 0}, "model.mlp_dim must be a whole number of units, at least 1; got 0"),
        ({"patch_size": 0}, "model.patch_size must be a whole number of px, at least 1; got 0"),
        ({"attention_dropout": -1}, "model.attention_dropout must be a fraction"),
    ],
)
def test_a_wrong_option_is_refused_with_its_key(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        vit(10, 3, (32, 32), **options)


def test_an_image_that_is_not_square_is_refused() -> None:
    with pytest.raises(ConfigError, match="data.image_size must be square for model=vit_"):
        vit(10, 3, (32, 64))
