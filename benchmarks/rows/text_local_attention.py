"""Local attention in blocks beside dense attention with the window as a mask: time, memory, growth with the length."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable

from benchmarks.alternate import ROOT, THREADS, Arm, Round, rounds
from benchmarks.arms_text import HEADS, WIDTH, WINDOW
from benchmarks.figures import Figure, exact, figure, milliseconds, over

TITLE = f"Local attention, forward and backward, window {WINDOW}, {HEADS} heads of {WIDTH}, one text"
PLACE = "benchmarks.arms_text:attention"
AT = 8192  # tokens of the figures with a target
LENGTHS = (1024, 2048, 4096, 8192, 16384)
NOTE = (
    "Queries, keys and values given, their gradients computed. Dense: torch's scaled_dot_product_attention with the "
    "window as a prebuilt float mask. Memory: the most that a pass holds beside its inputs (torch.profiler), and the "
    "mask; since torch's kernel for CPUs makes no matrix of scores, that is nearly all of it. The exponent: least "
    "squares over logarithms, round by round."
)


def measure() -> list[Figure]:
    of_length = {n: Arm(name_of("local", n), PLACE, _options("local", n)) for n in LENGTHS}
    # the first arm is the control's: that of the figure
    beside = rounds([of_length[AT], Arm(name_of("dense", AT), PLACE, _options("dense", AT))], 12, 3, parts=1)
    faster, memory = over(name_of("dense", AT), name_of("local", AT)), held("local", AT) / held("dense", AT)
    figures = [
        figure("dense / ours, 8,192 tokens, time", beside, faster, ">= 12", milliseconds, NOTE),
        Figure("ours / dense and its mask, 8,192 tokens, memory", exact(memory), "<= 0.2", note=NOTE),
    ]
    for kind, target in (("local", "<= 1.1"), ("dense", "")):
        found = rounds([Arm(name_of(kind, n), PLACE, _options(kind, n)) for n in LENGTHS], 9, 3, 1, control=False)
        what = f"exponent of time, {kind}, {LENGTHS[0]:,} to {LENGTHS[-1]:,} tokens"
        figures.append(figure(what, found, exponent(kind), target, milliseconds, NOTE))
    return figures


def name_of(kind: str, tokens: int) -> str:
    return f"{kind} {tokens:,}"


def _options(kind: str, tokens: int) -> dict[str, str | int]:
    # about as long a slice at every length
    count = max(1, 32_768 // tokens) if kind == "local" else max(1, (4096 // tokens) ** 2)
    return {"kind": kind, "tokens": tokens, "count": count}


def exponent(kind: str) -> Callable[[Round], float]:
    """b of time = a N^b in a round."""

    def of(values: Round) -> float:
        points = [(math.log(n), math.log(values[name_of(kind, n)])) for n in LENGTHS]
        mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
        return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)

    return of


def held(kind: str, tokens: int) -> int:
    """The most bytes that a pass holds beside its inputs, in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.attention_memory", kind, str(tokens)]
    done = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1])
