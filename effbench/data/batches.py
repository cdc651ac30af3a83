"""Batches as pure functions of (seed, epoch, step), independent of workers, ranks and interruptions."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from effbench.data.modality import AugmentParams, Modality, rows_of
from effbench.data.prefetch import prefetch, wait_for_batch
from effbench.data.splits import Split
from effbench.errors import ConfigError
from effbench.randomness import Purpose, derived_seed, seed_of_step

LENGTH_WINDOW = 50  # steps whose samples are sorted by length; more leave less padding, and steps that vary less


@dataclass(frozen=True)
class Shard:
    """This process's part of every batch: number `rank` of `world_size`."""

    rank: int = 0
    world_size: int = 1

    def bounds(self, count: int) -> tuple[int, int]:
        # integer arithmetic: parts are contiguous and complete, and their sizes differ by one at most
        return count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size


@dataclass(frozen=True)
class Batch:
    """A micro-batch.

    Attributes:
        inputs: model inputs, such as float (B, C, H, W).
        targets: as the task has them: int64 (B,), or float (B, K) if labels are mixed; int64 (B, T) for tokens.
        ready: CUDA event recorded when the side stream has finished the batch; None if there is no side stream.
    """

    inputs: Tensor
    targets: Tensor
    ready: torch.cuda.Event | None = None

    def synchronized(self) -> Batch:
        """Return the batch for use in the current stream. Only the GPU waits for it, not the CPU."""
        if self.ready is not None:
            current = torch.cuda.current_stream(self.inputs.device)
            current.wait_event(self.ready)
            for tensor in (self.inputs, self.targets):
                tensor.record_stream(current)  # else the memory could be reused before the stream has read it
        return self

    def __len__(self) -> int:
        return int(self.inputs.shape[0])

    def pieces(self, count: int) -> Iterable[Batch]:
        """Return the batch in `count` parts, or in fewer so that each has at least two samples."""
        count = min(count, len(self) // 2)  # batch norm cannot train on one sample
        if count <= 1:
            return (self,)
        return map(Batch, self.inputs.tensor_split(count), self.targets.tensor_split(count))


@dataclass(frozen=True)
class StepBatches:
    """One optimizer step. Take its micro-batches before the next step.

    Attributes:
        micro_batches: the micro-batches, created on demand.
        num_micro_batches: their number.
        samples: samples of the step over all ranks.
        epoch: number of the epoch, from 0.
        index: number of the step in the epoch, from 0.
        class_mass: returns float (K,), the number of samples of each class in the step over all ranks; mixed labels
            count by their shares.
    """

    micro_batches: Iterable[Batch]
    num_micro_batches: int
    samples: int
    epoch: int
    index: int
    class_mass: Callable[[], Tensor]


class TrainBatches:
    """Endless epochs over a split, each in a different order.

    The random parameters are drawn for a whole step, so neither `accumulate` nor the number of ranks changes a sample.

    Args:
        split: samples to train on.
        batch_size: samples of a micro-batch over all ranks.
        num_classes: K, for mixed labels.
        modality: makes the inputs of batches.
        accumulate: micro-batches in a step.
        seed: for order and augmentation.
        drop_last: omit the incomplete last step of an epoch (other samples each epoch). If False, a last
            micro-batch with fewer than two samples a rank is still omitted: batch norm cannot train on one.
        num_workers: threads that prepare batches; 0 for none.
        timeout_s: seconds to wait for a batch; None for no limit.
        shard: this process's part of each batch.
        limit_steps: steps of an epoch; None for all.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        num_classes: int,
        modality: Modality,
        accumulate: int = 1,
        seed: int = 0,
        drop_last: bool = True,
        num_workers: int = 0,
        timeout_s: float | None = None,
        shard: Shard | None = None,
        limit_steps: int | None = None,
    ):
        self.split, self.batch_size, self.num_classes = split, batch_size, num_classes
        self.modality, self.accumulate = modality, accumulate
        self.seed, self.num_workers, self.timeout_s, self.shard = seed, num_workers, timeout_s, shard or Shard()
        self._sizes = step_sizes(len(split), batch_size, accumulate, drop_last, self.shard.world_size, modality.unit)
        if limit_steps is not None:
            # the first steps of each epoch's own order, so that epochs still read different samples
            self._sizes = self._sizes[:limit_steps]
        self.steps_per_epoch = len(self._sizes)
        self._lengths = modality.lengths(split.inputs)
        self._order: tuple[int, Tensor] | None = None  # epoch, its order of samples
        # Of the newest steps, the least recently used first.
        self._drawn_params: dict[tuple[int, int], AugmentParams] = {}
        self._drawn_lock = threading.Lock()

    def epoch(self, epoch: int, start: int = 0) -> Iterator[StepBatches]:
        """Yield the steps of `epoch`, beginning with step `start`."""
        steps = range(start, self.steps_per_epoch)
        num_parts = {step: -(-self._sizes[step] // self.batch_size) for step in steps}  # rounded up
        places = [(epoch, step, part) for step in steps for part in range(num_parts[step])]
        batches = prefetch(lambda place: self.make(*place), places, self.num_workers, self.timeout_s)
        for step in steps:
            # All steps share one iterator, so that workers prepare the next step's batches while this one trains.
            due = islice(batches, num_parts[step])
            mass = partial(self.class_mass, epoch, step)
            parts = self._micro_batches(epoch, step, due)
            yield StepBatches(parts, num_parts[step], self._sizes[step], epoch, step, mass)
            deque(due, maxlen=0)  # drop what is left if the step was repeated

    def repeated(self, step: StepBatches) -> StepBatches:
        """Return the same step, beginning with its first micro-batch."""
        batches = (partial(self.make, step.epoch, step.index, part) for part in range(step.num_micro_batches))
        return replace(step, micro_batches=self._micro_batches(step.epoch, step.index, batches))

    def _micro_batches(self, epoch: int, step: int, batches: Iterable[Callable[[], Batch]]) -> Iterator[Batch]:
        name = f"epoch {epoch + 1}, step {step + 1} of {self.steps_per_epoch}"
        for part, get in enumerate(batches):
            yield wait_for_batch(get, name, partial(self._samples, epoch, step, part)).synchronized()

    def _samples(self, epoch: int, step: int, part: int) -> Tensor:
        """Return the indices in the split of this rank's samples in micro-batch `part`."""
        # of the micro-batch over all ranks, so that ranks divide it as one process would read it
        whole = self.step_indices(epoch, step)[part * self.batch_size :][: self.batch_size]
        return whole[slice(*self.shard.bounds(len(whole)))]

    def samples_in(self, step: int) -> int:
        """Return the number of samples in step `step` of an epoch, over all ranks."""
        return self._sizes[step]

    def padding(self) -> float | None:
        """Return the part of the first epoch's batches that is padding; None if all samples have one size."""
        if self._lengths is None:
            return None
        steps = self._lengths[self._epoch_order(0)[: sum(self._sizes)]].split(self._sizes)
        batches = [lengths for step in steps for lengths in step.split(self.batch_size)]
        positions = sum(len(lengths) * int(lengths.max()) for lengths in batches)
        return 1 - sum(int(lengths.sum()) for lengths in batches) / positions

    def class_mass(self, epoch: int, step: int) -> Tensor:
        """Return float (K,), the number of samples of each class in the step; see StepBatches."""
        indices, params = self._drawn(epoch, step)
        labels = self.split.labels[indices]
        # from labels and parameters only: neither other ranks nor later micro-batches need to be made
        share = params.get("share", torch.ones(len(indices)))
        mass = torch.zeros(self.num_classes).index_add_(0, labels, share)
        return mass.index_add_(0, labels[params["partner"]], 1 - share) if "partner" in params else mass

    def step_indices(self, epoch: int, step: int) -> Tensor:
        """Return the indices (int64) of the step's samples over all ranks, in order."""
        first = step * self.batch_size * self.accumulate
        return self._epoch_order(epoch)[first : first + self._sizes[step]]

    def _epoch_order(self, epoch: int) -> Tensor:
        # Two threads may both draw it, with the same result: a lock is not worth its time.
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, Purpose.ORDER, epoch))
            order = torch.randperm(len(self.split), generator=generator)
            if self._lengths is not None:
                order = by_length(order, self._lengths, self._sizes, generator)
            self._order = (epoch, order)
        return self._order[1]

    def make(self, epoch: int, step: int, part: int = 0) -> Batch:
        """Make this rank's share of a micro-batch.

        Args:
            epoch: number of the epoch, from 0.
            step: number of the step in the epoch, from 0.
            part: number of the micro-batch in the step, from 0.
        """
        with self.modality.transfer.side_stream() as stream:
            indices, params = self._drawn(epoch, step)
            first = part * self.batch_size
            low, high = self.shard.bounds(min(self.batch_size, len(indices) - first))
            rows = slice(first + low, first + high)
            inputs = self.modality.batch(self.split.inputs, indices, params, rows)
            # mixed on the CPU, where the split's labels are, and sent once
            targets = self.modality.targets(self.split.labels, indices[rows], rows_of(params, rows))
            if "partner" in params:  # targets are mixed as the inputs are; a partner may be in another micro-batch
                partners = self.split.labels[indices[params["partner"][rows]]]
                targets = mixed_labels(targets, partners, params["share"][rows], self.num_classes)
            batch = Batch(inputs, self.modality.transfer.to_device(targets))
        return batch if stream is None else replace(batch, ready=stream.record_event())

    def _drawn(self, epoch: int, step: int) -> tuple[Tensor, AugmentParams]:
        """Return (sample indices, random parameters) of a whole step."""
        indices = self.step_indices(epoch, step)
        if not self.modality.draws:
            return indices, {}
        with self._drawn_lock:  # all micro-batches of a step share one draw, in all workers
            params = self._drawn_params.pop((epoch, step), None)
            if not params:
                generator = torch.Generator().manual_seed(seed_of_step(self.seed, Purpose.AUGMENT, epoch, step))
                params = self.modality.draw(len(indices), generator)
            self._drawn_params[epoch, step] = params  # now the most recently used
            # Each worker may be at another step; an older step is needed only to repeat it, and is drawn again then.
            while len(self._drawn_params) > self.num_workers + 2:
                del self._drawn_params[next(iter(self._drawn_params))]
        return indices, params


def by_length(order: Tensor, lengths: Tensor, sizes: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return the samples of an epoch in steps of similar length.

    The samples of the epoch are chosen before they are sorted: otherwise the longest would always be the ones that an
    incomplete last step leaves out.

    Args:
        order: int64 (N,), a random order of all samples.
        lengths: int64 (N,), of each sample.
        sizes: samples of each step; the last may be smaller.
        generator: draws the order of the steps.

    Returns:
        int64 (sum(sizes),).
    """
    size = sizes[0]
    order = order[: sum(sizes)]
    whole = len(order) // size * size
    sorted_windows = [
        window[lengths[window].argsort(stable=True)] for window in order[:whole].split(LENGTH_WINDOW * size)
    ]
    steps = torch.cat(sorted_windows).view(-1, size)
    # random again: else each window would go from short to long
    steps = steps[torch.randperm(len(steps), generator=generator)]
    return torch.cat([steps.flatten(), order[whole:]])


def mixed_labels(labels_B: Tensor, partners_B: Tensor, share_B: Tensor, num_classes: int) -> Tensor:
    """Mix the targets of samples and their partners, rounded as by torch.lerp.

    Args:
        labels_B: class numbers int64 (B,), or targets (B, K).
        partners_B: targets of the partners, in the same form.
        share_B: float (B,), the weight of each sample; its partner has the rest.
        num_classes: K.

    Returns:
        Float (B, K).
    """
    if labels_B.dim() == 2:
        return torch.lerp(partners_B, labels_B, share_B.unsqueeze(1))
    # By lerp as for (B, K) targets, so that one-hot labels and class numbers give the same bits. For two
    # samples of one class the second write replaces the first: `own` is then 1, the sum of both shares.
    nothing, all_of_it = torch.zeros_like(share_B), torch.ones_like(share_B)
    own = torch.where(labels_B == partners_B, all_of_it, torch.lerp(nothing, all_of_it, share_B))
    soft = share_B.new_zeros(len(labels_B), num_classes)
    soft.scatter_(1, partners_B.unsqueeze(1), torch.lerp(all_of_it, nothing, share_B).unsqueeze(1))
    return soft.scatter_(1, labels_B.unsqueeze(1), own.unsqueeze(1))


class EvalBatches:
    """One pass over a split in file order, without augmentation.

    Args:
        split: samples to evaluate.
        batch_size: samples of a batch on one rank.
        modality: makes the inputs of batches.
        shard: this process's part of the samples.
        sample: rows of the split to read (int64, ascending) over all ranks; None for all.
        num_workers: threads that prepare batches; 0 for none.
        timeout_s: seconds to wait for a batch; None for no limit.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        modality: Modality,
        shard: Shard | None = None,
        sample: Tensor | None = None,
        num_workers: int = 0,
        timeout_s: float | None = None,
    ):
        self.split, self.batch_size, self.modality, self.sample = split, batch_size, modality, sample
        self.num_workers, self.timeout_s = num_workers, timeout_s
        self.low, self.high = (shard or Shard()).bounds(len(self))  # contiguous: memory maps are read in file order

    def __len__(self) -> int:
        """Number of samples over all ranks."""
        return len(self.split) if self.sample is None else len(self.sample)

    @property
    def extent(self) -> str:
        """What is read, as text: 'a sample of 512 of 2,000 images, all 5 classes'."""
        if self.sample is None:
            return f"all {len(self):,} {self.modality.unit}s"
        part = f"a sample of {len(self):,} of {len(self.split):,} {self.modality.unit}s"
        # labels (N, K) have no classes to count
        if self.split.labels.dim() > 1:
            return part
        seen, every = (len(labels.unique()) for labels in (self.split.labels[self.sample], self.split.labels))
        return f"{part}, {f'all {every:,}' if seen == every else f'{seen:,} of {every:,}'} classes"

    def in_pieces(self, count: int) -> EvalBatches:
        """Return the same samples in batches of 1/count the size."""
        # a shallow copy: __init__ would divide the samples among ranks again
        cut = copy(self)
        cut.batch_size = max(1, self.batch_size // count)
        return cut

    def __iter__(self) -> Iterator[Batch]:
        starts = range(self.low, self.high, self.batch_size)
        batches = prefetch(self._make, starts, self.num_workers, self.timeout_s)
        # strict: prefetch gives one result for each start, in order
        for start, get in zip(starts, batches, strict=True):
            yield wait_for_batch(get, "an evaluation", partial(self._rows, start)).synchronized()

    def _rows(self, start: int) -> slice | Tensor:
        """Return the indices in the split of the samples in the batch at `start`."""
        part = slice(start, min(start + self.batch_size, self.high))
        return part if self.sample is None else self.sample[part]

    def _make(self, start: int) -> Batch:
        rows = self._rows(start)
        with self.modality.transfer.side_stream() as stream:
            inputs = self.modality.plain(self.split.inputs, rows)
            targets = self.modality.targets(self.split.labels, rows, {})
            batch = Batch(inputs, self.modality.transfer.to_device(targets))
        return batch if stream is None else replace(batch, ready=stream.record_event())


def step_sizes(count: int, batch_size: int, accumulate: int, drop_last: bool, world_size: int, unit: str) -> list[int]:
    """Return the number of samples in each step of an epoch; see TrainBatches.

    Args:
        count: samples of the split.
        batch_size: samples of a micro-batch over all ranks.
        accumulate: micro-batches in a step.
        drop_last: omit an incomplete last step.
        world_size: number of ranks.
        unit: the word for a sample, for messages.
    """
    whole, rest = divmod(count, batch_size * accumulate)
    # batch norm cannot train on one sample: a last micro-batch below two a rank is left out
    if not drop_last and rest % batch_size < 2 * world_size:
        rest -= rest % batch_size
    sizes = [batch_size * accumulate] * whole + ([rest] if rest and not drop_last else [])
    if not sizes:
        keep = "" if not drop_last else " or set data.drop_last=false"
        raise ConfigError(
            f"data.batch_size x trainer.accumulate_grad_batches is {batch_size} x {accumulate}, but the train split "
            f"holds {count} {unit}s: not one step. Lower data.batch_size{keep}."
        )
    return sizes
