"""The baseline of text models: a linear classifier, or an MLP, on hashed n-grams (arXiv:1607.01759)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from effbench.config.options import WHOLE
from effbench.errors import OptionError
from effbench.models.layers import check_count, check_dropout
from effbench.models.text_layers import token_mask

# hash = (hash * factor + token) mod prime, below 2^62. A large factor: with a small one, a bigram's hash is never
# reduced, and a round number of rows leaves few of its digits.
_FACTOR, _PRIME = 1_540_483_477, 2_147_483_647
# stand for a text's beginning and end; larger than any token number
_START, _END = _PRIME - 2, _PRIME - 1


class Ngrams(nn.Module):
    """Mean of the rows of all n-grams of a text, then a linear layer; without hidden units the rows are logits.

    (B, T) token numbers -> logits (B, num_classes). N-grams share rows by a hash, so that the table has a fixed size.

    Args:
        num_classes: number of logits.
        vocab_size: token numbers, padding included.
        shortest, longest: tokens of an n-gram.
        buckets: rows of the table.
        hidden: width of a row; 0: num_classes, which makes the model linear.
        dropout: fraction dropped before the head, in [0, 1); unused if the model is linear.
        ngram_dropout: fraction of a text's n-grams left out in training, in [0, 1), as the words of a deep averaging
            network (Iyyer et al., ACL 2015, P15-1162).
        boundaries: n-grams also contain the places before the first and after the last token, so that one at the
            beginning or the end of a text differs from the same tokens inside.

    Raises:
        OptionError: an option is out of range.
    """

    unfit_formats: ClassVar[Mapping[str, str]] = {
        "openvino": "its hashes need whole numbers of 64 bits, and OpenVINO computes with 32"
    }

    def __init__(
        self, num_classes: int, vocab_size: int, shortest: int = 1, longest: int = 5, buckets: int = 200_000,
        hidden: int = 0, dropout: float = 0.0, ngram_dropout: float = 0.0, boundaries: bool = False,
    ):  # fmt: skip
        super().__init__()
        check_count(shortest, "model.shortest", "tokens")
        check_count(longest, "model.longest", "tokens")
        check_count(buckets, "model.buckets", "rows")
        WHOLE.check(hidden, "model.hidden", "a whole number of units, at least 0")
        check_dropout(dropout)
        check_dropout(ngram_dropout, "model.ngram_dropout")
        if shortest > longest:
            raise OptionError(f"model.shortest must be at most model.longest; got {shortest} and {longest}.")
        del vocab_size  # tokens are hashed
        self.ngram_dropout, self.boundaries = ngram_dropout, boundaries
        self.shortest, self.longest, self.buckets = shortest, longest, buckets
        # row 0 stands for padding and stays zero
        self.rows = nn.Embedding(buckets + 1, hidden or num_classes, padding_idx=0)
        with torch.no_grad():
            # a linear model starts at zero, as logistic regression does
            self.rows.weight.mul_(0.1 if hidden else 0.0)
        self.head: nn.Module = nn.Identity()
        if hidden:
            self.head = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, num_classes))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """(B, T) -> (B, num_classes)."""
        if self.boundaries:
            tokens_BT = _with_boundaries(tokens_BT)
        rows_BN = torch.cat(list(self._numbers(tokens_BT)), 1)
        count_B1 = (rows_BN != 0).sum(1, keepdim=True).clamp(min=1)
        scale = 1.0
        if self.training and self.ngram_dropout:
            # row 0 is zero; what is kept counts for more, so that the expected sum is that of all n-grams
            rows_BN = rows_BN * (torch.rand(rows_BN.shape, device=rows_BN.device) >= self.ngram_dropout)
            scale = 1 / (1 - self.ngram_dropout)
        # The root, not the count: a long text has more evidence, as in TF-IDF with rows of norm 1.
        summed_BD = scale * self.rows(rows_BN).sum(1) / count_B1.to(self.rows.weight.dtype).sqrt()
        logits: Tensor = self.head(summed_BD)
        return logits

    def _numbers(self, tokens_BT: Tensor) -> list[Tensor]:
        """Return, for each n, the row numbers (B, T - n + 1) of the n-grams; 0 where one reaches into padding."""
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if torch.compiler.is_exporting() or tracing:
            # a file takes any T, also one below the longest n-gram; the row of padding adds nothing
            tokens_BT = nn.functional.pad(tokens_BT, (0, self.longest - 1))
        mask_BT = token_mask(tokens_BT)
        hashed_BT, found = torch.zeros_like(tokens_BT), []
        for n in range(1, self.longest + 1):
            if n > tokens_BT.shape[1]:
                break
            width = tokens_BT.shape[1] - n + 1
            hashed_BT = (hashed_BT[:, :width] * _FACTOR + tokens_BT[:, n - 1 :]) % _PRIME
            if n >= self.shortest:
                # n in the hash: the bigram (0, a) does not occur, but hashes of other lengths may be equal
                found.append((hashed_BT + n * 7919) % self.buckets + 1)
                found[-1] = found[-1] * mask_BT[:, n - 1 :]
        return found or [torch.zeros_like(tokens_BT)]


def _with_boundaries(tokens_BT: Tensor) -> Tensor:
    """Return (B, T + 2) token numbers with a mark before each text and one after its last token, padding behind it."""
    widened_BT = nn.functional.pad(tokens_BT, (1, 1))
    end_B1 = 1 + token_mask(tokens_BT).sum(1, keepdim=True)
    places_T = torch.arange(widened_BT.shape[1], device=tokens_BT.device)
    widened_BT = torch.where(places_T == 0, _START, widened_BT)
    return torch.where(places_T == end_B1, _END, widened_BT)
