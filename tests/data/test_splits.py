"""What a dataset must be, and how it is divided and measured, against numpy."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from effbench.data.images.pixels import channel_statistics, resized
from effbench.data.images.synthetic import synthetic
from effbench.data.splits import (
    Split,
    Splits,
    digest,
    hold_out,
    representative_sample,
    stratified,
)
from effbench.errors import ConfigError, DataError
from effbench.metrics import Accuracy
from effbench.tasks.classification import Classification
from effbench.tasks.losses import CrossEntropy


def split(count: int, shape=(1, 2, 2), classes: int = 3) -> Split:
    images = torch.arange(count * np.prod(shape)).remainder(251).to(torch.uint8).view(count, *shape)
    return Split(images, torch.arange(count) % classes)


def splits(train: Split, val: Split | None = None, test: Split | None = None) -> Splits:
    return Splits("toy", train, val, test, ("a", "b", "c"), "")


# --- what is refused


@pytest.mark.row(35)
@pytest.mark.parametrize("which", ["train", "val", "test"])
@pytest.mark.parametrize("label", [-1, 3, 255])
def test_a_label_out_of_range_is_named_with_its_sample_and_split(which, label):
    good, bad = split(6), split(6)
    bad.labels[4] = label
    bad.labels[5] = label
    parts = {"train": good, "val": good, "test": good, which: bad}
    with pytest.raises(DataError, match=rf"toy {which} sample 4 has label {label}, outside \[0, 3\).*2 such"):
        Splits("toy", **parts, classes=("a", "b", "c"), sha256="x")


@pytest.mark.row(34)
def test_an_empty_split_is_named():
    with pytest.raises(DataError, match="toy val holds no images"):
        splits(split(3), Split(torch.zeros(0, 1, 2, 2, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)))


@pytest.mark.parametrize(
    "images", [torch.zeros(3, 1, 2, 2), torch.zeros(3, 2, 2).byte(), torch.zeros(4, 1, 2, 2).byte()]
)
def test_images_of_another_type_rank_or_number_are_named(images):
    with pytest.raises(DataError, match=r"toy train must be uint8 \(N, C, H, W\) with N labels; got .* 3 labels"):
        splits(Split(images, torch.zeros(3, dtype=torch.int64)))


@pytest.mark.row(65)
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.tensor([0.0, 1.0, 2.0]), r"float32 \(3,\), sample 0: 0\.0.*labels\.long\(\)"),
        (np.array([1.0, 0.25, 2.0]), r"float64 \(3,\), sample 1: 0\.25.*regression"),
        (torch.eye(3, dtype=torch.int64), r"int64 \(3, 3\), sample 0: \[1, 0, 0\].*argmax\(1\)"),
        (torch.eye(3), r"float32 \(3, 3\).*argmax\(1\)"),
        (torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0]]), r"int64 \(3, 3\), sample 0: \[1, 1, 0\].*multilabel"),
        (torch.tensor([[0], [1], [2]]), r"int64 \(3, 1\), sample 0: \[0\].*squeeze\(1\)"),
        (torch.tensor(1), r"int64 \(\)"),
        (["a", "b", "c"], "must be a tensor or an array; got list"),
        (torch.tensor([1, 2, 3]), r"sample 2 has label 3, outside \[0, 3\).*labels - 1"),
        (np.array([0, 200, 1], dtype=np.uint8), r"sample 1 has label 200, outside \[0, 3\)"),
    ],
)
@pytest.mark.parametrize("which", ["train", "val"])
def test_labels_of_wrong_type_rank_or_range_are_refused(which, labels, said):
    parts = {"train": split(3), "val": split(3), which: Split(split(3).images, labels)}
    task = Classification(CrossEntropy(), [Accuracy()], 3)
    with pytest.raises(DataError, match=rf"^toy {which} .*{said}"):
        task.checked(splits(**parts))


@pytest.mark.row(65)
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.uint16, np.bool_, list])
def test_arrays_lists_and_other_integers_are_taken_for_tensors(kind):
    good, values = split(4), [0, 1, 1, 0]
    labels = values if kind is list else np.array(values, dtype=kind)
    images = good.images.numpy()
    made = splits(Split(list(images) if kind is list else images, labels))
    assert made.train.labels.dtype == torch.int64
    assert made.train.labels.tolist() == values
    assert torch.equal(made.train.images, good.images)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(3, 1, 2, 2), r"\(images \* 255\)\.round\(\)"),
        (torch.zeros(3, 2, 2).byte(), r"unsqueeze\(1\)"),
        (torch.full((3, 1, 2, 2), 300), r"int64 .*clamp\(0, 255\)"),
    ],
)
def test_images_of_another_kind_are_refused_with_what_to_give(images, said):
    with pytest.raises(DataError, match=said):
        splits(Split(images, torch.zeros(3, dtype=torch.int64)))


def test_splits_of_different_shapes_are_refused():
    with pytest.raises(DataError, match=r"toy test holds images of \(C, H, W\) \(1, 3, 2\), train of \(1, 2, 2\)"):
        splits(split(3), test=split(3, (1, 3, 2)))


@pytest.mark.parametrize("classes", ["abc", 3, ()])
def test_classes_that_are_no_names_are_refused(classes):
    with pytest.raises(DataError, match="toy classes must be the names"):
        Splits("toy", split(3), None, None, classes, "")


def test_splits_that_do_not_exist_are_left_out():
    assert list(splits(split(3)).named()) == ["train"]
    assert splits(split(3, (2, 5, 7))).shape == (2, 5, 7)


# --- dividing

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(torch.tensor)


@settings(deadline=None)
@given(LABELS, st.lists(st.integers(0, 10), min_size=5, max_size=5), st.integers(0, 3))
def test_stratified_draws_the_requested_count_of_each_class(labels, wanted, seed):
    indices = stratified(labels, dict(enumerate(wanted)), seed)
    available = np.bincount(labels, minlength=5)
    assert np.bincount(labels[indices], minlength=5).tolist() == np.minimum(available, wanted).tolist()
    assert indices.tolist() == sorted(set(indices.tolist()))
    assert torch.equal(indices, stratified(labels, dict(enumerate(wanted)), seed))


def test_stratified_draws_every_sample_with_equal_probability():
    labels = torch.arange(40) % 2
    counts = np.zeros(40)
    for seed in range(1000):
        counts[stratified(labels, {0: 5, 1: 10}, seed)] += 1
    expected = np.where(np.arange(40) % 2, 500, 250)
    assert np.abs(counts - expected).max() < 4.5 * np.sqrt(500 * 0.5)


@pytest.mark.slow
@settings(deadline=None)
@given(LABELS, st.floats(0, 1), st.integers(0, 3))
def test_hold_out_takes_a_fraction_per_class_and_keeps_the_order(labels, fraction, seed):
    whole = Split(torch.arange(len(labels)).to(torch.uint8).view(-1, 1, 1, 1), labels)
    rest, held = hold_out(whole, fraction, seed)
    ids = [part.images.flatten().tolist() for part in (rest, held)]
    assert sorted(ids[0] + ids[1]) == list(range(len(labels)))
    assert all(numbers == sorted(numbers) for numbers in ids)
    assert all(torch.equal(part.labels, labels[numbers]) for part, numbers in zip((rest, held), ids, strict=True))
    for label, count in enumerate(np.bincount(labels)):
        taken = int((held.labels == label).sum())
        expected = min(max(round(count * fraction), 1), count - 1) if count > 1 else 0
        assert taken == expected, "both sides keep one of every class with two or more"


def test_hold_out_draws_by_its_seed():
    whole = split(60)
    drawn = [tuple(hold_out(whole, 0.5, seed)[1].images.flatten().tolist()) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.slow
@pytest.mark.row(52)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(any),
    share=st.floats(0, 1),
    shuffled=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_sample_holds_each_class_in_proportion_and_at_least_once(sizes, share, shuffled):
    labels = torch.tensor([label for label, size in enumerate(sizes) for _ in range(size)])
    if shuffled:
        labels = labels[torch.randperm(len(labels))]
    count, present = max(1, round(share * len(labels))), sum(size > 0 for size in sizes)
    rows = representative_sample(labels, count)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == count
    taken = np.bincount(labels[rows], minlength=len(sizes))
    if count < present:
        assert taken.max() == 1
        return
    quota = count * np.array(sizes) / len(labels)
    assert all(taken[np.array(sizes) > 0] >= 1)
    if min(size * count / len(labels) for size in sizes if size) >= 1:
        assert abs(taken - quota).max() < 1


def test_a_sample_does_not_change():
    labels = torch.arange(1000) % 7
    first = representative_sample(labels, 40)
    torch.manual_seed(5)
    assert torch.equal(representative_sample(labels, 40), first)


def test_take_returns_a_copy():
    whole = split(6)
    part = whole.take(torch.tensor([1, 2]))
    part.images.zero_()
    assert whole.images[1:3].any()


# --- measuring


def reference_statistics(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    values = images.numpy().astype(np.float64) / 255
    return values.mean((0, 2, 3)), values.std((0, 2, 3))


@pytest.mark.parametrize("count", [1, 7, 512, 513, 1300])
def test_channel_statistics_are_numpys(count):
    images = torch.randint(0, 256, (count, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images[:, 1] //= 7
    np.testing.assert_allclose(channel_statistics(images), reference_statistics(images), rtol=1e-9)


def test_channel_statistics_of_many_images_use_an_even_subsample():
    images = torch.randint(0, 256, (1003, 1, 2, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    expected = reference_statistics(images[::11])
    np.testing.assert_allclose(channel_statistics(images, at_most=100), expected, rtol=1e-9)


@pytest.mark.parametrize("value", [0, 1, 100, 255])
def test_constant_channel_has_std_1(value):
    mean, std = channel_statistics(torch.full((600, 2, 3, 3), value, dtype=torch.uint8))
    assert mean == pytest.approx([value / 255] * 2)
    assert std == [1.0, 1.0]


def test_a_digest_is_the_sha256_of_the_bytes_in_order():
    a, b = torch.arange(6, dtype=torch.uint8).view(2, 3), torch.arange(4)
    expected = hashlib.sha256(bytes(range(6)) + np.arange(4).tobytes()).hexdigest()
    assert digest(a, b) == expected != digest(b, a)
    assert digest(a.t()) == digest(a.t().contiguous())


# --- resizing


@pytest.mark.parametrize("size", [4, 8, 20])
def test_resizing_is_torchvisions_with_antialias(size):
    noise = torch.randint(0, 256, (1030, 2, 9, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    part = Split(noise, torch.arange(1030) % 3)
    out = resized(splits(part, part.take(torch.arange(5)), part.take(torch.arange(3))), size)
    expected = tv.resize(noise, [size, size], antialias=True)
    assert (out.train.images.int() - expected.int()).abs().max() <= 1
    assert torch.equal(out.train.labels, part.labels)
    assert (out.val.images.shape, out.test.images.shape) == ((5, 2, size, size), (3, 2, size, size))
    assert out.train.images.dtype == torch.uint8
    assert out.classes == ("a", "b", "c")


def test_images_of_the_requested_size_are_not_resized():
    same = splits(split(3, (1, 6, 6)))
    assert resized(same, 6) is same


# --- synthetic


def test_synthetic_images_are_the_class_prototype_plus_noise():
    data = synthetic(40, 8, 12, channels=1, image_size=6, num_classes=4, noise=0.0)
    assert [len(part) for part in data.named().values()] == [40, 8, 12]
    assert data.shape == (1, 6, 6)
    prototypes = data.train.images[:4]
    for part in data.named().values():
        assert torch.equal(part.images, prototypes[part.labels])
    assert torch.bincount(data.train.labels).tolist() == [10] * 4


def test_synthetic_images_are_the_same_in_any_parts():
    """40 images of 3 x 200 x 200 are made in parts of 8."""
    data = synthetic(40, 1, 1, image_size=200, num_classes=4, noise=0.25)
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randint(0, 256, (4, 3, 200, 200), generator=generator, dtype=torch.uint8)
    noise = torch.randint(0, 256, (40, 3, 200, 200), generator=generator, dtype=torch.uint8)
    expected = torch.lerp(prototypes.repeat(10, 1, 1, 1).float(), noise.float(), 0.25).round()
    assert torch.equal(data.train.images.float(), expected)


def test_synthetic_data_follow_their_seed():
    a, b, c = (synthetic(8, 2, 2, image_size=4, split_seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a.train.images, b.train.images)
    assert not torch.equal(a.train.images, c.train.images)
    assert a.sha256 == b.sha256 != c.sha256


def test_noise_1_hides_the_prototype():
    noisy = synthetic(2000, 1, 1, 1, 2, 2, noise=1.0).train.images.float()
    assert (noisy[::2].mean(0) - noisy[1::2].mean(0)).abs().max() < 15


@pytest.mark.row(34)
@pytest.mark.parametrize("option", ["num_train", "num_val", "num_test", "image_size", "num_classes"])
def test_a_synthetic_dataset_of_nothing_is_refused(option):
    with pytest.raises(ConfigError, match=rf"\b{option}\b.* at least .*; got .*\b0\b"):
        synthetic(**{option: 0})


def test_splits_that_would_fail_after_training_are_refused_early() -> None:
    images, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4) % 2

    def mine(images: Tensor = images, classes: Any = ("a", "b"), sha256: Any = "x") -> Splits:
        return Splits("mine", Split(images, labels), val=None, test=None, classes=classes, sha256=sha256)

    for digest_of_it in (None, b"x", 3):
        with pytest.raises(DataError, match="mine sha256 must be text that names the content, such as digest"):
            mine(sha256=digest_of_it)
    with pytest.raises(DataError, match=r"mine classes must differ; numbers 1 and 2 \(from 0\) are named '1'.*columns"):
        mine(classes=("0", "1", 1))
    with pytest.raises(DataError, match=r"seem to be \(N, H, W, C\). Give images.permute\(0, 3, 1, 2\)"):
        mine(images.permute(0, 2, 3, 1))
    assert mine(images[..., :3]).shape == (3, 8, 3)
