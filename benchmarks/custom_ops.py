"""What a call of a C function costs: our layers (autograd.Function behind checks) beside torch.library operators.

    python -m benchmarks.custom_ops [ROUNDS]

Prints microseconds a call on tensors so small that computing costs next to nothing: forward, and forward with backward;
of each arm the least of 200 calls, then the median over ROUNDS alternating rounds. The operators register fake tensors
and gradients. They do the same work without checks, and batch_norm's updates no running statistics: an operator with a
registered gradient may not change its arguments.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from effbench.cpu import dropout, linear
from effbench.cpu.accelerate import accelerate
from effbench.cpu.library import scratch_size
from effbench.cpu.tensors import call

CALLS = 200
EPS, MOMENTUM, P = 1e-5, 0.1, 0.5
MEAN, VAR = torch.zeros(8), torch.ones(8)


def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    statistics_, out, (rows, channels) = x.new_empty(4, x.shape[1]), torch.empty_like(x), _rows(x)
    call("batch_norm", x, weight, bias, MEAN, VAR, _sums(x), statistics_, out, rows, channels, EPS, MOMENTUM, 1)
    return out, statistics_


def _batch_norm_backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, given = ctx.saved_tensors
    means, for_weight, for_bias = (x.new_empty(rows * x.shape[1]) for rows in (2, 1, 1))
    for_x = torch.empty_like(x)
    call("batch_norm_backward", x, gradient, given, _sums(x), means, for_x, for_weight, for_bias, *_rows(x), 1)
    return for_x, for_weight, for_bias


def _rows(x: Tensor) -> tuple[int, int]:
    """(pixels of the batch, channels)."""
    return x.numel() // x.shape[1], x.shape[1]


def _sums(x: Tensor) -> Tensor:
    return x.new_empty(scratch_size("batch_norm", *_rows(x)), dtype=torch.float64)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return linear._product(x, weight, bias)


def _linear_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    (x, weight), gradient = ctx.saved_tensors, gradient.contiguous()
    sizes = (x.shape[0], weight.shape[1], weight.shape[0])
    for_x, for_weight = torch.empty_like(x), torch.empty_like(weight)
    call("conv1x1_backward_input", gradient, weight, for_x, *sizes)
    transposed = x.new_empty(scratch_size("conv1x1_backward_weight", *sizes[1:]))
    call("conv1x1_backward_weight", x, gradient, transposed, for_weight, *sizes)
    return for_x, for_weight, gradient.sum(0)


def _dropout(x: Tensor, seed: int) -> Tensor:
    return dropout._drop(x, torch.empty_like(x), P, seed)


def _dropout_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    gradient = gradient.contiguous()
    return dropout._drop(gradient, torch.empty_like(gradient), P, ctx.seed), None


def _save_batch_norm(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(inputs[0], output[1])
    ctx.mark_non_differentiable(output[1])


def _save_linear(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG001
    ctx.save_for_backward(inputs[0], inputs[1])


def _save_seed(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG001
    ctx.seed = inputs[1]


OPERATORS = {  # schema, forward, fake, backward, what backward needs
    "batch_norm": (
        "(Tensor x, Tensor weight, Tensor bias) -> (Tensor, Tensor)", _batch_norm,
        lambda x, *_: (torch.empty_like(x), x.new_empty(4, x.shape[1])), _batch_norm_backward, _save_batch_norm,
    ),
    "linear": (
        "(Tensor x, Tensor weight, Tensor bias) -> Tensor", _linear,
        lambda x, weight, _: x.new_empty(x.shape[0], weight.shape[0]), _linear_backward, _save_linear,
    ),
    "dropout": (
        "(Tensor x, int seed) -> Tensor", _dropout, lambda x, _: torch.empty_like(x), _dropout_backward, _save_seed,
    ),
}  # fmt: skip


def operators(kind: str) -> dict[str, Callable[..., Any]]:
    """Each operator, registered by torch.library.custom_op or by torch.library.Library."""
    namespace, found = f"effbench_{kind}", {}
    library = torch.library.Library(namespace, "DEF")
    for name, (schema, forward, fake, backward, save) in OPERATORS.items():
        full = f"{namespace}::{name}"
        if kind == "custom_op":
            torch.library.custom_op(full, forward, mutates_args=(), schema=schema)
        else:
            library.define(f"{name}{schema}")
            library.impl(name, forward, "CPU")
        torch.library.register_fake(full, fake)
        torch.library.register_autograd(full, backward, setup_context=save)
        found[name] = getattr(getattr(torch.ops, namespace), name)
    _libraries.append(library)  # an operator ends with its library
    return found


_libraries: list[torch.library.Library] = []


def arms() -> dict[str, dict[str, Callable[[Tensor], Tensor]]]:
    """For each layer each way to compute it."""
    linear.MIN_MULTIPLICATIONS = linear.MIN_ROWS = 0
    linear.mkl_is_slow = lambda: True  # type: ignore[assignment]
    layers = nn.ModuleDict(
        {"batch_norm": nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()), "linear": nn.Linear(8, 8), "dropout": nn.Dropout(P)}
    )
    accelerate(layers)
    found: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {name: {"ours": layers[name]} for name in OPERATORS}
    norm, dense = layers["batch_norm"][0], layers["linear"]  # type: ignore[index]
    for kind in ("custom_op", "Library"):
        own = operators(kind)
        found["batch_norm"][kind] = lambda x, own=own: own["batch_norm"](x, norm.weight, norm.bias)[0]
        found["linear"][kind] = lambda x, own=own: own["linear"](x, dense.weight, dense.bias)
        found["dropout"][kind] = lambda x, own=own: own["dropout"](x, int(torch.empty((), dtype=torch.int64).random_()))
    return found


def seconds(layer: Callable[[Tensor], Tensor], x: Tensor, backward: bool) -> float:
    least = float("inf")
    for _ in range(CALLS):
        began = time.perf_counter()
        out = layer(x)
        if backward:
            out.backward(out.detach())
        least = min(least, time.perf_counter() - began)
    return least


def main() -> None:
    torch.set_num_threads(1)
    inputs = {
        "batch_norm": torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last),
        "linear": torch.randn(4, 8), "dropout": torch.randn(4, 8),
    }  # fmt: skip
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    for name, ways in arms().items():
        x = inputs[name].requires_grad_()
        for backward in (False, True):
            taken: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(rounds):
                for way in list(ways) if number % 2 else list(ways)[::-1]:
                    taken[way].append(seconds(ways[way], x, backward))
            found = "  ".join(f"{way} {statistics.median(values) * 1e6:.0f}" for way, values in taken.items())
            print(f"{name:10} {'forward + backward' if backward else 'forward':18} {found}")


if __name__ == "__main__":
    main()
