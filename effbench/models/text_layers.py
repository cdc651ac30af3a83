"""What models of token numbers share: embeddings, masks, pooling, and reversal within padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effbench.config.options import AT_LEAST_2, ODD_FROM_3
from effbench.models.layers import check_dropout
from effbench.special_tokens import PADDING


def token_mask(tokens_BT: Tensor) -> Tensor:
    """Return bool (B, T), True for tokens and False for padding."""
    return tokens_BT != PADDING


class TokenEmbedding(nn.Embedding):
    """An embedding whose row for padding stays zero; training may leave tokens out (arXiv:1512.05287, section 4.2).

    (B, T) token numbers -> (B, T, dim). A token that is left out gets the embedding of padding, but keeps its place.

    Args:
        vocab_size: token numbers, padding included.
        dim: width of a token.
        token_dropout: fraction of the tokens left out in training, in [0, 1).

    Raises:
        OptionError: token_dropout is out of range.
    """

    def __init__(self, vocab_size: int, dim: int, token_dropout: float = 0.0):
        check_dropout(token_dropout, "model.token_dropout")
        super().__init__(vocab_size, dim, padding_idx=PADDING)
        self.token_dropout = token_dropout

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """(B, T) -> (B, T, dim)."""
        if self.training and self.token_dropout:
            left_out_BT = torch.rand(tokens_BT.shape, device=tokens_BT.device) < self.token_dropout
            tokens_BT = tokens_BT.masked_fill(left_out_BT, PADDING)
        return super().forward(tokens_BT)


class ConvStem(nn.Module):
    """A convolution over neighbouring tokens, added to the embedding: n-grams before attention.

    (B, T, D) -> (B, T, D): x + GELU(LayerNorm(convolution(x))). Like the convolutional stem of arXiv:2106.14881, but
    without a stride.

    Args:
        dim: D.
        width: tokens that the convolution sees: an odd number, its token in the middle; if causal, any number >= 2.
        causal: the convolution sees its token and the ones before it.

    Raises:
        OptionError: width is out of range.
    """

    def __init__(self, dim: int, width: int, causal: bool = False):
        super().__init__()
        if causal:
            AT_LEAST_2.check(width, "model.conv_width", "null or a number of tokens >= 2, such as 4")
        else:
            ODD_FROM_3.check(width, "model.conv_width", "null or an odd number of tokens >= 3, such as 5")
        self.conv = nn.Conv1d(dim, dim, width)
        self.norm = nn.LayerNorm(dim)
        self.padding = (width - 1, 0) if causal else (width // 2, width // 2)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); mask_BT is False for padding, which then neither gives nor gets anything."""
        if mask_BT is not None:
            x_BTD = x_BTD * mask_BT.unsqueeze(2)
        convolved_BDT = self.conv(nn.functional.pad(x_BTD.transpose(1, 2), self.padding))
        x_BTD = x_BTD + nn.functional.gelu(self.norm(convolved_BDT.transpose(1, 2)))
        return x_BTD if mask_BT is None else x_BTD * mask_BT.unsqueeze(2)


def masked_mean(states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Return float (B, D), the mean over tokens; zero for a row of padding alone."""
    weights_BT1 = mask_BT.unsqueeze(2).to(states_BTD.dtype)
    # clamp: 0 / 1 instead of 0 / 0, which would be NaN
    return (states_BTD * weights_BT1).sum(1) / weights_BT1.sum(1).clamp(min=1)


def masked_softmax(scores_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return float (B, T), a softmax over tokens, 0 at padding; all zero for a row of padding alone."""
    # the least finite number, not -inf: a row of padding alone would become NaN, and so would its gradient
    least = torch.finfo(scores_BT.dtype).min
    weights_BT = scores_BT.masked_fill(~mask_BT, least).softmax(1)
    return weights_BT * mask_BT


def reversed_within(states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Reverse the tokens of each text and leave its padding at the end; applied twice, it changes nothing.

    A recurrent layer then reads texts backwards without packed sequences.
    """
    places_T = torch.arange(states_BTD.shape[1], device=states_BTD.device)
    lengths_B1 = mask_BT.sum(1, keepdim=True)
    index_BT = torch.where(places_T < lengths_B1, lengths_B1 - 1 - places_T, places_T)
    return states_BTD.gather(1, index_BT.unsqueeze(2).expand_as(states_BTD))


def last_states(states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Return float (B, D), the state at each text's last token."""
    last_B = (mask_BT.sum(1) - 1).clamp(min=0)
    return states_BTD.gather(1, last_B.view(-1, 1, 1).expand(-1, 1, states_BTD.shape[2])).squeeze(1)
