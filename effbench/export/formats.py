"""Export formats: how to write a model, and how the format's runtime reads it back.

Imports no torch, so that an unknown format or a program that nobody trusts is refused at once. Exporters record the
source file and line of every operation. These notes are removed, because they would show the folders of this machine
to everyone who gets the file.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.errors import EffbenchError, MissingExtraError, ThresholdError, first_line
from effbench.export.interface import OPSET, OUTPUT, Forward, Interface
from effbench.export.openvino_runtime import RUNTIME_OPTIONS

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "FORMATS", "OUTPUT", "PROGRAMS", "Format", "export_bytes", "load_exported", "loaded", "quiet", "require_libraries",
]  # fmt: skip


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        name: as users write it.
        suffix: of the file name.
        module: of effbench.export, imported when the format is used. It has `make_NAME(model, example, interface)` ->
            the content of the file; `load_NAME(content)` -> the model as the runtime executes it, on the CPU, from
            memory: what was checked is what runs, and no path of the file's own can be followed; and, if there is an
            extra, `require_NAME()`, which raises MissingExtraError.
        libraries: distributions whose versions are recorded.
        extra: of effbench that has the libraries; '' for none.
        program: its files are programs, which may do anything, and are opened only if the user trusts them.
        opset: ONNX operator set, if users may choose one and do not.
        max_batch: most samples of a call, if the file states it and users do not; None: files take any number.
        runtime_options: with which it is loaded, where the runtime's defaults would give other answers.
    """

    name: str
    suffix: str
    module: str
    libraries: tuple[str, ...] = ("torch",)
    extra: str = ""
    program: bool = False
    opset: int | None = None
    max_batch: int | None = None
    runtime_options: Mapping[str, str] = field(default_factory=dict)

    def function(self, verb: str) -> Any:
        """Return `make`, `load` or `require` of the format."""
        return getattr(import_module(f"effbench.export.{self.module}"), f"{verb}_{self.name}")


_ONNX = ("torch", "onnx", "onnxscript")
_EVERY = (
    Format("onnx", ".onnx", "onnx_files", (*_ONNX, "onnxruntime"), "onnx", opset=OPSET),
    Format(
        "openvino", ".openvino.zip", "openvino_files", (*_ONNX, "openvino"), "openvino", runtime_options=RUNTIME_OPTIONS
    ),
    Format("executorch", ".pte", "executorch_files", ("torch", "executorch"), "executorch", program=True, max_batch=32),
    Format("torchscript", ".pt", "torch_files", program=True),
    Format("torch_export", ".pt2", "torch_files", program=True),
)
FORMATS = {each.name: each for each in _EVERY}
PROGRAMS = tuple(each.name for each in _EVERY if each.program)


def require_libraries(name: str) -> None:
    """Raise MissingExtraError if the libraries of format `name` are not installed."""
    if FORMATS[name].extra:
        with quiet():
            FORMATS[name].function("require")()


def export_bytes(
    name: str,
    model: nn.Module,
    example: Tensor,
    input_name: str,
    free_length: str | None = None,
    opset: int | None = None,
    max_batch: int | None = None,
) -> bytes:
    """Return the content of a file that takes any number of samples, or as many as its format can.

    Args:
        name: a key of FORMATS.
        model: the model, on the CPU.
        example: two samples; a batch of 1 would be fixed.
        input_name: name of the input in the file.
        free_length: name of the second dimension, of which the file then takes 1 to as many as the example has; None:
            exactly as many.
        opset: ONNX operator set; None for the format's own.
        max_batch: most samples of a call, for a format that must state it; None for the format's own.

    Raises:
        EffbenchError: the exporter cannot convert the model.
    """
    import torch

    most = max_batch or FORMATS[name].max_batch
    try:
        with quiet(), torch.no_grad():
            dims: dict[int, Any] = {0: torch.export.Dim("N", max=most)}
            if most == 1:  # one sample is no free dimension
                dims, example = {}, example[:1]
            if free_length:
                dims[1] = torch.export.Dim(free_length, min=1, max=example.shape[1])
            content: bytes = FORMATS[name].function("make")(model, example, Interface(input_name, dims, opset))
            return content
    # these say nothing about the model
    except (MissingExtraError, MemoryError):
        raise
    except Exception as error:
        # exporters fail on single operations, so that another format often works
        others = ", ".join(f"format={other}" for other in FORMATS if other != name)
        raise EffbenchError(f"format={name} cannot hold this model: {first_line(error)}. Try {others}.") from error


def load_exported(name: str, path: Path) -> Forward:
    """Load the file, whatever its suffix, with the runtime of its format.

    Raises:
        ThresholdError: the runtime cannot read the file.
    """
    try:
        return loaded(name, path.read_bytes())
    except Exception as error:
        raise ThresholdError(f"format={name}: its own runtime cannot read the file: {first_line(error)}.") from error


def loaded(name: str, content: bytes) -> Forward:
    """Load the content of a file with the runtime of its format, which raises errors of its own."""
    with quiet():
        forward: Forward = FORMATS[name].function("load")(content)
        return forward


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings and log lines of the exporters: users cannot act on them, and parity shows real problems."""
    # the level is process-wide, so it is restored also after an error
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
