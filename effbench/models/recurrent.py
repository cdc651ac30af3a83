"""Recurrent text classifiers: a plain RNN, GRU or LSTM, and a bidirectional LSTM with additive attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effbench.errors import OptionError, unknown_name
from effbench.models.layers import check_count, check_dropout
from effbench.models.text_layers import TokenEmbedding, last_states, masked_softmax, reversed_within, token_mask

CELLS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Recurrent(nn.Module):
    """Embedding, recurrent layers, and a linear head on the state at the last token.

    (B, T) token numbers -> logits (B, num_classes).

    Args:
        num_classes: number of logits.
        vocab_size: token numbers, padding included.
        cell: rnn (tanh), gru or lstm.
        dim: width of a token's embedding.
        hidden: units of a layer.
        layers: recurrent layers.
        dropout: fraction dropped after the embedding, between layers and before the head, in [0, 1).
        token_dropout: fraction of tokens left out in training, see TokenEmbedding.

    Raises:
        OptionError: an option is out of range.
    """

    def __init__(
        self, num_classes: int, vocab_size: int, cell: str = "rnn", dim: int = 64, hidden: int = 128, layers: int = 1,
        dropout: float = 0.1, token_dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        _check(dim=dim, hidden=hidden, layers=layers)
        check_dropout(dropout)
        if cell not in CELLS:
            raise OptionError(unknown_name("model.cell", cell, CELLS))
        self.embedding = TokenEmbedding(vocab_size, dim, token_dropout)
        between = dropout if layers > 1 else 0.0  # torch warns of dropout between layers if there is one
        self.recurrent = CELLS[cell](dim, hidden, layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """(B, T) -> (B, num_classes)."""
        # Padding is at the end: it changes no state up to a text's last token, so nothing is packed.
        states_BTH, _ = self.recurrent(self.dropout(self.embedding(tokens_BT)))
        logits: Tensor = self.head(self.dropout(last_states(states_BTH, token_mask(tokens_BT))))
        return logits


class LstmAttention(nn.Module):
    """Bidirectional LSTM with additive attention over its states (arXiv:1409.0473, section 3; arXiv:1512.08756).

    (B, T) token numbers -> logits (B, num_classes). The score of a token is v . tanh(W h + b); padding gets weight 0.
    The backward direction reads each text reversed within its padding, which gives the numbers of packed sequences.

    Args:
        num_classes: number of logits.
        vocab_size: token numbers, padding included.
        dim: width of a token's embedding.
        hidden: units of a direction.
        layers: bidirectional layers.
        attention: units of the attention's hidden layer.
        dropout: fraction dropped after the embedding, between layers and before the head, in [0, 1).
        token_dropout: fraction of tokens left out in training, see TokenEmbedding.

    Raises:
        OptionError: an option is out of range.
    """

    def __init__(
        self, num_classes: int, vocab_size: int, dim: int = 64, hidden: int = 128, layers: int = 1,
        attention: int = 64, dropout: float = 0.1, token_dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        _check(dim=dim, hidden=hidden, layers=layers, attention=attention)
        check_dropout(dropout)
        self.embedding = TokenEmbedding(vocab_size, dim, token_dropout)
        widths = [dim, *[2 * hidden] * (layers - 1)]
        self.forwards = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths)
        self.backwards = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Sequential(nn.Linear(2 * hidden, attention), nn.Tanh(), nn.Linear(attention, 1, bias=False))
        self.head = nn.Linear(2 * hidden, num_classes)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """(B, T) -> (B, num_classes)."""
        mask_BT = token_mask(tokens_BT)
        states_BTH = self.states(tokens_BT, mask_BT)
        weights_BT = self.attention(states_BTH, mask_BT)
        summary_BH = torch.bmm(weights_BT.unsqueeze(1), states_BTH).squeeze(1)
        logits: Tensor = self.head(self.dropout(summary_BH))
        return logits

    def states(self, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the states (B, T, 2 hidden) of both directions."""
        states_BTH: Tensor = self.embedding(tokens_BT)
        for onward, backward in zip(self.forwards, self.backwards, strict=True):
            states_BTH = self.dropout(states_BTH)
            ahead_BTH, _ = onward(states_BTH)
            behind_BTH, _ = backward(reversed_within(states_BTH, mask_BT))
            states_BTH = torch.cat([ahead_BTH, reversed_within(behind_BTH, mask_BT)], 2)
        return states_BTH

    def attention(self, states_BTH: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the weight of each token, (B, T); they add up to 1."""
        scores_BT: Tensor = self.score(states_BTH).squeeze(2)
        return masked_softmax(scores_BT, mask_BT)


def _check(**counts: int) -> None:
    what = {"dim": "channels", "hidden": "units", "layers": "layers", "attention": "units"}
    for key, count in counts.items():
        check_count(count, f"model.{key}", what[key])
