"""MobileNet's training step with torch's depthwise convolutions and with effbench's."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from benchmarks.alternate import ROOT, THREADS, Arm, rounds
from benchmarks.compiled import NOTE as COMPILED
from benchmarks.compiled import compiled_arms
from benchmarks.depthwise_layers import OF_TORCH
from benchmarks.figures import Figure, figure, milliseconds, over

TITLE = "Training step of MobileNets: torch's layers beside ours, channels last"
STEPS = "benchmarks.arms_models:steps"
OFF = {"EFFBENCH_KERNELS": "off"}
NOTE = (
    "Ours: each inverted residual block as one compiled function, batch normalisation with its activation, linear "
    "layers (with AVX-512 on AMD processors) and dropout by kernels of ours. Both step with torch's AdamW and keep "
    "memory that a step has freed. Without a compiler next to nothing is left on a processor with AVX-512 (1.02 on "
    "2026-11-23), but half with AVX2 alone."
)


def measure() -> list[Figure]:
    small = {"name": "mobilenet_v3_small", "pixels": 32, "batch": 128, "count": 3}
    arms = [
        Arm("ours", STEPS, small | {"ours": True}),
        Arm("torch", STEPS, small | {"ours": False}),
        Arm("ours without a compiler", STEPS, small | {"ours": True}, OFF),
    ]
    found = rounds(arms, 27, 6)
    figures = [
        figure("torch / ours, V3-small, 32 px, batch 128", found, over("torch", "ours"), ">= 1.9", milliseconds, NOTE),
        figure(
            "torch / ours without a compiler, V3-small, 32 px, batch 128", found,
            over("torch", "ours without a compiler"), ">= 1.6", milliseconds,
        ),
    ]  # fmt: skip
    figures += [_step(name, pixels, batch, ">= 1.0") for name, pixels, batch in _OTHERS]
    return figures + _compiled(small) + _layers()


def _compiled(options: dict[str, object]) -> list[Figure]:
    """The same step by torch.compile."""
    arms = [
        Arm("ours", STEPS, options | {"ours": True}),
        *compiled_arms("torch.compile", STEPS, options | {"ours": False}),
    ]
    found = rounds(arms, 9, 3)
    return [
        figure(f"{name} / ours, V3-small, 32 px, batch 128", found, over(name, "ours"), "", milliseconds, COMPILED)
        for name in (arm.name for arm in arms[1:])
    ]


_OTHERS = (
    ("mobilenet_v3_small", 224, 16), ("mobilenet_v3_large", 32, 128), ("mobilenet_v3_large", 224, 8),
    ("mobilenet_v2", 32, 128), ("mobilenet_v2", 224, 8),
)  # fmt: skip


def _step(name: str, pixels: int, batch: int, target: str) -> Figure:
    options = {"name": name, "pixels": pixels, "batch": batch, "count": 2}
    arms = [Arm("ours", STEPS, options | {"ours": True}), Arm("torch", STEPS, options | {"ours": False})]
    found = rounds(arms, 18, 9)
    return figure(
        f"torch / ours, {name}, {pixels} px, batch {batch}", found, over("torch", "ours"), target, milliseconds
    )


def _layers() -> list[Figure]:
    """The weight gradient alone at every shape of these models; both in one process, in turns."""
    figures = []
    for kernels in ("on", "off"):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(THREADS),
            "EFFBENCH_KERNELS": kernels,
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "benchmarks.depthwise_layers"]
        done = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
        for what, found in json.loads(done.stdout.splitlines()[-1]).items():
            without = "" if kernels == "on" else ", without a compiler"
            name = f"torch / ours, weight gradient alone, {what}{without}"
            target = "" if what.endswith(OF_TORCH) else ">= 1.0"
            figures.append(figure(name, found, over("torch", "ours"), target, milliseconds))
    return figures
