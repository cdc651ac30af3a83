"""Arms of the model rows: training steps of a network, and single convolutions."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.turns import Turns

THREADS = 2


def network(name: str, pixels: int) -> nn.Module:
    """effbench's model of that name before effbench's own convolutions, for gray images."""
    from effbench.models import torchvision_zoo

    torch.manual_seed(0)
    built = torchvision_zoo.create(name, 10, 1, (pixels, pixels))
    return built.to(memory_format=torch.channels_last).train()


def steps(turns: Turns, name: str, pixels: int, batch: int, count: int, ours: bool, compiled: str = "") -> None:
    """A slice: seconds of `count` training steps, channels last.

    Args:
        ours: with effbench's layers.
        compiled: torch.compile's mode; empty for an eager model.
    """
    from effbench.cpu.accelerate import accelerate
    from effbench.training.malloc import keeping_freed_memory

    torch.set_num_threads(THREADS)
    net = network(name, pixels)
    if ours:
        accelerate(net)
    run = torch.compile(net, mode=compiled) if compiled else net
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    x = torch.randn(batch, 1, pixels, pixels).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (batch,))

    def step() -> None:
        F.cross_entropy(run(x), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with keeping_freed_memory(torch.device("cpu")):  # or new memory would take as long as the layers, on both sides
        for _ in range(3):
            step()
        turns.lap()
        while True:
            step()  # another arm had the caches
            begun = time.perf_counter()
            for _ in range(count):
                step()
            turns.lap(time.perf_counter() - begun)


def large_depthwise(name: str, pixels: int) -> list[tuple[int, int, int, int, int]]:
    """(channels, height, width, kernel, stride) of the convolutions that effbench takes over, each once."""
    from effbench.cpu.accelerate import accelerate
    from effbench.cpu.depthwise import CpuDepthwiseConv2d

    net = network(name, pixels)
    accelerate(net)
    seen: dict[tuple[int, int, int, int, int], None] = {}

    def note(module: nn.Conv2d, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        _, channels, height, width = inputs[0].shape
        seen[channels, height, width, module.kernel_size[0], module.stride[0]] = None

    for module in net.modules():
        if isinstance(module, CpuDepthwiseConv2d):
            module.register_forward_hook(note)
    with torch.no_grad():
        net.eval()(torch.zeros(2, 1, pixels, pixels).contiguous(memory_format=torch.channels_last))
    return list(seen)
