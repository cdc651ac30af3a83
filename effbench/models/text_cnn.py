"""Convolutions over tokens of several widths, and the largest response of each filter (arXiv:1408.5882)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from effbench.models.layers import check_count, check_dropout
from effbench.models.text_layers import TokenEmbedding, token_mask


class TextCnn(nn.Module):
    """Embedding, one convolution of each width, maximum over tokens, and a linear head.

    (B, T) token numbers -> logits (B, num_classes). A filter of width k responds to one pattern of k tokens wherever it
    is, as an n-gram feature does.

    Args:
        num_classes: number of logits.
        vocab_size: token numbers, padding included.
        dim: width of a token's embedding.
        channels: filters of each width.
        widths: tokens that a filter sees.
        dropout: fraction dropped after the embedding and before the head, in [0, 1).
        token_dropout: fraction of tokens left out in training, see TokenEmbedding.

    Raises:
        OptionError: an option is out of range.
    """

    def __init__(
        self, num_classes: int, vocab_size: int, dim: int = 64, channels: int = 128,
        widths: Sequence[int] = (2, 3, 4, 5), dropout: float = 0.2, token_dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        for width in widths:
            check_count(width, "model.widths", "tokens of each filter")
        check_count(len(widths), "model.widths", "filter widths")
        check_count(dim, "model.dim", "channels")
        check_count(channels, "model.channels", "filters of each width")
        check_dropout(dropout)
        self.embedding = TokenEmbedding(vocab_size, dim, token_dropout)
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, channels, width, padding=width - 1) for width in widths)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels * len(widths), num_classes)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """(B, T) -> (B, num_classes)."""
        x_BDT = self.dropout(self.embedding(tokens_BT)).transpose(1, 2)
        mask_B1T = token_mask(tokens_BT).unsqueeze(1)
        found = [self._largest(convolution, x_BDT, mask_B1T) for convolution in self.convolutions]
        logits: Tensor = self.head(self.dropout(torch.cat(found, 1)))
        return logits

    @staticmethod
    def _largest(convolution: nn.Module, x_BDT: Tensor, mask_B1T: Tensor) -> Tensor:
        """Return (B, channels), the largest response to windows that end or begin in the text."""
        # padding = width - 1 on both sides: windows reach over the text's ends, and a text may be shorter than a filter
        responses_BCT = convolution(x_BDT)
        extra = responses_BCT.shape[2] - mask_B1T.shape[2]
        # A window that begins behind the last token has seen padding alone; how much there is must not matter.
        seen_B1T = nn.functional.pad(mask_B1T, (0, extra))
        for shift in range(1, extra + 1):
            seen_B1T = seen_B1T | nn.functional.pad(mask_B1T, (shift, extra - shift))
        # 0 is the least value after ReLU
        largest_BC: Tensor = (responses_BCT.relu() * seen_B1T).amax(2)
        return largest_BC
