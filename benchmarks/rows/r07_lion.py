"""Lion's step against lion-pytorch's and torch's fused AdamW."""

from __future__ import annotations

from benchmarks.alternate import Arm, rounds
from benchmarks.figures import Figure, figure, milliseconds, over

TITLE = "Lion's step"
STEPS = "benchmarks.arms_steps:steps"
MODELS = {"resnet152": 8, "mobilenet_v3_small": 300, "swin_t": 16}  # steps a slice
SLOW = ("pytorch_optimizer-lion", "lion-pytorch")
PEERS = ("lion-pytorch", "adamw", "timm-lion", "pytorch_optimizer-lion")
NOTE = (
    "What stands between ours / AdamW on ResNet-152 and 0.65: both are at the bandwidth of memory (row 9) and move 20 and "
    "28 bytes a parameter, 0.71. Software prefetch, streaming stores, huge pages and flat storage were tried in one "
    "process, in turns with the step as it is (n = 15 to 20 each): no difference beyond the noise."
)


def measure() -> list[Figure]:
    figures = []
    for model, count in MODELS.items():
        counts = dict.fromkeys(("lion", *PEERS), count) | dict.fromkeys(SLOW, max(1, count // 4))
        arms = [Arm(name, STEPS, {"which": name, "model": model, "count": counts[name]}) for name in counts]
        found = rounds(arms, 30, 3)
        package = ">= 3.5" if model == "resnet152" else ">= 2"
        targets = {"lion-pytorch": package}
        figures += [
            figure(f"{peer} / ours, {model}", found, over(peer, "lion"), targets.get(peer, ""), milliseconds)
            for peer in PEERS
            if peer != "adamw"
        ]
        target = "<= 0.65" if model == "resnet152" else ""
        figures.append(
            figure(
                f"ours / torch's fused AdamW, {model}",
                found,
                over("lion", "adamw"),
                target,
                milliseconds,
                NOTE if target else "",
            )
        )
    return figures
