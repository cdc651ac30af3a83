"""What is written down for tape.c to carry out in one call: operations, where their operands lie, and their sizes."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterable
from enum import IntEnum, auto

import torch
from torch import Tensor

from effbench.cpu.library import library

_OPERANDS, _SIZES = 8, 8
_PLACE = 40  # bits of an operand that say how many floats after its address
_LINE = 16  # floats


class Op(IntEnum):
    """In the order of tape.c."""

    MIX = 0
    UNMIX = auto()
    MIX_GRADIENT = auto()
    DEPTHWISE = auto()
    UNDEPTHWISE = auto()
    DEPTHWISE_GRADIENT = auto()
    NORM = auto()
    NORM_GRADIENT = auto()
    POOL = auto()
    GATE = auto()
    GATE_SUMS = auto()
    GATE_GRADIENT = auto()
    BIAS = auto()
    BIAS_GRADIENT = auto()
    ADD = auto()


def operand(address: int, floats: int = 0) -> int:
    """`floats` after the address of that number."""
    return address << _PLACE | floats


class Room:
    """Hands out parts of one buffer. floats: how long it must be, for those so far."""

    def __init__(self, address: int, floats: int = 0):
        self.address, self.floats = address, floats

    def take(self, floats: int) -> int:
        """A part that nothing else gets."""
        place = operand(self.address, self.floats)
        self.floats += -(-floats // _LINE) * _LINE
        return place


class Tape:
    """Operations in the order they were added."""

    def __init__(self) -> None:
        self._ops, self._numbers = array("q"), array("d")

    def add(self, op: Op, operands: Iterable[int], sizes: Iterable[int]) -> None:
        """An operation; tape.c says which operands and sizes it takes."""
        self._ops.append(op)
        for values, width in ((list(operands), _OPERANDS), (list(sizes), _SIZES)):
            assert len(values) <= width, op
            self._ops.extend(values + [0] * (width - len(values)))

    def number(self, value: float) -> int:
        """The size that stands for a fraction."""
        self._numbers.append(value)
        return len(self._numbers) - 1

    def play(self, tensors: Iterable[Tensor]) -> None:
        """Carries the operations out on these tensors, whose order gives the numbers of their addresses."""
        compiled = library()
        assert compiled is not None
        addresses = array("Q", [tensor.data_ptr() for tensor in tensors])
        compiled.play(
            ctypes.c_void_p(self._ops.buffer_info()[0]),
            ctypes.c_int64(len(self._ops) // (1 + _OPERANDS + _SIZES)),
            ctypes.c_void_p(addresses.buffer_info()[0]),
            ctypes.c_void_p(self._numbers.buffer_info()[0]),
            ctypes.c_int(torch.get_num_threads()),
        )
