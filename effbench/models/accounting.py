"""What a model costs, by shapes alone: parameters, MACs, and the bytes that autograd keeps.

Nothing here allocates a weight or an activation: the model is copied onto tensors without data. A MAC
is one multiply-accumulate; FLOPs are twice that. Matrix products, convolutions and attention count;
element-wise work (norms, activations, pooling) does not, as in the published tables.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from effbench.models.adapt import set_train_mode
from effbench.models.layers import DepthwiseSeparableConv2d


@dataclass(frozen=True)
class Parameters:
    """total and trainable: scalars, a shared tensor counted once. bytes: of the weights as stored."""

    total: int
    trainable: int
    bytes: int


@dataclass(frozen=True)
class Compute:
    """macs: multiply-accumulates of one forward pass of one sample."""

    macs: int

    @property
    def flops(self) -> int:
        """Floating-point operations: a MAC is a multiplication and an addition."""
        return 2 * self.macs


@dataclass(frozen=True)
class LayerRow:
    """One top-level child. output_shape: for a batch of 1, None if the child never ran. macs: one sample."""

    name: str
    type: str
    output_shape: tuple[int, ...] | None
    params: int
    macs: int


@dataclass(frozen=True)
class SeparableRow:
    """One depthwise separable convolution. macs and standard_macs: counted, for one sample, the latter of the
    standard convolution in its place. ratio: theirs. theory: 1/C_out + 1/k^2 (arXiv:1704.04861, section 3.1)."""

    name: str
    in_channels: int
    out_channels: int
    kernel_size: int
    macs: int
    standard_macs: int
    ratio: float
    theory: float


def parameters(model: nn.Module) -> Parameters:
    """The model's parameters, buffers not among them."""
    every = list(model.parameters())
    return Parameters(
        total=sum(p.numel() for p in every),
        trainable=sum(p.numel() for p in every if p.requires_grad),
        bytes=sum(p.numel() * p.element_size() for p in every),
    )


def macs(model: nn.Module, example: Tensor) -> Compute:
    """Of the forward pass in eval mode. example: a batch of one sample; its shape and type alone matter."""
    shadow = without_data(model, "meta").eval()
    with FlopCounterMode(display=False) as counter:
        shadow(_blank(shadow, example))
    return Compute(counter.get_total_flops() // 2)


def activation_bytes(
    model: nn.Module,
    example: Tensor,
    batch_size: int,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Bytes that autograd keeps between the forward and the backward pass of one training step.

    Cross-entropy included; parameters, buffers, inputs and labels excluded; tensors that share memory
    counted once. dtype: torch.float32, or torch.bfloat16 / torch.float16 for autocast to it, whose cast
    copies of the weights count because autograd keeps them. It is the sum for torch's CPU kernels: exact in
    fp32, under 0.2 % short in autocast (torch's fake norms keep their statistics in 16 bits). effbench's
    compiled layers keep less or more (no mask of dropout; of a block all that lies within it), another
    device may keep more where its kernel does, such as attention without a fused one.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        shadow = without_data(model, "cpu")
        set_train_mode(shadow)
        inputs = torch.empty(batch_size, *example.shape[1:], dtype=example.dtype)
        labels = torch.zeros(batch_size, dtype=torch.int64)
        given = [*shadow.parameters(), *shadow.buffers(), inputs, labels]
        with _kept_for_backward(exclude=given) as kept, _autocast(dtype):
            F.cross_entropy(shadow(inputs), labels)
    return sum(storage.nbytes() for storage in kept.values())


def layer_table(model: nn.Module, example: Tensor) -> tuple[LayerRow, ...]:
    """A row for each top-level child, in order of registration, for one sample in eval mode.

    What the model owns or computes outside its children comes last, as '(outside its children)', so the
    rows add up to the totals. A tensor shared between children is counted with the first of them.
    """
    shadow = without_data(model, "meta").eval()
    watches: dict[str, _Watch] = {}
    with FlopCounterMode(display=False) as counter:
        for name, child in shadow.named_children():
            watches[name] = _Watch(child, counter.get_total_flops)
        logits = shadow(_blank(shadow, example))
    rows = _child_rows(shadow, watches)
    outside = LayerRow(
        name="(outside its children)",
        type=type(model).__name__,
        output_shape=tuple(logits.shape),
        params=parameters(model).total - sum(row.params for row in rows),
        macs=counter.get_total_flops() // 2 - sum(row.macs for row in rows),
    )
    return (*rows, outside) if outside.params or outside.macs else tuple(rows)


def _child_rows(model: nn.Module, watches: dict[str, _Watch]) -> list[LayerRow]:
    seen: set[int] = set()
    rows = []
    for name, child in model.named_children():
        own = {id(p): p.numel() for p in child.parameters() if id(p) not in seen}
        seen |= own.keys()
        watch = watches[name]
        rows.append(LayerRow(name, type(child).__name__, watch.output_shape, sum(own.values()), watch.flops // 2))
    return rows


def separable_layers(model: nn.Module, example: Tensor) -> tuple[SeparableRow, ...]:
    """A row for each DepthwiseSeparableConv2d that runs, in order of registration, for one sample."""
    shadow = without_data(model, "meta").eval()
    layers = {name: layer for name, layer in shadow.named_modules() if isinstance(layer, DepthwiseSeparableConv2d)}
    if not layers:
        return ()
    with FlopCounterMode(display=False) as counter:
        watches = {name: _Watch(layer, counter.get_total_flops) for name, layer in layers.items()}
        shadow(_blank(shadow, example))
    rows = []
    for name, layer in layers.items():
        flops, shape = watches[name].flops, watches[name].output_shape
        if shape is not None:  # else it never ran
            rows.append(_separable_row(name, layer, flops // 2, shape[-2:]))
    return tuple(rows)


def _separable_row(name: str, layer: DepthwiseSeparableConv2d, own: int, size: tuple[int, ...]) -> SeparableRow:
    """own: its MACs. size: (H, W) of its output, and so of its input."""
    c_in, c_out, k = layer.depthwise.in_channels, layer.pointwise.out_channels, layer.depthwise.kernel_size[0]
    with torch.device("meta"):
        standard = nn.Conv2d(c_in, c_out, k, padding=k // 2)
    instead = macs(standard, torch.empty(1, c_in, *size, device="meta")).macs
    return SeparableRow(name, c_in, c_out, k, own, instead, own / instead, 1 / c_out + 1 / k**2)


class _Watch:
    """Notes, for one module, the FLOPs of its calls and the shape of its last output."""

    def __init__(self, module: nn.Module, total_flops: Callable[[], int]):
        self.flops = 0
        self.output_shape: tuple[int, ...] | None = None
        self._total_flops = total_flops
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def _before(self, _module: nn.Module, _inputs: Any) -> None:
        self._started_at = self._total_flops()

    def _after(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self.flops += self._total_flops() - self._started_at
        self.output_shape = tuple(output.shape) if isinstance(output, Tensor) else None


def without_data(model: nn.Module, device: str) -> nn.Module:
    """A deep copy whose parameters and buffers are new tensors on `device`; the given model is untouched.

    On 'meta', or within FakeTensorMode, they hold no data. The memo keeps deepcopy off the real ones.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        blank = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        memo[id(parameter)] = nn.Parameter(blank, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
    return copy.deepcopy(model, memo)


def _blank(model: nn.Module, example: Tensor) -> Tensor:
    """Zeros like the example, on the device of the model's parameters (meta: without data), floats of their dtype."""
    of = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    dtype = of.dtype if example.is_floating_point() else example.dtype
    return torch.zeros(example.shape, device=of.device, dtype=dtype)


def _autocast(dtype: torch.dtype) -> torch.autocast:
    return torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32)


@contextmanager
def _kept_for_backward(exclude: list[Tensor]) -> Iterator[dict[int, torch.UntypedStorage]]:
    """Collects the storages that autograd saves, by identity, without those of `exclude`."""
    given = {_identity(tensor) for tensor in exclude}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _identity(tensor) not in given:
            # Holding the storage keeps its address from being given to another one.
            kept[_identity(tensor)] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _identity(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
