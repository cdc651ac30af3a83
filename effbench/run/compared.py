"""The samples on which an exported file or another runtime is compared with a run's model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effbench.errors import ConfigError
from effbench.run.evaluate import check_same_data

if TYPE_CHECKING:
    from torch import Tensor

    from effbench.data.splits import Splits
    from effbench.run.run import Run


def compared_samples(run: Run, count: int) -> tuple[str, Tensor, Tensor]:
    """Return (split, samples as an exported file takes them, their targets): of validation, or else of train.

    Args:
        run: the run.
        count: at most so many, of every class.
    """
    return samples_of(run, compared_data(run), count)


def compared_data(run: Run) -> Splits:
    """Return the dataset of a run's config, which must have the run's classes, sample shape and division into splits.

    Raises:
        ConfigError: it has not.
    """
    from effbench import build

    data = build.splits(run.config)
    if data.sha256 == run.data["sha256"]:
        refuse_redrawn(run)
    check_same_data(run, data)
    return run.task.checked(data)


def refuse_redrawn(run: Run) -> None:
    """Raise ConfigError if the run's splits are drawn otherwise than in training."""
    for key in run.redrawn:
        raise ConfigError(
            f"{key} must be that of the training: with another, validation and test would hold "
            f"{run.data.get('unit') or 'sample'}s that the run was trained on. Leave it out."
        )


def samples_of(run: Run, data: Splits, count: int) -> tuple[str, Tensor, Tensor]:
    """Return what `compared_samples` does.

    Args:
        run: the run.
        data: of `compared_data`.
        count: at most so many, of every class.
    """
    from effbench.data.splits import representative_sample

    which = "train" if data.val is None else "val"  # the test split is used for the test only
    split = data.named()[which]
    # Of every class: the first rows of a sorted split would be of one.
    rows = representative_sample(split.labels, min(count, len(split)))
    modality = run.modality()
    return which, modality.portable(split.inputs[rows]), modality.targets(split.labels, rows, {})
