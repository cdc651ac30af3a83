"""Photographs in folders: ours from the decoded cache, torchvision's ImageFolder decoding them every epoch."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.alternate import Arm, Round, rounds
from benchmarks.arms_data import images_per_second, write_photographs
from benchmarks.figures import Figure, figure

TITLE = "Image folder: 224-pixel crops from JPEG files of 500x375"
FILES = 320
PEERS = {"RandomResizedCrop, 2 workers": "resized_crop", "our crops, 2 workers": "same_crop"}
NOTE = (
    f"{FILES} files of quality 90, read from the kernel's cache by both. The first epoch holds the search for the "
    "files, their decoding, the writing of the cache and the batches; torchvision's workers are already running. "
    "Freed memory is kept on both sides."
)


def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "images", Path(folder) / "cache"
        write_photographs(root, FILES)
        place = {"root": str(root)}
        later = [Arm("ours", "benchmarks.arms_data:ours_folder", {**place, "cache": str(cache)}), *_peers("", place)]
        first = [Arm("ours", "benchmarks.arms_data:ours_first_epoch", place), *_peers("first_epoch", place)]
        return [
            _figure("second epoch", later, 18, ">= 8"),
            _figure("first epoch", first, 12, ">= 0.8"),
        ]


def _peers(which: str, place: dict[str, str]) -> list[Arm]:
    function = f"benchmarks.arms_data:peer_{which or 'folder'}"
    return [Arm(name, function, {**place, "kind": kind, "workers": 2}) for name, kind in PEERS.items()]


def _figure(epoch: str, arms: list[Arm], count: int, target: str) -> Figure:
    what = f"images/s, {epoch}: ours / ImageFolder at its best"
    return figure(what, rounds(arms, count, 6), _over_best, target, images_per_second, NOTE)


def _over_best(values: Round) -> float:
    return min(values[name] for name in PEERS) / values["ours"]
