"""What the rows of Lion's and of Adan's step have in common: ours beside the packages and torch's fused AdamW."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.alternate import Arm, rounds
from benchmarks.figures import Figure, figure, milliseconds, over

STEPS = "benchmarks.arms_steps:steps"
MODELS = {"resnet152": 8, "mobilenet_v3_small": 300, "swin_t": 16}  # steps a slice
SLOW = 4  # times fewer for a package whose step takes so many times longer


def measure(ours: str, peers: Mapping[str, bool], targets: Mapping[tuple[str, str], str], note: str) -> list[Figure]:
    """peers: whether each is slow. targets: of (peer, model); AdamW's is that of ours over it. note: for AdamW's."""
    figures = []
    for model, count in MODELS.items():
        counts = {ours: count} | {name: count // SLOW if slow else count for name, slow in peers.items()}
        arms = [Arm(name, STEPS, {"which": name, "model": model, "count": counts[name]}) for name in counts]
        found = rounds(arms, 30, 6)
        for peer in peers:
            target = targets.get((peer, model), "")
            if peer == "adamw":
                what, of = f"ours / torch's fused AdamW, {model}", over(ours, peer)
            else:
                what, of = f"{peer} / ours, {model}", over(peer, ours)
            figures.append(figure(what, found, of, target, milliseconds, note if target and peer == "adamw" else ""))
    return figures
