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
    "Why ours / AdamW on ResNet-152 does not reach 0.65: both are limited by the bandwidth of memory (row 9) and move "
    "20 and 28 bytes a parameter, a ratio of 0.714. Software prefetch, streaming stores, huge pages and flat storage "
    "were tried in one process, in turns with the step as it is (n = 15 to 20 each): no difference beyond the noise. "
    "Between lion-pytorch / ours and 3.5 stands the same bandwidth, and that lion-pytorch's eight operations, 80 "
    "bytes, do not all go to memory: ResNet-152's tensors have 9 MB at most, the third cache 32. How fast memory is "
    "changes here from minute to minute with what else the host does: in 16 rounds with ours at 13.6 ms and AdamW at "
    "20.8 the ratios were 4.6 and 0.67 (medians), in 11 at 21.5 and 30.1 ms 3.1 and 0.72. Whole measurements of 30 "
    "rounds gave 2.88 [2.83, 3.01], 3.55 [3.27, 3.93] and 4.05 [3.27, 4.56]."
)


def measure() -> list[Figure]:
    return step_rows.measure("lion", PEERS, TARGETS, NOTE)
