"""Sampling of text from a model that predicts the next token."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from effbench.config.options import COUNT, NON_NEGATIVE
from effbench.data.modality import Modality
from effbench.errors import EffbenchError
from effbench.randomness import Purpose, derived_seed
from effbench.special_tokens import PADDING


class NotFiniteError(EffbenchError):
    """A model's logits are not finite: no token can be drawn."""


class Tokenizer(Protocol):
    """What the modality of a text has as `tokenizer`; see effbench.data.text.tokenizers."""

    unknown: int | None

    def encode(self, text: str) -> list[int]:
        """Return the token numbers of a text."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of token numbers."""


def tokenizer_of(modality: Modality) -> Tokenizer | None:
    """Return the tokenizer of a modality of texts; None for other samples."""
    found: Tokenizer | None = getattr(modality, "tokenizer", None)
    return found


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        length: tokens to draw, >= 1.
        temperature: what logits are divided by, >= 0; 0 takes the most probable token.
        top_k: draw from this many most probable tokens, >= 1; None: from all.
        key: group of the keys in messages, such as 'task.'.

    Raises:
        OptionError: an option is out of range.
    """

    length: int
    temperature: float
    top_k: int | None
    key: str = ""

    def __post_init__(self) -> None:
        COUNT.check(self.length, f"{self.key}length", "a whole number of tokens, at least 1", "300 is usual.")
        NON_NEGATIVE.check(self.temperature, f"{self.key}temperature", remedy="0.8 is usual; 0: no chance.")
        if self.top_k is not None:
            COUNT.check(self.top_k, f"{self.key}top_k", "a whole number of tokens, at least 1, or null", "40 is usual.")


def continuation(
    model: nn.Module, tokenizer: Tokenizer, tokens: Sequence[int], context: int, sampling: Sampling, seed: int
) -> str:
    """Return the text that the model continues some tokens with.

    Args:
        model: in eval mode; (1, T) token numbers -> logits (1, T, V).
        tokenizer: of the run.
        tokens: of the text so far, at least one; the model sees the last `context` of it.
        context: most tokens that the model takes.
        sampling: how tokens are drawn.
        seed: determines the draws.
    """
    # neither occurs in a text
    banned = (PADDING,) if tokenizer.unknown is None else (PADDING, tokenizer.unknown)
    return tokenizer.decode(continued(model, tokens, context, sampling, seed, banned)[len(tokens) :])


@torch.inference_mode()
def continued(
    model: nn.Module, tokens: Sequence[int], context: int, sampling: Sampling, seed: int, banned: Collection[int] = ()
) -> list[int]:
    """Return the tokens and those that were drawn after them.

    Args:
        model, tokens, context, sampling, seed: as in `continuation`.
        banned: token numbers that are never drawn.
    """
    # on the CPU: a GPU's generator gives other numbers
    generator = torch.Generator().manual_seed(derived_seed(seed, Purpose.SAMPLE))
    device = next(model.parameters()).device
    found = list(tokens)
    for _ in range(sampling.length):
        seen = torch.tensor([found[-context:]], device=device)
        found.append(drawn(model(seen)[0, -1].float().cpu(), sampling, banned, generator))
    return found


def drawn(logits_V: Tensor, sampling: Sampling, banned: Collection[int], generator: torch.Generator) -> int:
    """Draw a token.

    Args:
        logits_V: float (V,).
        sampling: how.
        banned: token numbers that are never drawn.
        generator: draws.

    Raises:
        NotFiniteError: a logit is NaN or infinite, or none is above minus infinity.
    """
    logits_V = logits_V.clone()
    logits_V[list(banned)] = float("-inf")
    # the largest is NaN if one of them is; minus infinity is a token that never comes
    if not math.isfinite(logits_V.max()):
        raise NotFiniteError(
            "the model's logits of the next token are not finite, so that no token can be drawn. Train again, with a "
            "lower optimizer.lr."
        )
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    if sampling.top_k is not None and sampling.top_k < len(logits_V):
        least = logits_V.topk(sampling.top_k).values[-1]
        logits_V = logits_V.masked_fill(logits_V < least, float("-inf"))
    # less the largest: logits / temperature must not overflow for a temperature near 0
    chances_V = ((logits_V - logits_V.max()) / sampling.temperature).softmax(0)
    return int(torch.multinomial(chances_V, 1, generator=generator))
