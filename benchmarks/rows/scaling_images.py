"""The batch pipeline over memory-mapped datasets of growing size."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.alternate import Arm, rounds
from benchmarks.arms_data import images_per_second, write_images
from benchmarks.figures import Figure, figure, milliseconds, over

TITLE = "Images in the dataset: 32-pixel RGB, memory-mapped"
SIZES = {"1k": 1_000, "10k": 10_000, "100k": 100_000, "1M": 1_000_000}
OWN_BYTES = "<= 1.2"  # an order of int64 and the labels grow with the dataset: 16 MB at a million
NOTE = (
    "The file (3 GB at a million images) lay in the kernel's cache. Resident bytes are the process's own after a pass; "
    "pages of the file, which the kernel drops when it needs room, are not among them."
)


def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.npy" for name in SIZES}
        for name, count in SIZES.items():
            write_images(paths[name], count)
        return _measured({name: str(path) for name, path in paths.items()})


def _measured(paths: dict[str, str]) -> list[Figure]:
    figures = []
    speed = rounds(_arms("ours_mapped", paths), 12, 3)
    first = rounds(_arms("first_batch", paths), 12, 3)
    memory = rounds([_own_bytes(name, path) for name, path in paths.items()], 3, 3, parts=1)
    for name in list(SIZES)[1:]:
        figures.append(figure(f"images/s: {name} / 1k", speed, over("1k", name), "", images_per_second, NOTE))
        figures.append(figure(f"time to the first batch: {name} / 1k", first, over(name, "1k"), "", milliseconds, NOTE))
        figures.append(figure(f"resident bytes: {name} / 1k", memory, over(name, "1k"), OWN_BYTES, _megabytes, NOTE))
    return figures


def _arms(function: str, paths: dict[str, str]) -> list[Arm]:
    return [Arm(name, f"benchmarks.arms_data:{function}", {"path": path}) for name, path in paths.items()]


def _own_bytes(name: str, path: str) -> Arm:
    return Arm(name, "benchmarks.arms_data:own_bytes", {"path": path, "images": SIZES[name]})


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.0f} MB"
