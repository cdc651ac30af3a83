"""Next-token prediction: the next token at each place of a window of text."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from effbench.data.modality import Modality
from effbench.data.split_checks import kind_of
from effbench.errors import ConfigError, DataError, shown
from effbench.metrics import BitsPerByte, Metric
from effbench.special_tokens import PADDING
from effbench.tasks.generation import Sampling, continuation, tokenizer_of
from effbench.tasks.losses import CrossEntropy, Loss
from effbench.tasks.task import Task

log = logging.getLogger(__name__)


class NextToken(Task):
    """Targets integers (N, T): the token after each place, 0 (padding) where there is none. Outputs (B, T, K): logits.

    The loss is the mean over all targets of a step, in nats a token. A text is sampled at the end of a run.

    Args:
        loss, metrics, num_outputs: as in Task.
        token_bytes: UTF-8 bytes of each token number; None before data are read.
        length: tokens of the sampled text; 0: none is sampled.
        temperature, top_k: of the sampled text, see Sampling.
        prompt: what the sampled text continues; None: a line break, or if the train text has none its first token.

    Raises:
        ConfigError: an option is out of range.
    """

    label = "next_token"
    kind = "tokens"
    answer = "softmax over the last dimension of the output: the probabilities of the token after each place"
    loss_unit = "nats a token"
    remedy = "Write loss=cross_entropy, and metrics such as bits_per_byte, acc, top5."
    evaluated_by = CrossEntropy()
    independent = False
    sampling: Sampling

    def __init__(
        self,
        loss: Loss,
        metrics: Sequence[Metric],
        num_outputs: int,
        token_bytes: Sequence[int] | None = None,
        length: int = 300,
        temperature: float = 0.8,
        top_k: int | None = 40,
        prompt: str | None = None,
    ):
        own = [BitsPerByte(token_bytes) if isinstance(metric, BitsPerByte) else metric for metric in metrics]
        super().__init__(loss, own, num_outputs)
        if prompt is not None and (not isinstance(prompt, str) or not prompt):
            raise ConfigError(f"task.prompt must be a text, or null for a line break; got {shown(prompt)}.")
        if prompt is not None and any("\ud800" <= letter <= "\udfff" for letter in prompt):
            raise ConfigError("task.prompt must be a text; it holds a lone surrogate.")
        self.prompt, self._usual = ("\n", True) if prompt is None else (prompt, False)
        # with 0, for no text, the other options are checked all the same
        none = length == 0 and not isinstance(length, bool)
        self.sampling = Sampling(1 if none else length, temperature, top_k, "task.")
        self.samples = not none

    def targets_of(self, name: str, targets: Tensor, num_classes: int) -> Tensor:
        if targets.dim() != 2 or targets.is_floating_point():
            raise DataError(
                f"{name} targets must be token numbers (N, T), the token after each place, for task=next_token; got "
                f"{kind_of(targets)}. data=kjv and data=text_file data.file=FILE have them."
            )
        lowest, highest = (int(value) for value in targets.aminmax())
        if lowest < PADDING or highest >= num_classes:
            raise DataError(
                f"{name} targets must be token numbers from 0 to {num_classes - 1}; got {lowest} to {highest}."
            )
        # in their narrow type: the modality makes int64 of those of a batch
        return targets

    def output_shape(self, sample: Sequence[int], num_outputs: int) -> tuple[int, ...]:
        return (*sample, num_outputs)

    def example_targets(self, sample: Sequence[int], num_outputs: int) -> Tensor:
        # ones: padding does not count
        return torch.ones(1, *sample, dtype=torch.int64)

    def rows(self, outputs: Tensor, targets: Tensor, full: bool = False) -> tuple[Tensor, Tensor]:
        """Return a row for each token: (B, T, K), (B, T) -> (R, K), (R,)."""
        outputs_RK, targets_R = outputs.flatten(0, 1), targets.flatten()
        if full:
            return outputs_RK, targets_R
        # a read from the device in each batch of an evaluation; training batches have no padding
        counts_R = targets_R != PADDING
        return (outputs_RK, targets_R) if bool(counts_R.all()) else (outputs_RK[counts_R], targets_R[counts_R])

    def answers(self, outputs: Tensor) -> Tensor:
        """Return the probabilities of the token after each place, (B, T, K)."""
        return outputs.softmax(-1)

    def same_answer(self, expected: Tensor, got: Tensor, tie: float) -> Tensor:
        """Return True where, at every place, the top token of `got` is in `expected` at most `tie` below the best."""
        chosen = expected.gather(-1, got.argmax(-1, keepdim=True)).squeeze(-1)
        return (expected.max(-1).values - chosen <= tie).all(1)

    def described(self, answers: Sequence[float], names: Sequence[str], top_k: int) -> dict[str, Any]:
        """Raise ConfigError: texts are continued, not classified."""
        raise ConfigError("a next-token run continues texts: effbench predict RUN FILE, or run.continued('a text').")

    def sample_text(self, model: nn.Module, modality: Modality, seed: int, inputs: Tensor) -> str | None:
        """Return the prompt with its continuation; None for task.length=0 or samples without a tokenizer.

        Args:
            model, modality, seed: as in Task.
            inputs: windows of the train split (N, T).
        """
        tokenizer = tokenizer_of(modality)
        if not self.samples or tokenizer is None:
            return None
        prompt, tokens = self.prompt, tokenizer.encode(self.prompt)
        if self._usual and tokenizer.unknown in tokens:
            # no training has changed the embedding of an unknown token: the model would answer at random
            tokens = [token for token in inputs[0].tolist() if token not in (PADDING, tokenizer.unknown)][:1] or tokens
            prompt = tokenizer.decode(tokens)
            log.info("note: the train text has no line break; the sampled text begins with the first token of train")
        modality.tell_unknown("task.prompt", torch.tensor(tokens))
        return prompt + continuation(model, tokenizer, tokens, modality.shape[0], self.sampling, seed)
