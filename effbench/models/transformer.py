"""Transformer encoders of texts, with attention over all tokens or over a window."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effbench.errors import OptionError, unknown_name
from effbench.models.attention import LocalAttention, SelfAttention
from effbench.models.layers import check_count, check_dropout
from effbench.models.text_layers import ConvStem, TokenEmbedding, masked_mean, token_mask

POSITIONS = ("learned", "rotary", "none")


class Block(nn.Module):
    """A transformer block: attention, then two linear layers with GELU, each added to its input.

    (B, T, D) -> (B, T, D).

    Args:
        attention: the attention layer.
        dim: D.
        mlp_dim: units between the linear layers.
        dropout: fraction dropped of what is added, in [0, 1).
        norm: 'pre': layer norm before attention and layers, as in GPT-2; 'post': after each addition, as in
            arXiv:1706.03762.
    """

    def __init__(self, attention: nn.Module, dim: int, mlp_dim: int, dropout: float, norm: str = "pre"):
        super().__init__()
        if norm not in ("pre", "post"):
            raise OptionError(unknown_name("model.norm", norm, ["pre", "post"]))
        self.norm_first = norm == "pre"
        self.attention = attention
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); mask_BT is False for padding."""
        if self.norm_first:
            x_BTD = x_BTD + self.dropout(self.attention(self.norm1(x_BTD), mask_BT))
            x_BTD = x_BTD + self.dropout(self.mlp(self.norm2(x_BTD)))
        else:
            x_BTD = self.norm1(x_BTD + self.dropout(self.attention(x_BTD, mask_BT)))
            x_BTD = self.norm2(x_BTD + self.dropout(self.mlp(x_BTD)))
        return x_BTD


class TransformerEncoder(nn.Module):
    """Embedding, transformer blocks, the mean over tokens, and a linear head.

    (B, T) token numbers -> logits (B, num_classes).

    Args:
        num_classes: number of logits.
        vocab_size: token numbers, padding included.
        max_length: most tokens of a text.
        dim: width of a token, a multiple of heads.
        depth: blocks.
        heads: attention heads.
        mlp_dim: units of a block's hidden layer; None: 4 x dim.
        norm: 'pre' or 'post', see Block.
        positions: 'learned': a table of max_length rows is added to the embedding; 'rotary': queries and keys are
            rotated; 'none'.
        window: a token sees tokens at most so many places away; None: all.
        num_global: with a window, the first tokens that see and are seen by all.
        dropout: fraction dropped after the embedding and of what blocks add, in [0, 1).
        attention_dropout: fraction of attention weights dropped, in [0, 1).
        token_dropout: fraction of tokens left out in training, see TokenEmbedding.
        conv_width: tokens that a convolution after the embedding sees, see ConvStem; None: no convolution.

    Raises:
        OptionError: an option is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        vocab_size: int,
        max_length: int,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        mlp_dim: int | None = None,
        norm: str = "pre",
        positions: str = "learned",
        window: int | None = None,
        num_global: int = 0,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        token_dropout: float = 0.0,
        conv_width: int | None = None,
    ):
        super().__init__()
        check_count(depth, "model.depth", "blocks")
        if mlp_dim is not None:
            check_count(mlp_dim, "model.mlp_dim", "units")
        check_dropout(dropout)
        if positions not in POSITIONS:
            raise OptionError(unknown_name("model.positions", positions, POSITIONS))
        if window is None and num_global:
            raise OptionError("model.num_global needs model.window: without a window all tokens see all.")
        rotary = positions == "rotary"

        def attention() -> nn.Module:
            if window is None:
                return SelfAttention(dim, heads, attention_dropout, rotary=rotary)
            return LocalAttention(dim, heads, window, num_global, attention_dropout, rotary=rotary)

        blocks = [Block(attention(), dim, mlp_dim or 4 * dim, dropout, norm) for _ in range(depth)]
        self.max_length = max_length
        self.embedding = TokenEmbedding(vocab_size, dim, token_dropout)
        self.stem = None if conv_width is None else ConvStem(dim, conv_width)
        # small: the scale of the embedding's rows is 1
        self.pos_embedding = nn.Parameter(0.02 * torch.randn(max_length, dim)) if positions == "learned" else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        # with norm=post the last block ends with a norm
        self.norm = nn.LayerNorm(dim) if norm == "pre" else nn.Identity()
        self.head = nn.Linear(dim, num_classes)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """(B, T) -> (B, num_classes). Raises OptionError if T is more than the learned positions."""
        T = tokens_BT.shape[1]
        # one position would be added to every token
        if self.pos_embedding is not None and self.max_length < T:
            raise OptionError(
                f"the text has {T} tokens, and the model has learned {self.max_length} positions (data.max_length). "
                f"Give its first {self.max_length} tokens, or train with a larger data.max_length."
            )
        mask_BT = token_mask(tokens_BT)
        x_BTD = self.embedding(tokens_BT)
        if self.stem is not None:
            x_BTD = self.stem(x_BTD, mask_BT)
        if self.pos_embedding is not None:
            x_BTD = x_BTD + self.pos_embedding[:T]
        x_BTD = self.dropout(x_BTD)
        for block in self.blocks:
            x_BTD = block(x_BTD, mask_BT)
        logits: Tensor = self.head(masked_mean(self.norm(x_BTD), mask_BT))
        return logits
