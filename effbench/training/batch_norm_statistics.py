"""Batch normalisation's running statistics, made anew from train samples ("precise BN", arXiv:2105.07576, section 3).

Running statistics are averages of the last 1/momentum batches. With few or small batches they lag behind the weights
or are noise, and validation then measures the statistics rather than the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from effbench.data.batches import Batch, EvalBatches
from effbench.data.modality import Modality
from effbench.data.splits import Split
from effbench.models.adapt import is_frozen
from effbench.randomness import Purpose, derived_seed
from effbench.training.precision import Precision

SAMPLES, BATCH = 512, 64  # of a pass; statistics that average fewer than SAMPLES are made anew
_START_LEFT = 0.01  # share of the initial values in the running statistics from which on they count as started


class NormStatistics(Protocol):
    """Brings the running statistics of batch normalisation up to date before they are used."""

    eval_batch_size: int

    def refresh(self, model: nn.Module, steps: int, splits: int = 1) -> None:
        """Called before a validation of `model`, after so many optimizer steps.

        splits: into how many micro-batches a batch of `eval_batch_size` is split, where memory did not suffice.
        """

    def refresh_to_save(self, model: nn.Module, steps: int, splits: int = 1) -> None:
        """Called before a checkpoint, which may come between validations; training must not depend on it."""


class KeepStatistics:
    """For models without batch normalisation, or with frozen ones only."""

    eval_batch_size = 1

    def refresh(self, model: nn.Module, steps: int, splits: int = 1) -> None:
        pass

    def refresh_to_save(self, model: nn.Module, steps: int, splits: int = 1) -> None:
        pass


class RefreshStatistics:
    """Makes the statistics anew where running ones cannot be right yet, or average too few samples.

    norms: the names of the batch norms that are trained, see `trained_norms`. batch_size: samples that one of them sees
    at once in training. batches: makes the batches of `statistics_batches` for an evaluation's batch size, when they
    are first needed.
    """

    def __init__(
        self,
        norms: Sequence[str],
        batches: Callable[[int], Iterable[Batch]],
        batch_size: int,
        eval_batch_size: int,
        precision: Precision,
    ):
        self._norms, self._batch_size, self._precision = norms, batch_size, precision
        self._batches = lru_cache(maxsize=1)(batches)
        self.eval_batch_size = eval_batch_size

    def refresh(self, model: nn.Module, steps: int, splits: int = 1) -> None:
        modules = map(model.get_submodule, self._norms)
        momenta = [norm.momentum for norm in modules if isinstance(norm, _BatchNorm) and norm.momentum]
        if not momenta:
            return
        momentum = min(momenta)
        if self._batch_size < momentum * SAMPLES or (1 - momentum) ** steps > _START_LEFT:
            self._make(model, splits)

    def refresh_to_save(self, model: nn.Module, steps: int, splits: int = 1) -> None:
        """Nothing: checkpoints hold the statistics that training goes on with."""

    def _make(self, model: nn.Module, splits: int) -> None:
        make_statistics(model, self._norms, self._batches(self.eval_batch_size // splits), self._precision)


class AveragedStatistics(RefreshStatistics):
    """For averaged weights: the running statistics are of other weights, so all that is measured or saved has new ones.

    ds_cnn, SGD at a constant 0.3, 3 epochs, 3 seeds: test accuracy 75.2 % with the running ones, 77.7 % with these;
    with 2,048 images, or augmented ones, the same within 0.1 points.
    """

    _made_at: int | None = None

    def refresh(self, model: nn.Module, steps: int, splits: int = 1) -> None:
        if self._made_at != steps:
            self._make(model, splits)
            self._made_at = steps

    refresh_to_save = refresh


def make_statistics(model: nn.Module, names: Sequence[str], batches: Iterable[Batch], precision: Precision) -> None:
    """Sets the running mean and variance of the batch norms `names` to the mean over `batches`.

    Forward passes alone, without dropout; the model is left in eval mode, its batch norms' momenta and counts as
    they were. The same batches give the same statistics.
    """
    norms = [norm for norm in map(model.get_submodule, names) if isinstance(norm, _BatchNorm)]
    kept = [(norm.momentum, int(norm.num_batches_tracked or 0)) for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches, each with the same weight
        norm.train()
    try:
        with torch.no_grad(), precision.autocast():
            for batch in batches:
                model(batch.inputs)
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.fill_(count)
            norm.eval()


def trained_norms(model: nn.Module) -> list[str]:
    """Names of the batch norms with running statistics, but for those whose own parameters are frozen: theirs stay."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and not is_frozen(module)
    ]


def statistics_batches(split: Split, modality: Modality, seed: int, eval_batch_size: int) -> EvalBatches:
    """Up to SAMPLES samples of the train split, drawn by the seed, without augmentation, in batches of equal size."""
    size = min(BATCH, max(2, eval_batch_size), len(split))  # batch norm learns nothing from one sample
    count = min(SAMPLES, len(split)) // size * size
    generator = torch.Generator().manual_seed(derived_seed(seed, Purpose.STATISTICS))
    chosen = torch.randperm(len(split), generator=generator)[:count].sort().values
    return EvalBatches(split.take(chosen), batch_size=size, modality=modality)
