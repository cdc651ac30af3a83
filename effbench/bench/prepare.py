"""Writes the files that the backends read, into a folder of this measurement."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from effbench.bench.answers import ANSWER_BATCH
from effbench.bench.backends import BACKENDS, Backend
from effbench.bench.low_precision import InBfloat16
from effbench.bench.sources import Source
from effbench.bench.worker import KERNELS
from effbench.errors import EffbenchError, MissingExtraError, first_line
from effbench.export.formats import FORMATS, export_bytes, load_exported, require_libraries
from effbench.export.interface import Forward, unfit_reason
from effbench.export.parity import compare, lengths_of, require
from effbench.export.portable import Portable
from effbench.run.export_options import TOLERANCE


@dataclass(frozen=True)
class Prepared:
    """The files of a measurement.

    Attributes:
        files: backend -> its file.
        failed: backend -> why it has none.
    """

    files: Mapping[str, Path]
    failed: Mapping[str, str]


def prepare(source: Source, backends: list[Backend], folder: Path, most: int = ANSWER_BATCH) -> Prepared:
    """Write each kind of file once.

    Args:
        source: what is measured.
        backends: to write for.
        folder: an empty folder that only this user can write.
        most: samples of the largest batch, for files that state it.
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
            made[kind] = _made(source, kind, folder, most)
        found = made[kind]
        if isinstance(found, Path):
            files[backend.name] = found
        else:
            failed[backend.name] = found
    return Prepared(files, failed)


def _made(source: Source, kind: str, folder: Path, most: int) -> Path | str:
    """Return the path of the file, or why it cannot be written.

    Args:
        source: what is measured.
        kind: a key of WRITERS or of FORMATS.
        folder: for the file.
        most: samples of the largest batch.
    """
    of_file = bool(source.files)
    if of_file and not (kind == "aot_inductor" and "torch_export" in source.files):
        return f"it reads no file of format={next(iter(source.files))}"
    try:
        if kind in FORMATS:
            path = folder / f"model{FORMATS[kind].suffix}"
            _export(source, kind, path, most)
        else:
            suffix, write = WRITERS[kind]
            path = folder / f"model{suffix}"
            write(source, path)
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


def _export(source: Source, format_name: str, path: Path, most: int) -> None:
    """Write a file of one of the formats of `effbench export`.

    Args:
        source: what is measured.
        format_name: a key of FORMATS.
        path: of the file.
        most: samples of the largest batch, for a format whose files state it.
    """
    require_libraries(format_name)

    def written(free_length: str | None) -> None:
        content = export_bytes(
            format_name,
            _model(source),
            _example(source),
            f"{source.unit}s",
            free_length,
            max_batch=most if FORMATS[format_name].max_batch else None,
        )
        path.write_bytes(content)

    if source.free_length is None:
        written(None)
        return
    try:  # as `effbench export` does: a file of one length is faster, and not what users get
        written(source.free_length)
        _check_lengths(source, load_exported(format_name, path), f"format={format_name}")
    except EffbenchError:
        written(None)


def _check_lengths(source: Source, exported: Forward, what: str) -> None:
    """Raise ThresholdError unless a file gives the model's answers for samples of several lengths.

    Some exporters write files that say that they take any length, and fail at some.

    Args:
        source: what is measured.
        exported: the file as its runtime executes it.
        what: for the message.
    """
    sample = source.samples[:1]
    parity = compare(_model(source), exported, sample, 1, lambda *_: torch.ones(1), lengths_of(sample.shape[1]))
    require(parity, TOLERANCE, what, source.unit)


def _write_aot_inductor(source: Source, path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    given = source.files.get("torch_export")
    if given is None:
        with torch.no_grad():
            program = torch.export.export(
                _model(source), (_example(source),), dynamic_shapes=({0: torch.export.Dim("N")},)
            )
    else:
        with given.open("rb") as stream:
            program = torch.export.load(stream)
    with _own_cache(path.parent / "inductor"), torch.no_grad():
        aoti_compile_and_package(program, package_path=str(path))


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """Let the compiler keep its kernels in a folder of this measurement: a cache of the user's would only grow."""
    before = os.environ.get(KERNELS)
    os.environ[KERNELS] = str(folder)
    try:
        yield
    finally:  # a notebook goes on, and the folder does not
        if before is None:
            del os.environ[KERNELS]
        else:
            os.environ[KERNELS] = before


# suffix and writer of the kinds that are no format of `effbench export`
WRITERS: Mapping[str, tuple[str, Callable[[Source, Path], None]]] = {
    "module": (".module", _write_module),
    "module_bf16": (".bf16", _write_bf16),
    "aot_inductor": (".aoti.pt2", _write_aot_inductor),
}
assert {backend.file for backend in BACKENDS.values()} <= WRITERS.keys() | FORMATS.keys()
