"""Adan's step against adan-pytorch's, timm's and torch's fused AdamW."""

from __future__ import annotations

from benchmarks import step_rows
from benchmarks.figures import Figure

TITLE = "Adan's step"
PEERS = {"adan-pytorch": True, "adamw": False, "timm-adan": True, "pytorch_optimizer-adan": True}
TARGETS = {
    ("adan-pytorch", "resnet152"): ">= 8",
    ("adan-pytorch", "mobilenet_v3_small"): ">= 4",
    ("adan-pytorch", "swin_t"): ">= 4",
    ("timm-adan", "resnet152"): ">= 5",
    ("adamw", "resnet152"): "<= 1.4",
}


def measure() -> list[Figure]:
    return step_rows.measure("adan", PEERS, TARGETS, "")
