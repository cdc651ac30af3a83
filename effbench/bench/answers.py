"""Do the backends give the model's answers: the largest difference of an output, the same answers, accuracy."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from effbench.bench.sources import Source
from effbench.errors import EffbenchError
from effbench.export.parity import TIE, Parity
from effbench.stats import Interval, paired_share_interval
from effbench.tasks.task import Task

ANSWER_BATCH = 32  # samples of a call while answers are compared


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
    if got.shape != reference.shape:
        raise EffbenchError(f"wrong answers: outputs {tuple(got.shape)}, the model's are {tuple(reference.shape)}")
    if bool(reference.isfinite().all()):
        finite(got)
    parity = _parity(source.task, reference, got)
    facts: dict[str, Any] = {"parity": {key: parity[key] for key in _PARITY_KEYS}}
    if source.task is None or source.targets is None:
        return {**facts, "metrics": None, "lost": None, "lost_of": None}
    lost, what = _lost(source.task, source.targets, reference, got, parity["agreeing"])
    points = asdict(lost.times(100.0))
    return {**facts, "metrics": _metrics(source.task, source.targets, got), "lost": points, "lost_of": what}


def finite(outputs: Tensor) -> Tensor:
    """Return the outputs. Raise EffbenchError if one of them is not finite."""
    if not bool(outputs.isfinite().all()):
        raise EffbenchError("wrong answers: outputs that are not finite")
    return outputs


_PARITY_KEYS = ("max_difference", "largest_logit", "relative", "samples", "agreement")


def _parity(task: Task | None, reference: Tensor, got: Tensor) -> dict[str, Any]:
    worst, largest = float((got - reference).abs().max()), float(reference.abs().max())
    if task is None:
        agreeing = int((got.argmax(-1) == reference.argmax(-1)).reshape(len(got), -1).all(1).sum())
    else:
        agreeing = int(task.same_answer(reference, got, TIE * largest).sum())
    return Parity(worst, largest, len(got), agreeing, (ANSWER_BATCH,)).facts()


def _metrics(task: Task, targets: Tensor, got: Tensor) -> dict[str, float]:
    # a portable model brings its outputs into the unit of the targets itself, which `rows` would do again
    rescaled = not isinstance(task.rescaler(), nn.Identity)
    outputs, wanted = (got, targets) if rescaled else task.rows(got, targets)
    return task.tallies.values(task.tallies.of(task.plain_loss(outputs.float(), wanted), outputs, wanted))


def _lost(task: Task, targets: Tensor, reference: Tensor, got: Tensor, agreeing: int) -> tuple[Interval, str]:
    """Return the fraction that is lost, and of what: accuracy; where a task has none, the same answers."""
    count = len(got)
    if task.kind != "class":
        return paired_share_interval(count - agreeing, 0, count), "answers"
    before, now = (outputs.argmax(1) == targets for outputs in (reference, got))
    return paired_share_interval(int((before & ~now).sum()), int((now & ~before).sum()), count), "accuracy"
