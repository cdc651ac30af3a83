"""The ctypes structures match the C structs. White-box: the structures are private."""

from __future__ import annotations

import ctypes

from effbench.cpu import inverted_residual_function as function
from effbench.cpu.library import library
from tests.compiler import needs_compiler

pytestmark = needs_compiler

STRUCTS = {
    "Norm": function.Norm,
    "Block": function.Block,
    "Weights": function._Weights,
    "Running": function._Running,
}


class Field(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("offset", ctypes.c_int64), ("size", ctypes.c_int64)]


def fields_in_c() -> list[tuple[str, int, int]]:
    layout = library().inverted_residual_layout
    layout.restype = ctypes.POINTER(Field)
    found = []
    while field := layout(ctypes.c_int64(len(found))):
        found.append((field.contents.name.decode(), field.contents.offset, field.contents.size))
    return found


def test_every_field_has_the_same_name_offset_and_size():
    mirrored = []
    for name, struct in STRUCTS.items():
        for field, _ in struct._fields_:
            place = getattr(struct, field)
            mirrored.append((f"{name}.{field}", place.offset, place.size))
    assert mirrored == fields_in_c()
