"""A modality: what a sample is, and how samples become batches for a model.

For a modality of your own, derive a class from Modality, and let the dataset name it: Splits(..., modality=Mine).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Generator, Tensor, nn

from effbench.config.options import Rule
from effbench.data.transfer import Transfer
from effbench.errors import ConfigError, first_line, shown

if TYPE_CHECKING:
    from effbench.data.splits import Splits

AugmentParams = dict[str, Tensor]  # name -> random parameters of a step, one row a sample


@dataclass(frozen=True)
class Settings:
    """What a modality needs from a run's config.

    Attributes:
        device: where batches go.
        memory_format: memory format of four-dimensional batches.
        augment: the augmentation, of the class `Modality.augmentation`; None for none, as in evaluation.
        data: options of the data group, such as limits for files that `predict` reads.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    memory_format: torch.memory_format = torch.contiguous_format
    augment: Any = None
    data: Mapping[str, Any] = field(default_factory=dict)


class Modality(ABC):
    """Samples of one kind, with what was fitted to the train split.

    Samples are one tensor; its first dimension counts them (`Split.inputs`).

    Attributes:
        unit: the word for a sample: 'image' gives images_per_s and images_seen.
        counted: the word for what throughput counts, if a sample has several of them (`per_sample`), such as 'token';
            '' counts samples.
        layout: names of a sample's dimensions, for messages.
        augmentation: class of its augmentation, of which the augment group builds one: its files name the class, or a
            subclass, as `_target_`. For files of another class, and if it is None, the default of the group counts as
            none, and other choices are refused.
        size_key: config key that reduces the size of a sample, and so the memory.
        published: (shape, number of classes) of the setting in which papers compare models.
        file_options: options of `effbench predict` that apply to its files, with the rule of each.
        outputs: what the names in `Splits.classes` are, for messages.
        target_kind: kind of targets of all such samples (see effbench/tasks/task.py); None: the dataset decides.
        task_words: the words of a command that choose a task and a model for `target_kind`.
        free_length: name of the first dimension of a sample, if models take samples with less of it.
        provisional: it was made without the data, and what is fitted to them may make the model smaller.
    """

    unit: ClassVar[str]
    counted: ClassVar[str] = ""
    # a class attribute: messages name it before any sample is read
    layout: ClassVar[str]
    augmentation: ClassVar[type | None] = None
    size_key: ClassVar[str | None] = None
    published: ClassVar[tuple[tuple[int, ...], int] | None] = None
    file_options: ClassVar[Mapping[str, Rule[Any]]] = {}
    outputs: ClassVar[str] = "classes"
    target_kind: ClassVar[str | None] = None
    task_words: ClassVar[str] = ""
    free_length: ClassVar[str | None] = None
    provisional: bool = False

    def __init__(self, shape: Sequence[int], device: torch.device | None = None):
        self.shape = tuple(map(int, shape))
        # here and not in each subclass: batches of all modalities go the same way to the device
        self.transfer = Transfer(device or torch.device("cpu"))

    @classmethod
    def speed_unit(cls) -> str:
        """Return the word for what throughput counts."""
        return cls.counted or cls.unit

    @property
    def per_sample(self) -> int:
        """How many targets a train sample has: the loss of a step is the mean over them, and throughput counts them."""
        return 1

    @property
    def num_outputs(self) -> int | None:
        """Size of a model's last dimension where the samples alone decide it; None: the targets of the data do."""
        return None

    # --- dataset and fit

    @classmethod
    @abstractmethod
    def checked(cls, name: str, inputs: Any, count: int) -> Tensor:
        """Return a split's inputs as a tensor of `count` samples.

        Args:
            name: beginning of messages.
            inputs: inputs as a dataset's function returns them.
            count: number of samples.

        Raises:
            DataError: type, shape or values are not those of this modality.
        """

    @classmethod
    def automatic_augment(cls, shape: Sequence[int]) -> Mapping[str, int]:
        """Return the values of augment options that may be `auto`, for samples of this shape."""
        del shape
        return {}

    @classmethod
    def size_text(cls, shape: Sequence[int]) -> str:
        """Return the size of a sample in words, such as '3x32x32'."""
        return "x".join(map(str, shape))

    @classmethod
    @abstractmethod
    def fit(cls, data: Splits, settings: Settings) -> Self:
        """Return the modality fitted to the train split, such as with its statistics."""

    @classmethod
    @abstractmethod
    def blank(cls, shape: Sequence[int], settings: Settings | None = None) -> Self:
        """Return a modality for samples of this shape before data are read, to build a model for."""

    def record(self) -> dict[str, Any]:
        """Return what `restored` needs as plain values, for `data` in summary.json. The shape is recorded anyway."""
        return {}

    @classmethod
    @abstractmethod
    def restored(cls, data: Mapping[str, Any], settings: Settings) -> Self:
        """Return the modality of a trained run from `data` in summary.json. Raises ValueError if it is incomplete."""

    @classmethod
    def check_same(cls, recorded: Mapping[str, Any], data: Splits) -> None:
        """Check that a run's model reads samples of `data` as those it was trained on. Raises ConfigError.

        Args:
            recorded: section `data` of the run's summary.
            data: the dataset as it is now.
        """
        # A convolution would accept another size and answer worse, without a word.
        if data.shape != tuple(recorded["shape"]):
            raise ConfigError(
                f"the data's {cls.unit}s are {data.shape}, the run's model takes {tuple(recorded['shape'])}."
            )

    @classmethod
    def misread(cls, before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
        """Return the option of the data group that a resumed run must keep, because its weights would read samples of
        another value wrongly, and that has changed; None if there is none.

        Args:
            before: options of the data group when the checkpoint was written.
            now: its options.
        """
        del before, now
        return None

    @classmethod
    def identity(cls, data: Splits) -> dict[str, Any]:
        """Return what was fitted to train, or read, and decides which numbers a sample becomes: name -> plain values.

        Checkpoints record the sha256 of each, and a resume with another one is refused: the weights would take a
        sample's numbers for others. Statistics, such as means for normalisation, do not count: they move with the data.
        """
        del data
        return {}

    @classmethod
    def older_identity(cls, data: Splits) -> dict[str, Any]:
        """Return what older checkpoints recorded in place of `identity`: they can be resumed, too."""
        return cls.identity(data)

    @classmethod
    def task_facts(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments for the task's constructor, by parameter name.

        Args:
            recorded: facts of the dataset, or section `data` of a run's summary, which holds them.
        """
        del recorded
        return {}

    # --- model

    def check_pretrained(self, folder: Path) -> None:
        """Refuse a pretrained folder of another library whose weights are for other samples. Raises ConfigError."""
        del folder

    def check_pretrained_run(self, checkpoint: Path, fitted: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
        """Refuse the weights of another run if they would take a sample's numbers for others.

        Args:
            checkpoint: for the message; it may also be a file of weights that nothing is known of.
            fitted: sha256 of what `identity` named, which may be a stranger's; older checkpoints lack it.
            recorded: section `data` of the run's summary, which may be a stranger's; {} where it is not known.

        Raises:
            ConfigError: the samples are made in another way.
        """
        del checkpoint, fitted, recorded

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Arguments for a model's constructor, by parameter name."""

    def example(self, count: int = 1) -> Tensor:
        """Return a batch of model inputs with arbitrary values, on the default device."""
        # zeros: only shapes count, for building, accounting and benchmarks
        return torch.zeros(count, *self.shape)

    # --- batches of training and evaluation

    @property
    def draws(self) -> bool:
        """True if `draw` returns anything."""
        return False

    def draw(self, count: int, generator: Generator) -> AugmentParams:
        """Draw the random parameters of one optimizer step, using only the generator.

        Args:
            count: number of samples in the step.
            generator: random number generator of the step.

        Returns:
            Tensors with `count` rows. 'partner' (int64, positions in the step) and 'share' (float), if there, also mix
            the targets.
        """
        del count, generator
        return {}

    def lengths(self, inputs: Tensor) -> Tensor | None:
        """Return the length of each sample, int64 (N,), or None if all have one size.

        With lengths, training batches are made of samples of similar length, so that little of a batch is padding.
        """
        del inputs
        return None

    @abstractmethod
    def batch(self, inputs: Tensor, indices: Tensor, params: AugmentParams, rows: slice) -> Tensor:
        """Make a micro-batch for training, on the device.

        Args:
            inputs: all samples of the split.
            indices: int64 (S,), the samples of the whole step.
            params: result of `draw` for the whole step.
            rows: the step's samples to make.
        """

    @abstractmethod
    def plain(self, inputs: Tensor, rows: slice | Tensor) -> Tensor:
        """Make a batch for evaluation, on the device, without randomness."""

    def targets(self, labels: Tensor, rows: slice | Tensor, params: AugmentParams) -> Tensor:
        """Return the targets of some samples, on the CPU, as the task takes them.

        Args:
            labels: all targets of the split.
            rows: the samples in the split.
            params: random parameters of these samples, as `batch` uses them; {} for an evaluation.
        """
        del params
        return labels[rows]

    # --- prediction and export

    def tell_unknown(self, name: str, samples: Tensor) -> None:
        """Log which part of other samples a run's vocabulary lacks; by default there is no vocabulary.

        name: of the samples, for the line.
        """
        del name, samples

    def problem(self, text: str) -> str | None:
        """Return why a text cannot be predicted or continued, or None; by default any can."""
        del text
        return None

    def given(self, inputs: Any) -> Iterator[Tensor]:
        """Yield the inputs of `run.predict` as samples, some at a time. Raises ConfigError for unsupported inputs."""
        # as_tensor shares the memory of an array: nothing here may change the samples
        yield self.required(tensor_of(inputs))

    def required(self, samples: Tensor) -> Tensor:
        """Check that samples fit the model. Raises ConfigError."""
        if tuple(samples.shape[1:]) != self.shape:
            # shape only: a modality with another rule for types overrides this method
            raise ConfigError(f"predict takes {self}; got {samples.dtype} {tuple(samples.shape)}.")
        return samples

    def read_files(
        self, paths: Sequence[str], options: Mapping[str, Any], problems: list[str]
    ) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
        """Yield (facts that name each sample, the samples), some at a time, for `effbench predict`.

        Args:
            paths: files and folders.
            options: values of the options in `file_options`.
            problems: messages about files that cannot be read are appended.
        """
        raise ConfigError(f"effbench predict reads no files of {self.unit}s; use run.predict with arrays.")

    def read_texts(self, texts: Sequence[str]) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
        """Yield ({'text': text} of each, the samples) for texts themselves, as `effbench predict RUN text=TEXT` has
        them. Raises ConfigError for a modality that has none.
        """
        raise ConfigError(f"text= is for runs on texts, and this one is on {self.unit}s. Give their files instead.")

    def shortened(self, samples: Tensor) -> Tensor:
        """Return a batch of samples to predict without the padding that all of them have."""
        return samples

    def portable(self, samples: Tensor) -> Tensor:
        """Return samples as an exported model takes them: float32, before normalisation."""
        return samples

    def normalise(self, portable: Tensor) -> Tensor:
        """Turn the result of `portable` into model inputs, perhaps in its memory: clone what you keep."""
        return portable

    def normaliser(self) -> nn.Module:
        """Return `normalise` as a module, for export with the model."""
        return nn.Identity()

    def portable_example(self) -> Tensor:
        """Return two samples in the form of `portable`: with one sample an exporter would fix the batch size."""
        return self.random_portable(2)

    def random_portable(self, count: int) -> Tensor:
        """Return random samples in the form of `portable`, the same ones each time."""
        # seeded here: an export must not depend on the state of torch's generator
        return torch.rand(count, *self.shape, generator=torch.Generator().manual_seed(0))

    def export_facts(self) -> dict[str, Any]:
        """Return what users of an exported file must know: 'input', 'preprocessing' and 'normalisation_inside'."""
        return {
            "input": {"name": f"{self.unit}s", "shape": ["N", *self.shape], "dtype": "float32"},
            "preprocessing": None,
            "normalisation_inside": None,
        }

    def __str__(self) -> str:
        return f"{self.unit}s of {self.layout} {self.shape}"


def tensor_of(inputs: Any, takes: str = "numbers") -> Tensor:
    """Return an array, or lists of numbers, as a tensor; an array's memory is shared. Raises ConfigError otherwise.

    Args:
        inputs: what `predict` was given.
        takes: what it takes, for the message.
    """
    try:
        return torch.as_tensor(inputs)
    except (TypeError, ValueError, RuntimeError) as error:
        text = shown(inputs)
        raise ConfigError(
            f"predict takes {takes}, as an array, a tensor or lists of equal lengths; got {text[:80]} "
            f"({first_line(error)})."
        ) from error


def rows_of(params: AugmentParams, rows: slice | Tensor) -> AugmentParams:
    """Return the parameters of some samples."""
    return {key: value[rows] for key, value in params.items()}


class Normalise(nn.Module):
    """(x - mean) / std by channel or feature, for float32 (N, C, ...).

    Args:
        mean: of each channel, (C,).
        std: of each channel, (C,).
        inner_dims: number of dimensions after C: 2 for images (N, C, H, W), 0 for rows (N, F).
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], inner_dims: int = 0):
        super().__init__()
        # Buffers, not parameters: exporters store them as constants, and optimizers do not see them.
        for name, values in (("mean", mean), ("std", std)):
            # (C, 1, 1) for images and (F,) for rows: they broadcast over the batch
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, *[1] * inner_dims))

    def forward(self, inputs: Tensor) -> Tensor:
        # a division, not a product with 1 / std: the run normalises so, and an exported model must agree
        return (inputs - self.get_buffer("mean")) / self.get_buffer("std")
