"""The MLP against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from effbench.errors import ConfigError
from effbench.models.mlp import mlp


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [28, 32])
def test_maps_images_to_logits_and_gives_every_weight_a_gradient(channels: int, side: int) -> None:
    model = mlp(num_classes=10, in_channels=channels, image_size=(side, side))
    logits = model(torch.randn(4, channels, side, side))
    logits.square().sum().backward()
    assert logits.shape == (4, 10)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_has_the_parameters_of_512_256_128() -> None:
    model = mlp(num_classes=10, in_channels=1, image_size=(28, 28))
    expected = (784 + 1) * 512 + (512 + 1) * 256 + (256 + 1) * 128 + (128 + 1) * 10
    assert sum(p.numel() for p in model.parameters()) == expected


def test_mlp_without_hidden_layers_is_linear() -> None:
    model = mlp(num_classes=3, in_channels=2, image_size=(4, 5), hidden=[])
    images = torch.randn(6, 2, 4, 5)
    expected = nn.functional.linear(images.reshape(6, 40), model.head.weight, model.head.bias)
    torch.testing.assert_close(model(images), expected)


def test_dropout_acts_after_every_hidden_layer_in_training_only() -> None:
    model = mlp(num_classes=10, in_channels=1, image_size=(8, 8), dropout=0.25)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.25] * 3
    images = torch.randn(2, 1, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 30])
def test_dropout_outside_0_to_1_is_refused_with_its_key(dropout: float) -> None:
    with pytest.raises(ConfigError, match=r"model.dropout must be a fraction in \[0, 1\)"):
        mlp(num_classes=2, in_channels=1, image_size=(8, 8), dropout=dropout)


@pytest.mark.parametrize("width", [0, -3, 1.5, "wide"])
def test_width_that_is_no_positive_integer_is_refused_with_key(width: object) -> None:
    with pytest.raises(
        ConfigError, match=rf"model.hidden must be a whole number of units .* at least 1; got {width!r}"
    ):
        mlp(num_classes=2, in_channels=1, image_size=(8, 8), hidden=[8, width])
