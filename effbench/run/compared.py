"""The samples on which an exported file or another runtime is compared with a run's model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effbench.run.evaluate import check_same_data

if TYPE_CHECKING:
    from torch import Tensor

    from effbench.run.run import Run


def compared_samples(run: Run, count: int) -> tuple[str, Tensor, Tensor]:
    """Return (split, samples as an exported file takes them, their targets): of validation, or else of train.

    Args:
        run: the run.
        count: at most so many, of every class.
    """
    from effbench import build
    from effbench.data.splits import representative_sample

    data = build.splits(run.config)
    check_same_data(run, data)
    data = run.task.checked(data)
    which = "train" if data.val is None else "val"  # the test split is used for the test only
    split = data.named()[which]
    # Of every class: the first rows of a sorted split would be of one.
    rows = representative_sample(split.labels, min(count, len(split)))
    modality = run.modality()
    return which, modality.portable(split.inputs[rows]), modality.targets(split.labels, rows, {})
