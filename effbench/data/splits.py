"""What a dataset is here: three splits of resident or memory-mapped uint8 images with their labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effbench.data.split_checks import as_classes, as_images, as_labels, as_targets, check_digest, check_range
from effbench.errors import ConfigError, DataError

_SAMPLE_SEED = 0


@dataclass(frozen=True)
class Split:
    """images: uint8 (N, C, H, W), may be memory-mapped. labels: the targets.

    int64 (N,) in [0, number of classes) for a classification; numbers (N, K) for other tasks, see effbench/tasks.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def take(self, indices: Tensor) -> Split:
        """The samples at `indices` (int64), in that order, as a copy."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Splits:
    """train and val are seen while training, test is read once at the end; val and test may be None.

    classes: the names of the classes in label order; of other tasks' targets those of their columns. sha256: names
    the content, for the run's record. facts: what else the record should tell of it, such as how many files were
    skipped.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", as_classes(self.name, self.classes))
        check_digest(self.name, self.sha256)
        for which, split in self.named().items():
            object.__setattr__(self, which, _checked(f"{self.name} {which}", split, len(self.classes)))
        for which, split in self.named().items():
            if split.images.shape[1:] != self.train.images.shape[1:]:
                raise DataError(
                    f"{self.name} {which} holds images of (C, H, W) {tuple(split.images.shape[1:])}, train of "
                    f"{self.shape}: all splits must have one shape."
                )

    def named(self) -> dict[str, Split]:
        """The splits that exist, by name."""
        every = {"train": self.train, "val": self.val, "test": self.test}
        return {which: split for which, split in every.items() if split is not None}

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        channels, height, width = self.train.images.shape[1:]
        return int(channels), int(height), int(width)


def _checked(name: str, split: Split, num_classes: int) -> Split:
    """The split as tensors of the right type; the same object where it is that already."""
    if not isinstance(split, Split):
        raise DataError(f"{name} must be a Split(images, labels); got {type(split).__name__}.")
    labels = as_targets(name, split.labels)
    if len(labels) == 0:
        raise DataError(f"{name} holds no images.")
    images = as_images(name, split.images, len(labels))
    if labels.dtype == torch.int64 and labels.dim() == 1:
        check_range(name, labels, num_classes)
    return split if labels is split.labels and images is split.images else Split(images, labels)


def resized(splits: Splits, size: int) -> Splits:
    """Every image at size x size pixels (bilinear, antialiased); the same object where they are that already."""
    if size < 1:
        raise ConfigError(f"data.image_size must be at least 1 pixel; got {size}.")
    if splits.shape[1:] == (size, size):
        return splits

    def resize(split: Split | None) -> Split | None:
        if split is None:
            return None
        chunks = [_resize(chunk, size) for chunk in split.images.split(1024)]
        return Split(torch.cat(chunks), split.labels)

    train = resize(splits.train)
    assert train is not None
    return replace(splits, train=train, val=resize(splits.val), test=resize(splits.test))


def _resize(images: Tensor, size: int) -> Tensor:
    """uint8 (N, C, H, W) -> uint8 (N, C, size, size)."""
    values = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    return values.round_().clamp_(0, 255).to(torch.uint8)


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
    split = Split(split.images, as_labels("the split to divide:", split.labels))
    for label, count in enumerate(torch.bincount(split.labels).tolist()):
        per_class[label] = min(max(round(count * fraction), 1), count - 1) if count > 1 else 0
    held = stratified(split.labels, per_class, seed)
    rest = torch.ones(len(split), dtype=torch.bool)
    rest[held] = False
    return split.take(rest.nonzero().flatten()), split.take(held)


def check_fraction(key: str, fraction: object) -> None:
    """Raises ConfigError where a split's share of the samples is not a number in [0, 1)."""
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction < 1:
        raise ConfigError(f"data.{key} must be a number in [0, 1); got {fraction!r}. For 10 % write 0.1.")


def channel_statistics(images: Tensor, at_most: int = 10_000) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in [0, 1], over at most `at_most` evenly spaced images.

    images: uint8 (N, C, H, W). A constant channel gets deviation 1, so that normalising stays finite.
    """
    stride = max(1, -(-len(images) // at_most))
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares, count = torch.zeros_like(total), 0
    for chunk in images[::stride].split(512):
        values = chunk.to(torch.float64).div_(255)
        total += values.sum((0, 2, 3))
        squares += values.square_().sum((0, 2, 3))
        count += values.numel() // values.shape[1]
    mean = total / count
    std = (squares / count - mean * mean).clamp_min(0).sqrt()
    return mean.tolist(), torch.where(std > 1e-6, std, 1.0).tolist()


def digest(*tensors: Tensor) -> str:
    """sha256 (hex) over the bytes of the tensors, in order."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()
