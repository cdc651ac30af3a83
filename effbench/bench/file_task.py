"""When two outputs of an exported file mean the same, where its run is not there to tell: by the file's record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from effbench.export.opening import output_sides
from effbench.tasks.classification import Classification
from effbench.tasks.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from effbench.tasks.multilabel import Multilabel
from effbench.tasks.next_token import NextToken
from effbench.tasks.regression import Regression
from effbench.tasks.task import Task

# kind of the targets -> (dimensions of a sample's output, outputs of the model -> a task with such outputs)
_KINDS: Mapping[str, tuple[int, Callable[[int], Task]]] = {
    "class": (1, lambda count: Classification(CrossEntropy(), [], count)),
    "labels": (1, lambda count: Multilabel(BinaryCrossEntropy(), [], count)),
    "values": (1, lambda count: Regression(MeanSquaredError(), [], count, standardise=True)),
    "tokens": (2, lambda count: NextToken(CrossEntropy(), [], count)),
}


def task_of_record(record: Mapping[str, Any]) -> Task | None:
    """Return a task that compares outputs of a file; None if its record does not say what they are.

    record: of the file, which a stranger may have written.
    """
    about, sides = record.get("task"), output_sides(record)
    kind = about.get("targets") if isinstance(about, Mapping) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        return None
    dimensions, make = _KINDS[kind]
    if len(sides) != dimensions:
        return None
    task, scale = make(sides[-1]), record.get("rescaling_inside")
    if isinstance(scale, Mapping):
        with suppress(ValueError):  # damaged: numbers are then compared by the deviation of the outputs
            task.restore(scale)
    return task
