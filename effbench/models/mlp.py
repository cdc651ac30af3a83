"""Multi-layer perceptron: flattened inputs, hidden layers with ReLU and dropout, one linear head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn

from effbench.errors import ConfigError
from effbench.models.layers import check_count, check_dropout


def mlp(
    num_classes: int,
    in_channels: int | None = None,
    image_size: tuple[int, int] | None = None,
    hidden: Sequence[int] = (512, 256, 128),
    dropout: float = 0.3,
    in_features: int | None = None,
) -> nn.Sequential:
    """Build an MLP: (B, C, H, W) or (B, F) -> logits (B, num_classes).

    Without hidden layers it is multinomial logistic regression, `linear`.

    Args:
        num_classes: number of logits.
        in_channels: C of images.
        image_size: (H, W) of images in px.
        hidden: units of each hidden layer.
        dropout: fraction dropped after each hidden ReLU, in [0, 1).
        in_features: F of feature rows.

    Raises:
        OptionError: a width is below 1, or dropout is outside of [0, 1).
    """
    # images are flattened; rows have their width already
    if in_features is None:
        if in_channels is None or image_size is None:
            raise ConfigError("this model takes images or rows: it needs in_channels and image_size, or in_features.")
        in_features = in_channels * prod(image_size)
    for width in hidden:
        check_count(width, "model.hidden", "units in each layer")
    check_dropout(dropout)
    widths = [in_features, *hidden]
    # flattening leaves feature rows (B, F) as they are
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for index, (width_in, width_out) in enumerate(pairwise(widths), start=1):
        layers[f"hidden{index}"] = nn.Sequential(nn.Linear(width_in, width_out), nn.ReLU(), nn.Dropout(dropout))
    # by name, so that model.freeze and group_lr can name the layers, and pretrained weights find the head
    layers["head"] = nn.Linear(widths[-1], num_classes)
    return nn.Sequential(layers)


def linear(
    num_classes: int,
    in_channels: int | None = None,
    image_size: tuple[int, int] | None = None,
    in_features: int | None = None,
) -> nn.Sequential:
    """Build multinomial logistic regression: (B, C, H, W) or (B, F) -> logits (B, num_classes).

    Args:
        num_classes: number of logits.
        in_channels: C of images.
        image_size: (H, W) of images in px.
        in_features: F of feature rows.
    """
    return mlp(num_classes, in_channels, image_size, hidden=(), in_features=in_features)
