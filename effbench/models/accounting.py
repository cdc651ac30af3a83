"""Cost of a model, computed from shapes: parameters, MACs, and the bytes that autograd keeps.

No weight or activation is allocated: the model is copied onto tensors without data. A MAC is one multiply-accumulate;
FLOPs are twice the MACs. Matrix products, convolutions and attention count. Element-wise operations (norms,
activations, pooling) do not, as in published tables.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from effbench.models.adapt import set_train_mode
from effbench.models.layers import DepthwiseSeparableConv2d


@dataclass(frozen=True)
class Parameters:
    """Size of a model's parameters.

    Attributes:
        total: number of scalars; a shared tensor counts once.
        trainable: number of scalars that require gradients.
        bytes: size of the weights as stored.
    """

    total: int
    trainable: int
    bytes: int


@dataclass(frozen=True)
class Compute:
    """Cost of one forward pass of one sample.

    Attributes:
        macs: multiply-accumulates.
    """

    macs: int

    @property
    def flops(self) -> int:
        """Floating-point operations: a MAC is one multiplication and one addition."""
        return 2 * self.macs


@dataclass(frozen=True)
class LayerRow:
    """Cost of one top-level child.

    Attributes:
        name: attribute name in the model.
        type: class name.
        output_shape: for a batch of 1; None if the child never ran.
        params: number of scalars.
        macs: multiply-accumulates for one sample.
    """

    name: str
    type: str
    output_shape: tuple[int, ...] | None
    params: int
    macs: int


@dataclass(frozen=True)
class SeparableRow:
    """Cost of one depthwise separable convolution.

    Attributes:
        name: dotted name in the model.
        in_channels: input channels.
        out_channels: output channels.
        kernel_size: side of the kernel.
        macs: counted multiply-accumulates for one sample.
        standard_macs: likewise, for the standard convolution of the same shapes.
        ratio: macs / standard_macs.
        theory: 1/C_out + 1/k^2 (arXiv:1704.04861, section 3.1).
    """

    name: str
    in_channels: int
    out_channels: int
    kernel_size: int
    macs: int
    standard_macs: int
    ratio: float
    theory: float


def parameters(model: nn.Module) -> Parameters:
    """Count the model's parameters; buffers do not count."""
    every = list(model.parameters())  # model.parameters() yields a shared tensor once
    return Parameters(
        total=sum(p.numel() for p in every),
        trainable=sum(p.numel() for p in every if p.requires_grad),
        bytes=sum(p.numel() * p.element_size() for p in every),
    )


def macs(model: nn.Module, example: Tensor) -> Compute:
    """Count the MACs of a forward pass in eval mode.

    Args:
        model: the model; it is not changed.
        example: a batch of one sample; only its shape and dtype matter.
    """
    shadow = _shapes_of(model)
    with FlopCounterMode(display=False) as counter:
        shadow(_blank(shadow, example))
    # torch counts a multiplication and an addition as two FLOPs
    return Compute(counter.get_total_flops() // 2)


def activation_bytes(
    model: nn.Module,
    example: Tensor,
    batch_size: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    target: Tensor,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Return the bytes that autograd keeps between the forward and the backward pass of one training step.

    What the loss keeps is included; parameters, buffers, inputs and targets are not. Tensors that share memory count
    once.

    The sum is for torch's CPU kernels: exact in fp32, less than 0.2 % too low in autocast (torch's fake norms keep
    their statistics in 16 bits). effbench's compiled layers keep other tensors (no dropout masks; for a block all
    intermediates). Other devices may keep more, for example for attention without a fused kernel.

    Args:
        model: the model; it is not changed.
        example: a batch of inputs (B, ...); only shape and dtype of a sample matter.
        batch_size: samples in the training step.
        loss: (outputs, targets) -> the loss of a batch, a scalar.
        target: a batch of targets (B, ...); only shape and dtype of a target matter.
        dtype: torch.float32, or torch.bfloat16 / torch.float16 for autocast. The cast copies of weights count, because
            autograd keeps them.
    """
    # fake tensors on 'cpu', not on 'meta': torch chooses kernels by device (attention has several), and the kernel
    # decides what is kept
    with FakeTensorMode(allow_non_fake_inputs=True):
        shadow = without_data(model, "cpu")
        set_train_mode(shadow)
        inputs = torch.empty(batch_size, *example.shape[1:], dtype=example.dtype)
        targets = torch.zeros(batch_size, *target.shape[1:], dtype=target.dtype)
        # what is there before the step: a saved reference to it costs nothing
        given = {t.untyped_storage()._cdata for t in (*shadow.parameters(), *shadow.buffers(), inputs, targets)}
        kept: dict[int, torch.UntypedStorage] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            # by the address of the storage object, because fake data has none; the reference in `kept` prevents that
            # another storage gets the same address
            if storage._cdata not in given:
                kept[storage._cdata] = storage
            return tensor

        autocast = torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
            loss(shadow(inputs), targets)
    return sum(storage.nbytes() for storage in kept.values())


def layer_table(model: nn.Module, example: Tensor) -> tuple[LayerRow, ...]:
    """Return a row for each top-level child, in order of registration, for one sample in eval mode.

    A last row '(outside its children)' holds what the model owns or computes itself, so that the rows add up to the
    totals. A tensor shared by several children counts with the first.
    """
    shadow = _shapes_of(model)
    with FlopCounterMode(display=False) as counter:
        # the hooks are set on the copy: the model itself keeps none
        watches = {name: _Watches(child, counter.get_total_flops) for name, child in shadow.named_children()}
        logits = shadow(_blank(shadow, example))

    counted: set[int] = set()  # parameters, by identity
    rows = []
    for name, child in shadow.named_children():
        own = {id(p): p.numel() for p in child.parameters() if id(p) not in counted}
        counted |= own.keys()
        watch = watches[name]
        rows.append(LayerRow(name, type(child).__name__, watch.output_shape, sum(own.values()), watch.flops // 2))

    # class tokens, position tables and products in the model's own forward
    outside = LayerRow(
        name="(outside its children)",
        type=type(model).__name__,
        output_shape=tuple(logits.shape),
        params=parameters(model).total - sum(row.params for row in rows),
        macs=counter.get_total_flops() // 2 - sum(row.macs for row in rows),
    )
    return (*rows, outside) if outside.params or outside.macs else tuple(rows)


def separable_layers(model: nn.Module, example: Tensor) -> tuple[SeparableRow, ...]:
    """Return a row for each DepthwiseSeparableConv2d that runs, in order of registration, for one sample."""
    shadow = _shapes_of(model)
    layers = {name: layer for name, layer in shadow.named_modules() if isinstance(layer, DepthwiseSeparableConv2d)}
    if not layers:  # most models: do not run them for an empty table
        return ()
    with FlopCounterMode(display=False) as counter:
        watches = {name: _Watch(layer, counter.get_total_flops) for name, layer in layers.items()}
        shadow(_blank(shadow, example))

    rows = []
    for name, layer in layers.items():
        own, shape = watches[name].flops // 2, watches[name].output_shape
        if shape is None:  # the layer never ran
            continue
        c_in, c_out, k = layer.depthwise.in_channels, layer.pointwise.out_channels, layer.depthwise.kernel_size[0]
        with torch.device("meta"):
            standard = nn.Conv2d(c_in, c_out, k, padding=k // 2)
        # (H, W) of the input is that of the output
        instead = macs(standard, torch.empty(1, c_in, *shape[-2:], device="meta")).macs
        rows.append(SeparableRow(name, c_in, c_out, k, own, instead, own / instead, 1 / c_out + 1 / k**2))
    return tuple(rows)


class _Watch:
    """Counts the FLOPs of a module's calls, and records the shape of its last output."""

    def __init__(self, module: nn.Module, total_flops: Callable[[], int]):
        self.flops = 0
        self.output_shape: tuple[int, ...] | None = None
        self._total_flops = total_flops
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def _before(self, _module: nn.Module, _inputs: Any) -> None:
        self._started_at = self._total_flops()

    def _after(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        # added up, because a module may be called several times in a forward pass
        self.flops += self._total_flops() - self._started_at
        self.output_shape = tuple(output.shape) if isinstance(output, Tensor) else None


class _Watches:
    """Like _Watch, also for a list of modules, which is never called itself: its members are."""

    def __init__(self, module: nn.Module, total_flops: Callable[[], int]):
        members = module.children() if isinstance(module, nn.ModuleList | nn.ModuleDict) else [module]
        self._watches = [_Watch(member, total_flops) for member in members]

    @property
    def flops(self) -> int:
        return sum(watch.flops for watch in self._watches)

    @property
    def output_shape(self) -> tuple[int, ...] | None:
        """Shape of the last member's output."""
        return self._watches[-1].output_shape if self._watches else None


def without_data(model: nn.Module, device: str) -> nn.Module:
    """Return a deep copy with new parameters and buffers on `device`; the model itself is not changed.

    On 'meta', or within FakeTensorMode, the new tensors hold no data. The memo keeps deepcopy from copying real ones.
    """
    memo: dict[int, Any] = {}  # id of the original -> copy, deepcopy's own table
    for parameter in model.parameters():
        blank = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        memo[id(parameter)] = nn.Parameter(blank, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
    return copy.deepcopy(model, memo)


def _shapes_of(model: nn.Module) -> nn.Module:
    """Return a copy on the meta device in eval mode, to count operations with."""
    shadow = without_data(model, "meta").eval()
    for layer in shadow.modules():
        # by type: a subclass may compute something else
        if isinstance(layer, nn.RNNBase) and type(layer) in (nn.RNN, nn.GRU, nn.LSTM):
            layer.forward = partial(_all_steps_at_once, layer)
    return shadow


def _all_steps_at_once(layer: nn.RNNBase, inputs: Any, state: Any = None) -> Any:
    """Do the matrix products of a recurrent layer, those of all time steps in one; the values mean nothing.

    The MACs are those of the loop over time steps, for which the meta device takes seconds.
    """
    if not isinstance(inputs, Tensor):  # packed sequences
        return type(layer).forward(layer, inputs, state)
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    states_SH = inputs.flatten(0, -2)  # S: time steps x samples
    for place in range(layer.num_layers):
        sides = []
        for direction in directions:
            weight_ih, weight_hh = (getattr(layer, f"weight_{of}_l{place}{direction}") for of in ("ih", "hh"))
            before_SH = states_SH.new_empty(len(states_SH), weight_hh.shape[1])
            gates_SG = states_SH @ weight_ih.T + before_SH @ weight_hh.T
            cells_SH = gates_SG[:, : layer.hidden_size]
            if layer.proj_size:
                cells_SH = cells_SH @ getattr(layer, f"weight_hr_l{place}{direction}").T
            sides.append(cells_SH)
        states_SH = torch.cat(sides, 1)
    outputs = states_SH.unflatten(0, inputs.shape[:-1])
    samples = (inputs.shape[0 if layer.batch_first else 1],) if inputs.dim() == 3 else ()
    last = (layer.num_layers * len(directions), *samples)
    hidden = inputs.new_empty(*last, layer.proj_size or layer.hidden_size)
    return outputs, (hidden, inputs.new_empty(*last, layer.hidden_size)) if isinstance(layer, nn.LSTM) else hidden


def _blank(model: nn.Module, example: Tensor) -> Tensor:
    """Return zeros of the example's shape on the device of the model's parameters; floats get their dtype."""
    of = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    # token ids stay integers
    dtype = of.dtype if example.is_floating_point() else example.dtype
    return torch.zeros(example.shape, device=of.device, dtype=dtype)
