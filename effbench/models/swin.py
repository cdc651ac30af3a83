"""Swin Transformer of any size (arXiv:2103.14030), built from torchvision's class. The default size suits a CPU."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torchvision.models import SwinTransformer

from effbench.config.options import POSITIVE
from effbench.errors import OptionError
from effbench.models.layers import check_count, check_dropout
from effbench.models.torchvision_zoo import adapt_input_channels


def swin_micro(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    patch_size: int = 2,
    embed_dim: int = 48,
    depths: Sequence[int] = (2, 2, 2),
    num_heads: Sequence[int] = (2, 4, 8),
    window_size: int = 4,
    mlp_ratio: float = 4.0,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    stochastic_depth_prob: float = 0.1,
) -> nn.Module:
    """Build a Swin Transformer: (B, C, H, W) -> logits (B, num_classes).

    Each stage halves the map and doubles the width. A map that the window does not divide is padded.

    Args:
        num_classes: number of logits.
        in_channels: C.
        image_size: (H, W) in px, multiples of patch_size.
        patch_size: side of a square patch in px.
        embed_dim: width of the first stage.
        depths: blocks of each stage.
        num_heads: attention heads of each stage; each divides the stage's width.
        window_size: side of a square window in patches.
        mlp_ratio: width of a block's hidden layer over the stage's width.
        dropout: fraction dropped after linear layers, in [0, 1).
        attention_dropout: fraction of attention weights dropped, in [0, 1).
        stochastic_depth_prob: probability of skipping the last block, in [0, 1); it rises linearly from 0 at the first.

    Raises:
        OptionError: the stages do not agree, or the patches do not divide the image.
    """
    check_count(embed_dim, "model.embed_dim", "channels")
    check_count(patch_size, "model.patch_size", "px")
    check_count(window_size, "model.window_size", "patches")
    POSITIVE.check(mlp_ratio, "model.mlp_ratio", "a finite number above 0", "Usual is 2 to 4.")
    # before the model is built: torchvision raises nothing here, or errors that name no option
    _check_shapes(image_size, patch_size, embed_dim, depths, num_heads)
    check_dropout(dropout)
    check_dropout(attention_dropout, "model.attention_dropout")
    check_dropout(stochastic_depth_prob, "model.stochastic_depth_prob")
    # A window that covers a stage's whole map is not shifted (torchvision): 4 x 4 in the last stage at 32 px.
    model: nn.Module = SwinTransformer(
        patch_size=[patch_size, patch_size],
        embed_dim=embed_dim,
        depths=list(depths),
        num_heads=list(num_heads),
        window_size=[window_size, window_size],
        mlp_ratio=mlp_ratio,
        dropout=dropout,
        attention_dropout=attention_dropout,
        stochastic_depth_prob=stochastic_depth_prob,
        num_classes=num_classes,
    )
    # torchvision's constructor takes no number of channels
    adapt_input_channels(model, in_channels)
    return model


def _check_shapes(
    image_size: tuple[int, int], patch_size: int, embed_dim: int, depths: Sequence[int], num_heads: Sequence[int]
) -> None:
    # one block in all: torchvision divides by the number of blocks - 1, for stochastic depth
    if len(depths) != len(num_heads) or len(depths) < 1 or list(depths) == [1]:
        raise OptionError(
            "model.depths and model.num_heads must have one number for each stage, at least two blocks in all; "
            f"got {list(depths)} and {list(num_heads)}."
        )
    for depth in depths:
        check_count(depth, "model.depths", "blocks in each stage")
    # each head has width / heads features: torchvision would round down and fail in the first forward pass
    for stage, heads in enumerate(num_heads):
        check_count(heads, "model.num_heads", "heads in each stage")
        width = embed_dim * 2**stage  # patch merging halves the map and doubles the width
        if width % heads:
            raise OptionError(f"model.num_heads must divide the stage's width; got {heads} for {width}.")
    # torchvision would drop the pixels after the last whole patch without a message
    if any(side % patch_size for side in image_size):
        raise OptionError(
            f"data.image_size must be a multiple of model.patch_size; got {image_size[0]} x {image_size[1]} px "
            f"and patches of {patch_size} px."
        )
