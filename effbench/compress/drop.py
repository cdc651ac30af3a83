"""What a changed model loses on validation samples: the number that max_drop bounds. The test split is not read.

Of a run without a validation split these are training samples, which is said; who asks for a bound is refused.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from effbench.bench.answers import held_samples, judged, part_samples
from effbench.bench.sources import Source
from effbench.data.splits import Split, representative_sample
from effbench.errors import ConfigError
from effbench.export.interface import Forward
from effbench.report.compression import judged_on
from effbench.run.compared import compared_data
from effbench.run.run import Run

log = logging.getLogger(__name__)

MOST = 2_000  # validation samples: many candidates are tried
RANKED = 128  # of them: for the order of layers, each of which is tried alone
POINTS, PERCENT = "points of accuracy", "percent of the loss"  # what a drop is of


class Judge:
    """Compares candidates with a run's model on validation samples.

    Args:
        run: the run.
        checkpoint: name of its checkpoint.

    Attributes:
        unit: of the drop, for messages.
        split: of the samples: 'val', or 'train' of a run without validation.
        count: of the samples.
    """

    def __init__(self, run: Run, checkpoint: str):
        self._run, self._modality = run, run.modality()
        self.split, self._split = judged_split(run)
        self.count = len(self._split)
        if self.split != "val":
            log.info(f"note: the run has no validation split: what is lost is judged on {self.samples}")
        self._reference = answers(run, checkpoint, self._split)
        self._few = representative_sample(self._split.labels, min(RANKED, self.count))
        targets = self._modality.targets(self._split.labels, torch.arange(len(self._split)), {})
        self._source = Source({}, torch.empty(0), self._modality.unit, targets=targets, task=run.task)
        self._loss = float(judged(self._source, self._reference, self._reference)["metrics"]["loss"])
        self.unit = POINTS if run.task.kind == "class" else PERCENT

    @property
    def samples(self) -> str:
        """How many samples of what, in messages."""
        return judged_on(self.split, self.count)

    def outputs(self, run: Run) -> Tensor:
        """Return the outputs of a compressed run for the samples."""
        return answers(run, "best", self._split)

    def lost(self, forward: Forward) -> float:
        """Return what a file loses. forward: samples as the file takes them -> outputs in the unit of the targets."""
        return self.drop(self._answers(forward, torch.arange(self.count)))

    def moved(self, forward: Forward) -> float:
        """Return how far a file moves the outputs, on RANKED of the samples. forward: as in `lost`."""
        return _moved(self._reference[self._few], self._answers(forward, self._few))

    def drop(self, outputs: Tensor) -> float:
        """Return the points of accuracy that are lost; for other tasks, by how many percent the loss rises.

        outputs: (N, ...), for the samples.
        """
        return float(self.facts(outputs)["drop"])

    def facts(self, outputs: Tensor) -> dict[str, Any]:
        """Return the drop, its interval if it is of accuracy, of what and of which samples, and both losses.

        outputs: as in `drop`.
        """
        found = judged(self._source, self._reference, outputs)
        loss = float(found["metrics"]["loss"])
        of_class = self._run.task.kind == "class"
        drop = float(found["lost"]["estimate"]) if of_class else risen(self._loss, loss)
        ends = {end: float(found["lost"][end]) if of_class else None for end in ("low", "high")}
        losses = {"loss_before": self._loss, "loss_after": loss}
        return {"drop": drop, **ends, "of": self.unit, **losses, "split": self.split, "samples": self.count}

    def _answers(self, forward: Forward, chosen: Tensor) -> Tensor:
        chunks = chosen.split(self._run.config.data.eval_batch_size)
        return torch.cat([forward(self._modality.portable(self._split.inputs[rows])) for rows in chunks])


def check_validation(split: str, key: str, remedy: str) -> None:
    """Raise ConfigError if a bound would be judged on training samples, which the model knows.

    Args:
        split: name of the split that is judged on.
        key: what the user has set, with its value.
        remedy: what else they may do.
    """
    if split != "val":
        raise ConfigError(
            f"{key} is judged on validation samples, and this run has no validation split, only {judged_on(split)}, "
            f"which the model has learnt. {remedy}, or train the run with data.val_fraction above 0."
        )


def note_few_samples(run: Run, split: str, samples: int, max_drop: float) -> None:
    """Say so if one other answer of the samples that a bound is judged on is more than the bound.

    Args:
        run: that is compressed.
        split: of the samples.
        samples: their number.
        max_drop: the bound.
    """
    points = 100 / max(1, samples)
    if run.task.kind == "class" and 0 < max_drop < points - 1e-9:
        log.info(
            f"note: one answer of {judged_on(split, samples)} is {points:.3g} points of accuracy: with "
            f"max_drop={max_drop:g} no more answers may become wrong than right."
        )


def risen(before: float, after: float) -> float:
    """Return by how many percent of its size a loss rises; infinitely many from 0, of which there is no percentage.

    A loss of the user's may be negative: from -2 to -1 it rises by 50 %, as from 2 to 3.
    """
    if before == 0:
        return 0.0 if after <= 0 else math.inf
    return 100 * (after - before) / abs(before)


def both(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """Return what two compressions lose together, one of the result of the other. Both are `Judge.facts`."""
    if first["of"] == POINTS:  # of the same samples
        return float(first["drop"] + second["drop"])
    return risen(first["loss_before"], second["loss_after"])


def with_more(found: Mapping[str, Any], more: float) -> dict[str, Any]:
    """Return `Judge.facts` of a result together with what a backend loses beside that.

    Args:
        found: `Judge.facts`.
        more: in the unit of the drop.
    """
    if found["of"] == POINTS:
        return {**found, "drop": float(found["drop"]) + more}
    after = float(found["loss_after"])
    after = after + more / 100 * abs(after) if math.isfinite(more) else math.inf
    return {**found, "loss_after": after, "drop": risen(float(found["loss_before"]), after)}


def left(first: Mapping[str, Any], bound: float) -> float:
    """Return what a second compression may lose, so that both lose at most the bound.

    Args:
        first: `Judge.facts` of the first one.
        bound: in the unit of the drop.
    """
    if first["of"] == POINTS:
        return max(0.0, bound - float(first["drop"]))
    before, after = float(first["loss_before"]), float(first["loss_after"])
    more = risen(after, before + bound / 100 * abs(before))
    return max(0.0, more) if math.isfinite(more) else 0.0


def _moved(reference: Tensor, outputs: Tensor) -> float:
    size = moved = 0.0
    at_once = part_samples(reference.shape[1:])
    for before, after in zip(reference.split(at_once), outputs.split(at_once), strict=True):
        size += float(before.double().square().sum())
        moved += float((after.double() - before.double()).square().sum())
    return math.sqrt(moved / (size or reference.numel()))


def output_shape(run: Run) -> Sequence[int]:
    """Return the shape of the outputs for one sample."""
    return run.task.output_shape(run.shape, len(run.classes))


def judged_split(run: Run) -> tuple[str, Split]:
    """Return (name, samples) of the split that what is lost is judged on."""
    # the model's outputs are held for as long as candidates are compared with them
    name, split, _ = tested_split(run, "val", held_samples(MOST, output_shape(run), run.modality().unit))
    return name, split


def tested_split(run: Run, which: str, most: int) -> tuple[str, Split, bool]:
    """Return (name, samples, whether the data are those of the training) of `which`, or of the next best split.

    Args:
        run: its data are read.
        which: name of the split.
        most: samples; of more, a part that represents the split.
    """
    data = compared_data(run)
    named = data.named()
    name = next(each for each in (which, "val", "train") if each in named)
    split = named[name]
    few = split if len(split) <= most else split.take(representative_sample(split.labels, most))
    return name, few, data.sha256 == run.data["sha256"]


@torch.inference_mode()
def answers(run: Run, checkpoint: str, split: Split) -> Tensor:
    """Return the outputs of a run for all samples of a split, in the unit of the targets: float32 (N, ...).

    Args:
        run: the run.
        checkpoint: its name.
        split: the samples.
    """
    return outputs_of(run.model(checkpoint), run, split)


@torch.inference_mode()
def outputs_of(model: nn.Module, run: Run, split: Split) -> Tensor:
    """Return the outputs of a model of this run for all samples of a split, in the unit of the targets.

    Args:
        model: in eval mode.
        run: prepares its inputs and scales its outputs.
        split: the samples.
    """
    modality, rescaler = run.modality(), run.task.rescaler()
    found = []
    for rows in torch.arange(len(split)).split(run.config.data.eval_batch_size):
        inputs = modality.normalise(modality.portable(split.inputs[rows]))
        found.append(rescaler(model(inputs)).float())
    return torch.cat(found)
