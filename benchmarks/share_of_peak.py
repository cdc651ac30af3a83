"""Training steps of a model as a share of the matmul peak: python -m benchmarks.share_of_peak MODEL BATCH [MODE]

MODE: of torch.compile, for torch's own layers; without it effbench's layers run eagerly.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

THREADS = 2
SIDE, ROUNDS = 2048, 9
SHOWN = 3
NAMES = {
    "aten::mkldnn_convolution": "convolution", "aten::convolution_backward": "convolution's gradients",
    "aten::native_batch_norm": "batch norm", "aten::native_batch_norm_backward": "batch norm's gradient",
    "_BatchNorm": "batch norm", "_BatchNormBackward": "batch norm's gradient",
    "_DepthwiseConvolutionBackward": "convolution's gradients",
    "_InvertedResidual": "whole blocks", "_InvertedResidualBackward": "whole blocks' gradients",
    "_Linear": "matmul", "_LinearBackward": "matmul",
    "aten::addmm": "matmul", "aten::mm": "matmul", "aten::bmm": "matmul",
}  # fmt: skip


def main() -> None:
    import effbench
    from effbench import build
    from effbench.cpu.accelerate import accelerate
    from effbench.models import accounting

    name, batch, compiled = sys.argv[1], int(sys.argv[2]), "".join(sys.argv[3:])
    torch.set_num_threads(THREADS)
    config = effbench.compose([f"model={name}", "optimizer=adamw", "device=cpu"])
    data = build.splits(config)
    modality = data.modality.blank(data.shape)
    net = build.model(config, len(data.classes), modality)
    if not compiled:
        accelerate(net)
    layout = build.memory_format(config)
    net = net.to(memory_format=layout).train()  # type: ignore[call-overload]
    run = torch.compile(net, mode=compiled) if compiled else net
    optimizer = build.optimizer(config, net)
    macs = accounting.macs(net, modality.example()).macs
    x = torch.randn(batch, *data.shape).contiguous(memory_format=layout)
    y = torch.randint(0, len(data.classes), (batch,))

    def step() -> float:
        begun = time.perf_counter()
        F.cross_entropy(run(x), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - begun

    a = torch.randn(SIDE, SIDE)
    pixels = a.view(1, 64, SIDE // 64, SIDE).permute(0, 3, 1, 2)  # a 1 x 1 convolution of them is the same product

    def product() -> float:
        return min(_seconds(lambda: torch.mm(a, a)), _seconds(lambda: F.conv2d(pixels, a.view(SIDE, SIDE, 1, 1))))

    step(), step(), product()
    shares = []
    for _ in range(ROUNDS):
        peak = 2 * SIDE**3 / min(product() for _ in range(3))
        shares.append(6 * macs * batch / step() / peak)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    print(json.dumps([shares, _largest(seen)]))


def _seconds(product: Callable[[], Tensor]) -> float:
    begun = time.perf_counter()
    product()
    return time.perf_counter() - begun


def _largest(seen: Any) -> dict[str, str]:
    """The operations with the most time of their own, as shares of the step."""
    seconds: dict[str, float] = {}
    for event in seen.key_averages():
        key = event.key.removeprefix("autograd::engine::evaluate_function: ")
        graph = key.startswith("## Call CompiledFxGraph")  # each has a hash in its name
        name = "compiled graphs" if graph else NAMES.get(key, key.removeprefix("aten::"))
        seconds[name] = seconds.get(name, 0.0) + event.self_cpu_time_total
    whole = sum(seconds.values())
    largest = sorted(seconds, key=lambda name: -seconds[name])[:SHOWN]
    return {name: f"{seconds[name] / whole:.0%}" for name in largest}


if __name__ == "__main__":
    main()
