"""Arms of the data rows: batches made and thrown away, ours and torchvision's; a slice is seconds an image."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.turns import Turns
from effbench.training.malloc import keeping_freed_memory

THREADS = 2
SLICE_S = 1.0  # what a peer's workers finish between a slice's end and their being stopped is a thousandth of it
WARM_S = 0.3
IMAGES, CLASSES = 20_000, 10  # 61 MB at 32 pixels: twice the processor's last cache
BATCH, FOLDER_BATCH = 128, 32
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
BASIC = {"crop_padding": 4, "flip": 0.5}
STRONG = {
    **BASIC, "shift": 0.06, "scale": 0.1, "rotate": 15.0, "brightness": 0.2, "contrast": 0.2, "dropout_holes": 1,
    "dropout_size": 0.3,
}  # fmt: skip
FOLDER_PADDING = 16
ENDLESS = 10**9  # samples


def resident(count: int = IMAGES, size: int = 32) -> tuple[Tensor, Tensor]:
    """uint8 images and their labels, in memory."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count) % CLASSES


# --- ours


def images_per_second(seconds: float) -> str:
    return f"{1 / seconds:,.0f} images/s"


def batches(images: Tensor, labels: Tensor, augment: dict[str, Any], batch: int = BATCH, workers: int = 0) -> Any:
    from effbench.data.batches import TrainBatches
    from effbench.data.images.augment import Augment
    from effbench.data.images.batch_transform import BatchTransform
    from effbench.data.images.modality import Images
    from effbench.data.splits import Split

    modality = Images(images.shape[1:], BatchTransform(MEAN, STD), Augment(**augment))
    return TrainBatches(
        Split(images, labels), batch_size=batch, num_classes=CLASSES, modality=modality, num_workers=workers
    )


def inputs_of(made: Any, epoch: int) -> Iterator[Tensor]:
    return (batch.inputs for step in made.epoch(epoch) for batch in step.micro_batches)


def ours(turns: Turns, augment: dict[str, Any], workers: int = 0) -> None:
    torch.set_num_threads(THREADS)
    made = batches(*resident(), augment, workers=workers)
    drain(turns, lambda epoch: inputs_of(made, epoch))


def ours_folder(turns: Turns, root: str, cache: str) -> None:
    """Epochs after the first: from the cache, which is made before the clock runs."""
    torch.set_num_threads(THREADS)
    made = folder_batches(root, cache)
    drain(turns, lambda epoch: inputs_of(made, epoch))


def folder_batches(root: str, cache: str) -> Any:
    from effbench.data.images.image_folder import image_folder

    train = image_folder(root, 224, val_fraction=0.0, test_fraction=0.0, cache_dir=cache).train
    return batches(train.images, train.labels, {"crop_padding": FOLDER_PADDING, "flip": 0.5}, FOLDER_BATCH)


def ours_first_epoch(turns: Turns, root: str) -> None:
    """A slice: seconds an image of finding, decoding and writing all of them, and of one epoch of batches."""
    torch.set_num_threads(THREADS)

    def epoch(_: int) -> Iterator[Tensor]:
        with tempfile.TemporaryDirectory() as cache:
            yield from inputs_of(folder_batches(root, cache), 0)

    whole_epochs(turns, epoch)


# --- torchvision's


def peer(turns: Turns, kind: str, workers: int) -> None:
    """A Dataset of decoded images, a transform for each: the tutorials' way with v2."""
    torch.set_num_threads(THREADS)
    images, labels = resident()
    loader = load_exported(PerSample(images, labels, TRANSFORMS[kind]()), BATCH, workers)
    drain(turns, lambda _: (inputs for inputs, _ in loader))


def peer_folder(turns: Turns, root: str, kind: str, workers: int) -> None:
    torch.set_num_threads(THREADS)
    loader = load_exported(_folder(root, kind), FOLDER_BATCH, workers)
    drain(turns, lambda _: (inputs for inputs, _ in loader))


def peer_first_epoch(turns: Turns, root: str, kind: str, workers: int) -> None:
    """A slice: seconds an image of an epoch, its workers already running."""
    torch.set_num_threads(THREADS)
    dataset = _folder(root, kind)
    loader = load_exported(dataset, FOLDER_BATCH, workers, len(dataset))
    whole_epochs(turns, lambda _: (inputs for inputs, _ in loader))


def _folder(root: str, kind: str) -> Any:
    from torchvision.datasets import ImageFolder

    return ImageFolder(root, TRANSFORMS[kind]())


def load_exported(dataset: Any, batch: int, workers: int, samples: int = ENDLESS) -> Any:
    """Shuffled epochs one after the other without a seam, where its workers would wait for one another."""
    from torch.utils.data import DataLoader, RandomSampler

    sampler = RandomSampler(dataset, num_samples=samples)
    return DataLoader(
        dataset, batch, sampler=sampler, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )  # fmt: skip


class PerSample(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self, images: Tensor, labels: Tensor, transform: Callable[[Tensor], Tensor]):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def _basic() -> Any:
    from torchvision.transforms import v2

    return v2.Compose([
        v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ])  # fmt: skip


def _strong() -> Any:
    """In floats from the affine map on: on bytes each of the three would turn them into floats and back."""
    from torchvision.transforms import v2

    return v2.Compose([
        v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True),
        v2.RandomAffine(15, translate=(0.06, 0.06), scale=(0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR),
        v2.ColorJitter(brightness=0.2, contrast=0.2), v2.RandomErasing(p=1.0, scale=(0.002, 0.09)),
        v2.Normalize(MEAN, STD),
    ])  # fmt: skip


def _finished(*first: Any) -> Any:
    from torchvision.transforms import v2

    return v2.Compose([
        *first, v2.RandomHorizontalFlip(), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ])  # fmt: skip


def _resized_crop() -> Any:
    from torchvision.transforms import v2

    return _finished(v2.RandomResizedCrop(224))


def _same_crop() -> Any:
    """Ours: the central square, then a crop of the old size out of its padded form."""
    from torchvision.transforms import v2

    return _finished(v2.Resize(224), v2.CenterCrop(224), v2.RandomCrop(224, padding=FOLDER_PADDING))


TRANSFORMS: dict[str, Callable[[], Any]] = {
    "basic": _basic, "strong": _strong, "resized_crop": _resized_crop, "same_crop": _same_crop,
}  # fmt: skip


# --- the clock


def drain(turns: Turns, epoch: Callable[[int], Iterable[Tensor]]) -> None:
    """Endless epochs in slices of SLICE_S or a little more, each after a while untimed: another arm had the caches.

    Freed memory is kept, as in a training of ours: without, glibc returns it in some processes and keeps it in others.
    """
    with keeping_freed_memory(torch.device("cpu")):
        _drain(turns, epoch)


def _drain(turns: Turns, epoch: Callable[[int], Iterable[Tensor]]) -> None:
    stream = itertools.chain.from_iterable(map(epoch, itertools.count()))
    for _ in range(3):
        next(stream)
    turns.lap()
    while True:
        begun = time.perf_counter()
        while time.perf_counter() - begun < WARM_S:
            next(stream)
        seen, begun = 0, time.perf_counter()
        while (taken := time.perf_counter() - begun) < SLICE_S or not seen:
            seen += len(next(stream))
        turns.lap(taken / seen)


def whole_epochs(turns: Turns, epoch: Callable[[int], Iterable[Tensor]]) -> None:
    """A slice is an epoch; the first warms up. Freed memory is kept here, too."""
    with keeping_freed_memory(torch.device("cpu")):
        for number in itertools.count():
            begun = time.perf_counter()
            seen = sum(map(len, epoch(number)))
            turns.lap((time.perf_counter() - begun) / seen)


# --- files


def write_photographs(root: Path, count: int, width: int = 500, height: int = 375) -> None:
    """JPEG files of quality 90 in folders of ten classes, with a photograph's statistics as far as a decoder sees them:
    smooth shapes in colour, an enlarged garment of Fashion-MNIST, and texture, some 100 kB each."""
    from PIL import Image

    from effbench.data.images.fashion_mnist import fashion_mnist

    garments = fashion_mnist().train.images
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        scales = (4, 16, 64)
        fields = [torch.rand(1, 3, 3 * side // 4, side, generator=generator) for side in scales]
        garment = garments[number : number + 1].float() / 255
        parts = [torch.nn.functional.interpolate(part, (height, width), mode="bicubic") for part in (*fields, garment)]
        texture = torch.randn(1, 1, height, width, generator=generator)
        picture = 0.5 * parts[0] + 0.2 * parts[1] + 0.15 * parts[2] + 0.25 * parts[3] + 0.03 * texture
        pixels = picture[0].clamp(0, 1).mul(255).byte().permute(1, 2, 0).numpy()
        folder = root / f"class_{number % CLASSES}"
        folder.mkdir(exist_ok=True, parents=True)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)


def write_images(path: Path, count: int) -> None:
    """A .npy of `count` 32-pixel images, random ones over and over."""
    block = np.random.default_rng(0).integers(0, 256, (1000, 3, 32, 32), dtype=np.uint8)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 3, 32, 32))
    for start in range(0, count, len(block)):
        images[start : start + len(block)] = block[: count - start]
    images.flush()


def mapped(path: str) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(np.load(path, mmap_mode="c"))
    return images, torch.arange(len(images)) % CLASSES


def ours_mapped(turns: Turns, path: str) -> None:
    torch.set_num_threads(THREADS)
    made = batches(*mapped(path), BASIC)
    drain(turns, lambda epoch: inputs_of(made, epoch))


def first_batch(turns: Turns, path: str) -> None:
    """A slice: seconds from the file's name to the first batch."""
    torch.set_num_threads(THREADS)
    while True:
        begun = time.perf_counter()
        next(inputs_of(batches(*mapped(path), BASIC), 0))
        turns.lap(time.perf_counter() - begun)


def own_bytes(turns: Turns, path: str, images: int) -> None:
    """A slice: the process's own resident bytes (without the file's pages, which are the kernel's to drop)."""
    torch.set_num_threads(THREADS)
    made = batches(*mapped(path), BASIC)
    stream = itertools.chain.from_iterable(inputs_of(made, epoch) for epoch in itertools.count())
    while True:
        for _ in itertools.islice(stream, images // BATCH):
            pass
        turns.lap(float(_status_kb("RssAnon")) * 1024)


def _status_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
