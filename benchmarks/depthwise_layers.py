"""The weight gradient of every large depthwise convolution of the MobileNets, torch's and ours in turns, as JSON."""

from __future__ import annotations

import copy
import json
import time

import torch
from torch import Tensor, nn

from benchmarks.arms_models import THREADS, large_depthwise
from effbench.cpu.accelerate import accelerate

MODELS = ("mobilenet_v3_small", "mobilenet_v3_large")
SIZES = {32: 128, 224: 16}  # pixels: batch
ROUNDS, REPEATS = 15, 3
OF_TORCH = ": torch's own"  # where ours leaves it to torch


def main() -> None:
    torch.set_num_threads(THREADS)
    shapes = {
        (batch, *shape) for name in MODELS for pixels, batch in SIZES.items() for shape in large_depthwise(name, pixels)
    }
    found = {}
    for batch, channels, height, width, kernel, stride in sorted(shapes):
        x = torch.randn(batch, channels, height, width).contiguous(memory_format=torch.channels_last)
        plain = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
        ours = nn.Sequential(copy.deepcopy(plain))
        accelerate(ours)
        own = "" if "_DepthwiseConvolution" in str(ours(x).grad_fn) else OF_TORCH
        found[f"{batch} x {channels} x {height} x {width}, k {kernel}, stride {stride}{own}"] = _measured(
            x, {"ours": ours, "torch": plain}
        )
    print(json.dumps(found))


def _measured(x: Tensor, arms: dict[str, nn.Module]) -> list[dict[str, float]]:
    """Seconds of both, round by round: the least of some, as torch's convolutions vary by themselves."""
    rounds = []
    for number in range(ROUNDS + 1):
        order = list(arms) if number % 2 else list(arms)[::-1]
        rounds.append({name: min(_seconds(arms[name], x) for _ in range(REPEATS)) for name in order})
    return rounds[1:]


def _seconds(forward: nn.Module, x: Tensor) -> float:
    """Of the backward pass, which is the weight gradient alone: the input wants none."""
    out = forward(x)
    gradient = torch.ones_like(out)
    begun = time.perf_counter()
    out.backward(gradient)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
