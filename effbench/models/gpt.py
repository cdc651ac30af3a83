"""A decoder-only transformer that predicts the next token at each place, in the form of GPT-2.

Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.3: layer norm before attention and
MLP, and after the last block; the embedding is also the output layer. Initial weights as in nanoGPT (model.py of
github.com/karpathy/nanoGPT, which follows that section): normal with standard deviation 0.02, biases 0, and what a
block adds to its input 0.02 / sqrt(2 depth), because 2 depth such terms are added up.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effbench.errors import OptionError, unknown_name
from effbench.models.attention import SelfAttention
from effbench.models.layers import check_count, check_dropout
from effbench.models.text_layers import ConvStem
from effbench.models.transformer import Block

POSITIONS = ("learned", "rotary")
_STD = 0.02


class GPT(nn.Module):
    """Embedding, causal transformer blocks, and a score of each token number at each place.

    (B, T) token numbers, T at most `context` -> logits (B, T, num_classes). An output depends on its token and on
    earlier ones only, so padding at the end changes nothing before it.

    Args:
        num_classes: V, token numbers.
        context: most tokens.
        dim: width of a token, a multiple of heads.
        depth: blocks.
        heads: attention heads.
        mlp_dim: units of a block's hidden layer; None: 4 x dim.
        positions: 'learned': a table of context rows is added to the embedding; 'rotary': queries and keys are rotated
            (arXiv:2104.09864).
        tied: the output layer has the embedding's weights (arXiv:1608.05859).
        dropout: fraction dropped after the embedding and of what blocks add, in [0, 1).
        attention_dropout: fraction of attention weights dropped, in [0, 1).
        conv_width: tokens that a causal convolution after the embedding sees, see ConvStem; None: no convolution.

    Raises:
        OptionError: an option is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        context: int,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        mlp_dim: int | None = None,
        positions: str = "learned",
        tied: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        conv_width: int | None = None,
    ):
        super().__init__()
        check_count(context, "data.context", "tokens")
        check_count(dim, "model.dim", "channels")
        check_count(depth, "model.depth", "blocks")
        if mlp_dim is not None:
            check_count(mlp_dim, "model.mlp_dim", "units")
        check_dropout(dropout)
        if positions not in POSITIONS:
            raise OptionError(unknown_name("model.positions", positions, POSITIONS))
        rotary = positions == "rotary"
        self.context = context
        self.embedding = nn.Embedding(num_classes, dim)
        self.stem = None if conv_width is None else ConvStem(dim, conv_width, causal=True)
        self.pos_embedding = None if rotary else nn.Parameter(torch.empty(context, dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                SelfAttention(dim, heads, attention_dropout, causal=True, rotary=rotary),
                dim, mlp_dim or 4 * dim, dropout,
            )
            for _ in range(depth)
        )  # fmt: skip
        self.norm = nn.LayerNorm(dim)
        # no layer of its own if tied: a second name for the same weights would be saved twice
        self.head = None if tied else nn.Linear(dim, num_classes, bias=False)
        self.head_layers = ("embedding",) if tied else ("head",)
        self._initialize(depth)

    def _initialize(self, depth: int) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() > 1:  # not the gains of norms, which stay 1
                added = name.endswith(("attention.out.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=_STD / math.sqrt(2 * depth) if added else _STD)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """(B, T) -> (B, T, num_classes). Raises OptionError if T is more than the context."""
        T = tokens_BT.shape[1]
        if self.context < T:
            raise OptionError(
                f"the sequence has {T} tokens, and the model takes {self.context} (data.context). Give its last "
                f"{self.context} tokens, or train with a larger data.context."
            )
        x_BTD = self.embedding(tokens_BT)
        if self.stem is not None:
            x_BTD = self.stem(x_BTD)
        if self.pos_embedding is not None:
            x_BTD = x_BTD + self.pos_embedding[:T]
        x_BTD = self.dropout(x_BTD)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        x_BTD = self.norm(x_BTD)
        logits: Tensor = F.linear(x_BTD, self.embedding.weight) if self.head is None else self.head(x_BTD)
        return logits
