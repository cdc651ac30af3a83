"""OpenVINO's archive and the import of OpenVINO, for processes that do not import torch."""

from __future__ import annotations

import importlib
import sys
import zipfile
from io import BytesIO
from typing import Any

from effbench.errors import DataError

GRAPH, WEIGHTS = "model.xml", "model.bin"
# Its default on processors with AMX or AVX-512 bf16 is bfloat16, whose 8 bits of mantissa no tolerance here allows.
RUNTIME_OPTIONS = {"INFERENCE_PRECISION_HINT": "f32"}
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest of a zip archive: equal models give equal bytes
_TELEMETRY = "openvino_telemetry"


def archive(members: dict[str, bytes]) -> bytes:
    """Return a zip archive of these files, uncompressed."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as file:
        for name, member in members.items():
            file.writestr(zipfile.ZipInfo(name, _DATE), member)
    return content.getvalue()


def members_of(content: bytes) -> tuple[bytes, bytes]:
    """Return (graph, weights) of an archive.

    Raises:
        DataError: it holds something else, or members that are larger than the archive.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as file:
            found = {entry.filename: entry for entry in file.infolist()}
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in found.values())
            # compressed members of a stranger's archive could grow beyond the memory
            if set(found) != {GRAPH, WEIGHTS} or len(file.infolist()) != 2 or not stored:
                raise DataError(
                    f"the archive must hold {GRAPH} and {WEIGHTS} without compression, and nothing else; it holds "
                    f"{', '.join(found) or 'nothing'}."
                )
            return file.read(GRAPH), file.read(WEIGHTS)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"it is no whole zip archive: {error}.") from error


def import_openvino() -> Any:
    """Import openvino, which then sends nothing to its makers; see `_without_telemetry`."""
    return _without_telemetry("openvino")


def import_nncf() -> Any:
    """Import nncf, which then sends nothing to its makers; see `_without_telemetry`."""
    import_openvino()  # nncf imports it
    return _without_telemetry("nncf")


def _without_telemetry(name: str) -> Any:
    """Import a module as if openvino-telemetry were not installed: it then takes a stub of its own.

    Otherwise the import alone sends an event to Google Analytics and writes an ID to ~/intel. Of a process that has
    imported the module before, nothing is changed: that was the user's choice, and no function that is used here
    reports.
    """
    if sys.modules.get(name):
        return sys.modules[name]
    present, before = _TELEMETRY in sys.modules, sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # Python's way to say that a module cannot be imported
    try:
        return importlib.import_module(name)
    finally:
        if present and before is not None:
            sys.modules[_TELEMETRY] = before
        else:
            del sys.modules[_TELEMETRY]
