"""What a changed model loses on validation samples: the number that max_drop bounds. The test split is not read."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from effbench import build
from effbench.bench.answers import judged
from effbench.bench.sources import Source
from effbench.compress.mixed import Judged
from effbench.data.splits import Split, representative_sample
from effbench.export.interface import Forward
from effbench.run.evaluate import check_same_data
from effbench.run.run import Run

MOST = 2_000  # validation samples: many candidates are tried


class Judge:
    """Compares candidates with a run's model on validation samples.

    Args:
        run: the run.
        checkpoint: name of its checkpoint.

    Attributes:
        unit: of the drop, for messages.
    """

    def __init__(self, run: Run, checkpoint: str):
        _, self._split, _ = tested_split(run, "val", MOST)
        self._run, self._modality = run, run.modality()
        self._reference = answers(run, checkpoint, self._split)
        targets = self._modality.targets(self._split.labels, torch.arange(len(self._split)), {})
        self._source = Source({}, torch.empty(0), self._modality.unit, targets=targets, task=run.task)
        self._loss = judged(self._source, self._reference, self._reference)["metrics"]["loss"]
        self.unit = "points of accuracy" if run.task.kind == "class" else "percent of the loss"

    def outputs(self, run: Run) -> Tensor:
        """Return the outputs of a compressed run for the validation samples."""
        return answers(run, "best", self._split)

    def judged(self, forward: Forward) -> Judged:
        """Return what a file loses. forward: samples as the file takes them -> outputs in the unit of the targets."""
        outputs = self._answers(forward)
        return Judged(self.drop(outputs), _moved(self._reference, outputs))

    def drop(self, outputs: Tensor) -> float:
        """Return the points of accuracy that are lost; for other tasks, by how many percent the loss rises.

        outputs: (N, ...), for the validation samples.
        """
        found = judged(self._source, self._reference, outputs)
        if self._run.task.kind == "class":
            return float(found["lost"]["estimate"])
        loss = float(found["metrics"]["loss"])
        if not self._loss:
            return 0.0 if loss <= 0 else math.inf
        return float(100 * (loss - self._loss) / abs(self._loss))

    def _answers(self, forward: Forward) -> Tensor:
        chunks = torch.arange(len(self._split)).split(self._run.config.data.eval_batch_size)
        return torch.cat([forward(self._modality.portable(self._split.inputs[rows])) for rows in chunks])


def _moved(reference: Tensor, outputs: Tensor) -> float:
    size = float(reference.double().square().mean().sqrt())
    return float((outputs.double() - reference.double()).square().mean().sqrt()) / (size or 1.0)


def tested_split(run: Run, which: str, most: int) -> tuple[str, Split, bool]:
    """Return (name, samples, whether the data are those of the training) of `which`, or of the next best split."""
    data = build.splits(run.config)
    check_same_data(run, data)
    named = run.task.checked(data).named()
    name = next(each for each in (which, "val", "train") if each in named)
    split = named[name]
    few = split if len(split) <= most else split.take(representative_sample(split.labels, most))
    return name, few, data.sha256 == run.data["sha256"]


@torch.inference_mode()
def answers(run: Run, checkpoint: str, split: Split) -> Tensor:
    """Return the outputs of a run for all samples of a split, in the unit of the targets: float32 (N, ...)."""
    return outputs_of(run.model(checkpoint), run, split)


@torch.inference_mode()
def outputs_of(model: nn.Module, run: Run, split: Split) -> Tensor:
    """Return the outputs of a model of this run for all samples of a split, in the unit of the targets."""
    modality, rescaler = run.modality(), run.task.rescaler()
    found = []
    for rows in torch.arange(len(split)).split(run.config.data.eval_batch_size):
        inputs = modality.normalise(modality.portable(split.inputs[rows]))
        found.append(rescaler(model(inputs)).float())
    return torch.cat(found)
