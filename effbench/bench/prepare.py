"""Writes the files that the backends read, into a folder of this measurement."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from effbench.bench.backends import BACKENDS, Backend
from effbench.bench.low_precision import InBfloat16
from effbench.bench.sources import Source
from effbench.errors import EffbenchError, MissingExtraError, first_line
from effbench.export.formats import export_bytes, require_libraries
from effbench.export.interface import unfit_reason
from effbench.export.portable import Portable


@dataclass(frozen=True)
class Prepared:
    """The files of a measurement.

    Attributes:
        files: backend -> its file.
        failed: backend -> why it has none.
    """

    files: Mapping[str, Path]
    failed: Mapping[str, str]


def prepare(source: Source, backends: list[Backend], folder: Path) -> Prepared:
    """Write each kind of file once.

    Args:
        source: what is measured.
        backends: to write for.
        folder: an empty folder that only this user can write.
    """
    files: dict[str, Path] = {}
    failed: dict[str, str] = {}
    made: dict[str, Path | str] = {**source.files}
    for backend in backends:
        # the other kind is the runtime's own format
        if source.model is not None and (reason := unfit_reason(backend.also or backend.file, source.model.model)):
            failed[backend.name] = f"it cannot give this model's answers: {reason}"
            continue
        kind = backend.also if backend.also in source.files else backend.file
        if kind not in made:
            made[kind] = _made(source, kind, folder)
        found = made[kind]
        if isinstance(found, Path):
            files[backend.name] = found
        else:
            failed[backend.name] = found
    return Prepared(files, failed)


def _made(source: Source, kind: str, folder: Path) -> Path | str:
    """Return the path of the file, or why it cannot be written."""
    of_file = bool(source.files)
    if of_file and not (kind == "aot_inductor" and "torch_export" in source.files):
        return f"it reads no file of format={next(iter(source.files))}"
    path = folder / f"model{SUFFIXES[kind]}"
    try:
        WRITERS[kind](source, path)
    except (EffbenchError, MissingExtraError) as error:
        return first_line(error)
    except OSError as error:
        return f"its file cannot be written: {error.strerror}"
    except Exception as error:  # noqa: BLE001 - exporters and compilers raise anything; the row has the reason
        return f"{type(error).__name__}: {first_line(error)}"[:300]
    return path


def _model(source: Source) -> Portable:
    assert source.model is not None  # only a file comes without, and it is not written again
    return source.model


def _write_module(source: Source, path: Path) -> None:
    torch.save(_model(source), path)


def _write_bf16(source: Source, path: Path) -> None:
    torch.save(InBfloat16(_model(source)).eval(), path)


def _example(source: Source) -> Tensor:
    # two samples: with one an exporter would fix the batch size
    return source.samples[:1].repeat(2, *[1] * (source.samples.dim() - 1))


def _exporter(format_name: str) -> Callable[[Source, Path], None]:
    def write(source: Source, path: Path) -> None:
        require_libraries(format_name)
        # samples of one length, as those that are measured
        path.write_bytes(export_bytes(format_name, _model(source), _example(source), f"{source.unit}s"))

    return write


def _write_aot_inductor(source: Source, path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    # kernels for the next measurement: here a cache of the user's would only grow
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(path.parent / "inductor"))
    given = source.files.get("torch_export")
    if given is None:
        with torch.no_grad():
            program = torch.export.export(
                _model(source), (_example(source),), dynamic_shapes=({0: torch.export.Dim("N")},)
            )
    else:
        with given.open("rb") as stream:
            program = torch.export.load(stream)
    with torch.no_grad():
        aoti_compile_and_package(program, package_path=str(path))


WRITERS: Mapping[str, Callable[[Source, Path], None]] = {
    "module": _write_module,
    "module_bf16": _write_bf16,
    "torchscript": _exporter("torchscript"),
    "torch_export": _exporter("torch_export"),
    "aot_inductor": _write_aot_inductor,
    "onnx": _exporter("onnx"),
}
SUFFIXES = {
    "module": ".module", "module_bf16": ".bf16", "torchscript": ".pt", "torch_export": ".pt2",
    "aot_inductor": ".aoti.pt2", "onnx": ".onnx",
}  # fmt: skip
assert {backend.file for backend in BACKENDS.values()} <= WRITERS.keys()
