"""The layers a chain is made of (effbench/cpu/block_program.py): what each writes down for effbench/cpu/csrc/tape.c."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from effbench.cpu.batch_norm import by_torch as normalised
from effbench.cpu.depthwise import PARTS
from effbench.cpu.linear import packed_floats
from effbench.cpu.tape import Op, Room, Tape

Shape = tuple[int, int, int, int]  # (N, C, H, W)
RELU, HARDSIGMOID, SIGMOID = 1, 2, 3  # squeeze_excite.c's
_NORM_ROWS = 128  # that batch_norm.c sums in float32


class Page:
    """One direction's tape and its scratch, which each layer has anew. address: the scratch's."""

    def __init__(self, address: int):
        self.tape, self._address, self._reserved, self.floats = Tape(), address, 0, 0

    def reserve(self, floats: int) -> int:
        """A part of the scratch that stays, taken before the first layer."""
        room = Room(self._address, self._reserved)
        part = room.take(floats)
        self._reserved = self.floats = room.floats
        return part

    def scratch(self, *floats: int) -> list[int]:
        """Parts that the next layer may have again."""
        room = Room(self._address, self._reserved)
        parts = [room.take(count) for count in floats]
        self.floats = max(self.floats, room.floats)
        return parts

    def add(self, op: Op, operands: Iterable[int], sizes: Iterable[int]) -> None:
        self.tape.add(op, operands, sizes)


@dataclass
class Ahead:
    """Where a layer finds things in the forward pass. keeps: where it may put what its backward pass needs."""

    source: int
    shape: Shape
    out: int
    out_shape: Shape
    weights: list[int]
    buffers: list[int]
    keeps: Room
    kept: list[int]


@dataclass
class Back:
    """Where it finds them in the backward pass. to: where its input's gradient goes."""

    ahead: Ahead
    gradient: int
    to: int
    weights: list[int]
    for_weights: list[int]


class Stage(ABC):
    """A layer of a chain; equal ones write the same."""

    weights: ClassVar[int]
    buffers: ClassVar[int] = 0
    in_place: ClassVar[bool] = False  # whether `to` may be `gradient`

    def out_shape(self, shape: Shape) -> Shape:
        return shape

    @abstractmethod
    def weight_shapes(self, channels: int) -> list[tuple[int, ...]]:
        """Of the weights, for an input of so many channels."""

    @abstractmethod
    def by_torch(self, x: Tensor, *weights: Tensor) -> Tensor:
        """What the layer computes, by torch's operations; running statistics stay as they are."""

    @abstractmethod
    def forward(self, page: Page, at: Ahead) -> None: ...

    @abstractmethod
    def backward(self, page: Page, at: Back) -> None: ...


@dataclass(frozen=True)
class Mix(Stage):
    """A 1 x 1 convolution without bias. Weights: (channels, of the input, 1, 1)."""

    channels: int
    weights = 1

    def out_shape(self, shape: Shape) -> Shape:
        return shape[0], self.channels, *shape[2:]

    def weight_shapes(self, channels: int) -> list[tuple[int, ...]]:
        return [(self.channels, channels, 1, 1)]

    def by_torch(self, x: Tensor, *weights: Tensor) -> Tensor:
        return F.conv2d(x, weights[0])

    def forward(self, page: Page, at: Ahead) -> None:
        sizes = rows(at.shape), at.shape[1], self.channels
        [packed] = page.scratch(packed_floats(*sizes[1:]))
        page.add(Op.MIX, [at.source, *at.weights, packed, at.out], sizes)

    def backward(self, page: Page, at: Back) -> None:
        sizes = rows(at.ahead.shape), at.ahead.shape[1], self.channels
        [turned] = page.scratch(sizes[1] * sizes[2])
        page.add(Op.MIX_GRADIENT, [at.ahead.source, at.gradient, turned, *at.for_weights], sizes)
        page.add(Op.UNMIX, [at.gradient, *at.weights, at.to], sizes)


@dataclass(frozen=True)
class Depthwise(Stage):
    """A depthwise convolution without bias, centred. Weights: (channels, 1, kernel, kernel)."""

    kernel: int
    stride: int
    weights = 1

    def out_shape(self, shape: Shape) -> Shape:
        height, width = ((size - 1) // self.stride + 1 for size in shape[2:])
        return *shape[:2], height, width

    def weight_shapes(self, channels: int) -> list[tuple[int, ...]]:
        return [(channels, 1, self.kernel, self.kernel)]

    def by_torch(self, x: Tensor, *weights: Tensor) -> Tensor:
        return F.conv2d(x, weights[0], stride=self.stride, padding=self.kernel // 2, groups=x.shape[1])

    def forward(self, page: Page, at: Ahead) -> None:
        [packed] = page.scratch(self._taps(at))
        page.add(Op.DEPTHWISE, [at.source, *at.weights, packed, at.out], self._sizes(at))

    def backward(self, page: Page, at: Back) -> None:
        packed, parts = page.scratch(self._taps(at.ahead), PARTS * self._taps(at.ahead))
        sizes = self._sizes(at.ahead)
        page.add(Op.DEPTHWISE_GRADIENT, [at.ahead.source, at.gradient, parts, *at.for_weights], sizes)
        page.add(Op.UNDEPTHWISE, [at.gradient, *at.weights, packed, at.to], sizes)

    def _taps(self, at: Ahead) -> int:
        return at.shape[1] * self.kernel**2

    def _sizes(self, at: Ahead) -> list[int]:
        return [*at.shape, *at.out_shape[2:], self.kernel, self.stride]


@dataclass(frozen=True)
class Norm(Stage):
    """Batch normalisation and an activation (batch_norm.c's). Weights: scale, shift; buffers: mean, variance."""

    eps: float
    momentum: float
    activation: int
    weights = buffers = 2
    in_place = True

    def weight_shapes(self, channels: int) -> list[tuple[int, ...]]:
        return [(channels,), (channels,)]

    def by_torch(self, x: Tensor, *weights: Tensor) -> Tensor:
        weight, bias = weights
        return normalised(x, weight, bias, self.eps, self.activation)

    def forward(self, page: Page, at: Ahead) -> None:
        [sums] = page.scratch(self._sums(at))
        at.kept = [at.keeps.take(4 * at.shape[1])]
        fractions = [page.tape.number(self.eps), page.tape.number(self.momentum)]
        operands = [at.source, *at.weights, *at.buffers, sums, *at.kept, at.out]
        page.add(Op.NORM, operands, [rows(at.shape), at.shape[1], self.activation, *fractions])

    def backward(self, page: Page, at: Back) -> None:
        ahead = at.ahead
        sums, factors = page.scratch(self._sums(ahead), 2 * ahead.shape[1])
        operands = [ahead.source, at.gradient, *ahead.kept, sums, factors, at.to, *at.for_weights]
        page.add(Op.NORM_GRADIENT, operands, [rows(ahead.shape), ahead.shape[1], self.activation])

    def _sums(self, at: Ahead) -> int:
        """Of float64, each two floats wide."""
        return -(-rows(at.shape) // _NORM_ROWS) * 2 * at.shape[1] * 2


@dataclass(frozen=True)
class Gate(Stage):
    """Squeeze-and-excitation (arXiv:1709.01507): channels -> squeezed, ReLU -> channels, activation, times the input.

    Weights: (squeezed, channels, 1, 1), (squeezed), (channels, squeezed, 1, 1), (channels).
    """

    squeezed: int
    activation: int
    weights = 4
    in_place = True

    def weight_shapes(self, channels: int) -> list[tuple[int, ...]]:
        return [(self.squeezed, channels, 1, 1), (self.squeezed,), (channels, self.squeezed, 1, 1), (channels,)]

    def by_torch(self, x: Tensor, *weights: Tensor) -> Tensor:
        w1, b1, w2, b2 = weights
        opened = F.conv2d(F.relu(F.conv2d(x.mean((2, 3), keepdim=True), w1, b1)), w2, b2)
        return x * (F.hardsigmoid if self.activation == HARDSIGMOID else torch.sigmoid)(opened)

    def forward(self, page: Page, at: Ahead) -> None:
        (N, C, H, W), S = at.shape, self.squeezed
        [packed] = page.scratch(max(packed_floats(C, S), packed_floats(S, C)))
        pooled, squeezed, opened = at.kept = [at.keeps.take(N * size) for size in (C, S, C)]
        w1, b1, w2, b2 = at.weights
        page.add(Op.POOL, [at.source, pooled], [N, H * W, C])
        page.add(Op.MIX, [pooled, w1, packed, squeezed], [N, C, S])
        page.add(Op.BIAS, [squeezed, b1], [N, S, RELU])
        page.add(Op.MIX, [squeezed, w2, packed, opened], [N, S, C])
        page.add(Op.BIAS, [opened, b2], [N, C, self.activation])
        page.add(Op.GATE, [at.source, opened, at.out], [N, H * W, C])

    def backward(self, page: Page, at: Back) -> None:
        (N, C, H, W), S = at.ahead.shape, self.squeezed
        pooled, squeezed, opened = at.ahead.kept
        for_pooled, for_squeezed, for_opened, turned = page.scratch(N * C, N * S, N * C, C * S)
        (w1, _, w2, _), (dw1, db1, dw2, db2) = at.weights, at.for_weights
        page.add(Op.GATE_SUMS, [at.ahead.source, at.gradient, for_opened], [N, H * W, C])
        page.add(Op.BIAS_GRADIENT, [for_opened, opened, db2], [N, C, self.activation])
        page.add(Op.MIX_GRADIENT, [squeezed, for_opened, turned, dw2], [N, S, C])
        page.add(Op.UNMIX, [for_opened, w2, for_squeezed], [N, S, C])
        page.add(Op.BIAS_GRADIENT, [for_squeezed, squeezed, db1], [N, S, RELU])
        page.add(Op.MIX_GRADIENT, [pooled, for_squeezed, turned, dw1], [N, C, S])
        page.add(Op.UNMIX, [for_squeezed, w1, for_pooled], [N, C, S])
        page.add(Op.GATE_GRADIENT, [at.gradient, opened, for_pooled, at.to], [N, H * W, C])


def rows(shape: Shape) -> int:
    """Pixels of a batch."""
    return shape[0] * shape[2] * shape[3]
