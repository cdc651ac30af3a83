"""A plain CNN and its depthwise-separable version: the same network with another kind of convolution."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from effbench.config.options import BOOL
from effbench.errors import OptionError, unknown_name
from effbench.models.layers import DepthwiseSeparableConv2d, check_count, check_dropout, same_padding

GRID = 4  # largest side of the feature map that the fully connected layer sees


def cnn(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    kind: str = "standard",
    channels: Sequence[int] = (32, 64, 128),
    kernel_size: int = 3,
    hidden: int = 512,
    dropout: float = 0.5,
    batch_norm: bool = True,
) -> nn.Sequential:
    """Build a CNN: (B, C, H, W) -> logits (B, num_classes).

    One block for each entry of `channels`: convolution, batch norm, ReLU, 2 x 2 max pool. The last feature map is
    averaged to at most 4 x 4 (not needed at 32 px), so that the fully connected layer does not grow with the image.

    Args:
        num_classes: number of logits.
        in_channels: C.
        image_size: (H, W) in px.
        kind: 'standard' or 'separable' convolutions.
        channels: output channels of each block.
        kernel_size: px, odd.
        hidden: units of the fully connected layer before the head.
        dropout: fraction dropped before the head, in [0, 1).
        batch_norm: False leaves it out, and gives the convolutions a bias.

    Raises:
        OptionError: an image side is below 2^blocks px (8 px by default), or an option is out of range.
    """
    if kind not in ("standard", "separable"):
        raise OptionError(unknown_name("model.kind", kind, ["standard", "separable"]))
    if not channels:
        raise OptionError("model.channels must hold one number for each block, at least one; got []. Write [32].")
    for width in channels:
        check_count(width, "model.channels", "channels in each block")
    check_count(hidden, "model.hidden", "units")
    check_dropout(dropout)
    BOOL.check(batch_norm, "model.batch_norm")
    # (B, channels[-1], rows, columns) is what the fully connected layer sees
    pool, (rows, columns) = _pool(image_size, len(channels))

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (c_in, c_out) in enumerate(pairwise([in_channels, *channels]), start=1):
        # no bias before batch norm: it subtracts the mean, and has a bias of its own
        conv: nn.Module = (
            nn.Conv2d(c_in, c_out, kernel_size, padding=same_padding(kernel_size), bias=not batch_norm)
            if kind == "standard"
            else DepthwiseSeparableConv2d(c_in, c_out, kernel_size, bias=not batch_norm)
        )
        norm = [nn.BatchNorm2d(c_out)] if batch_norm else []
        layers[f"block{index}"] = nn.Sequential(conv, *norm, nn.ReLU(), nn.MaxPool2d(2))
    layers["pool"] = pool
    layers["hidden"] = nn.Sequential(
        nn.Flatten(), nn.Linear(channels[-1] * rows * columns, hidden), nn.ReLU(), nn.Dropout(dropout)
    )
    # by name: model.freeze and group_lr name layers, and pretrained weights find the head
    layers["head"] = nn.Linear(hidden, num_classes)
    return nn.Sequential(layers)


def _pool(image_size: tuple[int, int], num_blocks: int) -> tuple[nn.Module, tuple[int, int]]:
    """Return the pooling of the last feature map, (B, C, h, w) -> (B, C, rows, columns), and (rows, columns).

    Each side has at most GRID windows, fewer for small images.
    """
    h, w = (side >> num_blocks for side in image_size)  # each block halves the map, rounding down
    if not h or not w:
        raise OptionError(
            f"data.image_size must be at least {2**num_blocks} px for {num_blocks} blocks of model.channels, "
            f"each halving the image; got {image_size[0]} x {image_size[1]}."
        )
    grid = (min(GRID, h), min(GRID, w))
    if (h, w) == grid:
        return nn.Identity(), grid
    if h % grid[0] == 0 and w % grid[1] == 0:
        # Gives the same numbers as adaptive pooling, whose CUDA backward is not deterministic.
        return nn.AvgPool2d((h // grid[0], w // grid[1])), grid
    return nn.AdaptiveAvgPool2d(grid), grid
