"""Batches are pure functions of (seed, epoch, step): neither workers, ranks nor micro-batches change a sample.

White-box: lowers the size of a part, and makes batches fail or wait.
"""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import nullcontext
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effbench.data import prefetch as module
from effbench.data.batches import Batch, EvalBatches, Shard, TrainBatches, mixed_labels
from effbench.data.images.augment import Augment
from effbench.data.images.batch_transform import BatchTransform
from effbench.data.images.modality import Images
from effbench.data.prefetch import BatchError, prefetch
from effbench.data.splits import Split
from effbench.errors import ConfigError, EffbenchError
from tests.patience import patience

K = 5
PLAIN = BatchTransform((0.0, 0.0), (1.0, 1.0))
AUGMENTS = {
    "none": Augment(),
    "strong": Augment(crop_padding=2, flip=0.5, rotate=15, brightness=0.2, contrast=0.2, dropout_holes=2),
    "mixup": Augment(flip=0.5, mixup_alpha=0.4),
    "cutmix": Augment(crop_padding=1, cutmix_alpha=1.0),
}


def split(count: int = 50) -> Split:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 2, 6, 8), generator=generator, dtype=torch.uint8)
    return Split(images, torch.randint(0, K, (count,), generator=generator))


def batches(count: int = 50, **options) -> TrainBatches:
    settings = {"batch_size": 8, "num_classes": K, "seed": 3, **options}
    modality = images(settings.pop("transform", PLAIN), settings.pop("augment", None))
    return TrainBatches(split(count), modality=modality, **settings)


def images(transform: BatchTransform = PLAIN, augment: Augment | None = None, shape=(2, 6, 8)) -> Images:
    return Images(shape, transform, augment)


def one_hot(targets: Tensor) -> Tensor:
    return targets if targets.dim() == 2 else torch.eye(K)[targets]


def epoch_of(made: TrainBatches, epoch: int = 0, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    """(inputs, one-hot targets) of every micro-batch, in order."""
    return [
        (batch.inputs, one_hot(batch.targets))
        for step in made.epoch(epoch, start)
        for batch in step.micro_batches
    ]  # fmt: skip


def joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*parts, strict=True)
    return torch.cat(inputs), torch.cat(targets)


def equal(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


# --- which samples


def order(made: TrainBatches, epoch: int) -> list[int]:
    return torch.cat([made.step_indices(epoch, step) for step in range(made.steps_per_epoch)]).tolist()


def test_every_sample_comes_once_an_epoch():
    made = batches(48)
    assert sorted(order(made, 0)) == list(range(48))
    assert sorted(order(made, 7)) == list(range(48))


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    orders = [order(batches(48, seed=seed), epoch) for seed in (3, 4) for epoch in (0, 1)]
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    assert order(batches(48), 1) == order(batches(48), 1)


def test_batches_without_augmentation_are_the_images_and_labels():
    made = batches(48)
    inputs, targets = joined(epoch_of(made))
    rows = order(made, 0)
    torch.testing.assert_close(inputs, made.split.images[rows].float() / 255)
    assert torch.equal(targets.argmax(1), made.split.labels[rows])
    assert epoch_of(made)[0][0].dtype == torch.float32


@pytest.mark.row(36)
@pytest.mark.parametrize(
    ("count", "batch_size", "accumulate", "drop_last", "sizes"),
    [
        (50, 8, 1, True, [8] * 6),
        (50, 8, 1, False, [8] * 6 + [2]),
        (49, 8, 1, False, [8] * 6),  # the last would be a single sample
        (50, 8, 2, True, [16] * 3),
        (50, 8, 2, False, [16] * 3 + [2]),
        (41, 8, 2, False, [16, 16, 8]),  # a micro-batch of a single sample is left out of its step
        (44, 8, 2, False, [16, 16, 12]),
        (48, 8, 1, False, [8] * 6),
        (3, 8, 1, False, [3]),
        (5, 1, 1, False, [1] * 5),  # asked for by batch_size=1
    ],
)
def test_drop_last_decides_the_last_step_but_for_a_batch_of_one(count, batch_size, accumulate, drop_last, sizes):
    made = batches(count, batch_size=batch_size, accumulate=accumulate, drop_last=drop_last)
    assert [made.samples_in(step) for step in range(made.steps_per_epoch)] == sizes
    steps = [(step.samples, step.num_micro_batches, list(step.micro_batches)) for step in made.epoch(0)]
    assert [samples for samples, _, _ in steps] == sizes
    assert [sum(map(len, parts)) for _, _, parts in steps] == sizes
    assert all(len(parts) == number for _, number, parts in steps)
    assert len(order(made, 0)) == len(set(order(made, 0))) == sum(sizes)


@pytest.mark.row(36)
@pytest.mark.parametrize(("world_size", "count", "tail"), [(1, 49, 0), (1, 50, 2), (2, 51, 0), (2, 52, 4), (3, 53, 0)])
def test_last_micro_batch_below_two_samples_per_rank_is_dropped(world_size, count, tail):
    ranks = [batches(count, drop_last=False, shard=Shard(rank, world_size)) for rank in range(world_size)]
    for made in ranks:
        assert [made.samples_in(step) for step in range(made.steps_per_epoch)] == [8] * 6 + [tail] * (tail > 0)
        assert min(len(batch) for step in made.epoch(0) for batch in step.micro_batches) >= 2


def test_the_samples_left_out_differ_from_epoch_to_epoch():
    made = batches(50)
    left_out = [frozenset(range(50)) - set(order(made, epoch)) for epoch in range(10)]
    assert len(set(left_out)) > 5


@pytest.mark.row(36)
@pytest.mark.parametrize(("count", "accumulate", "drop_last"), [(7, 1, True), (15, 2, True), (1, 1, False)])
def test_a_dataset_without_a_single_step_is_refused(count, accumulate, drop_last):
    with pytest.raises(ConfigError) as caught:
        batches(count, accumulate=accumulate, drop_last=drop_last)
    message = str(caught.value)
    assert f"is 8 x {accumulate}, but the train split holds {count} images: not one step" in message
    assert ("data.drop_last=false" in message) == drop_last


def test_a_limit_keeps_the_first_steps():
    made, whole = batches(limit_steps=2), batches()
    assert made.steps_per_epoch == 2
    assert equal(epoch_of(made), epoch_of(whole)[:2])


# --- what does not change them


@pytest.mark.row(14)
@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers, accumulate, augment):
    options = {"augment": AUGMENTS[augment], "accumulate": accumulate, "drop_last": False}
    alone, helped = (epoch_of(batches(num_workers=n, **options), epoch=2) for n in (0, workers))
    assert equal(alone, helped)


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize(("world_size", "drop_last"), [(2, False), (3, False), (8, True)])
def test_the_ranks_shares_make_the_batch_of_one_process(world_size, drop_last, augment):
    options = {"augment": AUGMENTS[augment], "accumulate": 2, "drop_last": drop_last, "batch_size": 9}
    whole = epoch_of(batches(52, **options))
    ranks = [epoch_of(batches(52, shard=Shard(rank, world_size), **options)) for rank in range(world_size)]
    shares = [joined([rank[number] for rank in ranks]) for number in range(len(whole))]
    assert equal(shares, whole)
    assert max(len(x) for rank in ranks for x, _ in rank) <= -(-9 // world_size)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_micro_batches_make_the_step_of_one_batch(augment):
    options = {"augment": AUGMENTS[augment], "drop_last": False}
    whole = epoch_of(batches(47, batch_size=32, **options))
    parts = epoch_of(batches(47, batch_size=8, accumulate=4, **options))
    assert equal([joined(parts[:4]), joined(parts[4:])], whole)


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("elements", [1, 300, 500])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_parts_that_a_batch_is_finished_in_change_nothing(memory_format, elements, augment, monkeypatch):
    transform = BatchTransform((0.2, 0.7), (0.5, 2.0), memory_format=memory_format)
    options = {"augment": AUGMENTS[augment], "transform": transform, "batch_size": 11, "drop_last": False}
    evaluation = EvalBatches(split(), batch_size=21, modality=images(transform))
    whole, read = epoch_of(batches(**options)), [batch.inputs for batch in evaluation]
    monkeypatch.setattr("effbench.data.images.batch_transform._PART", elements)
    parted, read_again = epoch_of(batches(**options)), [batch.inputs for batch in evaluation]
    assert equal(parted, whole)
    assert all(map(torch.equal, read, read_again))
    assert all(x.is_contiguous(memory_format=memory_format) for x in (*(x for x, _ in parted), *read_again))


def test_no_part_of_a_batch_is_a_single_sample(monkeypatch):
    """torch sums one large sample on several threads, in another order than two."""
    monkeypatch.setattr("effbench.data.images.batch_transform._PART", 1)
    sizes = []
    for count in range(2, 20):
        x = torch.rand(count, 2, 6, 8)
        parts: list[Tensor] = []
        assert torch.equal(PLAIN.in_parts(x.shape, lambda rows, x=x, to=parts: (to.append(x[rows]), x[rows])[1]), x)
        assert torch.equal(torch.cat(parts), x)
        sizes += map(len, parts)
    assert min(sizes) == 2


@pytest.mark.row(13)
@pytest.mark.parametrize("start", [0, 1, 5, 6])
def test_an_epoch_can_be_entered_at_any_step(start):
    options = {"augment": AUGMENTS["strong"], "num_workers": 1}
    assert equal(epoch_of(batches(**options), 1, start), epoch_of(batches(**options), 1)[start:])


def test_batches_do_not_depend_on_the_order_they_are_made_in():
    made = batches(augment=AUGMENTS["cutmix"])
    places = [(epoch, step) for epoch in (0, 1) for step in range(made.steps_per_epoch)]
    first = {place: made.make(*place).inputs for place in places}
    assert all(torch.equal(made.make(*place).inputs, first[place]) for place in reversed(places))


def test_the_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(1)
    first = epoch_of(batches(augment=AUGMENTS["cutmix"]))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert equal(first, epoch_of(batches(augment=AUGMENTS["cutmix"])))
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_augmentation_differs_by_sample_step_and_epoch():
    same_image = Split(split(1).images.expand(16, -1, -1, -1), torch.zeros(16, dtype=torch.int64))
    made = TrainBatches(same_image, batch_size=8, num_classes=K, modality=images(PLAIN, Augment(rotate=90)), seed=0)
    seen = [x for epoch in (0, 1) for inputs, _ in epoch_of(made, epoch) for x in inputs]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(seen, 2))


@pytest.mark.parametrize("augment", AUGMENTS)
def test_the_dataset_itself_is_not_touched(augment):
    made = batches(augment=AUGMENTS[augment])
    pixels, labels = made.split.images.clone(), made.split.labels.clone()
    epoch_of(made)
    list(EvalBatches(made.split, batch_size=7, modality=images(BatchTransform((0.5, 0.5), (2.0, 2.0)))))
    assert torch.equal(made.split.images, pixels)
    assert torch.equal(made.split.labels, labels)


# --- labels that are mixed


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("world_size", [1, 2])
def test_class_mass_is_the_sum_of_step_targets_over_all_ranks(world_size, augment):
    options = {"augment": AUGMENTS[augment], "accumulate": 2, "drop_last": False}
    ranks = [batches(shard=Shard(rank, world_size), **options).epoch(1) for rank in range(world_size)]
    for step, *others in zip(*ranks, strict=True):
        expected = sum(one_hot(b.targets).sum(0) for share in (step, *others) for b in share.micro_batches)
        torch.testing.assert_close(step.class_mass(), expected)
        assert float(step.class_mass().sum()) == pytest.approx(step.samples)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_makes_the_same_batches_on_a_stream_of_its_own(workers):
    on_cpu, on_gpu = (
        batches(augment=Augment(crop_padding=2, flip=0.5, mixup_alpha=0.4), num_workers=workers, transform=transform)
        for transform in (PLAIN, BatchTransform((0.0, 0.0), (1.0, 1.0), torch.device("cuda")))
    )
    for a, b in zip(on_cpu.epoch(0), on_gpu.epoch(0), strict=True):
        for here, there in zip(a.micro_batches, b.micro_batches, strict=True):
            assert there.ready is not None
            torch.testing.assert_close(there.inputs.cpu(), here.inputs)
            torch.testing.assert_close(there.targets.cpu(), here.targets)


def test_mixup_mixes_images_and_labels_by_the_same_share():
    made = batches(augment=Augment(mixup_alpha=0.4))
    for step in range(made.steps_per_epoch):
        rows, plan = made._drawn(0, step)
        images, labels = made.split.images[rows].double() / 255, torch.eye(K)[made.split.labels[rows]].double()
        share = plan["share"].double()
        batch = made.make(0, step)
        for i, partner in enumerate(plan["partner"].tolist()):
            mixed = share[i] * images[i] + (1 - share[i]) * images[partner]
            torch.testing.assert_close(batch.inputs[i].double(), mixed, atol=1e-6, rtol=0)
            mixed_label = share[i] * labels[i] + (1 - share[i]) * labels[partner]
            torch.testing.assert_close(batch.targets[i].double(), mixed_label, atol=1e-6, rtol=0)


def test_cutmix_labels_weigh_the_partner_by_the_pasted_area():
    """Every image is of one gray, its own, so that the pasted pixels can be counted."""
    count = 40
    grays = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 9, 12).contiguous()
    labels = torch.arange(count) % K
    modality = images(BatchTransform((0.0,), (1.0,)), Augment(cutmix_alpha=1.0), (1, 9, 12))
    made = TrainBatches(Split(grays, labels), batch_size=20, num_classes=K, modality=modality)
    pasted = 0
    for epoch, step in itertools.product(range(5), range(2)):
        rows = made.step_indices(epoch, step)
        batch = made.make(epoch, step)
        grays = (batch.inputs * 255).round().long().flatten(1)
        for i, own in enumerate(rows.tolist()):
            foreign = grays[i][grays[i] != own]
            assert foreign.unique().numel() <= 1
            expected = torch.zeros(K)
            expected[labels[own]] += 1 - len(foreign) / 108
            if len(foreign):
                expected[labels[foreign[0]]] += len(foreign) / 108
            torch.testing.assert_close(batch.targets[i], expected, atol=1e-6, rtol=0)
            pasted += len(foreign) > 0
    assert pasted > 100


# --- transform


def test_finish_normalises_by_channel_and_lays_out():
    x = torch.rand(4, 2, 6, 8)
    transform = BatchTransform((0.2, 0.7), (0.5, 2.0), memory_format=torch.channels_last)
    out = transform(x.clone())
    expected = (x.numpy() - [[[0.2]], [[0.7]]]) / [[[0.5]], [[2.0]]]
    assert abs(out.numpy() - expected).max() < 1e-6
    assert out.is_contiguous(memory_format=torch.channels_last)


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(1, 9))
def test_shares_are_contiguous_complete_and_even(count, world_size):
    bounds = [Shard(rank, world_size).bounds(count) for rank in range(world_size)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == count
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
    sizes = [high - low for low, high in bounds]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 0), (7, 2), (50, 0), (64, 1)])
def test_evaluation_reads_the_split_once_in_file_order(batch_size, workers):
    part = split()
    read = list(EvalBatches(part, batch_size=batch_size, modality=images(), num_workers=workers))
    torch.testing.assert_close(torch.cat([b.inputs for b in read]), part.images.float() / 255)
    assert torch.equal(torch.cat([b.targets for b in read]), part.labels)
    assert [len(b) for b in read] == [min(batch_size, 50 - i) for i in range(0, 50, batch_size)]


def test_evaluation_can_be_read_again():
    read = EvalBatches(split(), batch_size=20, modality=images())
    assert [len(b) for b in read] == [len(b) for b in read] == [20, 20, 10]


# --- preparing ahead


def numbered(place: int) -> Batch:
    return Batch(torch.tensor([place]), torch.tensor([place]))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_order_though_some_take_longer(workers):
    def make(place: int) -> Batch:
        time.sleep(0.01 * (place % 3 == 0))
        return numbered(place)

    assert [int(take().inputs) for take in prefetch(make, range(20), workers)] == list(range(20))


@pytest.mark.row(30)
@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_is_raised_where_its_batch_is_due(workers):
    def make(place: int) -> Batch:
        if place == 3:
            raise ValueError("sample 3")
        return numbered(place)

    read = prefetch(make, range(10), workers)
    assert [int(next(read)().inputs) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="sample 3"):
        next(read)()
    assert [int(take().inputs) for take in read] == list(range(4, 10))


def test_at_most_two_batches_a_worker_and_one_are_ahead():
    made = []
    read = prefetch(lambda place: (made.append(place), numbered(place))[1], range(100), 2)
    for _ in range(3):
        next(read)
    time.sleep(0.05)
    assert 3 <= len(made) <= 3 + 2 * 2 + 1
    read.close()


def test_leaving_an_epoch_early_leaves_no_thread_behind():
    before = threading.active_count()
    read = batches(num_workers=2).epoch(0)
    next(iter(next(read).micro_batches))
    read.close()
    del read
    deadline = time.monotonic() + patience(5)
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_reader_that_one_of_its_own_threads_collects_ends_them():
    """The garbage collector runs in any thread. A thread cannot join itself."""
    readers, ready = [], threading.Event()

    def make(place: int) -> int:
        ready.wait(patience(5))
        readers.clear()  # the last reference
        return place

    before = threading.active_count()
    readers.append(prefetch(make, range(10), 2))
    taken = [next(readers[0])]
    ready.set()
    assert taken[0]() == 0
    deadline = time.monotonic() + patience(5)
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


# --- batches that fail or hang


def spoilt(monkeypatch, made: TrainBatches, place: tuple[int, int, int], act) -> TrainBatches:
    """`made`, whose micro-batch `place` (epoch, step, part) calls `act` first."""
    make = made.make

    def instead(*where: int) -> Batch:
        if where == place:
            act()
        return make(*where)

    monkeypatch.setattr(made, "make", instead)
    return made


def fails() -> None:
    raise OSError(5, "Input/output error")


@pytest.mark.row(30)
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_failing_batch_is_named_by_epoch_step_and_samples(world_size, workers, monkeypatch):
    made = batches(shard=Shard(world_size - 1, world_size), accumulate=2, num_workers=workers)
    read = spoilt(monkeypatch, made, (4, 1, 1), fails).epoch(4)
    whole = made.step_indices(4, 1).tolist()
    expected = whole[8:] if world_size == 1 else whole[12:]
    list(next(read).micro_batches)
    step = next(read)
    with pytest.raises(BatchError) as caught:
        list(step.micro_batches)
    text = str(caught.value)
    assert "the batch of epoch 5, step 2 of 3" in text
    assert f"(samples {', '.join(map(str, expected))})" in text
    assert "cannot be made: OSError: [Errno 5] Input/output error" in text
    assert "resume=RUN" in text
    assert isinstance(caught.value, EffbenchError)
    read.close()


@pytest.mark.row(30)
@pytest.mark.parametrize("workers", [0, 2])
def test_failing_evaluation_batch_is_named_by_its_samples(workers, monkeypatch):
    read = EvalBatches(split(), batch_size=20, modality=images(), num_workers=workers)
    make = read._make
    monkeypatch.setattr(read, "_make", lambda start: fails() if start == 40 else make(start))
    with pytest.raises(BatchError, match=r"an evaluation \(samples 40, 41, .*, 49\) cannot be made"):
        list(read)


@pytest.mark.row(30)
def test_a_long_list_of_samples_is_cut_and_counted(monkeypatch):
    made = spoilt(monkeypatch, batches(200, batch_size=100), (0, 0, 0), fails)
    with pytest.raises(BatchError, match=r"(\d+, ){63}\d+ and 36 more\)"):
        list(next(made.epoch(0)).micro_batches)


@pytest.mark.row(29)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [0, 1, 2])
def test_retried_step_loses_no_batch_of_itself_or_the_next(taken, workers, monkeypatch):
    """Given up on before or after its first micro-batch, or because its second could not be made."""
    failures = [fails] if taken == 2 else []
    made = batches(accumulate=2, num_workers=workers)
    spoilt(monkeypatch, made, (0, 1, 1), lambda: failures and failures.pop()())
    got = []
    for number, step in enumerate(made.epoch(0)):
        if number == 1:
            with pytest.raises(BatchError) if taken == 2 else nullcontext():
                list(islice(step.micro_batches, taken))
            step = made.repeated(step)
        got += [(batch.inputs, one_hot(batch.targets)) for batch in step.micro_batches]
    assert equal(got, epoch_of(batches(accumulate=2)))


@pytest.mark.slow
@pytest.mark.row(30)
@pytest.mark.parametrize("reads", ["training", "evaluation"])
def test_hanging_batch_times_out_by_name_and_leaves_no_thread(reads, monkeypatch):
    monkeypatch.setattr(module, "GRACE_S", 0.1)
    event = threading.Event()
    if reads == "training":
        made = spoilt(monkeypatch, batches(num_workers=2, timeout_s=0.2), (0, 3, 0), event.wait)
        place, samples = "epoch 1, step 4 of 6", made.step_indices(0, 3).tolist()
        batches_read = (batch for step in made.epoch(0) for batch in step.micro_batches)
    else:
        made = EvalBatches(split(), batch_size=10, modality=images(), num_workers=2, timeout_s=0.2)
        make = made._make
        monkeypatch.setattr(made, "_make", lambda start: (start == 30 and event.wait(), make(start))[1])
        place, samples, batches_read = "an evaluation", [*range(30, 40)], iter(made)
    assert [len(next(batches_read)) for _ in range(3)]
    begun = time.monotonic()
    with pytest.raises(BatchError) as caught:
        next(batches_read)
    listed = ", ".join(map(str, samples))
    told = f"the batch of {place} (samples {listed}) took longer than data.timeout_s=0.2. Raise that"
    assert told in str(caught.value)
    del batches_read
    assert time.monotonic() - begun < patience(5)
    event.set()


@pytest.mark.row(30)
def test_a_batch_that_is_slow_but_in_time_is_waited_for():
    made = batches(num_workers=1, timeout_s=30)
    make = made.make
    made.make = lambda *place: (time.sleep(0.02), make(*place))[1]
    assert equal(epoch_of(made), epoch_of(batches()))


# --- many classes, many micro-batches


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.floats(0, 1, width=32)), min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_mixed_labels_equal_interpolated_one_hot_rows_bit_exact(samples):
    labels, partners, shares = (torch.tensor(column) for column in zip(*samples, strict=True))
    one_hot = torch.eye(K)
    expected = torch.lerp(one_hot[partners], one_hot[labels], shares.unsqueeze(1))
    assert torch.equal(mixed_labels(labels, partners, shares, K), expected)


def test_mixing_memory_is_not_quadratic_in_the_number_of_classes():
    """200,000 classes: a matrix of them all would be 160 GB."""
    made = batches(16, num_classes=200_000, augment=AUGMENTS["mixup"])
    assert made.make(0, 0).targets.shape == (8, 200_000)


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_is_drawn_once_per_step(workers, monkeypatch):
    drawn = []
    draw = Augment.draw
    monkeypatch.setattr(Augment, "draw", lambda self, count, *rest: drawn.append(count) or draw(self, count, *rest))
    made = batches(48, batch_size=2, accumulate=8, augment=AUGMENTS["mixup"], num_workers=workers)
    for step in made.epoch(0):
        step.class_mass()
        assert len(list(step.micro_batches)) == 8
        assert len(list(made.repeated(step).micro_batches)) == 8
    assert drawn == [16, 16, 16]
