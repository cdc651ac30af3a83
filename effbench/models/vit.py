"""Vision Transformer of any size (arXiv:2010.11929), built from torchvision's class, so that its weights fit."""

from __future__ import annotations

from torch import nn
from torchvision.models import VisionTransformer

from effbench.errors import OptionError, shown
from effbench.models.layers import check_count, check_dropout
from effbench.models.torchvision_zoo import adapt_input_channels, square_side


def vit(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    dim: int = 192,
    depth: int = 12,
    heads: int = 3,
    mlp_dim: int | None = None,
    patch_size: int | str = "auto",
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
) -> nn.Module:
    """Build a ViT: (B, C, S, S) -> logits (B, num_classes), with (S / patch_size)^2 + 1 tokens of width `dim`.

    The head starts at zero, as in torchvision: the first gradient reaches only the head.

    Args:
        num_classes: number of logits.
        in_channels: C.
        image_size: (S, S) in px.
        dim: width of a token, a multiple of heads.
        depth: encoder blocks.
        heads: attention heads.
        mlp_dim: width of a block's hidden layer; None: 4 x dim.
        patch_size: side of a square patch in px; 'auto': 16 from 64 px on, 4 below.
        dropout: fraction dropped after the embedding and linear layers, in [0, 1).
        attention_dropout: fraction of attention weights dropped, in [0, 1).

    Raises:
        OptionError: the image is not square, the patches do not divide it, or the heads do not divide dim.
    """
    side = square_side(image_size, "model=vit_*")
    patch = _patch_size(patch_size, side)
    check_count(dim, "model.dim", "channels")
    check_count(depth, "model.depth", "blocks")
    # counts first: the division below needs heads above 0
    check_count(heads, "model.heads", "heads")
    if mlp_dim is not None:
        check_count(mlp_dim, "model.mlp_dim", "units")
    # before torchvision's own check, an assertion without the key
    if dim % heads:
        raise OptionError(f"model.heads must divide model.dim; got {heads} heads for a width of {dim}.")
    check_dropout(dropout)
    check_dropout(attention_dropout, "model.attention_dropout")
    model: nn.Module = VisionTransformer(
        image_size=side,
        patch_size=patch,
        num_layers=depth,
        num_heads=heads,
        hidden_dim=dim,
        mlp_dim=4 * dim if mlp_dim is None else mlp_dim,  # 4: in all models of the paper (table 1)
        dropout=dropout,
        attention_dropout=attention_dropout,
        num_classes=num_classes,
    )
    # torchvision's constructor takes no number of channels
    adapt_input_channels(model, in_channels)
    return model


def _patch_size(patch_size: int | str, side: int) -> int:
    """Return the side of a patch in px; it must divide the side of the image."""
    if isinstance(patch_size, str) and patch_size != "auto":
        raise OptionError(f"model.patch_size must be a number of px or 'auto'; got {shown(patch_size)}.")
    # patches of 16 px would make 4 tokens of an image of 32 px; of 4 px they make 64
    patch = (16 if side >= 64 else 4) if isinstance(patch_size, str) else patch_size
    check_count(patch, "model.patch_size", "px")
    if side % patch:
        divisors = ", ".join(str(size) for size in range(2, side + 1) if side % size == 0)
        raise OptionError(
            f"data.image_size must be a multiple of model.patch_size; got {side} px and patches of {patch} px. "
            f"Patches that fit: {divisors}."
        )
    return patch
