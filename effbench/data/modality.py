"""A modality: what a sample is, and how samples become the batches that a model takes.

A modality of your own is a subclass of Modality, and a dataset whose Splits name it: Splits(..., modality=Mine).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Generator, Tensor, nn

from effbench.data.transfer import Transfer
from effbench.errors import ConfigError

if TYPE_CHECKING:
    from effbench.data.splits import Splits

Plan = dict[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """What a run's config says to its modality.

    Args:
        device: where batches go.
        memory_format: of four-dimensional batches.
        augment: options of the augment group, with numbers for each `auto`; empty for evaluation alone.
        data: options of the data group, such as limits on the files that `predict` reads.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    memory_format: torch.memory_format = torch.contiguous_format
    augment: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


class Modality(ABC):
    """Samples of one kind, with what was learnt of them from the train split alone.

    Samples are one tensor, the first dimension of which counts them (`Split.inputs`). Class attributes:

    unit: the word for one sample: 'image' gives images_per_s and images_seen.
    layout: of a sample's shape, for messages.
    augments: whether the augment group is for it. Without, the group's default counts as none, and more is refused.
    size_key: the config key that makes a sample, and so memory, smaller.
    published: (shape, number of classes) of the setting that papers compare models in.
    file_options: the options of `effbench predict` that its files take.
    """

    unit: ClassVar[str]
    layout: ClassVar[str]
    augments: ClassVar[bool] = False
    size_key: ClassVar[str | None] = None
    published: ClassVar[tuple[tuple[int, ...], int] | None] = None
    file_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, shape: Sequence[int], device: torch.device | None = None):
        self.shape = tuple(map(int, shape))
        self.transfer = Transfer(device or torch.device("cpu"))

    # --- the dataset, and what is learnt from it

    @classmethod
    @abstractmethod
    def checked(cls, name: str, inputs: Any, count: int) -> Tensor:
        """A split's inputs as a tensor of `count` samples. Raises DataError, which begins with `name`."""

    @classmethod
    def automatic_augment(cls, shape: Sequence[int]) -> Mapping[str, int]:
        """Options of the augment group that may be `auto` -> their values for samples of this shape."""
        del shape
        return {}

    @classmethod
    @abstractmethod
    def fit(cls, data: Splits, settings: Settings) -> Self:
        """What is learnt from the train split, such as its statistics."""

    @classmethod
    @abstractmethod
    def blank(cls, shape: Sequence[int], settings: Settings | None = None) -> Self:
        """For samples of this shape before any are read: what a model is built for."""

    def record(self) -> dict[str, Any]:
        """What `restored` needs, as plain values: part of summary.json's `data`, beside the shape."""
        return {}

    @classmethod
    @abstractmethod
    def restored(cls, data: Mapping[str, Any], settings: Settings) -> Self:
        """The modality of a trained run. data: summary.json's. Raises ValueError where it lacks something."""

    # --- the model

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a model's constructor may ask for, by the names of its parameters."""

    def example(self, count: int = 1) -> Tensor:
        """A batch as the model takes it, of no particular values, on the default device."""
        return torch.zeros(count, *self.shape)

    # --- batches

    @property
    def draws(self) -> bool:
        """Whether `draw` gives anything."""
        return False

    def draw(self, count: int, generator: Generator) -> Plan:
        """The random parameters of one optimizer step: tensors of `count` rows, from the generator alone.

        'partner' (int64, places in the step) and 'share' (float), if there, also mix the targets.
        """
        del count, generator
        return {}

    @abstractmethod
    def batch(self, inputs: Tensor, indices: Tensor, plan: Plan, rows: slice) -> Tensor:
        """A micro-batch for training, on the device.

        Args:
            inputs: every sample of the split.
            indices: int64 (S,), the samples of the whole step.
            plan: of the whole step, from `draw`.
            rows: which of the step's samples to make.
        """

    @abstractmethod
    def plain(self, inputs: Tensor, rows: slice | Tensor) -> Tensor:
        """These samples for evaluation, on the device: nothing is random."""

    # --- files, and other runtimes

    def given(self, inputs: Any) -> Iterator[Tensor]:
        """What `run.predict` was given, as samples, some at a time. Raises ConfigError for what it does not take."""
        yield self.required(torch.as_tensor(inputs))

    def required(self, samples: Tensor) -> Tensor:
        """The samples, as they must be for the model. Raises ConfigError."""
        if tuple(samples.shape[1:]) != self.shape:
            raise ConfigError(f"predict takes {self}; got {samples.dtype} {tuple(samples.shape)}.")
        return samples

    def read_files(
        self, paths: Sequence[str], options: Mapping[str, int], problems: list[str]
    ) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
        """(what names each sample, the samples), some at a time, for `effbench predict`.

        Args:
            paths: files and folders.
            options: of those in `file_options`.
            problems: what could not be read is added to it.
        """
        raise ConfigError(f"effbench predict reads no files of {self.unit}s; use run.predict with arrays.")

    def portable(self, samples: Tensor) -> Tensor:
        """Samples as an exported file takes them: float32, before normalisation."""
        return samples

    def normalise(self, portable: Tensor) -> Tensor:
        """What `portable` gave, as the model takes it."""
        return portable

    def normaliser(self) -> nn.Module:
        """`normalise` as a module that travels with an exported model."""
        return nn.Identity()

    def portable_example(self) -> Tensor:
        """Two samples as `portable` gives them: an exporter would fix a batch size of 1."""
        return torch.rand(2, *self.shape, generator=torch.Generator().manual_seed(0))

    def export_facts(self) -> dict[str, Any]:
        """What a user of an exported file must know: 'input', 'preprocessing' and 'normalisation_inside'."""
        return {
            "input": {"name": f"{self.unit}s", "shape": ["N", *self.shape], "dtype": "float32"},
            "preprocessing": None,
            "normalisation_inside": None,
        }

    def __str__(self) -> str:
        return f"{self.unit}s of {self.layout} {self.shape}"


def rows_of(plan: Plan, rows: slice | Tensor) -> Plan:
    """The plan of some of its samples."""
    return {key: value[rows] for key, value in plan.items()}
