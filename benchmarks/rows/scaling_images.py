"""The batch pipeline over memory-mapped datasets of growing size."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.alternate import Arm, Round, rounds
from benchmarks.arms_data import write_images
from benchmarks.figures import Figure, figure, over
from benchmarks.scaling import Point, points

TITLE = "Batches of 32-pixel RGB images by size of the dataset, memory-mapped"
ACROSS = "images in the dataset"
SIZES = {"1k": 1_000, "10k": 10_000, "100k": 100_000, "1M": 1_000_000}
OWN_BYTES = "<= 1.2"  # an order of int64 and the labels grow with the dataset: 16 MB at a million
NOTE = (
    "The file (3 GB at a million images) lay in the kernel's cache. Resident bytes are the process's own after a pass; "
    "pages of the file, which the kernel drops when it needs room, are not among them."
)


def measure() -> list[Figure | Point]:
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.npy" for name in SIZES}
        for name, count in SIZES.items():
            write_images(paths[name], count)
        return _measured({name: str(path) for name, path in paths.items()})


def _measured(paths: dict[str, str]) -> list[Figure | Point]:
    speed = rounds(_arms("ours_mapped", paths), 12, 3)
    first = rounds(_arms("first_batch", paths), 12, 3)
    memory = rounds([_own_bytes(name, path) for name, path in paths.items()], 3, 3, parts=1)
    found: list[Figure | Point] = []
    for name, size in SIZES.items():
        found += points("images/s", ACROSS, size, _only(speed, name), lambda seconds: 1 / seconds)
        found += points("ms to the first batch", ACROSS, size, _only(first, name), lambda seconds: seconds * 1e3)
        found += points("MB of the process's own", ACROSS, size, _only(memory, name), lambda count: count / 1e6)
    largest = list(SIZES)[-1]
    what = f"resident bytes: {largest} / 1k"
    return [*found, figure(what, memory, over(largest, "1k"), OWN_BYTES, _megabytes, NOTE)]


def _only(found: list[Round], name: str) -> list[Round]:
    return [{"effbench's batches": values[name]} for values in found]


def _arms(function: str, paths: dict[str, str]) -> list[Arm]:
    return [Arm(name, f"benchmarks.arms_data:{function}", {"path": path}) for name, path in paths.items()]


def _own_bytes(name: str, path: str) -> Arm:
    return Arm(name, "benchmarks.arms_data:own_bytes", {"path": path, "images": SIZES[name]})


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.0f} MB"
