"""Fashion-MNIST: the embedded subset is what it says it is, the whole set is read right, damage is named.

White-box: lowers a limit, and names the embedded files.
"""

from __future__ import annotations

import gzip
import hashlib
import random
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from effbench.data.images import fashion_mnist as module
from effbench.data.images.embedded import make_subset
from effbench.data.images.fashion_mnist import CLASSES, EMBEDDED, SYSTEM_FOLDER, fashion_mnist, read_folder
from effbench.errors import ConfigError, DataError

needs_full_set = pytest.mark.skipif(not SYSTEM_FOLDER.is_dir(), reason=f"no Fashion-MNIST in {SYSTEM_FOLDER}")
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


def idx(array: np.ndarray) -> bytes:
    """The format as http://yann.lecun.com/exdb/mnist describes it."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", size) for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_set(folder: Path, train: int = 40, test: int = 20) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        TRAIN_IMAGES: rng.integers(0, 256, (train, 28, 28)),
        TRAIN_LABELS: np.arange(train) % 10,
        TEST_IMAGES: rng.integers(0, 256, (test, 28, 28)),
        TEST_LABELS: np.arange(test) % 10,
    }
    for name, array in arrays.items():
        (folder / name).write_bytes(gzip.compress(idx(array), 1))
    return arrays


@pytest.fixture(scope="module")
def embedded():
    return fashion_mnist()


# --- the embedded subset


def test_the_embedded_file_has_the_sha256_beside_it():
    stated, name = EMBEDDED.with_suffix(".npz.sha256").read_text().split()
    assert name == EMBEDDED.name
    assert hashlib.sha256(EMBEDDED.read_bytes()).hexdigest() == stated


def test_the_embedded_subset_is_balanced_in_every_split(embedded):
    counts = {which: torch.bincount(part.labels).tolist() for which, part in embedded.named().items()}
    assert counts == {"train": [540] * 10, "val": [60] * 10, "test": [200] * 10}
    assert embedded.shape == (1, 28, 28)
    assert (embedded.name, embedded.classes) == ("fashion_mnist/embedded", CLASSES)
    assert len(CLASSES) == 10


def test_train_and_val_partition_the_embedded_train_set(embedded):
    keys = [{image.numpy().tobytes() for image in part.images} for part in (embedded.train, embedded.val)]
    assert not keys[0] & keys[1]
    with np.load(EMBEDDED) as archive:
        assert keys[0] | keys[1] == {image.tobytes() for image in archive["train_images"]}
        assert torch.equal(embedded.test.images[:, 0], torch.from_numpy(archive["test_images"]))
        assert embedded.test.labels.tolist() == archive["test_labels"].tolist()


def test_labels_name_what_the_images_show(embedded):
    """A list of classes in another order would show: bags are widest, sandals lightest, dresses tall and narrow."""
    images, labels = embedded.train.images, embedded.train.labels
    mean = {name: (images[labels == i] > 60).float().mean((0, 1)) for i, name in enumerate(CLASSES)}
    width = {name: int((ink.mean(0) > 0.3).sum()) for name, ink in mean.items()}
    height = {name: int((ink.mean(1) > 0.3).sum()) for name, ink in mean.items()}
    weight = {name: float(ink.mean()) for name, ink in mean.items()}
    assert max(width, key=width.get) == "Bag"
    assert sorted(weight, key=weight.get)[:3] == ["Sandal", "Sneaker", "Trouser"]
    assert max(height, key=lambda name: height[name] / width[name] if width[name] > 5 else 0) == "Dress"
    assert weight["Pullover"] == max(weight.values())


def test_the_validation_split_follows_its_seed_and_fraction(embedded):
    def val(**options):
        return fashion_mnist(**options).val

    assert torch.equal(val().images, embedded.val.images)
    assert not torch.equal(val(split_seed=1).images, embedded.val.images)
    assert torch.bincount(val(val_fraction=0.25).labels).tolist() == [150] * 10


def test_the_digest_names_the_content_not_the_division(embedded):
    assert fashion_mnist(split_seed=1, val_fraction=0.5).sha256 == embedded.sha256
    assert len(embedded.sha256) == 64


def test_image_size_resizes_every_split_as_torchvision_does(embedded):
    larger = fashion_mnist(image_size=32)
    for which, part in larger.named().items():
        before = embedded.named()[which]
        assert part.images.shape == (len(before), 1, 32, 32)
        assert torch.equal(part.labels, before.labels)
    expected = tv.resize(embedded.val.images, [32, 32], antialias=True)
    assert (larger.val.images.int() - expected.int()).abs().max() <= 1


def test_a_flipped_bit_in_the_embedded_file_is_named(tmp_path, monkeypatch):
    for path in (EMBEDDED, EMBEDDED.with_suffix(".npz.sha256")):
        shutil.copy(path, tmp_path)
    copy = tmp_path / EMBEDDED.name
    content = bytearray(copy.read_bytes())
    content[random.Random(0).randrange(len(content))] ^= 4
    copy.write_bytes(content)
    monkeypatch.setattr(module, "EMBEDDED", copy)
    with pytest.raises(DataError, match=rf"{copy} is damaged: its sha256 is not .*Install effbench again"):
        fashion_mnist()


# --- the whole set


def test_a_folder_of_idx_files_is_read_to_the_pixel(tmp_path):
    arrays = write_set(tmp_path)
    data = fashion_mnist(root=str(tmp_path), subset="full", val_fraction=0.5)
    assert data.name == "fashion_mnist/full"
    assert [len(part) for part in data.named().values()] == [20, 20, 20]
    assert (data.test.images[:, 0].numpy() == arrays[TEST_IMAGES]).all()
    assert (data.test.labels.numpy() == arrays[TEST_LABELS]).all()
    images = [image.astype(np.uint8).tobytes() for image in arrays[TRAIN_IMAGES]]
    by_bytes = dict(zip(images, arrays[TRAIN_LABELS], strict=True))
    for part in (data.train, data.val):
        assert [by_bytes[image.numpy().tobytes()] for image in part.images] == part.labels.tolist()


@needs_full_set
def test_the_full_set_has_60000_and_10000_balanced_images():
    data = fashion_mnist(subset="full")
    counts = {which: torch.bincount(part.labels).tolist() for which, part in data.named().items()}
    assert counts == {"train": [5400] * 10, "val": [600] * 10, "test": [1000] * 10}


@needs_full_set
def test_make_subset_reproduces_the_shipped_bytes():
    assert hashlib.sha256(make_subset.make(SYSTEM_FOLDER)).digest() == hashlib.sha256(EMBEDDED.read_bytes()).digest()


def test_the_subset_is_the_first_of_each_class():
    labels = np.array([1, 0, 0, 1, 0, 2, 1])
    assert make_subset.first_of_each_class(labels, 2).tolist() == [0, 1, 2, 3, 5]


# --- damage


def damaged(folder: Path, name: str, content: bytes) -> None:
    write_set(folder)
    (folder / name).write_bytes(content)


GOOD = idx(np.zeros((40, 28, 28)))
DAMAGE = {
    "empty": b"",
    "text": b"404 not found",
    "not compressed": GOOD,
    "cut archive": gzip.compress(GOOD)[:60],
    "flipped archive": gzip.compress(GOOD)[:-6] + b"\0" * 6,
    "labels in place of images": gzip.compress(idx(np.zeros(40))),
    "short": gzip.compress(GOOD[:-1]),
    "long": gzip.compress(GOOD + b"\0"),
    "header only": gzip.compress(GOOD[:10]),
    "floats": gzip.compress(bytes([0, 0, 13, 3]) + GOOD[4:]),
    "wrong count": gzip.compress(idx(np.zeros((39, 28, 28)))),
    "more than labels": gzip.compress(idx(np.zeros((41, 28, 28)))),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_named(kind, tmp_path):
    damaged(tmp_path, TRAIN_IMAGES, DAMAGE[kind])
    with pytest.raises(DataError, match=rf"{tmp_path / TRAIN_IMAGES}"):
        fashion_mnist(root=str(tmp_path), subset="full")


@pytest.mark.row(35)
def test_a_label_beyond_the_classes_is_named(tmp_path):
    damaged(tmp_path, TEST_LABELS, gzip.compress(idx(np.full(20, 10))))
    with pytest.raises(DataError, match=r"fashion_mnist/full test sample 0 has label 10"):
        fashion_mnist(root=str(tmp_path), subset="full")


@pytest.mark.parametrize("missing", [[TEST_LABELS], [TRAIN_IMAGES, TRAIN_LABELS]])
def test_missing_files_are_listed_with_the_way_to_get_them(missing, tmp_path):
    write_set(tmp_path)
    for name in missing:
        (tmp_path / name).unlink()
    with pytest.raises(DataError) as caught:
        read_folder(tmp_path)
    assert f"missing: {', '.join(missing)}" in str(caught.value)
    assert "dataset-fashion-mnist" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


# --- options


def test_another_subset_is_refused():
    with pytest.raises(ConfigError, match=r"data\.subset must be 'embedded' or 'full'; got 'half'"):
        fashion_mnist(subset="half")


def test_a_folder_beside_the_embedded_subset_is_refused(tmp_path):
    """`effbench train data.root=photos` would train on Fashion-MNIST without a word."""
    with pytest.raises(ConfigError) as caught:
        fashion_mnist(root=str(tmp_path))
    assert f"data.root={tmp_path} has no use with data.subset=embedded" in str(caught.value)
    assert "data=image_folder data.root=...; for all of Fashion-MNIST add data.subset=full." in str(caught.value)


def test_a_validation_fraction_of_0_leaves_no_validation_split():
    data = fashion_mnist(val_fraction=0)
    assert data.val is None
    assert len(data.train) == 6000


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5])
def test_a_validation_fraction_out_of_range_is_named(fraction):
    with pytest.raises(ConfigError, match=rf"data\.val_fraction must be a number in \[0, 1\); got {fraction}"):
        fashion_mnist(val_fraction=fraction)


@pytest.mark.parametrize("size", [0, -3])
def test_an_image_size_below_1_is_named(size):
    with pytest.raises(ConfigError, match=rf"data\.image_size must be .*at least 1.*; got {size}"):
        fashion_mnist(image_size=size)


def test_a_file_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FILE_LIMIT", 1_000_000)
    for names in module._FILES.values():
        for name in names:
            (tmp_path / name).write_bytes(gzip.compress(bytes(3_000_000)))
    with pytest.raises(DataError, match=r"ubyte\.gz unpacks to more than the limit of 1,000,000 bytes"):
        read_folder(tmp_path)
