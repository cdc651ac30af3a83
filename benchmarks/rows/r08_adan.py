"""Adan's step against adan-pytorch's, timm's and torch's fused AdamW."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.figures import Figure, figure, milliseconds, over

TITLE = "Adan's step"
STEPS = "benchmarks.arms_steps:steps"
MODELS = {"resnet152": 4, "mobilenet_v3_small": 200, "swin_t": 8}  # steps a slice
SLOW = ("adan-pytorch", "timm-adan", "pytorch_optimizer-adan")
PEERS = ("adan-pytorch", "adamw", "timm-adan", "pytorch_optimizer-adan")


def measure() -> list[Figure]:
    figures = []
    for model, count in MODELS.items():
        counts = dict.fromkeys(("adan", *PEERS), count) | dict.fromkeys(SLOW, max(1, count // 4))
        arms = [Arm(name, STEPS, {"which": name, "model": model, "count": counts[name]}) for name in counts]
        found = rounds(arms, 30, 3)
        largest = model == "resnet152"
        targets = {"adan-pytorch": ">= 8" if largest else ">= 4", "timm-adan": ">= 5" if largest else ""}
        figures += [
            figure(f"{peer} / ours, {model}", found, over(peer, "adan"), targets.get(peer, ""), milliseconds)
            for peer in PEERS
            if peer != "adamw"
        ]
        target = "<= 1.4" if largest else ""
        figures.append(
            figure(f"ours / torch's fused AdamW, {model}", found, over("adan", "adamw"), target, milliseconds)
        )
    return figures
