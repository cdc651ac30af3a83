"""Arms of the optimizer rows: steps over a real model's parameters, with gradients that stay."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.turns import Turns

THREADS = 2
TRIAD_ELEMENTS = 2**25  # three arrays of 128 MB: far out of any cache
BYTES = {"sgd": 20, "adamw": 28, "lion": 20, "adan": 44}  # moved per parameter and step, fp32, one fused pass
STATE_BYTES = {"sgd": 4, "adamw": 8, "lion": 4, "adan": 16}


def parameters(model: str) -> list[nn.Parameter]:
    """Those of torchvision's model, with random gradients; `size:N` is N elements in tensors of a million."""
    torch.manual_seed(0)
    if model.startswith("size:"):
        total = int(model.removeprefix("size:"))
        sizes = [min(2**20, total - start) for start in range(0, total, 2**20)]
        found = [nn.Parameter(torch.randn(size) * 0.02) for size in sizes]
    else:
        import torchvision

        found = list(getattr(torchvision.models, model)(weights=None).parameters())
    for parameter in found:
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return found


def optimizer(which: str, of: list[nn.Parameter]) -> torch.optim.Optimizer:
    """By its name here; those without a prefix are ours."""
    return _MAKERS[which](of)


def _ours_lion(of: Any) -> Any:
    from effbench.optimizers import Lion

    return Lion(of, lr=1e-4, weight_decay=1e-2)


def _ours_adan(of: Any) -> Any:
    from effbench.optimizers import Adan

    return Adan(of, lr=1e-3, weight_decay=1e-2)


def _package_lion(of: Any) -> Any:
    import lion_pytorch

    return lion_pytorch.Lion(of, lr=1e-4, weight_decay=1e-2)


def _package_adan(of: Any) -> Any:
    import adan_pytorch

    return adan_pytorch.Adan(of, lr=1e-3, weight_decay=1e-2)


def _timm(name: str) -> Callable[[Any], Any]:
    def make(of: Any) -> Any:
        import timm.optim

        return getattr(timm.optim, name)(of, lr=1e-3, weight_decay=1e-2)

    return make


def _pytorch_optimizer(name: str) -> Callable[[Any], Any]:
    def make(of: Any) -> Any:
        import pytorch_optimizer

        return getattr(pytorch_optimizer, name)(of, lr=1e-3, weight_decay=1e-2)

    return make


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "lion": _ours_lion,
    "adan": _ours_adan,
    "sgd": lambda of: torch.optim.SGD(of, lr=1e-2, momentum=0.9, weight_decay=1e-2, fused=True),
    "adamw": lambda of: torch.optim.AdamW(of, lr=1e-3, weight_decay=1e-2, fused=True),
    "lion-pytorch": _package_lion,
    "adan-pytorch": _package_adan,
    "timm-lion": _timm("Lion"),
    "timm-adan": _timm("Adan"),
    "pytorch_optimizer-lion": _pytorch_optimizer("Lion"),
    "pytorch_optimizer-adan": _pytorch_optimizer("Adan"),
}


def steps(turns: Turns, which: str, model: str, count: int) -> None:
    """A slice: the mean seconds of `count` steps."""
    torch.set_num_threads(THREADS)
    chosen = optimizer(which, parameters(model))
    for _ in range(3):
        chosen.step()
    turns.lap()
    while True:
        chosen.step()  # another arm had the caches
        begun = time.perf_counter()
        for _ in range(count):
            chosen.step()
        turns.lap((time.perf_counter() - begun) / count)


def over_floor(turns: Turns, which: str, model: str, count: int) -> None:
    """A slice: seconds of a step over the seconds that its bytes take at the triad's bandwidth, in turns."""
    torch.set_num_threads(THREADS)
    of = parameters(model)
    chosen = optimizer(which, of)
    a, b, c = (torch.ones(TRIAD_ELEMENTS) for _ in range(3))
    floor_bytes = sum(parameter.numel() for parameter in of) * BYTES[which]
    for _ in range(3):
        chosen.step()
        _triad(a, b, c)
    turns.lap()
    while True:
        step_s = triad_s = 0.0
        for _ in range(count):
            triad_s += _triad(a, b, c)
            begun = time.perf_counter()
            chosen.step()
            step_s += time.perf_counter() - begun
            triad_s += _triad(a, b, c)
        bandwidth = 2 * count * 12 * TRIAD_ELEMENTS / triad_s
        turns.lap(step_s / count / (floor_bytes / bandwidth))


def _triad(a: Tensor, b: Tensor, c: Tensor) -> float:
    """Seconds of c = a + 3 b (McCalpin's STREAM): 12 bytes an element."""
    begun = time.perf_counter()
    torch.add(a, b, alpha=3.0, out=c)
    return time.perf_counter() - begun
