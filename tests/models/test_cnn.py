"""The CNN and its separable twin: sizes that it takes, its parameters in closed form, the twins' difference."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from effbench.errors import ConfigError
from effbench.models.accounting import macs, parameters
from effbench.models.cnn import cnn
from effbench.models.layers import DepthwiseSeparableConv2d


@pytest.mark.parametrize("kind", ["standard", "separable"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_size", [(8, 8), (28, 28), (32, 32), (64, 64), (33, 57)])
def test_cnn_takes_8_px_images_and_all_weights_get_gradients(
    image_size: tuple[int, int], channels: int, kind: str
) -> None:
    torch.manual_seed(0)
    model = cnn(num_classes=10, in_channels=channels, image_size=image_size, kind=kind)
    logits = model(torch.randn(4, channels, *image_size))
    logits.square().sum().backward()
    assert logits.shape == (4, 10)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_has_the_parameters_of_its_description() -> None:
    # 3 blocks of 3 x 3 kernels without bias, batch norms, 128 maps of 4 x 4 into 512 units, the head.
    kernels, norms = 9 * (3 * 32 + 32 * 64 + 64 * 128), 2 * (32 + 64 + 128)
    expected = kernels + norms + (128 * 16 + 1) * 512 + (512 + 1) * 10
    assert parameters(cnn(10, 3, (32, 32))).total == expected


@pytest.mark.parametrize(("kind", "kernels"), [("standard", 9 * (3 * 32 + 32 * 64 + 64 * 128)), ("separable", None)])
def test_without_batch_norm_the_convolutions_have_a_bias(kind: str, kernels: int | None) -> None:
    kernels = kernels or 9 * (3 + 32 + 64) + 3 * 32 + 32 * 64 + 64 * 128
    model = cnn(10, 3, (32, 32), kind=kind, batch_norm=False)
    biases = 32 + 64 + 128
    assert parameters(model).total == kernels + biases + (128 * 16 + 1) * 512 + (512 + 1) * 10
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(("size", "grid"), [(8, 1), (28, 3), (32, 4), (64, 4), (224, 4), (100, 4)])
def test_the_hidden_layer_sees_at_most_4_by_4_cells(size: int, grid: int) -> None:
    with torch.device("meta"):
        model = cnn(10, 3, (size, size))
    assert model.hidden[1].in_features == 128 * grid * grid


@pytest.mark.parametrize("size", [64, 100, 224])
def test_pooling_equals_adaptive_average_pooling(size: int) -> None:
    with torch.device("meta"):
        model = cnn(10, 3, (size, size))
    maps = torch.randn(2, 5, size // 8, size // 8)
    torch.testing.assert_close(model.pool(maps), nn.functional.adaptive_avg_pool2d(maps, 4))


@pytest.mark.parametrize("size", [28, 32, 64, 224])
def test_common_sizes_use_no_adaptive_pooling(size: int) -> None:
    with torch.device("meta"):
        model = cnn(10, 3, (size, size))
    assert not any(isinstance(module, nn.AdaptiveAvgPool2d) for module in model.modules())


def test_the_twins_differ_in_their_convolutions_only() -> None:
    standard, separable = cnn(10, 3, (32, 32)), cnn(10, 3, (32, 32), kind="separable")
    for one, other in zip(standard.named_modules(), separable.named_modules(), strict=False):
        if isinstance(other[1], DepthwiseSeparableConv2d):
            break
        assert type(one[1]) is type(other[1])
    strip = [
        [str(m) for m in net.modules() if not list(m.children()) and not isinstance(m, nn.Conv2d)]
        for net in (standard, separable)
    ]
    assert strip[0] == strip[1]


def test_cnn_and_ds_cnn_macs_differ_by_the_closed_form() -> None:
    saved = (
        macs(cnn(10, 3, (32, 32)), torch.empty(1, 3, 32, 32)).macs
        - macs(cnn(10, 3, (32, 32), kind="separable"), torch.empty(1, 3, 32, 32)).macs
    )
    blocks = [(32 * 32, 3, 32), (16 * 16, 32, 64), (8 * 8, 64, 128)]
    expected = sum(9 * pixels * c_in * c_out * (1 - 1 / c_out - 1 / 9) for pixels, c_in, c_out in blocks)
    assert saved == pytest.approx(expected)


def test_an_image_below_8_px_is_refused_with_the_key() -> None:
    with pytest.raises(ConfigError, match=r"data.image_size must be at least 8 px.*got 7 x 32"):
        cnn(10, 3, (7, 32))


def test_an_unknown_kind_lists_the_two() -> None:
    with pytest.raises(ConfigError, match=r"model.kind 'seperable' is not one of: separable, standard.*'separable'"):
        cnn(10, 3, (32, 32), kind="seperable")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": []}, "model.channels must hold one number for each block"),
        ({"channels": [8, 0]}, "model.channels must be a whole number of channels .* at least 1; got 0"),
        ({"channels": [8, -4]}, "model.channels .* got -4"),
        ({"channels": [8.5]}, r"model.channels .* got 8\.5"),
        ({"hidden": 0}, "model.hidden must be a whole number of units, at least 1; got 0"),
        ({"dropout": -0.1}, r"model.dropout must be a fraction in \[0, 1\); got -0.1"),
        ({"dropout": "half"}, "model.dropout must be a fraction .* got 'half'"),
        ({"batch_norm": "off"}, "model.batch_norm must be true or false; got 'off'"),
        ({"kernel_size": -3}, "model.kernel_size must be odd and positive.* got -3"),
    ],
)
def test_a_wrong_option_is_refused_with_its_key(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cnn(10, 3, (32, 32), **options)
