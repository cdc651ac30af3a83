"""Parity of an exported file with its model: outputs within a tolerance, and the same answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from effbench.errors import ThresholdError
from effbench.export.interface import Forward

SHORT = 8  # samples that are compared at each length
TIE = 1e-4  # of the largest logit: closer classes are a tie; another order of float32 sums gave 6e-6 (a ViT)


@dataclass(frozen=True)
class Parity:
    """Result of a comparison.

    Attributes:
        max_difference: largest difference of a logit.
        largest_logit: largest magnitude of the model's logits.
        samples: number of samples compared.
        agreeing: samples with the model's answer: its top class or one that ties with it; the same labels.
        batch_sizes: batch sizes that were compared.
        lengths: lengths of a sample that were compared; empty if the file takes one length.
    """

    max_difference: float
    largest_logit: float
    samples: int
    agreeing: int
    batch_sizes: tuple[int, ...]
    lengths: tuple[int, ...] = ()

    @property
    def relative(self) -> float:
        """max_difference over largest_logit; NaN if one of them is not finite."""
        # a model of zeros: any difference is infinitely large
        if self.largest_logit == 0:
            return 0.0 if self.max_difference == 0 else float("inf")
        return self.max_difference / self.largest_logit

    @property
    def agreement(self) -> float:
        """Fraction of samples with the same answer, in [0, 1]."""
        return self.agreeing / self.samples

    def facts(self) -> dict[str, Any]:
        """Return all values, for a record."""
        return {**asdict(self), "relative": self.relative, "agreement": self.agreement}

    def text(self, unit: str) -> str:
        """Return the comparison as a text. unit: the word for a sample."""
        return (
            f"{self.max_difference:.3g}, {self.relative:.2g} of the largest ({self.largest_logit:.3g}); "
            f"the answer is the same for {self.agreeing} of {self.samples} {unit}s"
        )


def lengths_of(most: int) -> tuple[int, ...]:
    """Return the lengths that a file of a free length is compared at. most: the greatest."""
    return tuple(sorted({1, min(2, most), -(-most // 2), most}))


@torch.inference_mode()
def compare(
    model: Forward,
    exported: Forward,
    inputs: Tensor,
    batch_size: int,
    same: Callable[[Tensor, Tensor, float], Tensor],
    lengths: Sequence[int] = (),
) -> Parity:
    """Compare both models on all inputs in batches; `exported` also on the first input alone.

    Args:
        model: the reference.
        exported: the exported file as its runtime executes it.
        inputs: samples as an exported file takes them.
        batch_size: samples of a batch.
        same: `same_answer` of the task.
        lengths: of samples that both also get, cut from some of the inputs.

    Raises:
        ThresholdError: `exported` does not take a batch, or returns logits of another shape.
    """
    chunks = inputs.split(batch_size)
    # clone: a model or a runtime may change its input in place
    expected_NK = torch.cat([model(chunk.clone()) for chunk in chunks])
    # a batch of one: exporters can fix the batch size, or treat 1 as a broadcast
    alone_1K = _answer(exported, inputs[:1], expected_NK[:1])
    got_NK = torch.cat([_answer(exported, chunk, expected_NK[: len(chunk)]) for chunk in chunks])
    differences = [got_NK - expected_NK, alone_1K - expected_NK[:1]]
    for length in lengths:
        short = inputs[:SHORT, :length].contiguous()
        expected_SK = model(short.clone())
        differences.append(_answer(exported, short, expected_SK) - expected_SK)
    largest = expected_NK.abs().max()
    sizes = tuple(sorted({1, *map(len, chunks)}))
    # ties: classes whose logits differ by rounding only may swap
    agreeing = int(same(expected_NK, got_NK, TIE * float(largest)).sum())
    # torch's maximum and not Python's, which passes over a NaN that is not the first
    worst = torch.stack([difference.abs().max() for difference in differences]).max()
    return Parity(float(worst), float(largest), len(inputs), agreeing, sizes, tuple(lengths))


def require(parity: Parity, tolerance: float, what: str, unit: str = "image") -> None:
    """Raise ThresholdError unless the difference is within the tolerance and all answers are the same.

    Args:
        parity: result of `compare`.
        tolerance: of the largest logit.
        what: 'format=onnx', for the message.
        unit: the word for a sample, for the message.
    """
    if parity.relative <= tolerance and parity.agreeing == parity.samples:
        return
    raise ThresholdError(
        f"{what} does not give the model's answers: logits differ by {parity.text(unit)} (tolerance={tolerance:g} of "
        "the largest logit, and every answer). No file was written; an earlier export is kept. Try another format, or "
        "a larger tolerance if only the logits differ."
    )


def _answer(exported: Forward, inputs: Tensor, like: Tensor) -> Tensor:
    """Return exported(inputs), which must have the shape of `like`."""
    try:
        logits = exported(inputs)
    except Exception as error:  # each runtime raises other classes
        raise ThresholdError(f"the exported file fails at a batch of {len(inputs)}: {error!r:.300}") from error
    if logits.shape != like.shape:
        raise ThresholdError(f"the exported file gives {tuple(logits.shape)} for logits {tuple(like.shape)}.")
    return logits
