"""Whether `effbench bench` names the right backend: a script by hand measures all of them again."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.alternate import Arm, Round, control_of, each, rounds
from benchmarks.arms_deploy import BY_HAND, ONE_THREAD, write_by_hand
from benchmarks.figures import Figure, milliseconds
from effbench.bench.backends import has_bf16
from effbench.bench.bench import bench_untrained
from effbench.bench.options import BenchOptions
from effbench.report.deployment import SINGLE_STREAM
from effbench.stats import median

TITLE = "The choice of a backend, checked by a script of its own"
SYNTHETIC = ("data=synthetic", "data.image_size=32")
PLAN: dict[str, tuple[str, ...]] = {
    "mobilenet_v3_small 32": ("model=mobilenet", *SYNTHETIC),
    "swin_micro 32": ("model=swin_micro", *SYNTHETIC),
    "cnn 32": ("model=cnn", *SYNTHETIC),
    "resnet18 224": ("model=resnet18", "data=synthetic", "data.image_size=224"),
}
ROUNDS, SECONDS = 5, 1.0  # of bench
TURNS, PROCESSES = 9, 3  # of the script
PLACE = "benchmarks.arms_deploy:by_hand"
NOTE = (
    "Named: first in the verdict of `effbench bench` for latency at batch 1. Best: least median in a script that loads "
    "files of its own export with each runtime by hand and reads another clock. A ratio of 1 without an interval: both "
    "are the same. Untrained weights, one thread."
)


def measure() -> list[Figure]:
    return [_of(name, words) for name, words in PLAN.items()]


def _of(name: str, words: Sequence[str]) -> Figure:
    record = bench_untrained(list(words), BenchOptions(batch_sizes=(1,), rounds=ROUNDS, seconds=SECONDS))
    named = str(record["verdicts"][SINGLE_STREAM]["best"])
    with tempfile.TemporaryDirectory() as folder:
        write_by_hand([*words, "device=cpu"], Path(folder))
        arms = [Arm(backend, PLACE, {"backend": backend, "folder": folder}, ONE_THREAD) for backend in _measurable()]
        found = rounds(arms, TURNS, PROCESSES)
    best = fastest(found, [arm.name for arm in arms])
    texts = {arm.name: milliseconds(median([values[arm.name] for values in found])) for arm in arms}
    value = each(found, lambda values: values[named] / values[best])
    what = f"{named}, named, / {best}, best, {name}"
    return Figure(what, value, "<= 1.03", control_of(found), texts, NOTE)


def _measurable() -> list[str]:
    """OpenVINO without arithmetic in bfloat16 refuses; torch emulates it, and is measured."""
    return [backend for backend in BY_HAND if backend != "openvino_bf16" or has_bf16()]


def fastest(found: Sequence[Round], names: Sequence[str]) -> str:
    return min(names, key=lambda name: median([values[name] for values in found]))
