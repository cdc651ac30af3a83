"""A dataset: up to three splits of in-memory or memory-mapped samples with targets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from effbench.data.images.modality import Images
from effbench.data.modality import Modality
from effbench.data.split_checks import as_classes, as_labels, as_targets, check_range
from effbench.errors import DataError
from effbench.summary_schema import DRAWN

FAR = 2  # times the size that was asked for: a split that is larger is not what the user meant
_SAMPLE_SEED = 0  # not the seed of the run: limited evaluations of runs with other seeds read the same samples


@dataclass(frozen=True, init=False)
class Split:
    """Samples with their targets.

    Args:
        inputs: samples (N, ...), possibly memory-mapped; images are uint8 (N, C, H, W).
        labels: int64 (N,) in [0, number of classes) for classification; numbers (N, K) for other tasks, see
            effbench/tasks.
        images: another name for `inputs`.
    """

    inputs: Tensor
    labels: Tensor

    def __init__(self, inputs: Any = None, labels: Any = None, *, images: Any = None):
        """Accept `images` as another name for `inputs`."""
        # both names at once are refused, too: which one is meant?
        if (inputs is None) == (images is None) or labels is None:
            raise TypeError("Split(inputs, labels) takes samples and their labels")
        # object.__setattr__ is the way to set a field of a frozen dataclass
        object.__setattr__(self, "inputs", images if inputs is None else inputs)
        object.__setattr__(self, "labels", labels)

    @property
    def images(self) -> Tensor:
        """Another name for `inputs`."""
        return self.inputs

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def take(self, indices: Tensor) -> Split:
        """Return a copy of the samples at `indices` (int64), in that order."""
        return Split(self.inputs[indices], self.labels[indices])


@dataclass(frozen=True)
class Splits:
    """A dataset. Training uses train and val; test is read once at the end.

    Arrays and lists become tensors, and class numbers int64. Anything else is refused with a DataError.

    Attributes:
        name: name for display.
        train: samples to train on.
        val: samples for validation, or None.
        test: samples for the final test, or None.
        classes: class names in label order; for other tasks names of the targets' columns.
        sha256: identifies the content in the run's record.
        facts: further entries for the record, such as the number of skipped files.
        modality: class that describes the samples.
        drawn: splits that were drawn at random; on other samples the draw is another one.
        warnings: what may be a mistake in the data, for the record of a run.
    """

    name: str
    train: Split
    val: Split | None
    test: Split | None
    classes: tuple[str, ...]
    sha256: str
    facts: dict[str, Any] = field(default_factory=dict)
    modality: type[Modality] = Images
    drawn: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", as_classes(self.name, self.classes))
        if not isinstance(self.sha256, str):
            raise DataError(
                f"{self.name} sha256 must be text that names the content, such as digest(images, labels); got "
                f"{self.sha256!r}."
            )
        if not (isinstance(self.modality, type) and issubclass(self.modality, Modality)):
            raise DataError(f"{self.name} modality must be a subclass of Modality; got {self.modality!r}.")
        for which, split in self.named().items():
            checked = _checked(f"{self.name} {which}", split, len(self.classes), self.modality)
            object.__setattr__(self, which, checked)
        # after the types: only tensors have a shape to compare
        for which, split in self.named().items():
            if split.inputs.shape[1:] != self.train.inputs.shape[1:]:
                raise DataError(
                    f"{self.name} {which} holds {self.modality.unit}s of {self.modality.layout} "
                    f"{tuple(split.inputs.shape[1:])}, train of {self.shape}: all splits must have one shape."
                )

    def named(self) -> dict[str, Split]:
        """Return the splits that exist, by name."""
        every = {"train": self.train, "val": self.val, "test": self.test}
        return {which: split for which, split in every.items() if split is not None}

    @property
    def test_split(self) -> str:
        """How the test split follows data.split_seed: DRAWN or GENERATED of summary_schema; '' if it does not."""
        return DRAWN if "test" in self.drawn else str(self.facts.get("test_split", ""))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, such as (channels, height, width) for an image."""
        return tuple(map(int, self.train.inputs.shape[1:]))


def _checked(name: str, split: Split, num_classes: int, modality: type[Modality]) -> Split:
    """Return the split as tensors of the right types; the same object if it is already correct."""
    if not isinstance(split, Split):
        raise DataError(f"{name} must be a Split({modality.unit}s, labels); got {type(split).__name__}.")
    labels = as_targets(name, split.labels)
    if len(labels) == 0:
        raise DataError(f"{name} holds no {modality.unit}s.")
    inputs = modality.checked(name, split.inputs, len(labels))
    # The range is checked here, where the split is named: an embedding or a loss would fail inside of a kernel.
    if labels.dtype == torch.int64 and labels.dim() == 1:
        check_range(name, labels, num_classes)
    return split if labels is split.labels and inputs is split.inputs else Split(inputs, labels)


def stratified(labels: Tensor, per_class: dict[int, int], seed: int) -> Tensor:
    """Draw a fixed number of samples from each class.

    Args:
        labels: int64 (N,).
        per_class: class -> number of samples.
        seed: determines the draw.

    Returns:
        Indices (int64, ascending).
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.bincount(labels, minlength=max(per_class) + 1)
    # The stable sort keeps file order within a class, so that the draw depends on nothing but labels and seed.
    by_class = labels.argsort(stable=True).split(sizes.tolist())
    # one generator for all classes, in their order: the draw of one depends on those before it
    chosen = []
    for label, count in per_class.items():
        members = by_class[label]
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values


def counts_to_draw(
    sizes: Sequence[int], left: Sequence[int], fraction: float, seed: int, every_class: bool = False
) -> dict[int, int]:
    """Return how many samples of each class a split gets: its part, and at least one of each class that has two.

    With many classes of few samples, one of each would make the split more than twice as large as the fraction asks
    for. Then those of a part below one half get one only until the fraction is reached, the largest first.

    Args:
        sizes: samples of each class.
        left: how many of them no other split has taken; one of each stays.
        fraction: part of the samples.
        seed: decides between classes of equal sizes.
        every_class: take one of each class whatever the size comes to.

    Returns:
        class -> number of samples.
    """
    counts = {
        label: min(max(round(size * fraction), 1), there - 1) if there > 1 else 0
        for label, (size, there) in enumerate(zip(sizes, left, strict=True))
    }
    wanted = max(1, round(sum(sizes) * fraction))
    if every_class or sum(counts.values()) <= FAR * wanted:
        return counts
    small = [label for label, count in counts.items() if count and round(sizes[label] * fraction) < 1]
    # not the first of the alphabet: names may be in an order that means something
    turn = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed)).tolist()
    small.sort(key=lambda label: (-sizes[label], -left[label], turn[label]))
    room = max(0, wanted - (sum(counts.values()) - len(small)))
    return {**counts, **dict.fromkeys(small[room:], 0)}


def without_last_of_a_class(labels: Tensor, groups: Tensor, held: Tensor) -> Tensor:
    """Return the drawn groups without those that would leave a class no sample: equal samples may differ in class.

    Args:
        labels: int64 (N,), class of each sample.
        groups: int64 (N,), group of each sample; a group is drawn as a whole.
        held: int64 (H,), the groups that were drawn.

    Returns:
        Int64 (H',), in the order of `held`.
    """
    drawn = torch.isin(groups, held)
    lost = set(labels[drawn].tolist()) - set(labels[~drawn].tolist())
    back = list[int]()
    for place in drawn.nonzero().flatten().tolist() if lost else ():
        if int(labels[place]) in lost:
            back.append(int(groups[place]))
            lost -= set(labels[groups == groups[place]].tolist())
    return held[~torch.isin(held, torch.tensor(back, dtype=held.dtype))]


def representative_sample(labels: Tensor, count: int) -> Tensor:
    """Draw `count` samples with classes in proportion, each at least once if `count` allows.

    Targets that are not class numbers are drawn uniformly. The draw depends only on labels and count, not on the run's
    seed, so that results are comparable.

    Args:
        labels: targets of the split.
        count: number of samples.

    Returns:
        Rows (int64, ascending).
    """
    if labels.dim() > 1:
        generator = torch.Generator().manual_seed(_SAMPLE_SEED)
        return torch.randperm(len(labels), generator=generator)[:count].sort().values
    per_class = _proportional_counts(torch.bincount(labels), count)
    return stratified(labels, dict(enumerate(per_class.tolist())), _SAMPLE_SEED)


def _proportional_counts(sizes_K: Tensor, count: int) -> Tensor:
    """Return int64 (K,), numbers of samples a class that add up to `count`; at most the class's size."""
    present_K = sizes_K > 0
    if count < int(present_K.sum()):  # not one sample for each class: larger classes are likelier to have one
        generator = torch.Generator().manual_seed(_SAMPLE_SEED)
        some = torch.multinomial(sizes_K.double(), count, generator=generator)
        return torch.zeros_like(sizes_K).index_fill_(0, some, 1)
    shared_K, quota_K = present_K, torch.zeros(len(sizes_K), dtype=torch.float64)
    while True:  # classes with a quota below 1 get one sample; the others share the rest
        left = count - int((present_K & ~shared_K).sum())
        quota_K = torch.where(shared_K, sizes_K * (left / max(1, int(sizes_K[shared_K].sum()))), present_K.double())
        too_small_K = shared_K & (quota_K < 1)
        if not too_small_K.any():
            break
        shared_K = shared_K & ~too_small_K
    # Hamilton: whole parts of the quotas, then one more for the largest remainders; a stable sort breaks ties by class.
    counts_K = quota_K.floor().long()
    largest_remainders = (quota_K - counts_K).argsort(descending=True, stable=True)[: count - int(counts_K.sum())]
    counts_K[largest_remainders] += 1
    return counts_K


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divide a split.

    Args:
        split: samples.
        fraction: part of each class to hold out; at least one sample of every class that has two or more.
        seed: determines the draw.

    Returns:
        (rest, held out).
    """
    # class numbers only: other targets have no classes to draw from in proportion
    per_class: dict[int, int] = {}
    split = replace(split, labels=as_labels("the split to divide:", split.labels))
    for label, count in enumerate(torch.bincount(split.labels).tolist()):
        # at least one on each side, so that every class is trained on and evaluated
        per_class[label] = min(max(round(count * fraction), 1), count - 1) if count > 1 else 0
    held = stratified(split.labels, per_class, seed)
    # both parts keep the order of the split: a memory map is then read in one direction
    rest = torch.ones(len(split), dtype=torch.bool)
    rest[held] = False
    return split.take(rest.nonzero().flatten()), split.take(held)


def digest(*tensors: Tensor) -> str:
    """Return the sha256 (hex) of the tensors' bytes, in order."""
    sha = hashlib.sha256()
    for tensor in tensors:
        # the bytes alone: callers give tensors of fixed types and shapes
        sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()
