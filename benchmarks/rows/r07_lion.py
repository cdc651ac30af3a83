"""Lion's step against lion-pytorch's and torch's fused AdamW."""

from __future__ import annotations

from benchmarks import step_rows
from benchmarks.figures import Figure

TITLE = "Lion's step"
PEERS = {"lion-pytorch": True, "adamw": False, "timm-lion": False, "pytorch_optimizer-lion": True}
TARGETS = {
    ("lion-pytorch", "resnet152"): ">= 3.5",
    ("lion-pytorch", "mobilenet_v3_small"): ">= 2",
    ("lion-pytorch", "swin_t"): ">= 2",
    ("adamw", "resnet152"): "<= 0.65",
}
NOTE = (
    "What stands between ours / AdamW on ResNet-152 and 0.65: both are at the bandwidth of memory (row 9) and move 20 "
    "and 28 bytes a parameter, 0.71. Software prefetch, streaming stores, huge pages and flat storage were tried in "
    "one process, in turns with the step as it is (n = 15 to 20 each): no difference beyond the noise."
)


def measure() -> list[Figure]:
    return step_rows.measure("lion", PEERS, TARGETS, NOTE)
