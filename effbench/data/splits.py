"""What a dataset is here: three splits of resident or memory-mapped samples with their labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from effbench.config.options import FRACTION_BELOW_1
from effbench.data.images.modality import Images
from effbench.data.modality import Modality
from effbench.data.split_checks import as_classes, as_labels, as_targets, check_digest, check_range
from effbench.errors import DataError

_SAMPLE_SEED = 0


@dataclass(frozen=True, init=False)
class Split:
    """inputs: the samples, may be memory-mapped; images are uint8 (N, C, H, W). labels: the targets.

    int64 (N,) in [0, number of classes) for a classification; numbers (N, K) for other tasks, see effbench/tasks.
    """

    inputs: Tensor
    labels: Tensor

    def __init__(self, inputs: Any = None, labels: Any = None, *, images: Any = None):
        """images: another name of `inputs`."""
        if (inputs is None) == (images is None) or labels is None:
            raise TypeError("Split(inputs, labels) takes samples and their labels")
        object.__setattr__(self, "inputs", images if inputs is None else inputs)
        object.__setattr__(self, "labels", labels)

    @property
    def images(self) -> Tensor:
        """`inputs` of images."""
        return self.inputs

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def take(self, indices: Tensor) -> Split:
        """The samples at `indices` (int64), in that order, as a copy."""
        return Split(self.inputs[indices], self.labels[indices])


@dataclass(frozen=True)
class Splits:
    """train and val are seen while training, test is read once at the end; val and test may be None.

    classes: the names of the classes in label order; of other tasks' targets those of their columns. sha256: names
    the content, for the run's record. facts: what else the record should tell of it, such as how many files were
    skipped. modality: what the samples are.
    Arrays and lists are taken for tensors, class numbers of any integer type become int64; all else is refused
    (DataError).
    """

    name: str
    train: Split
    val: Split | None
    test: Split | None
    classes: tuple[str, ...]
    sha256: str
    facts: dict[str, Any] = field(default_factory=dict)
    modality: type[Modality] = Images

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", as_classes(self.name, self.classes))
        check_digest(self.name, self.sha256)
        if not (isinstance(self.modality, type) and issubclass(self.modality, Modality)):
            raise DataError(f"{self.name} modality must be a subclass of Modality; got {self.modality!r}.")
        for which, split in self.named().items():
            checked = _checked(f"{self.name} {which}", split, len(self.classes), self.modality)
            object.__setattr__(self, which, checked)
        for which, split in self.named().items():
            if split.inputs.shape[1:] != self.train.inputs.shape[1:]:
                raise DataError(
                    f"{self.name} {which} holds {self.modality.unit}s of {self.modality.layout} "
                    f"{tuple(split.inputs.shape[1:])}, train of {self.shape}: all splits must have one shape."
                )

    def named(self) -> dict[str, Split]:
        """The splits that exist, by name."""
        every = {"train": self.train, "val": self.val, "test": self.test}
        return {which: split for which, split in every.items() if split is not None}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: (channels, height, width) of an image."""
        return tuple(map(int, self.train.inputs.shape[1:]))


def _checked(name: str, split: Split, num_classes: int, modality: type[Modality]) -> Split:
    """The split as tensors of the right type; the same object where it is that already."""
    if not isinstance(split, Split):
        raise DataError(f"{name} must be a Split({modality.unit}s, labels); got {type(split).__name__}.")
    labels = as_targets(name, split.labels)
    if len(labels) == 0:
        raise DataError(f"{name} holds no {modality.unit}s.")
    inputs = modality.checked(name, split.inputs, len(labels))
    if labels.dtype == torch.int64 and labels.dim() == 1:
        check_range(name, labels, num_classes)
    return split if labels is split.labels and inputs is split.inputs else Split(inputs, labels)


def stratified(labels: Tensor, per_class: dict[int, int], seed: int) -> Tensor:
    """Indices (int64, ascending) of `per_class[c]` samples of each class c, drawn by `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.bincount(labels, minlength=max(per_class) + 1)
    by_class = labels.argsort(stable=True).split(sizes.tolist())
    chosen = []
    for label, count in per_class.items():
        members = by_class[label]
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values


def representative_sample(labels: Tensor, count: int) -> Tensor:
    """Rows (int64, ascending) of `count` samples, each class in proportion and at least once where `count` allows.

    Targets that are no class numbers are drawn all alike.

    The same rows for the same labels and count, whatever the run's seed: measurements on them can be compared.
    """
    if labels.dim() > 1:
        generator = torch.Generator().manual_seed(_SAMPLE_SEED)
        return torch.randperm(len(labels), generator=generator)[:count].sort().values
    per_class = _proportional_counts(torch.bincount(labels), count)
    return stratified(labels, dict(enumerate(per_class.tolist())), _SAMPLE_SEED)


def _proportional_counts(sizes_K: Tensor, count: int) -> Tensor:
    """int64 (K,): how many samples of each class make `count` together; at most the class's size."""
    present_K = sizes_K > 0
    if count < int(present_K.sum()):
        generator = torch.Generator().manual_seed(_SAMPLE_SEED)
        some = torch.multinomial(sizes_K.double(), count, generator=generator)
        return torch.zeros_like(sizes_K).index_fill_(0, some, 1)
    shared_K, quota_K = present_K, torch.zeros(len(sizes_K), dtype=torch.float64)
    while True:  # classes with a quota below one sample get one; the others share what is left
        left = count - int((present_K & ~shared_K).sum())
        quota_K = torch.where(shared_K, sizes_K * (left / max(1, int(sizes_K[shared_K].sum()))), present_K.double())
        too_small_K = shared_K & (quota_K < 1)
        if not too_small_K.any():
            break
        shared_K = shared_K & ~too_small_K
    counts_K = quota_K.floor().long()
    largest_remainders = (quota_K - counts_K).argsort(descending=True, stable=True)[: count - int(counts_K.sum())]
    counts_K[largest_remainders] += 1
    return counts_K


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """(rest, held out): `fraction` of each class, at least one sample of every class with two or more."""
    per_class: dict[int, int] = {}
    split = replace(split, labels=as_labels("the split to divide:", split.labels))
    for label, count in enumerate(torch.bincount(split.labels).tolist()):
        per_class[label] = min(max(round(count * fraction), 1), count - 1) if count > 1 else 0
    held = stratified(split.labels, per_class, seed)
    rest = torch.ones(len(split), dtype=torch.bool)
    rest[held] = False
    return split.take(rest.nonzero().flatten()), split.take(held)


def check_fraction(key: str, fraction: object) -> None:
    """Raises ConfigError where a split's share of the samples is not a number in [0, 1)."""
    FRACTION_BELOW_1.check(fraction, f"data.{key}", "a number in [0, 1)", "For 10 % write 0.1.")


def digest(*tensors: Tensor) -> str:
    """sha256 (hex) over the bytes of the tensors, in order."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()
