"""The weight gradient of every large depthwise convolution of the MobileNets, torch's and ours in turns, as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.arms_models import THREADS, large_depthwise
from effbench.models.depthwise import _applies, _Convolution

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
        x, weight = _tensors((batch, channels, height, width), kernel)
        own = "" if _applies(x, weight) else OF_TORCH
        found[f"{batch} x {channels} x {height} x {width}, k {kernel}, stride {stride}{own}"] = _measured(
            x, weight, stride
        )
    print(json.dumps(found))


def _tensors(shape: tuple[int, int, int, int], kernel: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    return x, torch.randn(shape[1], 1, kernel, kernel, requires_grad=True)


def _measured(x: torch.Tensor, weight: torch.Tensor, stride: int) -> list[dict[str, float]]:
    """Seconds of both, round by round: the least of some, as torch's convolutions vary by themselves."""
    ours, kernel = _applies(x, weight), weight.shape[-1]

    def of_torch() -> torch.Tensor:
        return F.conv2d(x, weight, None, stride, kernel // 2, 1, x.shape[1])

    def of_ours() -> torch.Tensor:
        out: torch.Tensor = _Convolution.apply(x, weight, stride, kernel // 2) if ours else of_torch()
        return out

    arms: dict[str, Callable[[], torch.Tensor]] = {"ours": of_ours, "torch": of_torch}
    rounds = []
    for number in range(ROUNDS + 1):
        order = list(arms) if number % 2 else list(arms)[::-1]
        rounds.append({name: min(_seconds(arms[name]) for _ in range(REPEATS)) for name in order})
    return rounds[1:]


def _seconds(forward: Callable[[], torch.Tensor]) -> float:
    """Of the backward pass, which is the weight gradient alone: the input wants none."""
    out = forward()
    gradient = torch.ones_like(out)
    begun = time.perf_counter()
    out.backward(gradient)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
