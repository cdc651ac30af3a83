"""Multi-layer perceptron: flattened pixels, hidden layers with ReLU and dropout, one linear head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn

from effbench.models.layers import check_count, check_dropout


def mlp(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    hidden: Sequence[int] = (512, 256, 128),
    dropout: float = 0.3,
) -> nn.Sequential:
    """Build an MLP: (B, C, H, W) -> logits (B, num_classes).

    Without hidden layers it is multinomial logistic regression.

    Args:
        num_classes: number of logits.
        in_channels: C.
        image_size: (H, W) in px.
        hidden: units of each hidden layer.
        dropout: fraction dropped after each hidden ReLU, in [0, 1).

    Raises:
        OptionError: a width is below 1, or dropout is outside of [0, 1).
    """
    for width in hidden:
        check_count(width, "model.hidden", "units in each layer")
    check_dropout(dropout)
    widths = [in_channels * prod(image_size), *hidden]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for index, (width_in, width_out) in enumerate(pairwise(widths), start=1):
        layers[f"hidden{index}"] = nn.Sequential(nn.Linear(width_in, width_out), nn.ReLU(), nn.Dropout(dropout))
    layers["head"] = nn.Linear(widths[-1], num_classes)
    return nn.Sequential(layers)
