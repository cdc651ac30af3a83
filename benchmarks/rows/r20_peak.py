"""Which share of the machine's matmul peak training reaches, by model, and what it spends its time on."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from benchmarks.alternate import ROOT, THREADS
from benchmarks.compiled import MODES
from benchmarks.figures import Figure
from effbench.stats import median_interval

TITLE = "Share of the machine's float32 matmul peak reached in training (reported)"
MODELS = {
    "mlp": 128, "cnn": 128, "ds_cnn": 128, "mobilenet": 128, "resnet18": 64, "resnet152": 16, "swin_micro": 64,
    "swin": 8, "vit_tiny": 64, "vit_b": 8,
}  # fmt: skip
COMPILED = ("mlp", "cnn", "ds_cnn", "mobilenet", "resnet18", "vit_tiny")  # the others take many minutes each
NOTE = (
    "Embedded Fashion-MNIST, AdamW. The peak: the best product of two 2048 x 2048 matrices in the same process, by "
    "torch.mm or as a 1 x 1 convolution (oneDNN's may be twice as fast as MKL's on an AMD processor). A training "
    "step counts as three times the forward pass, two operations a MAC. Right: what takes most of its time. "
    "torch.compile: of torch's own layers, by Inductor on the CPU."
)


def measure() -> list[Figure]:
    figures = []
    for model, mode in [(model, "") for model in MODELS] + [(model, mode) for model in COMPILED for mode in MODES]:
        batch, compiled = MODELS[model], f", torch.compile ({mode})" if mode else ""
        command = [sys.executable, "-m", "benchmarks.share_of_peak", model, str(batch), *([mode] if mode else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
        shares, bound = json.loads(done.stdout.splitlines()[-1])
        figures.append(Figure(f"{model}, batch {batch}{compiled}", median_interval(shares), "", None, bound, NOTE))
    return figures
