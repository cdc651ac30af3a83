"""What Python writes down is what C reads: the two share no header."""

from __future__ import annotations

import re

import effbench.cpu.library as kernels
from effbench.cpu import batch_norm, depthwise, tape
from effbench.cpu import block_stages as stages
from effbench.cpu import linear as products
from effbench.cpu.tape import Op, Room, Tape, operand

SOURCES = {path.name: path.read_text() for path in kernels.CSRC.glob("*.[ch]")}


def constant(source: str, name: str) -> int:
    """Of an enum in that file."""
    found = re.search(rf"\b{name} = (\d+)", SOURCES[source])
    assert found
    return int(found[1])


def test_operations_have_the_same_numbers_and_widths():
    listed = re.search(r"enum \{ (MIX,[^}]+) \}", SOURCES["tape.c"])
    assert listed
    assert [op.name for op in Op] == re.split(r",\s+", listed[1])
    assert [op.value for op in Op] == list(range(len(Op)))
    assert constant("tape.c", "OPERANDS") == tape._OPERANDS
    assert constant("tape.c", "SIZES") == tape._SIZES
    assert f"<< {tape._PLACE}" in SOURCES["tape.c"]


def test_scratch_is_as_large_as_c_thinks():
    assert constant("depthwise.c", "PARTS") == depthwise.PARTS
    assert constant("depthwise.c", "MOST_K") == depthwise.MAX_KERNEL
    widths = [int(width) for width in re.findall(r"enum \{ V = (\d+) \}", SOURCES["vectors.h"])]
    assert all(products._PANEL % (width * constant("gemm.c", "WIDE")) == 0 for width in widths)
    assert constant("batch_norm.c", "ROWS") == stages._NORM_ROWS == batch_norm._ROWS


def test_gates_name_the_same_activations():
    listed = re.search(r"enum \{ (RELU = 1[^}]+) \}", SOURCES["squeeze_excite.c"])
    assert listed
    names = [name.split(" = ")[0] for name in listed[1].split(", ")]
    assert [getattr(stages, name) for name in names] == [1, 2, 3]


def test_parts_of_a_room_lie_on_cache_lines_and_do_not_overlap():
    room = Room(3)
    first, second = room.take(1), room.take(17)
    assert (first, second) == (operand(3), operand(3, 16))
    assert room.floats == 48


def test_a_tape_keeps_every_operation_at_its_width():
    written = Tape()
    written.add(Op.ADD, [operand(0), operand(1)], [5])
    written.add(Op.POOL, [operand(2, 7), operand(1)], [1, 2, 3])
    width = 1 + tape._OPERANDS + tape._SIZES
    assert len(written._ops) == 2 * width
    assert written._ops[width : width + 3].tolist() == [Op.POOL, operand(2, 7), operand(1)]
    assert [written.number(0.5), written.number(0.25)] == [0, 1]
