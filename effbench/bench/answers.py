"""Do the backends give the model's answers: the largest difference of an output, the same answers, accuracy."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from effbench.errors import EffbenchError
from effbench.export.parity import TIE, Parity
from effbench.stats import Interval, paired_share_interval, share_interval
from effbench.tasks.task import Task
from effbench.units import human_bytes

if TYPE_CHECKING:
    from effbench.bench.sources import Source

log = logging.getLogger(__name__)

ANSWER_BATCH = 32  # samples of a call while answers are compared
# A next-token model gives tokens x vocabulary numbers a sample: a thousand samples may be gigabytes.
HELD_VALUES = 2**26  # float32 values, 268 MB, of the outputs that are held at once
PART_VALUES = 2**25  # values of the outputs that are compared at once, because each comparison makes copies of them


def held_samples(count: int, shape: Sequence[int], unit: str) -> int:
    """Return how many samples are compared: as many as wanted, of large outputs fewer, and say so.

    Args:
        count: that are wanted.
        shape: of the outputs for one sample.
        unit: the word for a sample.
    """
    most = _fitting(HELD_VALUES, shape)
    if most >= count:
        return count
    whole = human_bytes(4 * count * math.prod(shape))
    log.info(f"note: answers are compared on at most {most} {unit}s: the outputs for {count} would take {whole}")
    return most


def part_samples(shape: Sequence[int]) -> int:
    """Return how many samples are compared at once. shape: of the outputs for one sample."""
    return _fitting(PART_VALUES, shape)


def _fitting(values: int, shape: Sequence[int]) -> int:
    return max(1, values // max(1, math.prod(shape)))


@torch.inference_mode()
def reference_answers(source: Source) -> Tensor | None:
    """Return the outputs of the model itself, (N, ...); None where there is only a file."""
    model = source.model
    if model is None:
        return None
    return torch.cat([model(chunk) for chunk in source.samples.split(ANSWER_BATCH)])


def judged(source: Source, reference: Tensor, got: Tensor) -> dict[str, Any]:
    """Return parity with the reference, metrics, and what is lost against it, in points with its interval.

    Args:
        source: what is measured.
        reference: outputs of the model, (N, ...).
        got: outputs of the backend.

    Raises:
        EffbenchError: the outputs cannot be answers: another shape, or numbers that are not finite.
    """
    known = reference if source.targets is None else source.targets
    judging, size = Judging(source.task, known), part_samples(reference.shape[1:])
    if got.shape != reference.shape:
        raise EffbenchError(f"wrong answers: outputs {tuple(got.shape)}, the model's are {tuple(reference.shape)}")
    for start in range(0, len(reference), size):
        rows = slice(start, start + size)
        judging.add(reference[rows], got[rows], None if source.targets is None else source.targets[rows])
    return judging.facts()


def count_alone(reference: Tensor, got: Tensor, alone: Tensor) -> None:
    """Put the outputs for samples that ran alone into those of the batches, where they are further from the reference.

    Args:
        reference: outputs of the model, (N, ...).
        got: outputs of a backend in batches, (N, ...), changed in place.
        alone: its outputs for the first samples, each in a call of its own.

    Raises:
        EffbenchError: they have another shape than the model's.
    """
    count = len(alone)
    expected = reference[:count]
    if alone.shape != expected.shape:
        raise EffbenchError(
            f"wrong answers: outputs {tuple(alone.shape)} of single samples, the model's are {tuple(expected.shape)}"
        )
    if got.shape != reference.shape:
        return  # `judged` says so
    by_batch, by_one = ((each - expected).abs().reshape(count, -1).amax(1) for each in (got[:count], alone))
    further = ~(by_one <= by_batch)  # also a NaN
    got[:count][further] = alone[further]


def finite(outputs: Tensor) -> Tensor:
    """Return the outputs. Raise EffbenchError if one of them is not finite."""
    if not bool(outputs.isfinite().all()):
        raise EffbenchError("wrong answers: outputs that are not finite")
    return outputs


_PARITY_KEYS = ("max_difference", "largest_logit", "relative", "samples", "agreement")


class Judging:
    """Compares outputs with a reference, a part of the samples at a time: all that it tells adds up.

    Args:
        task: that the outputs are of; None: how far they move is told, and not how many answers are the same.
        known: targets of all samples, or outputs for them where there are none, whose deviation tells how far a number
            may move.
    """

    def __init__(self, task: Task | None, known: Tensor):
        self._task = task
        self._same = None if task is None else task.same_answer_among(known)
        self._worst, self._largest = torch.zeros(()), torch.zeros(())
        self._samples = self._agreeing = self._right = self._lost = self._gained = 0
        self._sums: Tensor | None = None  # of the metrics

    def add(self, reference: Tensor, got: Tensor, targets: Tensor | None) -> None:
        """Add samples.

        Args:
            reference: outputs of the model, (N, ...).
            got: what is compared with it, of the same shape.
            targets: of the samples; None: they are not known.

        Raises:
            EffbenchError: an output is not finite though those of the model are.
        """
        if bool(reference.isfinite().all()):
            finite(got)
        largest = reference.abs().max()
        # torch's maximum and not Python's, which passes over a NaN
        self._worst = torch.maximum(self._worst, (got - reference).abs().max())
        self._largest = torch.maximum(self._largest, largest)
        self._samples += len(got)
        if self._task is None or self._same is None:
            return
        self._agreeing += int(self._same(reference, got, TIE * float(largest)).sum())
        if targets is None:
            return
        sums = _tallied(self._task, targets, got)
        self._sums = sums if self._sums is None else self._sums + sums
        if self._task.kind == "class":
            before, now = (outputs.argmax(1) == targets for outputs in (reference, got))
            self._right += int(now.sum())
            self._lost += int((before & ~now).sum())
            self._gained += int((now & ~before).sum())

    def facts(self) -> dict[str, Any]:
        """Return parity, and with targets also metrics, what is lost in points with its interval, and of what."""
        parity = Parity(float(self._worst), float(self._largest), self._samples, self._agreeing, (ANSWER_BATCH,))
        every = parity.facts() if self._task is not None else {**parity.facts(), "agreement": None}
        facts: dict[str, Any] = {"parity": {key: every[key] for key in _PARITY_KEYS}}
        if self._task is None or self._sums is None:
            return {**facts, "metrics": None, "lost": None, "lost_of": None}
        lost, what = self._lost_share(self._task)
        points = asdict(lost.times(100.0))
        return {**facts, "metrics": self._task.tallies.values(self._sums), "lost": points, "lost_of": what}

    def accuracy(self) -> dict[str, float] | None:
        """Return the share of right answers with its interval; None for tasks without classes."""
        if self._task is None or self._task.kind != "class":
            return None
        return asdict(share_interval(self._right, self._samples))

    def _lost_share(self, task: Task) -> tuple[Interval, str]:
        """Return the fraction that is lost, and of what: accuracy; where a task has none, the same answers."""
        if task.kind != "class":
            return paired_share_interval(self._samples - self._agreeing, 0, self._samples), "answers"
        return paired_share_interval(self._lost, self._gained, self._samples), "accuracy"


def _tallied(task: Task, targets: Tensor, got: Tensor) -> Tensor:
    # a portable model brings its outputs into the unit of the targets itself, which `rows` would do again
    rescaled = not isinstance(task.rescaler(), nn.Identity)
    outputs, wanted = (got, targets) if rescaled else task.rows(got, targets)
    return task.tallies.of(task.plain_loss(outputs.float(), wanted), outputs, wanted)
